"""Scripted dialogues over MovieLens: every right answer is computed by SQL."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tastemaker.agents.chat import Chat
from tastemaker.agents.dialogue.conversations import Conversations
from tastemaker.agents.dialogue.desk import Desk, Texts
from tastemaker.agents.dialogue.planning import Planner
from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.splitters import global_time
from tastemaker.methods.chatting import new_chat
from tastemaker.models.catalogue.documents import Documents
from tastemaker.models.catalogue.store import Catalogue
from tastemaker.models.live import PopularItems
from tastemaker.models.visitor import Visitor
from tastemaker.recipe_chat import ChatConfig
from tastemaker.testing.dialogues import film_database, scripted_dialogues
from tastemaker.testing.judging import Answered, Verdict, judged


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """MovieLens, searched by words and ranked by popularity."""
    tables = load_builtin("movielens-small")
    folder = tmp_path_factory.mktemp("films")
    Catalogue.update(folder, Documents.of(tables).rows())
    catalogue = Catalogue.open(folder)
    recommender = PopularItems(global_time(tables, valid_from=0.8, test_from=0.9))
    planner = Planner(catalogue, recommender)
    return Desk(catalogue, recommender, planner, tables, Texts({}, {}))


@pytest.fixture
def begun(films: Desk, tmp_path: Path) -> Iterator[Callable[[str], Chat]]:
    """Model → a chat with it."""
    opened: list[Chat] = []

    def begin(model: str) -> Chat:
        kept = Conversations(tmp_path / f"{len(opened)}.sqlite")
        opened.append(new_chat(films, kept, config=ChatConfig(model=model)))
        return opened[-1]

    yield begin
    for chat in opened:
        chat.close()


def held(chat: Chat, films: Desk, *, count: int, seed: int) -> Verdict:
    ids = films.tables.items["item_id"]

    def begin(user: str | None) -> Callable[[str], Answered]:
        name = chat.start(user=user)

        def talk(message: str) -> Answered:
            answer = chat.answer(name, message)
            return Answered(answer.text, [str(card.item_id) for card in answer.cards])

        return talk

    def met(user: str) -> set[str]:
        seen = films.recommender.met(Visitor(user=films.tables.user_index(user)))
        return {str(ids[int(item)]) for item in seen}

    dialogues = scripted_dialogues(films.tables, count=count, seed=seed)
    return judged(dialogues, film_database(films.tables), begin, met=met)


def check(verdict: Verdict, *, impossible: bool = True) -> None:
    told = "\n".join(verdict.faults)
    assert verdict.exist == 1, told
    assert verdict.fit >= 0.98, told
    assert verdict.helped >= 0.9, told
    assert verdict.admitted == verdict.unsatisfiable, told
    assert verdict.unsatisfiable > 0 or not impossible


def test_demands_are_met_whatever_the_words(begun: Callable[[str], Chat], films: Desk) -> None:
    verdict = held(begun("none"), films, count=60, seed=11)
    assert verdict.turns > 120
    check(verdict)


def test_demands_are_met_with_the_small_model(begun: Callable[[str], Chat], films: Desk) -> None:
    verdict = held(begun("local:smollm2"), films, count=3, seed=9)
    assert verdict.turns > 4
    check(verdict, impossible=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demands_are_met_in_two_hundred_dialogues(
    begun: Callable[[str], Chat], films: Desk
) -> None:
    verdict = held(begun("local:smollm2"), films, count=200, seed=0)
    assert verdict.turns > 400
    check(verdict)


def test_the_judge_sees_what_is_wrong(films: Desk) -> None:
    horror = films.tables.items.filter(films.tables.items["genres"].str.contains("Horror"))
    wrong = [str(one) for one in horror["item_id"].head(3)]

    def begin(user: str | None) -> Callable[[str], Answered]:
        del user
        return lambda message: Answered("Try **Xyzzy Returns (1999)**, or Zork II (1980).", wrong)

    dialogues = scripted_dialogues(films.tables, count=20, seed=1)
    verdict = judged(dialogues, film_database(films.tables), begin)
    assert verdict.exist < 0.8
    assert verdict.fit < 0.5
    assert verdict.unsatisfiable > verdict.admitted == 0
    assert verdict.faults
