"""Items that a matcher would have shown instead of the target: negatives that are hard to tell.

InstructRec (Zhang et al., 2023, arXiv 2305.07001, §4.3) ranks each target among the items a matcher
puts highest. Such a list cannot be read like one of random items: its negatives are chosen because
they outrank most items, the target is put among them whatever its own place, and so a good model
may well score below chance (the paper's SASRec: HR@1 .0355, chance .1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.moments import show_moment
from tastemaker.data.splits import Split
from tastemaker.errors import DataError

__all__ = ["HardItems"]

Rows = NDArray[np.int64]
Items = NDArray[np.int32]
CatalogueScore = Callable[[Rows], NDArray[np.floating[Any]]]
_CELLS = 1 << 22  # scores looked at together


class HardItems:
    """The items that a matcher ranks highest for a user at a moment, and that were not met by then.

    What the user meets later may be among them, as in `data.negatives`. Each row's items depend on
    that row alone; they are looked for once and then remembered.

    Args:
        split: The tables and their parts.
        score: Interaction row indices [n] → scores of all items, float [n, n_items], larger is
            better, for the user and moment of each row; it must not use the item of the row.
    """

    def __init__(self, split: Split, score: CatalogueScore) -> None:
        self._split, self._score = split, score
        self._known: dict[int, tuple[Rows, Items]] = {}

    def __call__(self, rows: ArrayLike, *, per_row: int, seed: int = 0) -> Items:
        """The hardest items of each row, hardest first, the target never among them.

        Args:
            rows: Integers [n], interaction row indices.
            per_row: Items for each.
            seed: Of no use, since nothing is drawn; it is there as in `draw_negatives`.

        Returns:
            int32 [n, per_row], dense items, distinct within a row.

        Raises:
            DataError: a user had met too much of the catalogue; names the user.
        """
        del seed
        wanted = np.asarray(rows, dtype=np.int64)
        none = (np.empty(0, dtype=np.int64), np.empty((0, per_row), dtype=np.int32))
        known, items = self._known.get(per_row, none)
        new = np.setdiff1d(wanted, known)
        if len(new):
            known = np.concatenate([known, new])
            order = np.argsort(known)
            known, items = known[order], np.concatenate([items, self._found(new, per_row)])[order]
            self._known[per_row] = known, items
        return items[np.searchsorted(known, wanted)]

    def _found(self, rows: Rows, per_row: int) -> Items:
        found = np.empty((len(rows), per_row), dtype=np.int32)
        step = max(_CELLS // max(self._split.tables.n_items, 1), 1)
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            found[start : start + step] = self._hardest(chunk, per_row)
        return found

    def _hardest(self, rows: Rows, per_row: int) -> Items:
        costs = -np.asarray(self._score(rows), dtype=np.float32)  # a copy, to be written into
        places, items = self._met(rows)
        costs[places, items] = np.inf
        left = np.isfinite(costs).sum(axis=1)
        if len(rows) and int(left.min()) < per_row:
            raise self._too_few(int(rows[left.argmin()]), int(left.min()), per_row)
        chosen = np.argpartition(costs, per_row - 1, axis=1)[:, :per_row]
        chosen.sort(axis=1)  # equal scores stand in the order of items
        order = np.argsort(np.take_along_axis(costs, chosen, axis=1), axis=1, kind="stable")
        return np.take_along_axis(chosen, order, axis=1).astype(np.int32)

    def _met(self, rows: Rows) -> tuple[Rows, Rows]:
        """Places of rows, and the items their users had met up to and including that second."""
        tables, histories = self._split.tables, self._split.histories
        events = tables.interactions
        times, items = events["time"].to_numpy(), events["item"].to_numpy()
        users = events["user"].to_numpy()[rows].astype(np.int64)
        whole = histories.oldest(users, counts=np.full(len(rows), len(events)))
        places = np.repeat(np.arange(len(rows)), whole.lengths)
        met = times[whole.events] <= times[rows][places]
        if tables.sampled is not None:
            met &= ~tables.sampled[whole.events]
        places = np.concatenate([places[met], np.arange(len(rows))])
        return places, np.concatenate([items[whole.events[met]], items[rows]]).astype(np.int64)

    def _too_few(self, row: int, left: int, per_row: int) -> DataError:
        tables = self._split.tables
        user, time = (int(tables.interactions[name][row]) for name in ("user", "time"))
        moment = show_moment(time, is_clock=tables.schema.is_clock)
        return DataError(
            f"user '{tables.users['user_id'][user]}' had met all but {left} of the items at "
            f"{moment}; {per_row} hard ones are needed.",
            allowed=f"the catalogue has {tables.n_items:,} items.",
            remedy="Offer fewer (build.candidates), or draw them: build.candidates_from: uniform",
        )
