"""Dense numbers for external ids, and the one order of events."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["dense", "distinct", "event_order"]

_SPARSE = 8  # a table of numbers may be so many times larger than what it numbers
_SMALL = 1_000_000
_KEY_BITS = 63


def distinct(ids: pl.Series) -> pl.Series:
    """The different ids, sorted, without null."""
    size = _table_size(ids)
    if size is None:
        return ids.drop_nulls().unique().sort()
    present = np.zeros(size, dtype=bool)
    present[ids.drop_nulls().to_numpy()] = True
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
    # The last place stays unknown: there null goes.
    numbers = pl.Series(ids.name, places[ids.fill_null(len(places) - 1).to_numpy()])
    unknown = numbers < 0
    if not unknown.any():
        return numbers
    return numbers.zip_with(~unknown, pl.Series([None], dtype=pl.Int32))


def event_order(events: pl.DataFrame) -> tuple[pl.Series, NDArray[np.bool_]]:
    """The order of events, and which of them repeat the one before.

    Events are sorted by time, user, item, rating and domain, then by their other columns that have
    an order. One that agrees with another in the first five is a repetition.

    Args:
        events: `time` int64, `user` and `item` int32, none of them null, and further columns.

    Returns:
        Row numbers [n] in sorted order, and bool [n] in that same order.
    """
    own = ["time", "user", "item"]
    same_by = [name for name in ("rating", "domain") if name in events.columns]
    others = events.drop(*own, *same_by)
    rest = [*same_by, *(one.name for one in others if not one.dtype.is_nested())]
    key = _packed(events)
    if key is None:
        order = events.select(pl.arg_sort_by(*own, *rest)).to_series()
        same = _repeats(events.select(pl.col(own).gather(order)))
    else:
        order = key.arg_sort()
        same = _repeats(key.gather(order).to_frame())
        if same.any() and rest:
            order = _sort_ties(events, order, same=same, by=rest)
    if same.any():
        again = np.flatnonzero(same)
        rows = order.to_numpy()
        here, before = events[rows[again]], events[rows[again - 1]]
        equal = np.ones(len(again), dtype=bool)
        for name in same_by:
            equal &= here[name].eq_missing(before[name]).to_numpy()
        same[again] = equal
    return order, same


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


def _packed(events: pl.DataFrame) -> pl.Series | None:
    """Time, user and item in one whole number of the same order; None when they do not fit."""
    if not events.height:
        return None
    low, high = int(events["time"].min()), int(events["time"].max())  # type: ignore[arg-type]
    item_bits = int(events["item"].max()).bit_length()  # type: ignore[arg-type]
    user_bits = int(events["user"].max()).bit_length()  # type: ignore[arg-type]
    if (high - low).bit_length() + user_bits + item_bits > _KEY_BITS:
        return None
    times = events["time"].to_numpy() - low
    times <<= user_bits
    times |= events["user"].to_numpy()
    times <<= item_bits
    times |= events["item"].to_numpy()
    return pl.Series("key", times)


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
