"""What prompts are about: interactions, users or items, as columns of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.tables import Tables

__all__ = ["Examples"]

Rows = NDArray[np.int64]
_COLUMNS = {"users": "user", "items": "item", "times": "time", "labels": "label"}
_KEPT = 200_000  # columns of more examples are looked up when asked for, and not kept


class Examples:
    """What prompts are about: n targets, or n users or items.

    Args:
        rows: int64 [n], interaction rows; -1 where there is none.
        users: int64 [n], dense; -1 for prompts about items.
        items: int64 [n], dense; -1 for prompts about users.
        times: int64 [n]; only what happened strictly before is shown.
        labels: int8 [n], 1 for a like; -1 where there is none.
    """

    def __init__(
        self, rows: Rows, users: Rows, items: Rows, times: Rows, labels: NDArray[np.int8]
    ) -> None:
        self.rows = rows
        self._known: dict[str, NDArray[Any]] = {
            "users": users,
            "items": items,
            "times": times,
            "labels": labels,
        }
        self._events: pl.DataFrame | None = None

    @classmethod
    def of_rows(
        cls, tables: Tables, rows: ArrayLike, *, items: ArrayLike | None = None
    ) -> Examples:
        """Interactions; with `items`, the same users and moments asked about items never met.

        Of millions only the row numbers are kept; the rest is looked up block by block.

        Args:
            tables: Where the rows are.
            rows: Integers [n].
            items: Integers [n] in place of the rows' own; these examples have label 0.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        known: dict[str, NDArray[Any]] = {}
        if items is not None:
            known["items"] = np.asarray(items, dtype=np.int64)
            known["labels"] = np.zeros(len(wanted), dtype=np.int8)
        return cls._looked_up(wanted, known, tables.interactions)

    @classmethod
    def of_users(cls, users: ArrayLike, *, before: int) -> Examples:
        """Users, of whom nothing is shown from the moment `before` on."""
        wanted = np.asarray(users, dtype=np.int64)
        return cls._without_events(wanted, np.full(len(wanted), -1), before)

    @classmethod
    def of_items(cls, items: ArrayLike, *, before: int) -> Examples:
        """Items, of which nothing is shown from the moment `before` on."""
        wanted = np.asarray(items, dtype=np.int64)
        return cls._without_events(np.full(len(wanted), -1), wanted, before)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def users(self) -> Rows:
        """int64 [n], dense; -1 for prompts about items."""
        return self._column("users")

    @property
    def items(self) -> Rows:
        """int64 [n], dense; -1 for prompts about users."""
        return self._column("items")

    @property
    def times(self) -> Rows:
        """int64 [n]; only what happened strictly before is shown."""
        return self._column("times")

    @property
    def labels(self) -> NDArray[np.int8]:
        """int8 [n], 1 for a like; -1 where there is none."""
        return self._column("labels")

    def with_items(self, items: Rows) -> Examples:
        """The same, asked about other items."""
        return self._looked_up(self.rows, {**self._known, "items": items}, self._events)

    def followed_by(self, other: Examples) -> Examples:
        """These, then others; sorted by row, own items first."""
        parts = ("rows", "users", "items", "times", "labels")
        whole = [np.concatenate([getattr(self, name), getattr(other, name)]) for name in parts]
        order = np.argsort(whole[0], kind="stable")
        return Examples(*(column[order] for column in whole))

    def take(self, places: Any) -> Examples:
        """The examples at these places."""
        known = {name: column[places] for name, column in self._known.items()}
        return self._looked_up(self.rows[places], known, self._events)

    @classmethod
    def _looked_up(
        cls, rows: Rows, known: Mapping[str, NDArray[Any]], events: pl.DataFrame | None
    ) -> Examples:
        found = cls.__new__(cls)
        found.rows, found._known, found._events = rows, dict(known), events
        return found

    @classmethod
    def _without_events(cls, users: Rows, items: Rows, before: int) -> Examples:
        none = np.full(len(users), -1, dtype=np.int64)
        times = np.full(len(users), before, dtype=np.int64)
        return cls(none, users, items, times, none.astype(np.int8))

    def _column(self, name: str) -> NDArray[Any]:
        if name in self._known:
            return self._known[name]
        assert self._events is not None
        dtype = np.int8 if name == "labels" else np.int64
        column = self._events[_COLUMNS[name]].to_numpy()[self.rows].astype(dtype, copy=False)
        if len(column) <= _KEPT:
            self._known[name] = column
        return column
