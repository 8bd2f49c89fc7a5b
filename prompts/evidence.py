"""Who had met what before a moment, found by sorting alone.

The audit's own way to the past: it shares nothing with `Histories`, so a mistake there is found and
not repeated. Everything is sorted once; each question is then two binary searches.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.audit import real_events
from tastemaker.data.tables import Tables
from tastemaker.prompts.render import display_titles

__all__ = ["Evidence"]

Numbers = NDArray[np.int64]


class Evidence:
    """What happened, by user, title, item and time.

    Args:
        tables: Users, items and interactions; drawn negatives never happened.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.titles = pl.Series(display_titles(tables), dtype=pl.String)

    @cached_property
    def names(self) -> pl.DataFrame:
        """Each title that is shown, with its number `code`."""
        return self.titles.unique().sort().to_frame("title").with_row_index("code")

    @cached_property
    def codes(self) -> Numbers:
        """int64 [n_items], number of each item's title; equal titles have equal numbers."""
        named = self.titles.to_frame("title").join(self.names, on="title", maintain_order="left")
        return named["code"].to_numpy().astype(np.int64)

    def events_before(self, users: ArrayLike, times: ArrayLike) -> Numbers:
        """Events of each user strictly before each moment; int64 [n]."""
        return self._by_user.before(users, times)

    def titles_before(self, users: ArrayLike, codes: ArrayLike, times: ArrayLike) -> Numbers:
        """How often each user met a title strictly before each moment; int64 [n]."""
        return self._by_title.before(_pairs(users, codes, self.names.height), times)

    def items_by(self, users: ArrayLike, items: ArrayLike, times: ArrayLike) -> Numbers:
        """How often each user met an item at or before each moment; int64 [n]."""
        later = np.asarray(times, dtype=np.int64) + 1
        return self._by_item.before(_pairs(users, items, self.tables.n_items), later)

    @cached_property
    def _events(self) -> dict[str, Numbers]:
        frame = real_events(self.tables)
        return {name: frame[name].to_numpy().astype(np.int64) for name in ("user", "item", "time")}

    @cached_property
    def _by_user(self) -> _Sorted:
        return _Sorted(self._events["user"], self._events["time"])

    @cached_property
    def _by_title(self) -> _Sorted:
        titles = self.codes[self._events["item"]]
        return _Sorted(
            _pairs(self._events["user"], titles, self.names.height), self._events["time"]
        )

    @cached_property
    def _by_item(self) -> _Sorted:
        pairs = _pairs(self._events["user"], self._events["item"], self.tables.n_items)
        return _Sorted(pairs, self._events["time"])


class _Sorted:
    """Moments of each key, one sorted array for all keys."""

    def __init__(self, keys: Numbers, times: Numbers) -> None:
        # Asked for ranks, np.unique sorts, which is five times as fast as its table of hashes.
        self._keys, places = np.unique(keys, return_inverse=True)
        self._times, moments = np.unique(times, return_inverse=True)
        # Ranks of keys and moments fit into one number, whatever they were.
        self._width = len(self._times) + 1
        self._sorted = np.sort(places * self._width + moments)

    def before(self, keys: ArrayLike, times: ArrayLike) -> Numbers:
        """Entries of each key strictly before each moment."""
        wanted = np.asarray(keys, dtype=np.int64)
        if not len(self._keys):
            return np.zeros(len(wanted), dtype=np.int64)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        starts = places * self._width
        moments = np.searchsorted(self._times, np.asarray(times, dtype=np.int64))
        found = np.searchsorted(self._sorted, starts + moments) - np.searchsorted(
            self._sorted, starts
        )
        return np.where(self._keys[places] == wanted, found, 0)


def _pairs(first: Any, second: Any, width: int) -> Numbers:
    return np.asarray(first, dtype=np.int64) * width + np.asarray(second, dtype=np.int64)
