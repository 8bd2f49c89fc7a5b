"""What a user had done strictly before a moment: the only gate to the past.

Events are kept as one CSR index: sorted by (user, time, row), with the first event of each user and
of each group of equal times known. Every question is then answered by array arithmetic alone.
Events at the same second as the target are not its past: their order is unknown, so they are out.
Likes, dislikes and events of one domain are further views of the same kind, built when first asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker.errors import UserError

__all__ = ["Histories", "Only", "Past", "order_by"]

Rows = NDArray[np.int64]
Numbers = NDArray[np.integer[Any]]
Only = Literal["liked", "disliked"]
_BLOCK = 1 << 16  # cells worked on at once: they stay in the processor's cache
_LABELS: dict[Only, int] = {"liked": 1, "disliked": 0}


class Past:
    """The pasts of n targets, one after another; nothing is copied before it is asked for.

    Args:
        offsets: Integers [n + 1]; past i is `events[offsets[i]:offsets[i + 1]]`.
        events: Integers [total], interaction row indices, oldest first within a past.
    """

    def __init__(self, offsets: ArrayLike, events: ArrayLike) -> None:
        bounds = _whole(offsets).astype(np.int64)
        self._order, self._starts, self._ends = _whole(events), bounds[:-1], bounds[1:]

    @classmethod
    def view(cls, order: Numbers, starts: Rows, ends: Rows) -> Self:
        """Pasts that are slices of one `order`: past i is `order[starts[i]:ends[i]]`."""
        past = cls.__new__(cls)
        past._order, past._starts, past._ends = order, starts, ends
        return past

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Rows:
        """Events of past `index`, oldest first.

        Raises:
            IndexError: there is no such past.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"past {index} of {len(self)}")
        return self._order[self._starts[index] : self._ends[index]].astype(np.int64)

    @property
    def lengths(self) -> Rows:
        """int64 [n], events in each past."""
        return self._ends - self._starts

    @cached_property
    def offsets(self) -> Rows:
        """int64 [n + 1]; past i is `events[offsets[i]:offsets[i + 1]]`."""
        offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        return offsets

    @cached_property
    def events(self) -> Rows:
        """int64 [total], interaction row indices, oldest first within a past."""
        offsets, shifts = self.offsets, self._starts - self.offsets[:-1]
        events = np.empty(int(offsets[-1]), dtype=np.int64)
        for block in self._blocks(len(events) // max(len(self), 1)):
            first, last = int(offsets[block.start]), int(offsets[block.stop])
            lengths = np.diff(offsets[block.start : block.stop + 1])
            events[first:last] = self._order[
                np.repeat(shifts[block], lengths) + np.arange(first, last)
            ]
        return events

    def newest(self, most: ArrayLike, *, anchor: int | None = None) -> Self:
        """The same pasts without their oldest events.

        Without an anchor the first event that is left moves with every further event. With one it
        moves every `anchor` events, counted from the first event of each past, so that pasts of one
        user that grow event by event begin alike; between `most - anchor + 1` and `most` are left
        of a longer past.

        Args:
            most: Integer, or integers [n] >= 0; so many events of each past are left at most.
            anchor: From 1 to `most`; None is 1.

        Raises:
            ValueError: an anchor that some past could lose all its events by.
        """
        limits, step = np.maximum(_whole(most), 0), 1 if anchor is None else anchor
        if anchor is not None and not (anchor >= 1 and bool((anchor <= limits).all())):
            raise ValueError(f"anchor = {anchor}; it is from 1 to the number of events left")
        dropped = -(-np.maximum(self.lengths - limits, 0) // step) * step
        return self.view(self._order, self._starts + dropped, self._ends)

    def padded(self, width: int, *, fill: int = -1) -> Rows:
        """The newest `width` events of each past as int64 [n, width], newest at the right end.

        Args:
            width: Columns, 0 or more; longer pasts lose their oldest events.
            fill: Stands to the left of shorter pasts.
        """
        padded = np.full((len(self), width), fill, dtype=np.int64)
        if not (padded.size and len(self._order)):
            return padded
        columns, lengths = np.arange(width), self.lengths
        windows = sliding_window_view(self._order, width) if len(self._order) >= width else None
        for block in self._blocks(width):
            begins = self._ends[block] - width
            if windows is not None and begins.min() >= 0:
                padded[block] = windows[begins]  # copies whole runs: twice as fast as single cells
            else:
                padded[block] = self._order.take(begins[:, None] + columns, mode="clip")
            missing = columns < (width - lengths[block])[:, None]
            np.copyto(padded[block], fill, where=missing)
        return padded

    def _blocks(self, width: int) -> Iterator[slice]:
        """Slices of targets that hold about `_BLOCK` cells."""
        step = max(_BLOCK // max(width, 1), 1)
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))


@dataclass(frozen=True, eq=False)
class _Index:
    """Events that happened, sorted by (owner, time, row).

    Attributes:
        order: [happened], interaction row indices.
        starts: int64 [owners + 1], first position of each owner in `order`.
        owners: [rows], owner of every interaction row: its user, or its user and domain.
        cuts: [rows], position in `order` behind the last event strictly earlier than the row.
    """

    order: Numbers
    starts: Rows
    owners: Numbers
    cuts: Numbers

    def bounds(self, rows: Rows) -> tuple[Rows, Rows]:
        """Positions where the past of each row starts and ends."""
        return self.starts[self.owners[rows]], self.cuts[rows].astype(np.int64)


class Histories:
    """CSR index over the events of all users; see `from_interactions`.

    Args:
        users: Integers [events] >= 0, user of each interaction row.
        times: Integers [events], unix seconds (or steps) of each interaction row.
        labels: Integers [events], 1 where the user liked it, else 0; needed for `only`.
        domains: Integers or texts [events], for `within_domain`.
        happened: bool [events]; False marks sampled events. They are nobody's past, but have one.
    """

    def __init__(
        self,
        users: ArrayLike,
        times: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        domains: ArrayLike | None = None,
        happened: ArrayLike | None = None,
    ) -> None:
        self._users, self._times = _whole(users), _whole(times)
        if len(self._users) and int(self._users.min()) < 0:
            raise ValueError(f"users are numbered from 0, found {int(self._users.min())}")
        self._labels = None if labels is None else np.asarray(labels)
        self._domains = None if domains is None else np.asarray(domains)
        self._happened = None if happened is None else np.asarray(happened, dtype=bool)
        order, starts = order_by(self._users, times=self._times)
        self._index = self._finished(order, starts, owners=self._users)
        self._views: dict[tuple[Only, bool], tuple[Numbers, Numbers]] = {}

    @classmethod
    def from_interactions(cls, frame: pl.DataFrame) -> Self:
        """Index the interactions of `Tables`: row i of `frame` is event i everywhere."""
        there = set(frame.columns)
        return cls(
            frame["user"].to_numpy(),
            frame["time"].to_numpy(),
            labels=frame["label"].to_numpy() if "label" in there else None,
            domains=_domain_codes(frame["domain"]) if "domain" in there else None,
            happened=~frame["sampled"].to_numpy() if "sampled" in there else None,
        )

    def __len__(self) -> int:
        return len(self._users)

    def before(
        self,
        rows: ArrayLike,
        *,
        max_length: int | None = None,
        only: Only | None = None,
        within_domain: bool = False,
    ) -> Past:
        """Events of the same user strictly earlier than each row; ties are excluded.

        Args:
            rows: Integers [n], interaction row indices.
            max_length: Keep at most the most recent so many; all when None.
            only: Keep likes or dislikes; everything when None.
            within_domain: Keep events of the domain of the row.

        Raises:
            IndexError: a row is not an event (such as the -1 of a request that never happened).
            UserError: `within_domain` without domains.
            ValueError: `only` without labels, or another word.
        """
        wanted = self._known(rows)
        index = self._by_domain if within_domain else self._index
        starts, ends = index.bounds(wanted)
        if only is None:
            return _newest(index.order, starts, ends, max_length=max_length)
        order, running = self._view(only, within_domain=within_domain)
        return _newest(order, running[starts], running[ends], max_length=max_length)

    def at(
        self,
        users: ArrayLike,
        times: ArrayLike,
        *,
        max_length: int | None = None,
        only: Only | None = None,
    ) -> Past:
        """Events of each user strictly before each moment; the pairs need not be events.

        Args:
            users: Integers [n]; a user without events has an empty past.
            times: Integers [n], unix seconds.
            max_length: Keep at most the most recent so many; all when None.
            only: Keep likes or dislikes; everything when None.

        Raises:
            ValueError: `only` without labels, or another word.
        """
        wanted, moments = np.broadcast_arrays(_whole(users), _whole(times))
        starts, ends = self._bounds(wanted)
        ends = _bisect(self._sorted_times, moments, starts, ends)
        if only is None:
            return _newest(self._index.order, starts, ends, max_length=max_length)
        order, running = self._view(only, within_domain=False)
        return _newest(order, running[starts], running[ends], max_length=max_length)

    def counts(self, rows: ArrayLike) -> Rows:
        """int64 [n], number of strictly earlier events of the same user per row.

        Raises:
            IndexError: a row is not an event.
        """
        starts, ends = self._index.bounds(self._known(rows))
        return ends - starts

    def oldest(self, users: ArrayLike, *, counts: ArrayLike) -> Past:
        """The first `counts[i]` events of user i.

        A trailing group of equal times that the cut would part is dropped whole, so that every
        other event of the user is strictly later than the last event given.

        Args:
            users: Integers [n].
            counts: Integers [n] >= 0.
        """
        wanted, limits = np.broadcast_arrays(_whole(users), _whole(counts).astype(np.int64))
        starts, stops = self._bounds(wanted)
        cuts = np.minimum(starts + np.maximum(limits, 0), stops)
        inside = cuts < stops
        cuts[inside] = self._index.cuts[self._index.order[cuts[inside]]]
        return Past.view(self._index.order, starts, cuts)

    @cached_property
    def _by_domain(self) -> _Index:
        """The same index by user and domain."""
        if self._domains is None:
            raise UserError(
                "histories within a domain were asked for, but the interactions have no domain.",
                remedy="Name the column as data.columns.domain, or take histories of all domains.",
            )
        codes = _compact(self._domains)
        by_time, _ = order_by(codes, times=self._times)
        within, _ = order_by(self._users[by_time])
        order = by_time[within]
        fresh = _changes(self._users[order]) | _changes(codes[order])
        starts = np.append(np.flatnonzero(fresh), len(order)).astype(np.int64)
        owners = np.empty(len(order), dtype=order.dtype)
        owners[order] = np.cumsum(fresh, dtype=order.dtype) - 1
        return self._finished(order, starts, owners=owners)

    @cached_property
    def _sorted_times(self) -> Numbers:
        return self._times[self._index.order]

    def _finished(self, order: Numbers, starts: Rows, *, owners: Numbers) -> _Index:
        """Find the cut of every row, then leave out what never happened."""
        fresh = _changes(self._times[order])
        fresh[starts[:-1][np.diff(starts) > 0]] = True
        positions = np.arange(len(order), dtype=order.dtype)
        positions[~fresh] = 0
        np.maximum.accumulate(positions, out=positions)
        if self._happened is not None:
            kept = self._happened[order]
            running = _running(kept, dtype=order.dtype)
            positions, starts = running[positions], running[starts].astype(np.int64)
        cuts = np.empty_like(positions)
        cuts[order] = positions
        return _Index(order if self._happened is None else order[kept], starts, owners, cuts)

    def _view(self, only: Only, *, within_domain: bool) -> tuple[Numbers, Numbers]:
        """Events of one label in order, and how many of them precede each position."""
        if only not in _LABELS:
            raise ValueError(f"only = {only!r}; it is one of {', '.join(_LABELS)}")
        if self._labels is None:
            raise ValueError(f"only = {only!r} needs labels")
        key = (only, within_domain)
        if key not in self._views:
            order = (self._by_domain if within_domain else self._index).order
            chosen = (self._labels == _LABELS[only])[order]
            self._views[key] = order[chosen], _running(chosen, dtype=order.dtype)
        return self._views[key]

    def _known(self, rows: ArrayLike) -> Rows:
        wanted = _whole(rows).astype(np.int64, copy=False)
        if len(wanted) and (int(wanted.min()) < 0 or int(wanted.max()) >= len(self)):
            wrong = wanted[(wanted < 0) | (wanted >= len(self))][0]
            raise IndexError(f"row {int(wrong)} is not an event; rows are 0 to {len(self) - 1}")
        return wanted

    def _bounds(self, users: Numbers) -> tuple[Rows, Rows]:
        """First position and end position of each user; equal for a user without events."""
        starts = self._index.starts
        known = (users >= 0) & (users < len(starts) - 1)
        safe = np.where(known, users, 0).astype(np.int64)
        if len(starts) < 2:
            return np.zeros_like(safe), np.zeros_like(safe)
        return starts[safe], np.where(known, starts[safe + 1], starts[safe])


def order_by(keys: Numbers, *, times: Numbers | None = None) -> tuple[Numbers, Rows]:
    """Sort rows by (key, time, row) with a counting sort.

    Args:
        keys: Integers [n] >= 0, not much larger than n, such as users or items.
        times: Integers [n]; without them rows stand in the order of time already.

    Returns:
        Row indices [n] in sorted order (int32 where they fit), and the first position of each key,
        int64 [largest key + 2].
    """
    first: Numbers | None = None
    if times is not None and len(times) and not bool((times[1:] >= times[:-1]).all()):
        first = np.argsort(times, kind="stable")
        keys = keys[first]
    height, width = len(keys), int(keys.max()) + 1 if len(keys) else 0
    if not height:
        return np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64)
    # Transposing a matrix with one entry per row is a stable counting sort in compiled code.
    dtype = np.int32 if max(height, width) < np.iinfo(np.int32).max else np.int64
    pointers = np.arange(height + 1, dtype=dtype)
    entries = (np.ones(height, dtype=np.int8), keys.astype(dtype, copy=False), pointers)
    columns = sparse.csr_array(entries, shape=(height, width)).tocsc()
    order: Numbers = columns.indices
    if first is not None:
        order = first[order].astype(order.dtype)
    return order, columns.indptr.astype(np.int64)


def _newest(order: Numbers, starts: Numbers, ends: Numbers, *, max_length: int | None) -> Past:
    first, last = starts.astype(np.int64, copy=False), ends.astype(np.int64, copy=False)
    past = Past.view(order, first, last)
    return past if max_length is None else past.newest(max_length)


def _bisect(values: Numbers, wanted: Numbers, starts: Rows, ends: Rows) -> Rows:
    """First position in each sorted slice `values[start:end]` that is not below `wanted`."""
    low, high = starts.copy(), ends.copy()
    while (searching := low < high).any():
        middle = (low + high) // 2
        smaller = searching & (values[np.where(searching, middle, 0)] < wanted)
        low = np.where(smaller, middle + 1, low)
        high = np.where(searching & ~smaller, middle, high)
    return low


def _running(chosen: NDArray[np.bool_], *, dtype: np.dtype[Any]) -> Numbers:
    """[n + 1], how many are chosen before each position."""
    running = np.zeros(len(chosen) + 1, dtype=dtype)
    np.cumsum(chosen, out=running[1:], dtype=dtype)
    return running


def _changes(values: Numbers) -> NDArray[np.bool_]:
    """True where a value differs from the one before it, and at the first."""
    changes = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _domain_codes(domains: pl.Series) -> Numbers:
    """Number of each domain; events without one share a number of their own."""
    codes = domains if domains.dtype.is_integer() else domains.rank("dense")
    if domains.dtype in (pl.Enum, pl.Categorical):
        codes = domains.to_physical()
    return (codes.cast(pl.Int32) + 1).fill_null(0).to_numpy()


def _compact(values: NDArray[Any]) -> Numbers:
    """Equal numbers for equal values, none below 0 or much above the count of values."""
    if values.dtype.kind in "iu" and len(values):
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= len(values):
            return values
    return np.unique(values, return_inverse=True)[1]


def _whole(values: ArrayLike) -> Numbers:
    array = np.atleast_1d(np.asarray(values))
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"whole numbers are needed, found {array.dtype}")
    return array if array.size else array.astype(np.int64)
