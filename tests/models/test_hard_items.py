"""Hard negatives: what a matcher ranks highest, never the target, never what was met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.errors import DataError
from tastemaker.models.hard_items import HardItems
from tastemaker.testing.world import checkerboard_split, tied_world

SPLIT = checkerboard_split(n_users=40, n_items=30, events=12, seed=3)
TABLES = SPLIT.tables
USERS, ITEMS, TIMES = (TABLES.interactions[name].to_numpy() for name in ("user", "item", "time"))


def fixed(seed: int) -> Any:
    """Scores that depend on user and item alone, with ties."""
    drawn = np.random.default_rng(seed).integers(0, 9, (TABLES.n_users, TABLES.n_items))
    return lambda rows: drawn[USERS[rows]].astype(np.float32)


def met(row: int) -> set[int]:
    user, time = USERS[row], TIMES[row]
    return set(ITEMS[(user == USERS) & (time >= TIMES)].tolist())


@given(seed=st.integers(0, 99), row=st.integers(0, len(USERS) - 1), per_row=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_they_are_the_best_of_what_was_not_met(seed: int, row: int, per_row: int) -> None:
    score = fixed(seed)
    found = HardItems(SPLIT, score)([row], per_row=per_row)[0]
    scores = score(np.array([row]))[0]
    free = sorted(set(range(TABLES.n_items)) - met(row))
    assert int(ITEMS[row]) in met(row)
    assert set(found.tolist()) <= set(free)
    assert len(set(found.tolist())) == per_row
    best = sorted((float(scores[item]) for item in free), reverse=True)[:per_row]
    assert scores[found].tolist() == best


def test_a_row_gets_the_same_whatever_is_asked_with_it_and_is_scored_once() -> None:
    asked: list[NDArray[np.int64]] = []

    def score(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append(rows)
        return fixed(1)(rows)  # type: ignore[no-any-return]

    whole = HardItems(SPLIT, score)
    rows = np.random.default_rng(0).permutation(len(USERS))[:100]
    first = whole(np.concatenate([rows, rows[:5]]), per_row=4, seed=1)
    again = whole(rows[::-1], per_row=4, seed=2)
    assert (first[:100] == again[::-1]).all()
    assert (first[100:] == first[:5]).all()
    assert sum(map(len, asked)) == 100
    single = HardItems(SPLIT, fixed(1))
    assert all(
        (single([row], per_row=4)[0] == one).all() for row, one in zip(rows, first, strict=False)
    )
    assert first.dtype == np.int32


def test_items_of_the_same_second_are_met_too() -> None:
    rows = np.arange(6)
    split = Split(tied_world(), rows[:3], rows[3:4], rows[4:], {})
    events = split.tables.interactions
    row = int(np.flatnonzero((events["time"] == 30).to_numpy())[0])
    with pytest.raises(DataError, match="had met all but 1 of the items"):
        HardItems(split, lambda rows: np.zeros((len(rows), split.tables.n_items)))([row], per_row=2)
    found = HardItems(split, lambda rows: np.zeros((len(rows), split.tables.n_items)))(
        [row], per_row=1
    )
    assert split.tables.items["item_id"][int(found[0, 0])] == 5


def test_no_rows() -> None:
    assert HardItems(SPLIT, fixed(0))([], per_row=3).shape == (0, 3)
