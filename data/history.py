"""What a user had done strictly before a moment: the only gate to the past.

Events are kept as one CSR index: sorted by (user, time, row), with the first event of each user and
of each group of equal times known. Every question is then answered by array arithmetic alone.
Events at the same second as the target are not its past: their order is unknown, so they are out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

__all__ = ["Histories", "Past"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Past:
    """The pasts of n targets, one after another.

    Attributes:
        offsets: int64 [n + 1]; past i is `events[offsets[i]:offsets[i + 1]]`.
        events: int64 [total], interaction row indices, oldest first within a past.
    """

    offsets: Rows
    events: Rows

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Rows:
        """Events of past `index`, oldest first.

        Raises:
            IndexError: there is no such past.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"past {index} of {len(self)}")
        index %= len(self)
        return self.events[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Rows:
        """int64 [n], events in each past."""
        return np.diff(self.offsets)

    def padded(self, width: int, *, fill: int = -1) -> Rows:
        """The newest `width` events of each past as int64 [n, width], newest at the right end.

        Args:
            width: Columns, 0 or more; longer pasts lose their oldest events.
            fill: Stands to the left of shorter pasts.
        """
        positions = self.offsets[1:, None] - np.arange(width, 0, -1)
        present = positions >= self.offsets[:-1, None]
        padded = np.full(positions.shape, fill, dtype=np.int64)
        padded[present] = self.events[positions[present]]
        return padded


class Histories:
    """CSR index over the events of all users; see `from_interactions`.

    Args:
        users: Integers [events] >= 0, user of each interaction row.
        times: Integers [events], unix seconds of each interaction row.
    """

    def __init__(self, users: ArrayLike, times: ArrayLike) -> None:
        row_users, row_times = _int64(users), _int64(times)
        # lexsort is stable: events of one second stay in row order.
        self._order = np.lexsort((row_times, row_users)).astype(np.int64)
        self._users = row_users[self._order]
        self._times = row_times[self._order]
        n_users = int(self._users[-1]) + 1 if len(self._users) else 0
        self._starts = np.searchsorted(self._users, np.arange(n_users + 1)).astype(np.int64)
        self._group_starts = _group_starts(self._users, self._times)

    @classmethod
    def from_interactions(cls, frame: pl.DataFrame) -> Self:
        """Index the interactions of `Tables`: row i of `frame` is event i everywhere."""
        return cls(frame["user"].to_numpy(), frame["time"].to_numpy())

    def __len__(self) -> int:
        return len(self._order)

    def before(self, rows: ArrayLike, *, max_length: int | None = None) -> Past:
        """Events of the same user strictly earlier than each row; ties are excluded.

        Args:
            rows: Integers [n], interaction row indices.
            max_length: Keep at most the most recent so many; all when None.

        Raises:
            IndexError: a row is not an event (such as the -1 of a request that never happened).
        """
        positions = self._positions_of(rows)
        ends = self._group_starts[positions]
        return self._past(self._starts[self._users[positions]], ends, max_length=max_length)

    def at(self, users: ArrayLike, times: ArrayLike, *, max_length: int | None = None) -> Past:
        """Events of each user strictly before each moment; the pairs need not be events.

        Args:
            users: Integers [n]; a user without events has an empty past.
            times: Integers [n], unix seconds.
            max_length: Keep at most the most recent so many; all when None.
        """
        wanted, moments = np.broadcast_arrays(_int64(users), _int64(times))
        starts, stops = self._bounds(wanted)
        ranks = np.searchsorted(self._moments, moments)
        ends = np.searchsorted(self._keys, wanted * (len(self._moments) + 1) + ranks)
        return self._past(starts, np.clip(ends, starts, stops), max_length=max_length)

    def counts(self, rows: ArrayLike) -> Rows:
        """int64 [n], number of strictly earlier events of the same user per row.

        Raises:
            IndexError: a row is not an event.
        """
        positions = self._positions_of(rows)
        return self._group_starts[positions] - self._starts[self._users[positions]]

    def oldest(self, users: ArrayLike, *, counts: ArrayLike) -> Past:
        """The first `counts[i]` events of user i.

        A trailing group of equal times that the cut would part is dropped whole, so that every
        other event of the user is strictly later than the last event given.

        Args:
            users: Integers [n].
            counts: Integers [n] >= 0.
        """
        wanted, limits = np.broadcast_arrays(_int64(users), _int64(counts))
        starts, stops = self._bounds(wanted)
        cuts = np.minimum(starts + np.maximum(limits, 0), stops)
        inside = cuts < stops
        cuts[inside] = self._group_starts[cuts[inside]]
        return self._past(starts, cuts, max_length=None)

    @cached_property
    def _places(self) -> Rows:
        places = np.empty_like(self._order)
        places[self._order] = np.arange(len(self._order))
        return places

    @cached_property
    def _moments(self) -> Rows:
        return np.unique(self._times)

    @cached_property
    def _keys(self) -> Rows:
        """One sorted number per event, user first and rank of the time second."""
        ranks = np.searchsorted(self._moments, self._times)
        return self._users * (len(self._moments) + 1) + ranks

    def _positions_of(self, rows: ArrayLike) -> Rows:
        wanted = _int64(rows)
        outside = (wanted < 0) | (wanted >= len(self))
        if outside.any():
            raise IndexError(
                f"row {int(wanted[outside][0])} is not an event; rows are 0 to {len(self) - 1}"
            )
        return self._places[wanted]

    def _bounds(self, users: Rows) -> tuple[Rows, Rows]:
        """First position and end position of each user; equal for a user without events."""
        known = (users >= 0) & (users < len(self._starts) - 1)
        safe = np.where(known, users, 0)
        if len(self._starts) < 2:
            return np.zeros_like(safe), np.zeros_like(safe)
        starts = self._starts[safe]
        return starts, np.where(known, self._starts[safe + 1], starts)

    def _past(self, starts: Rows, ends: Rows, *, max_length: int | None) -> Past:
        if max_length is not None:
            starts = np.maximum(starts, ends - max(max_length, 0))
        lengths = ends - starts
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Past(offsets, self._order[np.repeat(starts, lengths) + within])


def _int64(values: ArrayLike) -> Rows:
    array = np.atleast_1d(np.asarray(values))
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"whole numbers are needed, found {array.dtype}")
    return array.astype(np.int64)


def _group_starts(users: Rows, times: Rows) -> Rows:
    """int64 [events], position of the first event with the same user and time."""
    if not len(users):
        return np.zeros(0, dtype=np.int64)
    first = np.ones(len(users), dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))
