"""Turns of a conversation: what is kept, what is shown, what nobody else sees."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tastemaker.agents.chat import Chat
from tastemaker.agents.dialogue.conversations import Conversations
from tastemaker.agents.dialogue.desk import Desk
from tastemaker.agents.dialogue.wish import Event
from tastemaker.errors import BusyError, UnknownNameError, UserError
from tastemaker.methods.chatting import new_chat
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.recipe_chat import ChatConfig


@pytest.fixture
def chat(shop_desk: Desk, tmp_path: Path) -> Iterator[Chat]:
    with new_chat(
        shop_desk,
        Conversations(tmp_path / "conversations.sqlite"),
        config=ChatConfig(model="none"),
    ) as opened:
        yield opened


def ids(event: Event) -> list[str]:
    return [str(card.item_id) for card in event.cards]


def known_user(chat: Chat) -> str:
    return str(chat.users()[0]["user_id"])


def test_demands_of_several_messages_hold_together(chat: Chat) -> None:
    name = chat.start()
    first = chat.answer(name, "a novel")
    assert 1 <= len(first.cards) <= 5
    assert all("Novel" in card.values["categories"] for card in first.cards)
    second = chat.answer(name, "cheaper than 12, please")
    assert second.cards
    for card in second.cards:
        assert "Novel" in card.values["categories"]
        assert card.values["price"] < 12
    third = chat.answer(name, "no crime")
    assert all("Crime" not in card.values["categories"] for card in third.cards)
    assert all(f"**{card.title}**" in third.text for card in third.cards)


def test_what_cannot_be_had_is_said_with_what_would_help(chat: Chat) -> None:
    name = chat.start()
    answer = chat.answer(name, "a novel under 1")
    assert answer.cards == ()
    assert "nothing in the catalogue" in answer.text.lower()
    assert answer.text.lower().count("nothing in the catalogue") == 1
    assert "there would be" in answer.text
    assert chat.answer(name, "any price").cards


def test_the_message_is_kept_before_anything_is_answered(chat: Chat) -> None:
    name = chat.start()
    events = chat.reply(name, "a novel")
    next(events)
    (said,) = chat.transcript(name)["messages"]
    assert (said["role"], said["text"]) == ("user", "a novel")
    assert chat.transcript(name)["state"]["conditions"][0]["values"] == ["Novel"]
    events.close()
    kept = chat.transcript(name)["messages"]
    assert [one["role"] for one in kept] == ["user", "assistant"]
    assert kept[1]["cards"]


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(chat: Chat) -> None:
    name = chat.start()
    shown: list[Event] = []

    def stopped() -> bool:
        return sum(len(event.text) for event in shown) > 20

    for event in chat.reply(name, "travel books", stopped=stopped):
        shown.append(event)
    said = "".join(event.text for event in shown if event.kind == "text").strip()
    assert chat.transcript(name)["messages"][-1]["text"] == said
    assert len(said) < len(chat.answer(chat.start(), "travel books").text)


def test_one_answer_at_a_time_in_a_conversation(chat: Chat) -> None:
    name, other = chat.start(), chat.start()
    events = chat.reply(name, "a novel")
    next(events)
    with pytest.raises(BusyError, match="being answered"):
        next(chat.reply(name, "a game"))
    assert chat.answer(other, "a novel").cards
    list(events)
    assert chat.answer(name, "a game")


def test_threads_talk_at_once(chat: Chat) -> None:
    expected = chat.answer(chat.start(), "strategy games").text
    found: list[str] = []

    def talk() -> None:
        found.append(chat.answer(chat.start(), "strategy games").text)

    threads = [threading.Thread(target=talk, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


def test_likes_and_dislikes_change_the_next_answer(chat: Chat) -> None:
    name = chat.start()
    first = ids(chat.answer(name, "something nice"))
    noted = chat.answer(name, "/dislike 1")
    assert noted.cards == ()
    assert "Noted" in noted.text
    chat.answer(name, "/like 2")
    state = chat.transcript(name)["state"]
    assert (state["dislikes"], state["likes"]) == ([first[0]], [first[1]])
    again = ids(chat.answer(name, "something nice"))
    assert not {first[0], first[1]} & set(again)
    chat.answer(name, "/reset")
    assert chat.transcript(name)["state"]["likes"] == []


def test_reasons_are_told_for_the_places_asked(chat: Chat) -> None:
    name = chat.start(user=known_user(chat))
    shown = chat.answer(name, "a novel").cards
    told = chat.answer(name, "why the second?").text
    assert f"**{shown[1].title}**" in told
    assert "It meets 'Novel'" in told
    assert shown[0].title not in told
    assert "name one of these places" in chat.answer(name, "why number 9?").text
    everything = chat.answer(name, "/why").text
    assert all(card.title in everything for card in shown)


def test_a_visitor_becomes_a_known_user_and_back(chat: Chat) -> None:
    name, user = chat.start(), known_user(chat)
    assert "nothing on record" in chat.answer(name, "/history").text
    with pytest.raises(UserError, match="run the chat themselves"):
        chat.answer(name, f"/user {user}")
    told = chat.answer(name, f"/user {user}", trusted=True).text
    assert f"You are user {user} now" in told
    assert chat.transcript(name)["user"] == user
    history = chat.answer(name, "what did I choose before?").text
    assert history.count("**") >= 2
    with pytest.raises(UserError, match="unknown user"):
        chat.answer(name, "/user nobody", trusted=True)
    assert chat.transcript(name)["user"] == user
    assert "new visitor" in chat.answer(name, "/user", trusted=True).text
    assert chat.transcript(name)["user"] is None


def test_nothing_that_a_user_has_met_is_offered(chat: Chat, shop_desk: Desk) -> None:
    user = known_user(chat)
    met = shop_desk.tables.happened.filter(
        shop_desk.tables.happened["user"] == shop_desk.tables.user_index(user)
    )["item"]
    seen = {str(shop_desk.tables.items["item_id"][item]) for item in met}
    offered = {str(card.item_id) for card in chat.recommend(user=user, count=30)}
    assert offered
    assert not offered & seen


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ("", "empty"),
        ("\u202e\x07 ", "empty"),
        ("x" * 4001, "4,001 characters"),
        ("/fly", "unknown command"),
        ("/like 1", "ask for items first"),
    ],
)
def test_wrong_messages_are_refused_and_not_kept(chat: Chat, message: str, match: str) -> None:
    name = chat.start()
    with pytest.raises(UserError, match=match):
        chat.answer(name, message)
    assert chat.transcript(name)["messages"] == []


def test_unknown_conversations_and_users_are_refused(chat: Chat) -> None:
    with pytest.raises(UserError, match="unknown conversation"):
        chat.answer("guess", "hello")
    with pytest.raises(UserError, match="unknown user"):
        chat.start(user="nobody")


def test_clients_may_keep_the_messages_themselves(chat: Chat) -> None:
    first = chat.answer(chat.continued([]), "a novel")
    said = [("user", "a novel"), ("assistant", first.text)]
    cheaper = chat.answer(chat.continued(said), "cheaper than 12")
    assert cheaper.cards
    assert all(card.values["price"] < 12 for card in cheaper.cards)
    assert all("Novel" in card.values["categories"] for card in cheaper.cards)
    other = chat.answer(chat.continued(said), "why the first?")
    assert first.cards[0].title in other.text


def test_messages_said_elsewhere_are_read_again(chat: Chat) -> None:
    shown = chat.answer(chat.start(), "travel books").cards
    elsewhere = "Try these:\n" + "\n".join(f"1. **{card.title}**" for card in shown[:2])
    said = [("user", "travel books"), ("assistant", elsewhere), ("user", "/nonsense")]
    name = chat.continued(said)
    state = chat.transcript(name)["state"]
    assert state["last"] == [str(card.item_id) for card in shown[:2]]
    assert state["conditions"][0]["values"] == ["Travel"]
    answer = chat.answer(name, "/why 2")
    assert shown[1].title in answer.text


def test_recommend_and_similar_need_no_words(chat: Chat) -> None:
    novels = [Condition("categories", "any_of", ("novel",))]
    cards = chat.recommend(likes=["Amber Road"], conditions=novels, count=3)
    assert 1 <= len(cards) <= 3
    assert all("Novel" in card.values["categories"] for card in cards)
    assert "Amber Road" not in {card.title for card in cards}
    alike = chat.similar(items=[str(cards[0].item_id)], count=4)
    assert len(alike) == 4
    assert cards[0].item not in {card.item for card in alike}
    with pytest.raises(UnknownNameError, match="Novel"):
        chat.recommend(conditions=[Condition("categories", "any_of", ("Novell",))])
    with pytest.raises(UnknownNameError, match="categories"):
        chat.recommend(conditions=[Condition("category", "any_of", ("Novel",))])
    with pytest.raises(UserError, match="unknown item"):
        chat.similar(items=["no such item at all"])


def test_kill_9_loses_at_most_the_answer_being_written(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from conftest import new_desk\n"
        "from tastemaker.agents.dialogue.conversations import Conversations\n"
        "from tastemaker.methods.chatting import new_chat\n"
        "from tastemaker.recipe_chat import ChatConfig\n"
        "folder = Path(sys.argv[1])\n"
        "chat = new_chat(new_desk(folder), Conversations(folder / 'kept'),"
        " config=ChatConfig(model='none'))\n"
        "name = chat.start(); print(name, flush=True)\n"
        "print(chat.answer(name, 'a novel').text.count('**'), flush=True)\n"
        "for event in chat.reply(name, 'no crime'):\n"
        "    print(event.kind, flush=True)\n"
        "    if event.kind == 'text': time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        for line in process.stdout:
            if line.strip() == "text":
                break
        os.kill(process.pid, signal.SIGKILL)
    with Conversations(tmp_path / "kept") as kept:
        said = kept.messages(name)
        state = kept.state(name)
    assert [one.role for one in said] == ["user", "assistant", "user"]
    assert said[1].cards
    assert said[2].text == "no crime"
    assert [one["operator"] for one in state["conditions"]] == ["any_of", "none_of"]
    assert state["last"] == [card["item_id"] for card in said[1].cards]
