from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import (
    Knowledge,
    KnowledgeStore,
    request_key,
    without_credentials,
)
from tastemaker.agents.reasoning import answer, item_questions
from tastemaker.errors import DataError
from tastemaker.prompts.template import find_template
from tastemaker.stage import Silent
from tastemaker.testing.world import checkerboard

ASKED = [{"role": "user", "content": "Introduce “Amélie”."}]
BATCH, QUESTIONS = 7, 600

WRITER = """
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.agents.reasoning import answer, item_questions
from tastemaker.prompts.template import find_template
from tastemaker.stage import Silent
from tastemaker.testing.world import checkerboard


class Telling(Silent):
    @contextmanager
    def track(self, label, total):
        yield lambda count: print(count, flush=True)  # after each stored batch


def slowly(conversation):
    time.sleep(0.002)  # or all would be over before the signal comes
    return SCRIPTS["echo"](conversation)


path, batch_size, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
questions = item_questions(
    checkerboard(4, count, events=4), template=find_template("kar/item_movies"),
    items=np.arange(count),
)
with KnowledgeStore(path) as store:
    answer(
        questions, ScriptedChatModel(script=slowly), store, model_name="scripted:echo",
        params={}, batch_size=batch_size, report=Telling(),
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


def test_a_killed_writer_loses_no_committed_row_and_tears_none(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    command = [sys.executable, "-c", WRITER, str(path), str(BATCH), str(QUESTIONS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        committed = sum(int(writer.stdout.readline()) for _ in range(5))
        writer.send_signal(signal.SIGKILL)
        committed += sum(int(line) for line in writer.stdout if line.strip())
    assert writer.returncode == -signal.SIGKILL

    tables = checkerboard(4, QUESTIONS, events=4)
    questions = item_questions(
        tables, template=find_template("kar/item_movies"), items=np.arange(QUESTIONS)
    )
    with KnowledgeStore(path) as store:
        kept = len(store)
        assert 5 * BATCH <= committed <= kept < QUESTIONS
        assert kept % BATCH == 0
        model = ScriptedChatModel(script=SCRIPTS["echo"])
        found = answer(
            questions,
            model,
            store,
            model_name="scripted:echo",
            params={},
            batch_size=BATCH,
            report=Silent(),
        )
        assert model.requests == QUESTIONS - kept
        assert len(store) == QUESTIONS
    assert [one.entity for one in found] == [question.entity_id for question in questions]
    for one, question in zip(found, questions, strict=True):
        assert one.text.endswith(question.messages[0]["content"])
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
