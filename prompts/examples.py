"""What prompts are about: interactions, users or items, as columns of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.tables import Tables

__all__ = ["Examples"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """What prompts are about: n targets, or n users or items.

    Attributes:
        rows: int64 [n], interaction rows; -1 where there is none.
        users: int64 [n], dense; -1 for prompts about items.
        items: int64 [n], dense; -1 for prompts about users.
        times: int64 [n]; only what happened strictly before is shown.
        labels: int8 [n], 1 for a like; -1 where there is none.
    """

    rows: Rows
    users: Rows
    items: Rows
    times: Rows
    labels: NDArray[np.int8]

    @classmethod
    def of_rows(
        cls, tables: Tables, rows: ArrayLike, *, items: ArrayLike | None = None
    ) -> Examples:
        """Interactions; with `items`, the same users and moments asked about items never met.

        Args:
            tables: Where the rows are.
            rows: Integers [n].
            items: Integers [n] in place of the rows' own; these examples have label 0.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        events = tables.interactions
        taken = {name: events[name].to_numpy()[wanted] for name in ("user", "item", "time")}
        labels = events["label"].to_numpy()[wanted]
        if items is not None:
            taken["item"], labels = np.asarray(items), np.zeros(len(wanted), dtype=np.int8)
        return cls(
            wanted,
            taken["user"].astype(np.int64),
            taken["item"].astype(np.int64),
            taken["time"].astype(np.int64),
            labels.astype(np.int8),
        )

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

    @classmethod
    def _without_events(cls, users: Rows, items: Rows, before: int) -> Examples:
        none = np.full(len(users), -1, dtype=np.int64)
        times = np.full(len(users), before, dtype=np.int64)
        return cls(none, users, items, times, none.astype(np.int8))

    def __len__(self) -> int:
        return len(self.rows)

    def followed_by(self, other: Examples) -> Examples:
        """These, then others; sorted by row, own items first."""
        parts = ("rows", "users", "items", "times", "labels")
        whole = [np.concatenate([getattr(self, name), getattr(other, name)]) for name in parts]
        order = np.argsort(whole[0], kind="stable")
        return Examples(*(column[order] for column in whole))

    def take(self, places: Any) -> Examples:
        """The examples at these places."""
        return Examples(
            self.rows[places],
            self.users[places],
            self.items[places],
            self.times[places],
            self.labels[places],
        )
