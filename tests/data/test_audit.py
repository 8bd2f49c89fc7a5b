"""The audit of tables, splits, questions and item numbers; every leak here is planted."""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.audit import (
    audit_evidence,
    audit_split,
    counts_before,
    real_events,
    with_other_answers,
)
from tastemaker.data.audit_requests import audit_negatives, audit_requests
from tastemaker.data.findings import AuditReport, Finding
from tastemaker.data.id_probe import audit_ids, id_probe
from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.eval.protocol import requests
from tastemaker.testing.world import SCHEMA, checkerboard, checkerboard_split

TYPES = {"user": pl.Int32, "item": pl.Int32, "time": pl.Int64, "rating": pl.Float32}


def world(events: Sequence[tuple[int, int, int]], **columns: Sequence[Any]) -> Tables:
    """Tables of (user, item, time), sorted as `Tables` wants them; every event is liked."""
    frame = pl.DataFrame(
        {
            "user": [event[0] for event in events],
            "item": [event[1] for event in events],
            "time": [event[2] for event in events],
            "rating": [5.0] * len(events),
            "label": pl.Series([1] * len(events), dtype=pl.Int8),
            **columns,
        },
        schema_overrides=TYPES,
    )
    numbers = {name: pl.int_range(int(frame[name].max() or 0) + 1, eager=True) for name in TYPES}
    users = pl.DataFrame({"user": numbers["user"].cast(pl.Int32), "user_id": numbers["user"] + 100})
    items = pl.DataFrame({"item": numbers["item"].cast(pl.Int32), "item_id": numbers["item"] + 1})
    items = items.with_columns(title=pl.col("item_id").cast(pl.String))
    ordered = frame.sort("time", "user", "item", "rating", "label")
    return Tables(users, items, ordered, schema=SCHEMA, source="planted")


def parted(tables: Tables, train: Any, valid: Any, test: Any) -> Split:
    parts = [np.array(rows, dtype=np.int64) for rows in (train, valid, test)]
    return Split(tables, *parts, boundaries={})


def one(findings: Sequence[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


@settings(max_examples=30)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=25
    )
)
def test_counts_before_is_what_a_loop_counts(events: list[tuple[int, int, int]]) -> None:
    frame = real_events(world(events))
    asked = pl.DataFrame({"user": [0, 1, 9, 3], "item": [0, 1, 0, 2], "time": [3, 0, 4, 99]})
    for by in (("user",), ("user", "item")):
        expected = [
            sum(e["time"] < a["time"] and all(e[k] == a[k] for k in by) for e in frame.to_dicts())
            for a in asked.to_dicts()
        ]
        assert counts_before(frame, asked, by=by).to_list() == expected


def test_a_clean_split_passes() -> None:
    for protocol in ("global_time", "rolling", None):
        found = audit_split(checkerboard_split(), protocol=protocol)
        assert [finding.severity for finding in found] == ["pass", "pass"]


def test_rows_in_two_parts_or_in_no_table() -> None:
    tables = world([(0, 0, 1), (0, 1, 2), (1, 0, 3)])
    (found,) = audit_split(parted(tables, [0, 1], [1], [2, 3, -1]), protocol="global_time")
    assert (found.severity, sorted(found.rows)) == ("fail", [-1, 1, 3])
    assert any("once" in example["problem"] for example in found.details["examples"])


@pytest.mark.parametrize(
    ("train", "valid", "test", "bad"),
    [([0, 1], [2], [3], []), ([0, 2], [1], [3], [1]), ([0, 1], [3], [2], [2]), ([3], [0], [1], 2)],
)
def test_the_order_of_a_split_by_time(
    train: list[int], valid: list[int], test: list[int], bad: Any
) -> None:
    tables = world([(0, 0, 1), (1, 0, 2), (0, 1, 3), (2, 0, 4)])
    found = one(audit_split(parted(tables, train, valid, test), protocol="global_time"), SPLIT)
    assert found.severity == ("fail" if bad else "pass")
    assert (len(found.rows) if isinstance(bad, int) else found.rows) == bad


SPLIT = "split: order"


def test_a_tie_with_the_last_training_second_is_a_leak() -> None:
    tables = world([(0, 0, 1), (0, 1, 2), (1, 0, 2), (2, 0, 3)])
    found = audit_split(parted(tables, [0, 1], [2], [3]), protocol="global_time")
    assert one(found, SPLIT).rows == [2]


def test_other_protocols_are_told_how_many_rows_leak_across_users() -> None:
    # Row 4 is user 1's; training holds a later event of user 0. Row 3's only later one is its own.
    tables = world([(0, 0, 1), (1, 0, 2), (2, 0, 3), (0, 1, 4), (1, 1, 5), (0, 2, 6)])
    found = one(audit_split(parted(tables, [0, 1, 2, 5], [3], [4]), protocol="given"), SPLIT)
    assert (found.severity, found.rows) == ("warn", [4])
    assert found.summary.startswith("1 of 2 valid and test rows")
    own = audit_split(parted(tables, [0, 1, 2, 5], [3], [4]), protocol="leave_one_out")
    assert one(own, "split: own order").rows == [3]
    held = audit_split(parted(tables, [0, 2], [1], [4]), protocol="user_holdout")
    assert one(held, "split: held-out users").rows == [1, 4]
    held = audit_split(parted(tables, [0, 3, 5], [1, 4], [2]), protocol="user_holdout")
    assert one(held, "split: held-out users").severity == "pass"


def test_saved_questions_of_a_clean_split_pass() -> None:
    split = checkerboard_split()
    for part in ("valid", "test"):
        found = audit_requests(split, requests(split, part).frame, name=f"requests-{part}")
        assert [finding.severity for finding in found] == ["pass", "pass"]


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("cut", 99, "history cuts"),
        ("label", -1, "provenance"),
        ("item", 1, "provenance"),
        ("time", 10**10, "provenance"),
        ("user", 99, "provenance"),
        ("row", -1, "provenance"),
        ("row", 0, "provenance"),
        ("split", "train", "provenance"),
    ],
)
def test_tampered_questions_are_found(column: str, value: Any, check: str) -> None:
    split = checkerboard_split()
    frame = requests(split, "test").frame
    wrong = pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(value)).otherwise(pl.col(column))
    tampered = frame.with_columns(wrong.cast(frame.schema[column]).alias(column))
    found = one(audit_requests(split, tampered, name="requests-test"), f"requests-test: {check}")
    assert found.severity == "fail"
    assert set(found.rows) <= {int(frame["row"][3]), -1, 0}


def ranking() -> tuple[Split, pl.DataFrame]:
    """User 0 met items 0, 1, 2 at times 1, 5, 9; asked about item 2 at 9, among unmet ones."""
    tables = world([(0, 0, 1), (0, 1, 5), (1, 3, 6), (1, 4, 7), (0, 2, 9)])
    frame = pl.DataFrame(
        {
            "row": [4, -1, -1],
            "user": [0, 0, 0],
            "item": [2, 3, 4],
            "time": [9, 9, 9],
            "cut": [2, 2, 2],
            "label": pl.Series([1, 0, 0], dtype=pl.Int8),
            "group": [4, 4, 4],
            "split": ["test"] * 3,
        },
        schema_overrides=TYPES,
    )
    return parted(tables, [0, 1], [2, 3], [4]), frame


@pytest.mark.parametrize(
    ("column", "values", "check"),
    [
        ("label", [1, 0, 0], None),
        ("label", [1, 1, 0], "questions"),
        ("label", [0, 0, 0], "questions"),
        ("label", [0, 1, 0], "questions"),
        ("item", [2, 3, 3], "questions"),
        ("item", [2, 3, 1], "negatives"),
        ("user", [0, 0, 1], "questions"),
        ("time", [9, 9, 8], "questions"),
        ("cut", [2, 2, 3], "history cuts"),
        ("item", [1, 3, 4], "provenance"),
    ],
)
def test_one_liked_item_among_unmet_ones(column: str, values: list[int], check: str | None) -> None:
    split, frame = ranking()
    changed = frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))
    found = audit_requests(split, changed, name="candidates-test")
    assert len(found) == 4
    failed = {finding.check for finding in found if finding.severity == "fail"}
    assert failed >= {f"candidates-test: {check}"} if check else not failed


def test_drawn_events_are_no_evidence_and_unmet() -> None:
    events = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 3)]
    drawn = {"sampled": [False, True, False, True]}
    tables = world(events, **drawn)
    quiet = pl.Series("label", [1, 0, 1, 0], dtype=pl.Int8)
    tables = replace(tables, interactions=tables.interactions.with_columns(quiet))
    assert [finding.severity for finding in audit_negatives(tables)] == ["pass"]
    asked = tables.interactions.with_columns(row=pl.int_range(pl.len()))
    assert counts_before(real_events(tables), asked).to_list() == [0, 1, 1, 1]
    met = tables.interactions.with_columns(item=pl.Series([0, 0, 2, 2], dtype=pl.Int32))
    (found,) = audit_negatives(replace(tables, interactions=met))
    assert (found.severity, found.rows) == ("fail", [1, 3])
    assert audit_negatives(checkerboard()) == []


@pytest.mark.parametrize("shown", [2, 3, 4, 1, 99])
def test_evidence_that_is_late_foreign_or_drawn(shown: int) -> None:
    tables = world(
        [(0, 0, 1), (1, 0, 2), (0, 1, 3), (0, 2, 3), (0, 3, 4)],
        sampled=[False] * 5,
    )
    targets = tables.interactions.with_row_index("row")[[3, 4]].cast({"row": pl.Int64})
    clean = [np.array([[-1, 0]]), np.array([[0, 2]])]
    found = audit_evidence(tables, "features", targets=targets, batches=clean)
    assert found.severity == "pass"
    assert found.details["events"] == 3
    planted = [np.array([[0, shown]]), clean[1]]
    found = audit_evidence(tables, "features", targets=targets, batches=planted)
    assert (found.severity, found.rows) == ("fail", [3])
    assert f"row {shown}" in found.details["examples"][0]["problem"]


def test_other_answers_leave_training_and_its_past_alone() -> None:
    # User 0: train at 1 and 5, valid at 3 (evidence for the train row at 5), test at 7.
    tables = world([(0, 0, 1), (0, 1, 3), (0, 2, 5), (1, 0, 6), (0, 3, 7)])
    split = parted(tables, [0, 2], [1], [4])
    other, changed = with_other_answers(split)
    assert changed.tolist() == [False, False, False, True, True]
    before, after = tables.interactions, other.tables.interactions
    assert before.filter(~pl.Series(changed)).equals(after.filter(~pl.Series(changed)))
    for column in ("label", "rating", "item"):
        assert (before[column] != after[column]).to_list() == changed.tolist()
    assert after.schema == before.schema
    assert not set(after["rating"].filter(pl.Series(changed))) & set(before["rating"])


def sequences(lists: Sequence[Sequence[int]]) -> Split:
    """Leave-one-out over item sequences numbered from 0."""
    users = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    steps = np.concatenate([np.arange(len(items)) for items in lists])
    items = np.concatenate([np.asarray(one) for one in lists])
    frame = pl.DataFrame(
        {"user": users, "item": items, "time": steps}, schema_overrides=TYPES
    ).with_columns(rating=pl.lit(1.0, pl.Float32), label=pl.lit(1, pl.Int8))
    frame = frame.sort("time", "user", "item")
    numbers = pl.int_range(int(items.max()) + 1, dtype=pl.Int32, eager=True)
    catalogue = pl.DataFrame({"item": numbers, "item_id": numbers.cast(pl.Int64) + 1})
    people = pl.DataFrame({"user": pl.int_range(len(lists), dtype=pl.Int32, eager=True)})
    tables = Tables(
        people.with_columns(user_id=pl.col("user")),
        catalogue.with_columns(title=pl.col("item_id").cast(pl.String)),
        frame,
        schema=replace(SCHEMA, time=None),
        source="sequences",
    )
    place = pl.int_range(pl.len()).over("user")
    rank = frame.select(pl.len().over("user") - 1 - place).to_series().to_numpy()
    return parted(tables, *(np.flatnonzero(mask) for mask in (rank > 1, rank == 1, rank == 0)))


def test_the_probe_by_hand() -> None:
    # Largest + 1 hits at once, + 3 hits third, + 11 never; the last user's target is not above.
    split = sequences([[0, 5, 2, 6], [7, 1, 10], [0, 1, 12], [9, 8, 9]])
    probe = id_probe(split)
    assert probe is not None
    assert (probe.n, probe.hr10) == (4, 0.5)
    assert probe.ndcg10 == pytest.approx((1 + 0.5) / 4)
    assert probe.last_hr10 == 0.75  # 2 → 6, 1 → 10, 8 → 9; 1 → 12 is too far
    assert probe.last_ndcg10 == pytest.approx(sum(1 / np.log2(rank + 1) for rank in (4, 9, 1)) / 4)
    assert probe.chance_hr10 == pytest.approx(10 / 13)


def test_ids_fail_only_where_text_shows_them() -> None:
    first_seen = [[2 * user, 2 * user, 2 * user + 1] for user in range(300)]
    split = sequences(first_seen)
    warned = audit_ids(split)
    assert [finding.severity for finding in warned] == ["warn", "warn"]
    assert "HR@10 1.0000" in warned[0].summary
    failed = audit_ids(split, shown_by="template 'x' (field item_id)")
    assert [finding.severity for finding in failed] == ["fail", "fail"]
    generator = np.random.default_rng(0)
    mixed = generator.permutation(600)
    shuffled = sequences([[int(mixed[item]) for item in one] for one in first_seen])
    assert [f.severity for f in audit_ids(shuffled, shown_by="x")] == ["pass", "pass"]


def test_ids_that_are_no_numbers_are_not_probed() -> None:
    split = sequences([[0, 1, 2]])
    items = split.tables.items.with_columns(item_id=pl.Series(["B1", "B2", "B3"]))
    named = replace(split, tables=replace(split.tables, items=items))
    assert id_probe(named, numbers="external") is None
    assert len(audit_ids(named)) == 1


def test_a_report_fits_the_terminal_and_names_rows() -> None:
    split, frame = ranking()
    wrong = frame.with_columns(cut=pl.lit(7, pl.Int64))
    findings = audit_requests(split, wrong, name="candidates-test")
    report = AuditReport([*findings, *audit_ids(split)], ["build: has not been run"])
    lines = report.lines()
    assert report.failed
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "✗ FAIL  candidates-test: history cuts – 3 of 3 questions have a wrong cut" in text
    assert "row 4 (user 100, item 3, time 1970-01-01 00:00:09): says 7 earlier" in text
    assert "no event (user 100, item 4" in text
    assert "- skip  build: has not been run" in text
    assert lines[-1] == "1 failed, 0 warned, 5 passed, 1 skipped"
    values = report.to_dict()
    assert values["failed"] is True
    assert values["findings"][1]["rows"] == [4, -1, -1]
    assert not AuditReport([]).failed


def renumbered(lists: list[list[int]], seed: int) -> list[list[int]]:
    """P5's numbering: by first appearance over complete sequences, users in random order."""
    mixed = list(lists)
    random.Random(seed).shuffle(mixed)
    numbers: dict[int, int] = {}
    return [[numbers.setdefault(item, len(numbers)) for item in items] for items in mixed]


@pytest.fixture(scope="module")
def s3_rec() -> Callable[[str], list[list[int]]]:
    folder = os.environ.get("TASTEMAKER_DATA")
    if not folder:
        pytest.skip("TASTEMAKER_DATA is not set")

    def read(name: str) -> list[list[int]]:
        lines = (Path(folder) / "s3rec" / f"{name}.txt").read_text().splitlines()
        return [[int(item) - 1 for item in line.split()[1:]] for line in lines]

    return read


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "own", "p5"),
    [
        ("Beauty", 0.0463, (0.0576, 0.0567)),
        ("Sports_and_Outdoors", 0.0433, (0.0537, 0.0534)),
        ("Yelp", 0.0333, (0.0497, 0.0493)),
    ],
)
def test_published_item_numbers_carry_the_future(
    s3_rec: Callable[[str], list[list[int]]], name: str, own: float, p5: tuple[float, float]
) -> None:
    lists = s3_rec(name)
    probe = id_probe(sequences(lists))
    assert probe is not None
    assert probe.hr10 == pytest.approx(own, abs=5e-5)
    assert probe.reveals
    scores = [id_probe(sequences(renumbered(lists, seed))) for seed in range(3)]
    found = np.mean([(one.hr10, one.ndcg10) for one in scores if one is not None], axis=0)
    # The published values are means over five orders of the users; three differ by .0009 at most.
    assert found == pytest.approx(p5, abs=1e-3)
    mixed = np.random.default_rng(0).permutation(1 + max(map(max, lists))).tolist()
    random_numbers = id_probe(sequences([[mixed[item] for item in items] for items in lists]))
    assert random_numbers is not None
    assert not random_numbers.reveals
