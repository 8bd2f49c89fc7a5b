"""Histories that begin at an anchor, and the prompts that share their beginning because of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tastemaker.data.history import Histories
from tastemaker.data.tables import build_tables
from tastemaker.methods.base import load_split
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import read_shards
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.selection import near_duplicates
from tastemaker.prompts.source import InstructionSource, Limit
from tastemaker.prompts.template import Template, find_template
from tastemaker.recipe_build import BuildConfig
from tastemaker.stage import Run
from tastemaker.testing.world import SCHEMA, checkerboard, shop_split, tied_world

STREAM = find_template("tallrec/stream")
QUESTION = "Will the user like"
SPLIT = shop_split()
SHOP, CATALOGUE = SPLIT.tables, Catalogue(SPLIT.tables)
ALL = Examples.of_rows(SHOP, range(SHOP.interactions.height))
# The history, and an anchor that is no longer.
SIZES = st.integers(1, 9).flatmap(lambda most: st.tuples(st.just(most), st.integers(1, most)))


def first_shown(count: int, history: int, anchor: int) -> int:
    """Number of the first event shown of `count`: it moves on until no more are left."""
    start = 0
    while count - start > history:
        start += anchor
    return start


def binder_of(history: int, anchor: int | None, **options: Any) -> Binder:
    return Binder(SPLIT.histories, CATALOGUE, history=history, anchor=anchor, **options)


def shown(binder: Binder, name: str, *, most: Any = None) -> list[Any]:
    """The field's value for every event of the shop."""
    found = binder.block(ALL, STREAM, names=[name], shown=most)[name]
    assert not isinstance(found, str | list)
    return found.to_list()


def whole_past(name: str) -> list[Any]:
    """The same with everything that came before."""
    return shown(binder_of(ALL.rows.size, None), name)


def prompts(template: Template, binder: Binder, examples: Examples = ALL) -> list[str]:
    source = InstructionSource(binder, examples, Mixture.of([template]), "train")
    return source.frame()["prompt"].to_list()


# Which events are left


@pytest.mark.parametrize(("history", "anchor"), [(1, 1), (4, 1), (4, 3), (4, 4), (10, 5), (7, 2)])
def test_the_beginning_moves_every_so_many_events(history: int, anchor: int) -> None:
    events = 40
    histories = Histories(np.zeros(events, dtype=np.int64), np.arange(events))
    past = histories.before(np.arange(events)).newest(history, anchor=anchor)
    starts = []
    for count in range(events):
        start = 0 if count <= history else -((history - count) // anchor) * anchor
        assert start == first_shown(count, history, anchor)
        assert past[count].tolist() == list(range(start, count))
        if count > history:
            assert history - anchor + 1 <= len(past[count]) <= history
        starts.append(start)
    moved = np.flatnonzero(np.diff(starts)) + 1
    assert moved[0] == history + 1
    assert set(np.diff(moved)) == {anchor}


@given(SIZES, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=40))
def test_what_is_left_is_newest_and_contiguous(
    sizes: tuple[int, int], events: list[tuple[int, int]]
) -> None:
    history, anchor = sizes
    users, times = np.array(events, dtype=np.int64).reshape(-1, 2).T
    rows = np.arange(len(events))
    past = Histories(users, times).before(rows)
    left, slid = past.newest(history, anchor=anchor), past.newest(history)
    for row in rows:
        everything = past[row].tolist()
        start = first_shown(len(everything), history, anchor)
        assert left[row].tolist() == everything[start:]
        assert slid[row].tolist() == everything[max(len(everything) - history, 0) :]
        assert (times[left[row]] < times[row]).all()
    assert past.newest(history, anchor=1).events.tolist() == slid.events.tolist()


@pytest.mark.parametrize(("most", "anchor"), [(4, 5), (4, 0), (4, -1), ([5, 2], 3)])
def test_an_anchor_that_could_leave_nothing(most: Any, anchor: int) -> None:
    past = SPLIT.histories.before([0, 1])
    with pytest.raises(ValueError, match=f"anchor = {anchor}; it is from 1"):
        past.newest(most, anchor=anchor)


# What fields show


def test_judged_history_of_the_tied_world() -> None:
    tables = tied_world()
    binder = Binder(Histories.from_interactions(tables.interactions), Catalogue(tables))
    found = binder.block(Examples.of_rows(tables, [0, 3, 5]), STREAM, names=["judged_history"])
    liked = [f"Film {number}" for number in (1, 3)]
    four = [
        (one, "liked" if one in liked else "disliked")
        for one in map("Film {}".format, (1, 2, 3, 4))
    ]
    assert found["judged_history"].to_list() == [[], four[:2], four]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["history", "judged_history", "rated_history", "history_index"])
@settings(max_examples=20)
@given(sizes=SIZES)
def test_fields_of_the_history_begin_at_the_anchor(name: str, sizes: tuple[int, int]) -> None:
    history, anchor = sizes
    assert shown(binder_of(history, anchor), name) == [
        past[first_shown(len(past), history, anchor) :] for past in whole_past(name)
    ]


def test_fields_with_a_length_of_their_own_stay_as_they_are() -> None:
    anchored, slid = binder_of(4, 3, likes=2), binder_of(4, None, likes=2)
    assert shown(anchored, "liked_before") == shown(slid, "liked_before")
    assert shown(anchored, "liked") != shown(slid, "liked")


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_the_smaller_of_anchor_and_limit_holds(most: int) -> None:
    found = shown(binder_of(5, 3), "history", most=np.full(len(ALL), most))
    anchored = shown(binder_of(5, 3), "history")
    assert found == [past[max(len(past) - most, 0) :] for past in anchored]


def test_users_are_cut_like_targets() -> None:
    users = Examples.of_users(range(SHOP.n_users), before=int(ALL.times.max()) + 1)
    template = find_template("kar/user_movies")
    (anchored,) = binder_of(5, 4).block(users, template, names=["rated_history"]).values()
    (whole,) = binder_of(99, None).block(users, template, names=["rated_history"]).values()
    assert (
        anchored.to_list()
        == [  # type: ignore[union-attr]
            past[first_shown(len(past), 5, 4) :]
            for past in whole.to_list()  # type: ignore[union-attr]
        ]
    )


# What prompts share


def test_a_stream_word_for_word() -> None:
    whole = STREAM.render(
        judged_history=[("Emma", "liked"), ("Antz", "disliked")], title="Dune"
    ).split("\n")
    assert whole == [
        "You are given the items a user met, oldest first, each liked or disliked. Decide from "
        "them whether the user will like the target item. "
        'Answer only "Yes." or "No.".',
        "User History:",
        '"Emma": liked',
        '"Antz": disliked',
        'Will the user like the target item "Dune"?',
    ]
    empty = STREAM.render(judged_history=[], title="Dune").split("\n")
    assert empty == [*whole[:2], whole[-1]]


@settings(max_examples=30)
@given(SIZES)
def test_prompts_of_an_anchor_period_begin_alike(sizes: tuple[int, int]) -> None:
    history, anchor = sizes
    texts = prompts(STREAM, binder_of(history, anchor))
    counts = SPLIT.histories.counts(ALL.rows)
    periods: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for user, count, text in zip(ALL.users.tolist(), counts.tolist(), texts, strict=True):
        before, _, question = text.rpartition(QUESTION)
        assert question.count("\n") == 0
        assert before.endswith("\n")
        key = (user, first_shown(count, history, anchor))
        periods.setdefault(key, []).append((count, before))
    assert any(len(found) > 1 for found in periods.values())
    for found in periods.values():
        found.sort(key=lambda one: one[0])
        for (fewer, short), (more, long) in pairwise(found):
            assert long.startswith(short)
            assert long[len(short) :].count("\n") == more - fewer


def test_sliding_prompts_begin_otherwise_once_the_history_is_full() -> None:
    texts = prompts(STREAM, binder_of(3, None))
    counts = SPLIT.histories.counts(ALL.rows)
    full = np.flatnonzero((ALL.users == ALL.users[0]) & (counts > 3))
    firsts = {
        count: texts[row].split("\n")[2] for row, count in zip(full, counts[full], strict=True)
    }
    assert len(set(firsts.values())) == len(firsts) > 3


# Builds


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The checkerboard as files, and a recipe whose histories begin at anchors."""
    tables = checkerboard(30, 24, events=16, seed=1)
    events = tables.interactions.select("rating", user_id="user", item_id="item", timestamp="time")
    events.write_csv(tmp_path / "ratings.csv")
    tables.items.select("item_id", "title").write_csv(tmp_path / "films.csv")
    recipe = {
        "name": "films",
        "data": {
            "interactions": "ratings.csv",
            "items": "films.csv",
            "split": {"valid_from": 0.7, "test_from": 0.85},
            "requests": {"min_history": 1},
        },
        "build": {
            "templates": ["tallrec/stream", "tallrec/item"],
            "per_example": "all",
            "history": 5,
            "anchor": 4,
            "min_history": 0,
        },
    }
    (tmp_path / "films.yaml").write_text(json.dumps(recipe))
    return tmp_path


Call = Callable[..., Any]


def test_a_build_that_is_anchored_in_every_part(tastemaker: Call, world: Path) -> None:
    built = tastemaker("build", "films.yaml", cwd=world)
    assert built.returncode == 0, built.stderr
    audited = tastemaker("data", "audit", "films.yaml", cwd=world)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    run = Run(world / "runs" / "films", seed=0)
    split = load_split(run)
    for part in ("train", "validation", "test"):
        frame = read_shards(run.artefact("build"), part)
        counts = split.histories.counts(frame["row"].to_numpy())
        due = [count - first_shown(count, 5, 4) for count in counts.tolist()]
        for template in ("tallrec/stream", "tallrec/item"):
            mine = (frame["template"] == template).to_numpy()
            titles = (
                frame["prompt"].filter(pl.Series(mine)).str.count_matches(r'" ?(Even|Odd) film')
            )
            assert (titles - 1).to_list() == np.array(due)[mine].tolist()
    card = (run.artefact("build") / "README.md").read_text(encoding="utf-8")
    assert "  anchor: 4\n" in card


def test_wrong_anchors(tastemaker: Call, world: Path) -> None:
    found = tastemaker("build", "films.yaml", "--set", "build.anchor=6", cwd=world)
    assert found.returncode == 2
    said = " ".join(found.stderr.split())
    assert "build.anchor = 6: " in said
    assert "more than build.history = 5" in said
    assert "allowed: 1 to 5" in said
    with pytest.raises(ValidationError, match="greater than 0"):
        BuildConfig.model_validate({"anchor": 0})
    assert BuildConfig.model_validate({"history": 3, "anchor": 3}).anchor == 3
    assert BuildConfig().anchor is None


def test_a_length_limit_cuts_anchored_histories_further() -> None:
    limit = Limit(300, lambda texts: [len(text) for text in texts])
    source = InstructionSource(binder_of(8, 4), ALL, Mixture.of([STREAM]), "train", limit=limit)
    frame = source.frame()
    assert frame.height == len(ALL)
    whole = prompts(STREAM, binder_of(8, 4))
    for short, long in zip(frame["prompt"], whole, strict=True):
        lines, more = short.split("\n"), long.split("\n")
        assert lines == more[:2] + more[len(more) - len(lines) + 2 :]


@pytest.mark.parametrize(("anchor", "again"), [(None, [False, False]), (3, [False, True])])
def test_near_duplicates_are_judged_by_what_is_shown(anchor: int | None, again: list[bool]) -> None:
    items = [0, 1, 2, 3, 3, 3]
    events = {"user_id": [0] * 6, "item_id": items, "timestamp": range(6), "rating": [5] * 6}
    tables = build_tables(pl.DataFrame(events), schema=replace(SCHEMA, title=None, text=()))
    histories = Histories.from_interactions(tables.interactions)
    examples = Examples.of_rows(tables, [4, 5])
    found = near_duplicates(
        examples, histories, items, history=3, anchor=anchor, threshold=1.0, seed=0
    )
    assert found.tolist() == again
