"""What was said is on disk when it was said, and nobody sees what was said to others."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tastemaker.agents.dialogue.conversations import Conversations, Said, history_key
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.errors import DataError, UserError

STATE = {"topic": "chess", "likes": ["7"]}


@pytest.fixture
def kept(tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "chat" / "conversations.sqlite")


def talk(kept: Conversations, name: str, *texts: str) -> None:
    for place, text in enumerate(texts):
        role = "assistant" if place % 2 else "user"
        kept.add(name, Said(role, text, [], {"turn": place}))  # type: ignore[arg-type]


def test_messages_come_back_as_they_were_said(kept: Conversations, tmp_path: Path) -> None:
    name = kept.start("15")
    assert kept.state(name) == {}
    assert kept.add(name, Said("user", "a comedy \ud83d please", [], STATE)) == 0
    cards = [{"item_id": "7", "title": 'Say "no" \u2028', "reasons": ["Comedy"]}]
    assert kept.add(name, Said("assistant", "Here.", cards, STATE)) == 1
    kept.close()
    with Conversations(tmp_path / "chat" / "conversations.sqlite") as again:
        first, second = again.messages(name)
        assert (first.role, second.role) == ("user", "assistant")
        assert first.text == "a comedy ? please"
        assert second.cards == cards
        assert again.state(name) == STATE
        assert again.user(name) == "15"
        assert first.created <= second.created


def test_nobody_else_reads_the_file(kept: Conversations, tmp_path: Path) -> None:
    kept.start(None)
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "chat").iterdir()}
    assert modes == {0}


def test_ids_cannot_be_guessed_and_unknown_ones_are_refused(kept: Conversations) -> None:
    names = {kept.start(None) for _ in range(50)}
    assert len(names) == 50
    assert min(map(len, names)) >= 20
    for ask in (kept.user, kept.messages, kept.state):
        with pytest.raises(UserError, match="unknown conversation"):
            ask("1 OR 1=1")


def test_the_visitor_may_become_somebody_else(kept: Conversations) -> None:
    name = kept.start(None)
    talk(kept, name, "hello")
    kept.attach(name, "15")
    assert kept.user(name) == "15"
    assert [said.text for said in kept.messages(name)] == ["hello"]


def test_clients_that_keep_the_messages_go_on_from_what_they_led_to(kept: Conversations) -> None:
    name = kept.start(None)
    talk(kept, name, "a western", "Here are five.", "older ones", "Here are two.")
    said = [("user", "a western"), ("assistant", " Here are five.\n")]
    assert kept.resume(history_key(said[:1], user="15")) is None
    assert kept.resume(history_key([("user", "a comedy")], user=None)) is None
    one, other = (kept.resume(history_key(said, user=None)) for _ in range(2))
    assert one is not None
    assert other is not None
    assert len({name, one, other}) == 3
    assert kept.state(one) == kept.state(other) == {"turn": 1}
    kept.add(one, Said("user", "newer ones", [], {"turn": "mine"}))
    assert kept.state(other) == {"turn": 1}
    assert [message.text for message in kept.messages(one)] == ["newer ones"]
    again = kept.resume(history_key([*said, ("user", "newer ones")], user=None))
    assert again is not None
    assert kept.state(again) == {"turn": "mine"}
    assert [entry["id"] for entry in kept.newest(10)] == [name]


def test_the_latest_conversations_come_first(kept: Conversations) -> None:
    first, second = kept.start(None), kept.start("3")
    talk(kept, second, "hello")
    time.sleep(0.002)
    talk(kept, first, "a western", "Here.")
    assert [entry["id"] for entry in kept.newest(10)] == [first, second]
    assert kept.newest(1)[0]["first"] == "a western"
    assert kept.newest(10)[1]["user"] == "3"


def test_threads_take_turns(kept: Conversations) -> None:
    name = kept.start(None)
    threads = [
        threading.Thread(target=lambda: talk(kept, name, *["x"] * 20), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.messages(name)) == 80


def test_other_files_are_refused(tmp_path: Path) -> None:
    KnowledgeStore(tmp_path / "knowledge.sqlite").close()
    with pytest.raises(DataError, match="not a file of conversations"):
        Conversations(tmp_path / "knowledge.sqlite")
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(DataError, match="cannot be used"):
        Conversations(tmp_path / "text")
    Conversations(tmp_path / "newer").close()
    with sqlite3.connect(tmp_path / "newer") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(DataError, match="schema version 99"):
        Conversations(tmp_path / "newer")


def test_kill_9_loses_nothing_that_was_said(tmp_path: Path) -> None:
    path = tmp_path / "conversations.sqlite"
    program = (
        "import sys; from pathlib import Path\n"
        "from tastemaker.agents.dialogue.conversations import Conversations, Said\n"
        "kept = Conversations(Path(sys.argv[1])); name = kept.start(None)\n"
        "print(name, flush=True)\n"
        "for turn in range(10_000):\n"
        "    kept.add(name, Said('user', f'message {turn}'))\n"
        "    print(turn, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        for _ in range(20):
            told = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = [int(line) for line in process.stdout.read().split()]
    told = max([told, *rest])
    with Conversations(path) as kept:
        said = [message.text for message in kept.messages(name)]
    assert said == [f"message {turn}" for turn in range(len(said))]
    assert len(said) in (told + 1, told + 2)
