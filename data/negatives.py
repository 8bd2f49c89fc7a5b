"""Items a user had not met: drawn at random, and the same again for the same seed.

What a user will meet later may be drawn. Leaving it out would tell a model which items those are
(see P5, whose negatives avoid the user's whole sequence and so know the test item).

Every draw is a hash of seed, row, place and attempt. So a row gets the same negatives whichever
other rows are asked about, and no order of input rows matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.domains import item_domains
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
    within_domain: bool = False,
) -> Items:
    """Draw, for each row, items its user had not met up to and including that second.

    Candidates and the negatives of `build` come from the whole catalogue, whatever the domains.

    Args:
        tables: Catalogue and events.
        rows: Integers [n], interaction row indices.
        per_row: Items for each row, distinct within the row.
        strategy: `uniform` over the catalogue, or `popularity`: in proportion to the events of an
            item among `counts_from`, items without any being left out.
        seed: Of the draws.
        counts_from: Interaction row indices, normally `split.train`; needed for `popularity`.
        within_domain: Draw only items of the domain of the row; see `item_domains`.

    Returns:
        int32 [n, per_row], dense items.

    Raises:
        DataError: there are too few items that a user has not met; names the user. Or domains are
            asked for where there are none, or one has nothing to draw.
        ValueError: `popularity` without `counts_from`.
    """
    asked = np.asarray(rows, dtype=np.int64)
    if strategy == "popularity" and counts_from is None:
        raise ValueError("popularity needs counts_from, the rows whose items are counted")
    pools = _Pools(tables, asked, within_domain=within_domain)
    source: _Source = _Uniform(pools)
    if strategy == "popularity":
        counted = np.asarray(counts_from, dtype=np.int64)
        source = _Popular(tables, counted, pools=pools, asked=asked)
    return _drawn(tables, asked, per_row=per_row, pools=pools, source=source, seed=seed)


def with_negatives(
    tables: Tables, *, per_positive: int, strategy: Strategy = "uniform", seed: int
) -> Tables:
    """Add events that never happened, for data that knows only likes.

    Every liked event gets `per_positive` rows of the same user and moment with items the user had
    not met by then: label 0, rating 0, `sampled` true, declared features null. `popularity` is in
    proportion to the events strictly before the moment; a row with fewer popular items than it
    needs is filled from the rest of the catalogue.

    Where the tables have domains, the items are of the domain of the like (see `item_domains`), so
    the domain of a drawn row is true, and each domain has its share of them. An item that is in no
    domain is not drawn.

    Args:
        tables: Without sampled events.
        per_positive: Rows added for each like, distinct items.
        strategy: `uniform` or `popularity`.
        seed: Of the draws.

    Returns:
        Tables whose interactions are sorted by (time, user, item, rating, label) again, so row
        indices are others than before, and have the column `sampled`.

    Raises:
        DataError: there are too few items that a user has not met, and names the user; or a domain
            has no item that is mainly its own.
        ValueError: the tables hold sampled events already.
    """
    events = tables.interactions
    if "sampled" in events.columns:
        raise ValueError("these tables hold sampled events already")
    liked = np.flatnonzero(events["label"].to_numpy() == 1)
    has_domains = "domain" in events.columns
    pools = _Pools(tables, liked, within_domain=has_domains)
    source: _Source = _Earlier(tables, pools) if strategy == "popularity" else _Uniform(pools)
    items = _drawn(tables, liked, per_row=per_positive, pools=pools, source=source, seed=seed)
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
        f"each like{', of its domain' if has_domains else ''}, seed {seed})."
    )
    return replace(tables, interactions=sorted_rows, notes=(*tables.notes, note))


class _Pools:
    """What is drawn from for which event: the whole catalogue, or the items of its domain.

    Args:
        tables: Catalogue and events.
        rows: Interaction row indices, the events that will be asked about.
        within_domain: Whether each domain is a pool of its own. What has no domain shares one.

    Raises:
        DataError: the tables have no domain, or a domain no item that is mainly its own.
    """

    def __init__(self, tables: Tables, rows: Rows, *, within_domain: bool) -> None:
        self.names: Sequence[str] = ()
        # Without domains, one number for all that takes no memory.
        self.of_items: Rows = np.broadcast_to(np.int64(0), tables.n_items)
        self.of_events: Rows = np.broadcast_to(np.int64(0), tables.interactions.height)
        if within_domain:
            columns = item_domains(tables), tables.interactions["domain"]
            kind = columns[0].dtype
            assert isinstance(kind, pl.Enum)
            names = kind.categories
            self.names = (*names, "none")
            self.of_items, self.of_events = (
                column.to_physical().cast(pl.Int64).fill_null(len(names)).to_numpy()
                for column in columns
            )
        self.count = max(len(self.names), 1)
        self.check(
            np.bincount(self.of_items, minlength=self.count), rows, what="no item of its own"
        )

    def check(self, sizes: Rows, rows: Rows, *, what: str) -> None:
        """See that there is something in the pools of these events; sizes are int64 [count]."""
        lacking = np.unique(self.of_events[rows[sizes[self.of_events[rows]] == 0]])
        if len(lacking):
            raise DataError(
                f"domain '{self.names[lacking[0]]}' has {what}, so none can be drawn in it.",
                allowed="an item belongs to the domain of most of its events",
                remedy="Join it to another domain.",
            )

    def told(self, row: int) -> str:
        """How many items there are for an event."""
        pool = self.of_events[row]
        whose = f"domain '{self.names[pool]}'" if self.names else "the catalogue"
        return f"{whose} has {int((self.of_items == pool).sum()):,} items."


class _Source(Protocol):
    """Where items are drawn from."""

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        """Items [cells] for chances from 0 to 1, for the row of each cell."""

    def weights(self, row: int) -> Weights:
        """Float64 [n_items]; 0 is never drawn, below 0 only when nothing above 0 is left."""


class _Uniform:
    def __init__(self, pools: _Pools) -> None:
        self._pools = pools
        self._order, self._starts = _grouped(pools.of_items, count=pools.count)
        self._sizes = np.diff(self._starts)

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        pools = self._pools.of_events[rows]
        return self._order[self._starts[pools] + (chances * self._sizes[pools]).astype(np.int64)]

    def weights(self, row: int) -> Weights:
        return (self._pools.of_items == self._pools.of_events[row]).astype(np.float64)


class _Popular:
    """The item of a random one among some events: in proportion to counts without counting."""

    def __init__(self, tables: Tables, counted: Rows, *, pools: _Pools, asked: Rows) -> None:
        if tables.sampled is not None:
            counted = counted[~tables.sampled[counted]]
        if not len(counted):
            raise DataError("popularity is to be counted, but there is no event to count.")
        met = np.sort(tables.interactions["item"].to_numpy()[counted])
        order, self._starts = _grouped(pools.of_items[met], count=pools.count)
        self._met, self._sizes, self._pools = met[order], np.diff(self._starts), pools
        pools.check(self._sizes, asked, what="no event to count")
        self._n_items = tables.n_items

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        pools = self._pools.of_events[rows]
        return self._met[self._starts[pools] + (chances * self._sizes[pools]).astype(np.int64)]

    def weights(self, row: int) -> Weights:
        pool = self._pools.of_events[row]
        met = self._met[self._starts[pool] : self._starts[pool + 1]]
        return np.bincount(met, minlength=self._n_items).astype(np.float64)


class _Earlier:
    """Likewise, among the events strictly earlier than each row; before the first, uniform."""

    def __init__(self, tables: Tables, pools: _Pools) -> None:
        items, times = (tables.interactions[name].to_numpy() for name in ("item", "time"))
        self._pools, self._uniform = pools, _Uniform(pools)
        order, self._starts = _grouped(pools.of_items[items], count=pools.count)
        self._met, self._n_items = items[order], tables.n_items
        # Events of a pool stand in the order of time, so those before a moment are its first ones.
        height = len(times)
        keys = pools.of_items[self._met] * height + order
        ends = pools.of_events * height + np.searchsorted(times, times)
        self._ends = np.searchsorted(keys, ends) - self._starts[pools.of_events]

    def items(self, rows: Rows, chances: Weights) -> NDArray[Any]:
        ends, starts = self._ends[rows], self._starts[self._pools.of_events[rows]]
        # A pool without any event may start where all events end; nothing is taken from there.
        places = np.minimum(starts + (chances * ends).astype(np.int64), len(self._met) - 1)
        return np.where(ends > 0, self._met[places], self._uniform.items(rows, chances))

    def weights(self, row: int) -> Weights:
        start = self._starts[self._pools.of_events[row]]
        counts = np.bincount(self._met[start : start + self._ends[row]], minlength=self._n_items)
        return np.where(counts > 0, counts, -self._uniform.weights(row))


def _grouped(pools: Rows, *, count: int) -> tuple[NDArray[Any], Rows]:
    """Places in the order of their pools, else as they stand, and where each pool begins."""
    order, _ = order_by(pools)
    return order, np.concatenate([[0], np.bincount(pools, minlength=count).cumsum()])


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


def _drawn(
    tables: Tables, rows: Rows, *, per_row: int, pools: _Pools, source: _Source, seed: int
) -> Items:
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
            row = int(block[place])
            drawn[start + place] = _listed(
                tables, row, per_row, there=pools.told(row), met=met, source=source, seed=seed
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
    tables: Tables,
    row: int,
    per_row: int,
    *,
    there: str,
    met: _Met,
    source: _Source,
    seed: int,
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
            allowed=there,
            remedy="Draw fewer (data.negatives.per_positive, data.requests.candidates.n, "
            "build.candidates), uniformly, or from larger domains.",
        )
    chances = fractions(hashed(row, items, _ATTEMPTS, seed=seed))
    keys = -np.log1p(-chances) / np.abs(weights[items])
    chosen = np.lexsort((keys, weights[items] < 0))[:per_row]
    return items[chosen].astype(np.int32)
