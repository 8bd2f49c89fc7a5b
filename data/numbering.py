"""Dense numbers for external ids, and the one order of events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["dense", "distinct", "in_order"]

_SPARSE = 8  # a table of numbers may be so many times larger than what it numbers
_SMALL = 1_000_000
_KEY_BITS = 63
_PIECE = 1 << 15


def distinct(ids: pl.Series) -> pl.Series:
    """The different ids, sorted, without null."""
    size = _table_size(ids)
    if size is None:
        return ids.drop_nulls().unique().sort()
    present = np.zeros(size, dtype=bool)
    for part in ids.drop_nulls().get_chunks():
        present[part.to_numpy()] = True
    return pl.Series(ids.name, np.flatnonzero(present), dtype=pl.Int64)


def dense(ids: pl.Series, known: pl.Series) -> pl.Series:
    """Position of each id in `known` (sorted, distinct, of the same type); null when not there."""
    sizes = _table_size(known), _table_size(ids, rows=len(known))
    if sizes[0] is None or sizes[1] is None:
        table = pl.DataFrame({"id": known, "place": np.arange(len(known), dtype=np.int32)})
        left = ids.alias("id").to_frame()
        return left.join(table, on="id", how="left", maintain_order="left")["place"]
    places = np.full(max(sizes[0], sizes[1]) + 1, -1, dtype=np.int32)
    places[known.to_numpy()] = np.arange(len(known), dtype=np.int32)
    # The last place stays unknown: there null goes. Fresh memory costs more than the look-up, so
    # the ids are taken in the pieces in which they were read.
    found = np.empty(len(ids), dtype=np.int32)
    start = 0
    for part in ids.fill_null(len(places) - 1).get_chunks():
        np.take(places, part.to_numpy(), out=found[start : start + len(part)])
        start += len(part)
    numbers = pl.Series(ids.name, found)
    unknown = numbers < 0
    if not unknown.any():
        return numbers
    return numbers.zip_with(~unknown, pl.Series([None], dtype=pl.Int32))


def in_order(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, NDArray[np.bool_]]:
    """Sort events, and tell which of them repeat the one before.

    They are sorted by time, user, item, rating and domain, then by their other columns that have
    an order. One that agrees with another in the first five is a repetition.

    Args:
        events: `time` int64, `user` and `item` int32, none of them null, and further columns.

    Returns:
        The sorted events; for each of them its row in `events`, and whether it is a repetition,
        bool [n].
    """
    own = ["time", "user", "item"]
    same_by = [name for name in ("rating", "domain") if name in events.columns]
    others = events.drop(*own, *same_by)
    rest = [*same_by, *(one.name for one in others if not one.dtype.is_nested())]
    packing = _Packing.of(events)
    if packing is None:
        order = events.select(pl.arg_sort_by(*own, *rest)).to_series()
        found = events.select(pl.all().gather(order))
        same = _repeats(found.select(own))
    else:
        keys = packing.keys(events)
        order = keys.arg_sort()
        keys = keys.gather(order)
        same = _repeats(keys.to_frame())
        if same.any() and rest:
            order = _sort_ties(events, order, same=same, by=rest)
        # Taking a key apart is several times faster than gathering its columns.
        rows = events.drop(own).select(pl.all().gather(order))
        found = rows.with_columns(packing.columns(keys)).select(events.columns)
    if same.any():
        again = np.flatnonzero(same)
        here, before = found[again], found[again - 1]
        equal = np.ones(len(again), dtype=bool)
        for name in same_by:
            equal &= here[name].eq_missing(before[name]).to_numpy()
        same[again] = equal
    return found, order, same


@dataclass(frozen=True)
class _Packing:
    """Time, user and item in one whole number of the same order."""

    first: int
    user_bits: int
    item_bits: int

    @classmethod
    def of(cls, events: pl.DataFrame) -> Self | None:
        """What fits these events; None when nothing does."""
        if not events.height:
            return None
        low, high, user, item = events.select(
            low=pl.col("time").min(),
            high=pl.col("time").max(),
            user=pl.col("user").max(),
            item=pl.col("item").max(),
        ).row(0)
        bits = user.bit_length(), item.bit_length()
        fits = (high - low).bit_length() + sum(bits) <= _KEY_BITS
        return cls(low, *bits) if fits else None

    def keys(self, events: pl.DataFrame) -> pl.Series:
        """One Int64 per event."""
        keys = np.empty(events.height, dtype=np.int64)
        for part in _pieces(events.height):
            piece = keys[part]
            np.subtract(events["time"][part].to_numpy(), self.first, out=piece)
            piece <<= self.user_bits
            piece |= events["user"][part].to_numpy()
            piece <<= self.item_bits
            piece |= events["item"][part].to_numpy()
        return pl.Series("key", keys)

    def columns(self, keys: pl.Series) -> list[pl.Series]:
        """Time, user and item of each key."""
        numbers = keys.to_numpy()
        times = np.empty(len(keys), dtype=np.int64)
        users, items = np.empty((2, len(keys)), dtype=np.int32)
        for part in _pieces(len(keys)):
            piece = numbers[part]
            np.add(piece >> (self.item_bits + self.user_bits), self.first, out=times[part])
            users[part] = (piece >> self.item_bits) & ((1 << self.user_bits) - 1)
            items[part] = piece & ((1 << self.item_bits) - 1)
        return [pl.Series("time", times), pl.Series("user", users), pl.Series("item", items)]


def _pieces(length: int) -> Iterator[slice]:
    """Slices that stay in the processor's cache, intermediate results included."""
    for start in range(0, length, _PIECE):
        yield slice(start, min(start + _PIECE, length))


def _sort_ties(
    events: pl.DataFrame, order: pl.Series, *, same: NDArray[np.bool_], by: list[str]
) -> pl.Series:
    """`order` with rows of equal time, user and item ordered by further columns."""
    tied = same.copy()
    tied[:-1] |= same[1:]
    places = np.flatnonzero(tied)
    rows = order.to_numpy(writable=True)
    part = events[rows[places]].select(by).with_columns(_group=np.cumsum(~same[places]))
    within = part.select(pl.arg_sort_by("_group", *by)).to_series().to_numpy()
    rows[places] = rows[places][within]
    return pl.Series(rows)


def _repeats(sorted_rows: pl.DataFrame) -> NDArray[np.bool_]:
    """Whether a row equals the one before, bool [n]."""
    same = np.zeros(sorted_rows.height, dtype=bool)
    if len(same):
        same[1:] = True
        for column in sorted_rows:
            values = column.to_numpy()
            same[1:] &= values[1:] == values[:-1]
    return same


def _table_size(ids: pl.Series, *, rows: int = 0) -> int | None:
    """Length of a table addressed by the ids themselves; None when that is wasteful."""
    if ids.dtype != pl.Int64 or ids.null_count() == len(ids):
        return None
    low, high = int(ids.min()), int(ids.max())  # type: ignore[arg-type]
    fits = low >= 0 and high < _SPARSE * max(len(ids), rows) + _SMALL
    return high + 1 if fits else None
