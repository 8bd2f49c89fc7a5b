"""The audit of finished text; every leak here is planted behind the builder's back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.agents.reasoning import user_questions
from tastemaker.data.findings import Finding
from tastemaker.data.history import Histories, Past
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import LeakError
from tastemaker.prompts.audit import audit_prompts, audit_user_texts, check_no_leak, shown_ids
from tastemaker.prompts.build import instructions
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import SCHEMA, checkerboard, tied_world

TALLREC = find_template("tallrec/movie")


def built(tables: Tables, rows: Any, *, history: int = 10) -> pl.DataFrame:
    histories = Histories.from_interactions(tables.interactions)
    return instructions(tables, histories, rows, template=TALLREC, history=history, split="train")


def row_of(tables: Tables, user: int, item: int) -> int:
    keys = tables.interactions.with_row_index().join(tables.users, on="user")
    keys = keys.join(tables.items, on="item")
    found = keys.filter((pl.col("user_id") == user) & (pl.col("item_id") == item))
    return int(found["index"].item())


def contents(frame: pl.DataFrame, column: str = "prompt") -> list[str]:
    return [messages[0]["content"] for messages in frame[column].to_list()]


def replaced(frame: pl.DataFrame, old: str, new: str) -> pl.DataFrame:
    """The same instructions with prompts changed behind the builder's back."""
    messages = [
        [{"role": "user", "content": content.replace(old, new)}] for content in contents(frame)
    ]
    return frame.with_columns(prompt=pl.Series(messages, dtype=frame.schema["prompt"]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Film 2"', '"Film 5"', "shows 'Film 5', which the user had not met before"),
        ('"Film 2"', '"Film 3"', "shows 'Film 3', which the user had not met before"),
        ('"Film 2"', '"Film 4"', "shows 'Film 4', which the user had not met before"),
        ('"Film 2"', '"Film 2", "Film 1"', "shows 3 events, at most 2 came before"),
        ('movie "Film 4"', "movie Film 4", "the target's title does not stand in double quotes"),
    ],
)
def test_the_audit_finds_what_does_not_belong(old: str, new: str, message: str) -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = built(tables, [row, row_of(tables, 7, 5)])
    check_no_leak(tables, frame, history=10)
    broken = pl.concat([replaced(frame.head(1), old, new), frame.tail(1)])
    with pytest.raises(LeakError) as caught:
        check_no_leak(tables, broken, history=10)
    assert f"row {row}: {message}" in str(caught.value)
    assert f"row {row + 1}: " not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"), [("user_id", 8), ("item_id", 1), ("label", 1), ("timestamp", 31)]
)
def test_the_audit_compares_provenance_with_the_interaction(column: str, value: int) -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = built(tables, [row])
    wrong = frame.with_columns(pl.lit(value, dtype=frame.schema[column]).alias(column))
    with pytest.raises(LeakError, match=f"row {row}: its {column} is not"):
        check_no_leak(tables, wrong, history=10)


def test_the_audit_limits_the_events_to_the_history_asked_for() -> None:
    tables = tied_world()
    frame = built(tables, [row_of(tables, 7, 5)], history=4)
    with pytest.raises(LeakError, match="shows 4 events, at most 3"):
        check_no_leak(tables, frame, history=3)


def test_the_target_may_be_shown_when_a_film_of_its_title_was_met_before() -> None:
    tables = tied_world({5: "Film 1"})
    frame = built(tables, [row_of(tables, 7, 5)])
    assert contents(frame)[0].count('"Film 1"') == 2
    check_no_leak(tables, frame, history=10)


def verdicts(tables: Tables, frame: pl.DataFrame, rows: Any) -> dict[str, Finding]:
    found = audit_prompts(tables, frame, history=10, parts={"train": rows})
    assert len(found) == 5
    return {finding.check.removeprefix("prompts: "): finding for finding in found}


def failed(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.severity != "pass"]


def test_clean_prompts_pass_every_check() -> None:
    tables = tied_world()
    rows = np.arange(tables.interactions.height)
    found = verdicts(tables, built(tables, rows), rows)
    assert failed(found) == []
    assert found["titles"].details["targets_met_before"] == 0
    assert found["titles"].summary.startswith("6 prompts: none from the target's time or later")
    empty = built(tables, np.empty(0, dtype=np.int64))
    assert failed(verdicts(tables, empty, rows)) == []


@pytest.mark.parametrize(
    ("old", "new", "checks"),
    [
        ('"Film 2"', '"Film 5"', ["titles"]),
        ('"Film 2"', '"Film 4"', ["titles"]),
        ('"Film 2"', '"Film 3"', ["titles"]),
        ('"Film 2"', '"Film 1"', ["titles"]),
        ('"Film 2"', '"Film 2", "Film 5"', ["titles", "lengths"]),
        ("Will the", "It is Film 4. Will the", ["loose targets"]),
        ('"Film 4"?', '"Film 1"?', ["titles", "lengths"]),
    ],
)
def test_planted_leaks_name_their_row(old: str, new: str, checks: list[str]) -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = replaced(built(tables, [row]), old, new)
    found = verdicts(tables, frame, [row])
    assert failed(found) == checks
    for check in checks:
        assert found[check].rows == [row]
        (example,) = found[check].details["examples"]
        assert (example["user_id"], example["item_id"]) == (7, 4)
        assert example["time"] == "1970-01-01 00:00:30"


def test_an_answer_or_a_part_that_is_not_the_rows_own() -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = built(tables, [row, row + 1])
    turned = frame.with_columns(pl.col("completion").reverse())
    assert failed(verdicts(tables, turned, [row, row + 1])) == ["provenance"]
    found = verdicts(tables, frame, [row + 1])
    assert (failed(found), found["parts"].rows) == (["parts"], [row])
    nowhere = frame.with_columns(row=pl.lit(999, pl.Int64))
    assert "provenance" in failed(verdicts(tables, nowhere, [999]))


def test_an_item_consumed_again_is_counted_not_refused() -> None:
    events = [(7, 1, 10, 5.0), (7, 1, 20, 1.0), (7, 2, 20, 4.0), (7, 1, 30, 5.0)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    items = pl.DataFrame({"item_id": [1, 2], "title": ["Film 1", "Film 2"], "genres": ["x", "x"]})
    tables = build_tables(frame, items=items, schema=SCHEMA)
    made = built(tables, range(4))
    found = verdicts(tables, made, range(4))
    assert failed(found) == []
    assert found["titles"].details["targets_met_before"] == 2
    # At time 20 the film had been met once, not twice.
    tampered = replaced(made[[1]], '"Film 1"\n', '"Film 1", "Film 1"\n')
    assert tampered.height == 1
    assert failed(verdicts(tables, tampered, range(4))) == ["titles", "lengths"]


class WithTies(Histories):
    """The mistake that the audit is for: events of the target's own second count as past."""

    def before(self, rows: Any, *, max_length: int | None = None, **options: Any) -> Past:
        wanted = np.asarray(rows)
        return self.at(self.row_users[wanted], self.row_times[wanted] + 1, max_length=max_length)


def test_a_broken_index_does_not_deceive_the_audit() -> None:
    tables = checkerboard(12, 12, events=10)
    events = tables.interactions
    broken = WithTies.from_interactions(events)
    broken.row_users = events["user"].to_numpy()
    broken.row_times = events["time"].to_numpy()
    rows = np.arange(events.height)
    frame = instructions(tables, broken, rows, template=TALLREC, history=10, split="train")
    found = verdicts(tables, frame, rows)
    assert "titles" in failed(found)
    assert found["titles"].details["problems"] >= len(rows)
    with pytest.raises(LeakError):
        check_no_leak(tables, frame, history=10)


def asked_about(tables: Tables, users: Sequence[int]) -> pl.DataFrame:
    questions = user_questions(
        tables,
        Histories.from_interactions(tables.interactions),
        template=find_template("kar/user_movies"),
        users=users,
        cap=4,
    )
    return pl.DataFrame(
        {
            "user": [question.entity for question in questions],
            "cut_time": [question.cut_time for question in questions],
            "prompt": [question.messages[-1]["content"] for question in questions],
        }
    )


def test_texts_about_users_show_events_up_to_their_cut() -> None:
    tables = checkerboard(12, 12, events=10)
    template = find_template("kar/user_movies")
    frame = asked_about(tables, range(12))
    assert frame.height > 8
    assert audit_user_texts(tables, frame, template=template).severity == "pass"
    earlier = frame.with_columns(pl.col("cut_time") - 1)
    found = audit_user_texts(tables, earlier, template=template)
    assert found.severity == "fail"
    assert found.details["problems"] >= frame.height
    events = tables.interactions[found.rows]
    assert events["user"].to_list() == [
        tables.user_index(str(example["user_id"])) for example in found.details["examples"]
    ]
    silent = frame.with_columns(prompt=pl.lit("What does this user like?"))
    found = audit_user_texts(tables, silent, template=template)
    assert found.details["problems"] == frame.height


def test_what_shows_item_numbers(tmp_path: Path) -> None:
    tables = tied_world()
    assert shown_ids(tables, [TALLREC]) is None
    path = tmp_path / "own.j2"
    head = '{#---\nfamily: own\ntask: Try.\nfields: {item_id: i}\nchoices: ["1", "0"]\n---#}\n'
    path.write_text(head + "Item {{ item_id }}?")
    assert "field item_id" in str(shown_ids(tables, [TALLREC, find_template(str(path))]))
    untitled = build_tables(
        tables.interactions.select("rating", user_id="user", item_id="item", timestamp="time"),
        schema=replace(SCHEMA, title=None, text=()),
    )
    assert "called by their id" in str(shown_ids(untitled, [TALLREC]))
    assert shown_ids(untitled, []) is None
