"""Which interactions take part: time span, k-core, minimum history, a sample of users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.moments import parse_moment, show_moment
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UserError

__all__ = ["FilterStep", "filter_tables", "subset"]

Mask = NDArray[np.bool_]
Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class FilterStep:
    """What one filter did; users and items are counted with those that have no event.

    Attributes:
        name: The filter and its setting, for people.
        users_before: Users it met.
        users_after: Users it left; likewise below.
    """

    name: str
    users_before: int
    users_after: int
    items_before: int
    items_after: int
    events_before: int
    events_after: int

    def __str__(self) -> str:
        sizes = [
            (self.users_before, self.users_after, "users"),
            (self.items_before, self.items_after, "items"),
            (self.events_before, self.events_after, "events"),
        ]
        kept = [f"{after:,} of {before:,} {noun}" for before, after, noun in sizes]
        return f"Filter {self.name} keeps {kept[0]}, {kept[1]} and {kept[2]}."


class _Kept:
    """What is left of the tables so far: the surviving rows, users and items."""

    def __init__(self, tables: Tables) -> None:
        self.rows: Numbers | slice = slice(None)
        self.users: Numbers = tables.interactions["user"].to_numpy()
        self.items: Numbers = tables.interactions["item"].to_numpy()
        self.user_there = np.ones(tables.n_users, dtype=bool)
        self.item_there = np.ones(tables.n_items, dtype=bool)
        self.steps: list[FilterStep] = []

    def take(self, name: str, kept: Mask, *, items: Mask | None = None) -> None:
        """Keep these of the remaining rows, users with an event, and `items`.

        Raises:
            DataError: nothing is left.
        """
        before = self._sizes()
        rows = np.flatnonzero(kept)
        self.rows = rows if isinstance(self.rows, slice) else self.rows[rows]
        self.users, self.items = self.users[rows], self.items[rows]
        self.user_there = np.bincount(self.users, minlength=len(self.user_there)) > 0
        if items is not None:
            self.item_there = items
        after = self._sizes()
        sizes = [size for pair in zip(before, after, strict=True) for size in pair]
        self.steps.append(FilterStep(name, *sizes))
        if not len(rows):
            done = " ".join(str(step) for step in self.steps)
            raise DataError(
                f"filter {name} leaves no event.",
                allowed=done,
                remedy="Loosen data.filters in the recipe.",
            )

    def _sizes(self) -> tuple[int, int, int]:
        return int(self.user_there.sum()), int(self.item_there.sum()), len(self.users)


def filter_tables(
    tables: Tables,
    *,
    time_from: str | None = None,
    time_to: str | None = None,
    k_core: int | None = None,
    min_history: int | None = None,
    users: int | None = None,
    seed: int = 0,
) -> tuple[Tables, list[FilterStep]]:
    """Filter in the order of the arguments, and number what is left anew.

    Users without events leave with any filter. Items stay in the catalogue, except those that a
    k-core leaves out. External ids, titles and all other columns are kept.

    Args:
        tables: What to filter, before negatives are drawn.
        time_from: First moment kept: an ISO date or time (UTC), or the number of a step.
        time_to: First moment left out.
        k_core: Events that every user and every item has among what is left, iterated until it
            holds.
        min_history: Events a user needs; counted once, after the k-core.
        users: Size of a sample of the users with events; all when there are fewer.
        seed: Of that sample, which depends on the sorted external ids and on nothing else.

    Returns:
        The tables, with what happened among their notes, and one step per filter that was set.

    Raises:
        DataError: a filter leaves no event.
        UserError: a moment cannot be read.
        ValueError: the tables hold sampled events.
    """
    if "sampled" in tables.interactions.columns:
        raise ValueError("tables are filtered before negatives are drawn")
    kept = _Kept(tables)
    _in_time(kept, tables, time_from=time_from, time_to=time_to)
    if k_core is not None:
        rows, items = _core(kept, tables, k=k_core)
        kept.take(f"k_core {k_core}", rows, items=items)
    if min_history is not None:
        counts = np.bincount(kept.users, minlength=tables.n_users)
        kept.take(f"min_history {min_history}", (counts >= min_history)[kept.users])
    if users is not None:
        chosen = _sample(kept.users, users, n_users=tables.n_users, seed=seed)
        kept.take(f"users {users} (seed {seed})", chosen[kept.users])
    if not kept.steps:
        return tables, []
    notes = [str(step) for step in kept.steps]
    if k_core is not None or min_history is not None:
        notes.append(
            "The filters counted events over the whole time span, so whether a train row is there "
            "depends on later ones."
        )
    assert not isinstance(kept.rows, slice)
    left = subset(tables, kept.rows, users=kept.user_there, items=kept.item_there)
    return replace(left, notes=(*tables.notes, *notes)), kept.steps


def subset(tables: Tables, rows: Numbers, *, users: Mask, items: Mask) -> Tables:
    """Some of the events, users and items, numbered anew; their ids and columns are kept.

    Args:
        tables: What to take from.
        rows: Interaction row indices in ascending order.
        users: bool [n_users], users that stay; all those of `rows` do.
        items: bool [n_items], likewise.
    """
    taken = tables.interactions[rows]
    numbers = {"user": _renumbered(users), "item": _renumbered(items)}
    events = taken.with_columns(
        pl.Series(noun, new[taken[noun].to_numpy()]) for noun, new in numbers.items()
    )
    return replace(
        tables,
        users=_left(tables.users, users, noun="user"),
        items=_left(tables.items, items, noun="item"),
        interactions=events,
    )


def _in_time(kept: _Kept, tables: Tables, *, time_from: str | None, time_to: str | None) -> None:
    is_clock = tables.schema.is_clock
    times = tables.interactions["time"].to_numpy()
    tests: list[tuple[str, str | None, Callable[[Any, int], Mask]]] = [
        ("time_from", time_from, np.greater_equal),
        ("time_to", time_to, np.less),
    ]
    for option, text, test in tests:
        if text is None:
            continue
        moment = parse_moment(text, is_clock=is_clock)
        if moment is None:
            noun, such = ("a date", "2015-01-31") if is_clock else ("a step", "'100'")
            first, last = (show_moment(int(times[row]), is_clock=is_clock) for row in (0, -1))
            raise UserError(
                f"data.filters.{option} = {text!r} is not {noun}.",
                allowed=f"{noun} such as {such}; interactions lie between {first} and {last}.",
            )
        kept.take(f"{option} {text}", test(times[kept.rows], moment))


def _core(kept: _Kept, tables: Tables, *, k: int) -> tuple[Mask, Mask]:
    """Rows of the k-core, bool [remaining rows], and its items, bool [n_items]."""
    rows = np.arange(len(kept.users), dtype=np.int32 if len(kept.users) < 2**31 else np.int64)
    users, items = kept.users, kept.items
    while True:
        strong_users = np.bincount(users, minlength=tables.n_users) >= k
        strong_items = np.bincount(items, minlength=tables.n_items) >= k
        strong = strong_users[users] & strong_items[items]
        if strong.all():
            break
        rows, users, items = rows[strong], users[strong], items[strong]
    chosen = np.zeros(len(kept.users), dtype=bool)
    chosen[rows] = True
    return chosen, strong_items


def _sample(users: Numbers, count: int, *, n_users: int, seed: int) -> Mask:
    """Draw users that have events, bool [n_users]."""
    active = np.flatnonzero(np.bincount(users, minlength=n_users))
    drawn = np.random.default_rng(seed).permutation(len(active))[:count]
    chosen = np.zeros(n_users, dtype=bool)
    chosen[active[drawn]] = True
    return chosen


def _left(frame: pl.DataFrame, there: Mask, *, noun: str) -> pl.DataFrame:
    left = frame.filter(pl.Series(there))
    return left.with_columns(pl.Series(noun, np.arange(left.height, dtype=np.int32)))


def _renumbered(there: Mask) -> NDArray[np.int32]:
    """New number of each old one; what is gone gets the number of what comes next."""
    return np.cumsum(there, dtype=np.int32) - there
