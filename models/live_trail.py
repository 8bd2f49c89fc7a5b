"""The newest events before a moment as arrays, so that events of no table can be among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Trail"]

Whole = NDArray[np.int64]
Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Trail:
    """What n visitors did last; newest at the right end, zeros to the left of shorter pasts.

    Attributes:
        items: int32 [n, length], dense number + 1.
        liked: bool [n, length].
        codes: Event feature that steps carry → int32 [n, length].
        counts: int64 [n], all earlier events, also those that are not shown.
    """

    items: Codes
    liked: NDArray[np.bool_]
    codes: Mapping[str, Codes]
    counts: Whole

    def __len__(self) -> int:
        return len(self.items)

    @property
    def shown(self) -> Whole:
        """Events that are shown, int64 [n]."""
        return (self.items > 0).sum(axis=1)

    @property
    def likes(self) -> Whole:
        """Likes among them, int64 [n]."""
        return self.liked.sum(axis=1)

    def followed_by(
        self, items: ArrayLike, *, liked: ArrayLike, codes: Mapping[str, ArrayLike]
    ) -> Trail:
        """The same after m more events of every visitor; the oldest steps make room.

        Args:
            items: Dense items [m], oldest first.
            liked: Bool [m].
            codes: Integers [m] for each of `codes`.
        """
        further = np.asarray(items, dtype=np.int32)
        return Trail(
            _pushed(self.items, further + 1),
            _pushed(self.liked, liked),
            {name: _pushed(old, codes[name]) for name, old in self.codes.items()},
            self.counts + len(further),
        )

    def left_out(self) -> Trail:
        """Row 0 as it is, then without its newest event, without the second newest, and so on.

        Nothing older takes the place of what is left out: the past is one event shorter. Rows: one
        more than row 0 shows.
        """
        length = self.items.shape[1]
        places = np.arange(length)
        absent = length - 1 - np.arange(int(self.shown[0]))
        shifted = np.where(places <= absent[:, None], places - 1, places)
        order = np.concatenate([places[None], shifted])

        def chosen(row: NDArray[Any]) -> NDArray[Any]:
            return np.where(order < 0, row.dtype.type(0), row[order])

        counts = np.full(len(order), self.counts[0] - 1)
        counts[0] += 1
        return Trail(
            chosen(self.items[0]),
            chosen(self.liked[0]),
            {name: chosen(codes[0]) for name, codes in self.codes.items()},
            counts,
        )


def _pushed(old: NDArray[Any], new: ArrayLike) -> NDArray[Any]:
    """`new` [m] behind each row of `old` [n, length], as many columns as before."""
    added = np.broadcast_to(np.asarray(new, dtype=old.dtype), (len(old), np.size(new)))
    return np.concatenate([old, added], axis=1)[:, np.size(new) :]
