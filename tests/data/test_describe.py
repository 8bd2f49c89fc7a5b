import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.data.describe import describe, describe_lines
from tastemaker.data.schema import Implicit, LabelRule, Policies, Schema
from tastemaker.data.splits import Split
from tastemaker.data.splitters import split_tables
from tastemaker.data.tables import Tables, build_tables
from tastemaker.data.timeline import timeline

SCHEMA = Schema("u", "i", "t", "r", LabelRule("r", ">", 3.0), "title", time_unit="s")
FRAME = pl.DataFrame(
    {
        "u": ["a", "a", "a", "b", "a", "b"],
        "i": ["x", "y", "y", "x", "x", "z"],
        "t": [0, 1, 1, 2, 3, 4],
        "r": [5, 1, 5, 1, 5, 1],
    }
)
ITEMS = pl.DataFrame({"i": ["w", "x", "y", "z"], "title": ["W", "X of Y", "", "Zed"]})


def tables(**changes) -> Tables:
    return build_tables(
        FRAME,
        items=ITEMS,
        schema=replace(SCHEMA, **changes),
        policies=Policies(duplicates="keep"),
        source="toy",
    )


def cut(made: Tables) -> Split:
    return split_tables(made, "global_time", valid_from=0.5, test_from=0.7)


def test_numbers_checked_by_eye():
    facts = describe(tables(), cut(tables()))
    parts, texts = facts.pop("parts"), facts.pop("texts")
    spreads = {key: facts.pop(key) for key in ("user_events", "item_events")}
    lists = {key: facts.pop(key) for key in ("history_bins", "popularity", "ratings", "timeline")}
    assert facts.pop("remarks")
    assert facts.pop("notes")
    assert facts == {
        "source": "toy",
        "users": 2,
        "items": 4,
        "events": 6,
        "sampled": 0,
        "active_users": 2,
        "active_items": 3,
        "first": "1970-01-01T00:00:00+00:00",
        "last": "1970-01-01T00:00:04+00:00",
        "density": 0.5,
        "liked_share": 0.5,
        "ties_share": 1 / 3,
        "repeats_share": 0.5,
        "history_p10": 0.0,
        "history_p25": 0.25,
        "history_p50": 1.0,
        "history_p75": 1.0,
        "history_p90": 2.0,
        "history_p99": pytest.approx(2.9),
        "history_max": 3,
        "timeline_bin": "second",
        "domains": {},
        "clock": True,
        "licence": "",
        "train_rows": 3,
        "valid_rows": 1,
        "test_rows": 2,
        "valid_from": "1970-01-01T00:00:02+00:00",
        "test_from": "1970-01-01T00:00:03+00:00",
        "test_user_unseen_share": 0.5,
        "test_item_unseen_share": 0.5,
    }
    assert spreads["user_events"]["max"] == 4
    assert spreads["item_events"]["mean"] == 2.0
    assert lists["history_bins"] == [[0, 0, 2], [1, 1, 3], [2, 3, 1]]
    assert lists["popularity"] == [[1, 3], [2, 2], [3, 1]]
    assert lists["ratings"] == [[1.0, 1.0, 3], [5.0, 5.0, 3]]
    assert [count for _, count in lists["timeline"]] == [1, 2, 1, 1, 1]
    assert lists["timeline"][1][0] == "1970-01-01T00:00:01"
    assert parts["train"]["users"] == 1
    assert parts["train"]["leaky_rows"] == 0
    assert parts["valid"]["cold_user_rows"] == 1
    assert parts["test"] == {
        "events": 2,
        "users": 2,
        "items": 2,
        "liked_share": 0.5,
        "first": "1970-01-01T00:00:03+00:00",
        "last": "1970-01-01T00:00:04+00:00",
        "cold_user_rows": 1,
        "cold_item_rows": 1,
        "leaky_rows": 0,
        "sampled": 0,
    }
    assert texts["items.title"]["filled"] == 0.75
    assert texts["items.title"]["words"]["max"] == 3


def test_a_split_is_not_needed_and_json_takes_it():
    made = build_tables(pl.DataFrame({"u": [1], "i": [2], "t": [3], "r": [4]}), schema=SCHEMA)
    facts = describe(made)
    assert "train_rows" not in facts
    assert "parts" not in facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["density"] == pytest.approx(1.0)
    assert describe_lines(facts)


def test_steps_are_never_dates():
    made = build_tables(FRAME, schema=replace(SCHEMA, time=None, title=None))
    facts = describe(made, split_tables(made, "leave_one_out", min_events=3))
    assert (facts["first"], facts["last"]) == (0, 5)
    assert facts["timeline_bin"] == "step"
    assert facts["timeline"][0] == [0, 1]
    assert "valid_from" not in facts
    assert facts["parts"]["test"]["leaky_rows"] == 1  # train holds b's last event
    assert "1970" not in json.dumps(facts)
    assert "items.title" not in facts["texts"]
    assert any(line.split()[:2] == ["steps", "0"] for line in describe_lines(facts))


def test_drawn_events_are_counted_apart():
    made = tables(rating=None, label=Implicit())
    drawn = made.interactions.with_columns(label=pl.lit(0, pl.Int8))
    both = pl.concat([made.interactions, drawn]).with_columns(
        sampled=pl.Series(np.repeat([False, True], made.interactions.height))
    )
    grown = replace(made, interactions=both.sort("time", "user", "item", "label"))
    facts, plain = describe(grown, cut(grown)), describe(made, cut(made))
    assert facts["sampled"] == 6
    assert facts["train_rows"] == 2 * plain["train_rows"]
    assert [part["sampled"] for part in facts["parts"].values()] == [3, 1, 2]
    same = ("events", "liked_share", "density", "ties_share", "history_max", "popularity")
    assert {key: facts[key] for key in same} == {key: plain[key] for key in same}
    assert plain["liked_share"] == 1.0
    assert "ratings" not in plain
    assert any("Every event is a like" in remark for remark in plain["remarks"])
    assert not any("Every event is a like" in remark for remark in facts["remarks"])
    assert any("negatives" in line for line in describe_lines(facts))


def test_domains_and_texts_wherever_they_stand():
    frame = FRAME.with_columns(
        shop=pl.Series(["A", "B", "B", "B", "A", "B\x1b[2J"]),
        review=pl.Series(["so so", None, " ", "good", "b", "c"]),
    )
    made = build_tables(
        frame,
        items=ITEMS.with_columns(blurb=pl.lit("four words are here")),
        schema=replace(SCHEMA, domain="shop", text=("review", "blurb")),
    )
    facts = describe(made)
    assert list(facts["domains"]) == ["B", "A", "B\x1b[2J"]
    assert facts["domains"]["A"] == {"events": 2, "users": 1, "items": 1, "liked_share": 1.0}
    assert facts["texts"]["interactions.review"]["filled"] == pytest.approx(4 / 6)
    assert facts["texts"]["items.blurb"]["words"]["p50"] == 4
    text = "\n".join(describe_lines(facts))
    assert "\x1b" not in text
    assert "items.blurb" in text


def test_many_different_ratings_are_binned():
    frame = pl.DataFrame({"u": range(90), "i": 1, "t": 5, "r": [k / 10 for k in range(90)]})
    rows = describe(build_tables(frame, schema=replace(SCHEMA, title=None)))["ratings"]
    assert len(rows) == 20
    assert sum(count for *_, count in rows) == 90
    assert rows[0][0] == 0.0
    assert rows[-1][1] == pytest.approx(8.9)


def test_lines_fit_a_terminal_and_separate_thousands():
    frame = pl.DataFrame({"u": range(4000), "i": 7, "t": 10**9, "r": 5})
    made = build_tables(frame, schema=replace(SCHEMA, title=None), source="a" * 200)
    lines = describe_lines(describe(made))
    assert max(map(len, lines)) <= 80
    assert any("4,000" in line for line in lines)
    assert any("2001-09-09 01:46:40" in line for line in lines)


MOMENTS = st.integers(-62_135_596_800, 253_402_300_799)


@given(st.lists(MOMENTS, min_size=1, max_size=20), st.booleans())
def test_a_timeline_counts_every_event_once(times, clock):
    found = timeline(pl.Series(sorted(times), dtype=pl.Int64), clock=clock)
    starts = [start for start, _ in found["timeline"]]
    assert sum(count for _, count in found["timeline"]) == len(times)
    assert len(starts) <= 62
    assert starts == sorted(set(starts))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), min_size=1))
def test_shares_agree_with_slow_counting(rows):
    users, items, times = zip(*rows, strict=True)
    frame = pl.DataFrame({"u": users, "i": items, "t": times, "r": range(len(rows))})
    facts = describe(build_tables(frame, schema=replace(SCHEMA, title=None)))
    moments = [(u, t) for u, _, t in rows]
    tied = sum(moments.count(one) > 1 for one in moments)
    pairs = [(u, i) for u, i, _ in rows]
    again = sum(pairs.count(one) > 1 for one in set(pairs))
    assert facts["ties_share"] == pytest.approx(tied / len(rows))
    assert facts["repeats_share"] == pytest.approx(again / len(set(pairs)))
    assert sum(count for *_, count in facts["history_bins"]) == len(rows)
