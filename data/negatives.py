"""Items a user had not met: drawn at random, and the same again for the same seed.

What a user will meet later may be drawn. Leaving it out would tell a model which items those are
(see P5, whose negatives avoid the user's whole sequence and so know the test item).

Every draw is a hash of seed, row, place and attempt. So a row gets the same negatives whichever
other rows are asked about, and no order of input rows matters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.hashing import fractions, hashed
from tastemaker.data.history import order_by
from tastemaker.data.moments import show_moment
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError

__all__ = ["Strategy", "draw_negatives", "with_negatives"]

Strategy = Literal["uniform", "popularity"]
Rows = NDArray[np.int64]
Items = NDArray[np.int32]
Weights = NDArray[np.float64]
_CORE = ("user", "item", "time", "rating", "label", "domain")
_ORDER = ("time", "user", "item", "rating", "label")
_ATTEMPTS = 40
_CELLS = 1 << 20  # drawn at once


def draw_negatives(
    tables: Tables,
    rows: ArrayLike,
    *,
    per_row: int,
    strategy: Strategy = "uniform",
    seed: int,
    counts_from: ArrayLike | None = None,
) -> Items:
    """Draw, for each row, items its user had not met up to and including that second.

    Args:
        tables: Catalogue and events.
        rows: Integers [n], interaction row indices.
        per_row: Items for each row, distinct within the row.
        strategy: `uniform` over the catalogue, or `popularity`: in proportion to the events of an
            item among `counts_from`, items without any being left out.
        seed: Of the draws.
        counts_from: Interaction row indices, normally `split.train`; needed for `popularity`.

    Returns:
        int32 [n, per_row], dense items.

    Raises:
        DataError: there are too few items that a user has not met; names the user.
        ValueError: `popularity` without `counts_from`.
    """
    source: _Source = _Uniform(tables.n_items)
    if strategy == "popularity":
        if counts_from is None:
            raise ValueError("popularity needs counts_from, the rows whose items are counted")
        source = _Popular(tables, np.asarray(counts_from, dtype=np.int64))
    return _drawn(
        tables, np.asarray(rows, dtype=np.int64), per_row=per_row, source=source, seed=seed
    )


def with_negatives(
    tables: Tables, *, per_positive: int, strategy: Strategy = "uniform", seed: int
) -> Tables:
    """Add events that never happened, for data that knows only likes.

    Every liked event gets `per_positive` rows of the same user and moment (and domain) with items
    the user had not met by then: label 0, rating 0, `sampled` true, declared features null.
    `popularity` is in proportion to the events strictly before the moment; a row with fewer popular
    items than it needs is filled from the rest of the catalogue.

    Args:
        tables: Without sampled events.
        per_positive: Rows added for each like, distinct items.
        strategy: `uniform` or `popularity`.
        seed: Of the draws.

    Returns:
        Tables whose interactions are sorted by (time, user, item, rating, label) again, so row
        indices are others than before, and have the column `sampled`.

    Raises:
        DataError: there are too few items that a user has not met; names the user.
        ValueError: the tables hold sampled events already.
    """
    events = tables.interactions
    if "sampled" in events.columns:
        raise ValueError("these tables hold sampled events already")
    liked = np.flatnonzero(events["label"].to_numpy() == 1)
    source: _Source = _Uniform(tables.n_items)
    if strategy == "popularity":
        source = _Earlier(tables)
    items = _drawn(tables, liked, per_row=per_positive, source=source, seed=seed)
    added = events[np.repeat(liked, per_positive)].with_columns(
        pl.Series("item", items.ravel(), dtype=pl.Int32),
        pl.lit(0.0, dtype=pl.Float32).alias("rating"),
        pl.lit(0, dtype=pl.Int8).alias("label"),
        pl.lit(True).alias("sampled"),
    )
    core = [*(name for name in _CORE if name in events.columns), "sampled"]
    whole = pl.concat(
        [events.with_columns(sampled=pl.lit(False)), added.select(core)], how="diagonal"
    )
    rest = [name for name in events.columns if name not in core]
    sorted_rows = whole.select([*core, *rest]).sort(*_ORDER, maintain_order=True)
    note = (
        f"{added.height:,} events that never happened were drawn ({strategy}, {per_positive} for "
        f"each like, seed {seed})."
    )
    return replace(tables, interactions=sorted_rows, notes=(*tables.notes, note))


class _Source(Protocol):
    """Where items are drawn from."""

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        """Items [cells] for chances from 0 to 1, for the row of each cell."""

    def weights(self, row: int) -> Weights:
        """Float64 [n_items]; 0 is never drawn, below 0 only when nothing above 0 is left."""


class _Uniform:
    def __init__(self, n_items: int) -> None:
        self._n_items = n_items

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        return (chances * self._n_items).astype(np.int32)

    def weights(self, row: int) -> Weights:
        return np.ones(self._n_items)


class _Popular:
    """The item of a random one among some events: in proportion to counts without counting."""

    def __init__(self, tables: Tables, rows: Rows) -> None:
        if tables.sampled is not None:
            rows = rows[~tables.sampled[rows]]
        if not len(rows):
            raise DataError("popularity is to be counted, but there is no event to count.")
        self._met = np.sort(tables.interactions["item"].to_numpy()[rows])
        self._n_items = tables.n_items

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        return self._met[(chances * len(self._met)).astype(np.int64)]

    def weights(self, row: int) -> Weights:
        return np.bincount(self._met, minlength=self._n_items).astype(np.float64)


class _Earlier:
    """Likewise, among the events strictly earlier than each row; before the first, uniform."""

    def __init__(self, tables: Tables) -> None:
        times = tables.interactions["time"].to_numpy()
        self._ends = np.searchsorted(times, times)
        self._met = tables.interactions["item"].to_numpy()
        self._n_items = tables.n_items

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        ends = self._ends[rows]
        popular = self._met[(chances * ends).astype(np.int64)]
        return np.where(ends > 0, popular, (chances * self._n_items).astype(np.int32))

    def weights(self, row: int) -> Weights:
        counts = np.bincount(self._met[: self._ends[row]], minlength=self._n_items)
        return np.where(counts > 0, counts, -1).astype(np.float64)


class _Met:
    """When each user met each item first.

    Args:
        tables: Events; sampled ones never happened.
        users: Users that will be asked about, bool [n_users].
    """

    def __init__(self, tables: Tables, users: NDArray[np.bool_]) -> None:
        events = tables.interactions
        chosen = users[events["user"].to_numpy()]
        if tables.sampled is not None:
            chosen &= ~tables.sampled
        rows = np.flatnonzero(chosen)
        people, items = (events[name].to_numpy()[rows] for name in ("user", "item"))
        # Rows stand in the order of time, and both sorts keep it within a pair.
        by_item, _ = order_by(items)
        by_user, _ = order_by(people[by_item])
        order = by_item[by_user]
        self._n_items = tables.n_items
        keys = people[order].astype(np.int64) * self._n_items + items[order]
        first = np.ones(len(keys), dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        self._keys = keys[first]
        self._times = events["time"].to_numpy()[rows[order[first]]]

    def by(self, users: NDArray[Any], items: NDArray[Any], times: Rows) -> NDArray[np.bool_]:
        """Whether the user had met the item at the moment or before, bool [n]."""
        if not len(self._keys):
            return np.zeros(len(users), dtype=bool)
        keys = users.astype(np.int64) * self._n_items + items
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return (self._keys[places] == keys) & (self._times[places] <= times)

    def all_by(self, user: int, time: int) -> NDArray[Any]:
        """Items that the user had met at the moment or before."""
        start, stop = np.searchsorted(
            self._keys, [user * self._n_items, (user + 1) * self._n_items]
        )
        return self._keys[start:stop][self._times[start:stop] <= time] % self._n_items


def _drawn(tables: Tables, rows: Rows, *, per_row: int, source: _Source, seed: int) -> Items:
    drawn = np.empty((len(rows), per_row), dtype=np.int32)
    asked = np.zeros(tables.n_users, dtype=bool)
    asked[tables.interactions["user"].to_numpy()[rows]] = True
    met = _Met(tables, asked)
    step = max(_CELLS // max(per_row, 1), 1)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        drawn[start : start + step], endless = _draw_block(
            tables, block, per_row, met=met, source=source, seed=seed
        )
        for place in endless:
            drawn[start + place] = _listed(
                tables, int(block[place]), per_row, met=met, source=source, seed=seed
            )
    return drawn


def _draw_block(
    tables: Tables, rows: Rows, per_row: int, *, met: _Met, source: _Source, seed: int
) -> tuple[Items, Rows]:
    """Draw, and draw again what was met or is there twice.

    Returns:
        Items int32 [n, per_row], and the places of the rows where that did not come to an end.
    """
    events = tables.interactions
    users, times = events["user"].to_numpy()[rows], events["time"].to_numpy()[rows]
    drawn = np.empty((len(rows), per_row), dtype=np.int32)
    open_cells = np.ones(drawn.shape, dtype=bool)
    for attempt in range(_ATTEMPTS):
        which, place = np.nonzero(open_cells)
        if not len(which):
            break
        chances = fractions(hashed(rows[which], place, attempt, seed=seed))
        drawn[which, place] = source.items(rows[which], chances)
        touched = np.flatnonzero(open_cells.any(axis=1))
        repeats = _repeats(drawn[touched], fresh=open_cells[touched])
        open_cells[which, place] = met.by(users[which], drawn[which, place], times[which])
        open_cells[touched] |= repeats
    return drawn, np.flatnonzero(open_cells.any(axis=1))


def _repeats(items: Items, *, fresh: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fresh items that their row holds already, or holds again further left; bool [n, width]."""
    # Sorting settled items before equal fresh ones makes every repeat a fresh one.
    order = np.argsort(items.astype(np.int64) * 2 + fresh, axis=1, kind="stable")
    values = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, dtype=bool)
    np.equal(values[:, 1:], values[:, :-1], out=again[:, 1:])
    repeats = np.empty_like(again)
    np.put_along_axis(repeats, order, again, axis=1)
    return repeats


def _listed(
    tables: Tables, row: int, per_row: int, *, met: _Met, source: _Source, seed: int
) -> Items:
    """Draw from the list of all items that the user had not met.

    Weighted draws without replacement: Efraimidis and Spirakis, 2006.

    Raises:
        DataError: the list is too short.
    """
    user, time = (int(tables.interactions[name][row]) for name in ("user", "time"))
    weights = source.weights(row)
    weights[met.all_by(user, time)] = 0
    items = np.flatnonzero(weights)
    if len(items) < per_row:
        moment = show_moment(time, is_clock=tables.schema.is_clock)
        raise DataError(
            f"user '{tables.users['user_id'][user]}' had met all but {len(items)} of the items "
            f"that can be drawn at {moment}; {per_row} are needed.",
            allowed=f"the catalogue has {tables.n_items:,} items.",
            remedy="Draw fewer (data.negatives.per_positive, data.requests.candidates.n, "
            "build.candidates), or uniformly from the whole catalogue.",
        )
    chances = fractions(hashed(row, items, _ATTEMPTS, seed=seed))
    keys = -np.log1p(-chances) / np.abs(weights[items])
    chosen = np.lexsort((keys, weights[items] < 0))[:per_row]
    return items[chosen].astype(np.int32)
