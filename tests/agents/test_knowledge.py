from __future__ import annotations

import json
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tastemaker.agents.asking import Asker, Request
from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import (
    Failure,
    Knowledge,
    KnowledgeStore,
    Spent,
    request_key,
    without_credentials,
)
from tastemaker.errors import DataError, UnknownNameError

ASKED = [{"role": "user", "content": "Introduce “Amélie”."}]
BATCH, QUESTIONS = 7, 600

WRITER = """
import sys
import time
from pathlib import Path

from tastemaker.agents.asking import Asker, Request
from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import KnowledgeStore


def slowly(conversation):
    time.sleep(0.002)  # or all would be over before the signal comes
    return SCRIPTS["echo"](conversation)


path, batch_size, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with KnowledgeStore(path) as store:
    asker = Asker(
        ScriptedChatModel(script=slowly), store, model_name="scripted:echo", params={},
        batch_size=batch_size,
        advance=lambda done, note="": print(done, flush=True),  # after each stored batch
    )
    asker.ask([
        Request("item", str(number), ({"role": "user", "content": f"Film {number}"},), "kar/item")
        for number in range(count)
    ])
"""
VERSION_1 = """
CREATE TABLE IF NOT EXISTS knowledge (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    entity TEXT NOT NULL,
    model TEXT NOT NULL,
    params TEXT NOT NULL,
    messages TEXT NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    created TEXT NOT NULL,
    chain TEXT NOT NULL
)
"""


def knowledge(number: int = 0, text: str = "A film about Montmartre.") -> Knowledge:
    messages = [{"role": "user", "content": f"{ASKED[0]['content']} {number}"}]
    return Knowledge(
        key=request_key("local:smollm2", None, {"max_tokens": 8}, messages),
        kind="item",
        entity=str(number),
        model="local:smollm2",
        params={"max_tokens": 8, "temperature": 0.5},
        messages=messages,
        text=text,
        finish_reason="stop",
        prompt_tokens=12,
        completion_tokens=7,
        seconds=0.25,
        created="2026-01-01T00:00:00+00:00",
        chain="kar/item_movies",
    )


def failure(number: int = 0, **more: Any) -> Failure:
    answered = asdict(knowledge(number))
    del answered["text"], answered["finish_reason"]
    return Failure(**{**answered, "reason": "refusal", "detail": "I can't.", **more})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "store.sqlite") as store:
        yield store


def test_what_is_put_comes_back_equal_also_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.sqlite"
    one, two = knowledge(1), knowledge(2, text="“Ünïcode” 🎬\nline")
    with KnowledgeStore(path) as store:
        assert len(store) == 0
        store.put_many([one, two])
        assert store.get_many([two.key, "unknown", one.key]) == {one.key: one, two.key: two}
    with KnowledgeStore(path) as store:
        assert len(store) == 2
        assert store.get_many([one.key]) == {one.key: one}


def test_thousands_of_keys_in_one_call(tmp_path: Path) -> None:
    many = [knowledge(number) for number in range(1203)]
    with KnowledgeStore(tmp_path / "store.sqlite") as store:
        store.put_many(many)
        assert store.get_many(one.key for one in many) == {one.key: one for one in many}


def test_the_first_answer_to_a_question_stays(tmp_path: Path) -> None:
    first = knowledge(1)
    with KnowledgeStore(tmp_path / "store.sqlite") as store:
        store.put_many([first])
        store.put_many([replace(first, text="another"), knowledge(2)])
        assert len(store) == 2
        assert store.get_many([first.key])[first.key].text == first.text


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    broken = replace(knowledge(2), text=None)  # type: ignore[arg-type]
    with KnowledgeStore(tmp_path / "store.sqlite") as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.put_many([knowledge(1), broken, knowledge(3)])
        assert len(store) == 0
        store.put_many([knowledge(1)])
        assert len(store) == 1


def test_two_stores_may_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with KnowledgeStore(path) as left, KnowledgeStore(path) as right:
        left.put_many([knowledge(1)])
        right.put_many([knowledge(2)])
        assert len(left) == len(right) == 2


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, foreign, newer = (tmp_path / name for name in ("a.txt", "b.sqlite", "c.sqlite"))
    text.write_text("not a database, but long enough to have had a header " * 9)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    KnowledgeStore(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = {path: path.read_bytes() for path in (text, foreign)}
    for path, message in (
        (text, "file is not a database"),
        (foreign, "not a knowledge store"),
        (newer, "schema version 99"),
        (tmp_path, "unable to open"),
    ):
        with pytest.raises(DataError, match=message):
            KnowledgeStore(path)
    assert {path: path.read_bytes() for path in before} == before


def test_every_part_of_a_request_counts_for_its_key() -> None:
    params = {"max_tokens": 8, "temperature": 0.0}
    key = request_key("openai:a", "http://host/v1", params, ASKED)
    assert len(key) == 32
    assert key == request_key("openai:a", "http://host/v1", dict(reversed(params.items())), ASKED)
    others = {
        request_key("openai:b", "http://host/v1", params, ASKED),
        request_key("openai:a", None, params, ASKED),
        request_key("openai:a", "http://host/v1", {**params, "seed": 1}, ASKED),
        request_key("openai:a", "http://host/v1", params, [*ASKED, *ASKED]),
        request_key("openai:a", "http://host/v1", params, [{**ASKED[0], "role": "system"}]),
    }
    assert len(others) == 5
    assert key not in others


def test_credentials_in_an_address_do_not_count() -> None:
    plain = request_key("openai:a", "http://host:8000/v1", {}, ASKED)
    assert plain == request_key("openai:a", "http://me:secret@host:8000/v1?key=1", {}, ASKED)
    assert without_credentials("http://me:secret@host:8000/v1?key=1") == "http://host:8000/v1"


def test_a_failure_gives_way_to_an_answer_and_never_the_other_way(store: KnowledgeStore) -> None:
    first, later = failure(1, final=False), failure(1, reason="empty", detail="no text")
    store.put_many([first])
    assert store.failures([first.key, "unknown"]) == {first.key: first}
    store.put_many([later])
    assert store.failures([first.key]) == {first.key: later}
    assert store.get_many([first.key]) == {}
    store.put_many([knowledge(1)])
    assert store.failures([first.key]) == {}
    store.put_many([failure(1)])
    assert store.failures([first.key]) == {}
    assert store.get_many([first.key]) == {first.key: knowledge(1)}


@pytest.mark.parametrize("order", [1, -1])
def test_in_one_batch_the_answer_wins(store: KnowledgeStore, order: int) -> None:
    store.put_many(iter([failure(1), knowledge(1), failure(2)][::order]))
    assert len(store) == 1
    assert [one.entity for one in store.each(Failure)] == ["2"]


def test_all_are_read_page_by_page_while_more_are_written(store: KnowledgeStore) -> None:
    many = sorted((knowledge(number) for number in range(2500)), key=lambda one: one.key)
    store.put_many(many[::2])
    found = []
    for place, one in enumerate(store.each(Knowledge)):
        if place == 0:
            store.put_many(many[1::2])
        found.append(one)
    assert [one.key for one in found] == sorted(one.key for one in found)
    assert {one.key for one in found} >= {one.key for one in many[::2]}
    assert list(store.each(Knowledge)) == many


def test_some_are_read_by_their_columns(store: KnowledgeStore) -> None:
    store.put_many([knowledge(1), replace(knowledge(2), kind="user", cut_time=7), failure(3)])
    assert [one.entity for one in store.each(Knowledge, where={"kind": "user"})] == ["2"]
    assert [one.entity for one in store.each(Knowledge, where={"cut_time": None})] == ["1"]
    assert [one.entity for one in store.each(Failure, where={"reason": "refusal"})] == ["3"]
    assert list(store.each(Failure, where={"reason": "empty", "kind": "item"})) == []
    with pytest.raises(UnknownNameError, match="did you mean 'kind'"):
        next(store.each(Knowledge, where={"kinds": "user"}))


def test_what_is_removed_is_gone(store: KnowledgeStore) -> None:
    many = [knowledge(number) for number in range(700)]
    store.put_many([*many, failure(1000), failure(1001)])
    store.remove(one.key for one in [*many[1:], failure(1000)])
    assert list(store.each(Knowledge)) == many[:1]
    assert [one.entity for one in store.each(Failure)] == ["1001"]


def test_what_was_spent_counts_failures_too(store: KnowledgeStore) -> None:
    assert store.spent() == Spent(0, 0, 0, 0.0)
    store.put_many(
        [
            replace(knowledge(1), attempts=2, cost=0.5),
            knowledge(2),
            failure(3, attempts=3, cost=0.25, prompt_tokens=100, completion_tokens=0),
        ]
    )
    assert store.spent() == Spent(6, 124, 14, 0.75)


def test_counts_by_model_chain_kind_and_outcome(store: KnowledgeStore) -> None:
    store.put_many([knowledge(1), knowledge(2), failure(3), failure(4, reason="empty")])
    store.put_many([replace(knowledge(5), model="openai:m", kind="user")])
    assert store.counts() == [
        ("local:smollm2", "kar/item_movies", "item", "answered", 2),
        ("local:smollm2", "kar/item_movies", "item", "empty", 1),
        ("local:smollm2", "kar/item_movies", "item", "refusal", 1),
        ("openai:m", "kar/item_movies", "user", "answered", 1),
    ]


def test_half_a_character_does_not_keep_the_others_from_being_stored(
    store: KnowledgeStore,
) -> None:
    half = replace(knowledge(1), text="A film \ud83d")
    store.put_many([half, knowledge(2)])
    assert store.get_many([half.key])[half.key].text == "A film ?"
    assert len(store) == 2


def test_an_interrupt_between_two_steps_of_a_transaction(store: KnowledgeStore) -> None:
    store._connection.execute("BEGIN IMMEDIATE")  # and here it came
    store.put_many([knowledge(1)])
    assert len(store) == 1


def version_1(path: Path, answers: Sequence[Knowledge]) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(VERSION_1)
        connection.execute("PRAGMA application_id = 501118")
        connection.execute("PRAGMA user_version = 1")
        connection.executemany(
            f"INSERT INTO knowledge VALUES ({', '.join('?' * 13)})",
            [
                (
                    one.key,
                    one.kind,
                    one.entity,
                    one.model,
                    json.dumps(one.params),
                    json.dumps(one.messages),
                    one.text,
                    one.finish_reason,
                    one.prompt_tokens,
                    one.completion_tokens,
                    one.seconds,
                    one.created,
                    one.chain,
                )
                for one in answers
            ],
        )
    connection.close()


def test_a_file_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    old = [knowledge(1), knowledge(2, text="“Ünïcode” 🎬")]
    version_1(path, old)
    new = replace(knowledge(3), step="genre", version="v", cut_time=7, attempts=2, cost=0.5)
    for _ in range(2):
        with KnowledgeStore(path) as store:
            assert store.get_many(one.key for one in old) == {one.key: one for one in old}
            store.put_many([new, failure(4)])
            assert store.get_many([new.key]) == {new.key: new}
            assert len(list(store.each(Failure))) == 1
            assert store.spent().requests == 5
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("old", [True, False])
def test_several_may_open_a_file_for_the_first_time(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "store.sqlite"
    if old:
        version_1(path, [knowledge(1)])

    def work(number: int) -> None:
        with KnowledgeStore(path) as store:
            store.put_many([knowledge(number)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1, 17)))
    with KnowledgeStore(path) as store:
        assert len(store) == 16


def test_storing_costs_little_beside_the_disk(store: KnowledgeStore) -> None:
    store._connection.execute("PRAGMA synchronous = OFF")  # the disk's own time is not ours
    many = [knowledge(number, text="A film about Montmartre. " * 40) for number in range(1000)]
    took = []
    for one in many:
        began = time.process_time()
        store.put_many([one])
        took.append(time.process_time() - began)
    assert statistics.median(took) < 0.002


def test_a_killed_writer_loses_no_committed_row_and_tears_none(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    command = [sys.executable, "-c", WRITER, str(path), str(BATCH), str(QUESTIONS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        committed = sum(int(writer.stdout.readline()) for _ in range(5))
        writer.send_signal(signal.SIGKILL)
        committed += sum(int(line) for line in writer.stdout if line.strip())
    assert writer.returncode == -signal.SIGKILL

    requests = [
        Request("item", str(number), ({"role": "user", "content": f"Film {number}"},), "kar/item")
        for number in range(QUESTIONS)
    ]
    with KnowledgeStore(path) as store:
        kept = len(store)
        assert 5 * BATCH <= committed <= kept < QUESTIONS
        assert kept % BATCH == 0
        model = ScriptedChatModel(script=SCRIPTS["echo"])
        asker = Asker(model, store, model_name="scripted:echo", params={}, batch_size=BATCH)
        found = asker.ask(requests)
        assert model.requests == QUESTIONS - kept
        assert asker.tally.known == kept
        assert len(store) == QUESTIONS
    for number, one in enumerate(found):
        assert isinstance(one, Knowledge)
        assert one.entity == str(number)
        assert one.text.endswith(f"Film {number}")
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
