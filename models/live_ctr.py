"""A trained recommender asked about one visitor: whatever concerns the visitor is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.feature_space import Columns
from tastemaker.models.live import Acquaintance, Influence, of_event, strongest
from tastemaker.models.live_trail import Trail
from tastemaker.models.statistics import OF_ITEMS, OF_USERS
from tastemaker.models.visitor import Visitor

__all__ = ["LiveCtr"]

Whole = NDArray[np.int64]
Scores = NDArray[np.float32]
_STATISTICS = (*OF_ITEMS, *OF_USERS)
_SCORED_ROWS = 2048  # the steps of so many rows stay in the processor's cache


class LiveCtr(Acquaintance):
    """Scores of a `CtrRecommender` for a known or a new visitor, as of one moment.

    What was judged in the conversation counts as the newest events of the visitor (see
    `FeatureSpace.judged`). A new visitor has no past, no text, and features that say nothing.

    Args:
        recommender: Fitted or loaded; it is put into evaluation mode.
        split: That of the recommender.
        time: The moment that counts as now; None: just after the end of the data.

    Attributes:
        name: That of the recommender.
        known: Bool [items], those that training has seen.
    """

    def __init__(
        self, recommender: CtrRecommender, split: Split, *, time: int | None = None
    ) -> None:
        super().__init__(split, time=time)
        self.name = recommender.name
        recommender.network.eval()
        self._recommender, self._space = recommender, recommender.space
        names = self._space.number_names
        self._places = {name: place for place, name in enumerate(names) if name in _STATISTICS}
        self._of_items = [place for name, place in self._places.items() if name in OF_ITEMS]
        self._catalogue = self._columns_of_items()

    def score(self, visitor: Visitor, items: Whole) -> Scores:
        """Log-odds of a like for dense items [n], float32 [n].

        Raises:
            UserError: a user or an item that the tables do not have.
        """
        self._check(visitor, items)
        wanted = np.asarray(items, dtype=np.int64)
        own = self._columns(visitor, self._trail(visitor), item=0)
        parts = [
            self._recommender.logits(self._joined(own, wanted[start : start + _SCORED_ROWS]))
            for start in range(0, len(wanted), _SCORED_ROWS)
        ]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def influences(self, visitor: Visitor, item: int) -> list[Influence]:
        """What drove the score of a dense item, strongest first: the score with and without it.

        An event is left out as if it had never happened, statistics included; nothing older takes
        its place. A text is replaced by the learned missing one, a statistic by its mean.

        Raises:
            UserError: a user or an item that the tables do not have.
        """
        self._check(visitor, [item])
        trail = self._trail(visitor)
        columns = self._columns(visitor, trail.left_out(), item=item)
        whole = {name: column[:1] for name, column in columns.items()}
        told = _events(trail)
        batch = [columns]
        for text in self._recommender.texts:
            if whole[text.name][0] >= 0:
                batch.append({**whole, text.name: np.full_like(whole[text.name], -1)})
                told.append(Influence("knowledge", None, text.name, 0.0))
        for name, place in self._places.items():
            numbers = whole["numbers"].copy()
            numbers[:, place] = 0
            batch.append({**whole, "numbers": numbers})
            told.append(Influence("statistic", None, name, 0.0))
        logits = self._recommender.logits(_stacked(batch)).astype(np.float64)
        effects = (logits[0] - logits[1:]).tolist()
        return strongest(
            [
                Influence(one.kind, one.item, one.name, effect)
                for one, effect in zip(told, effects, strict=True)
            ]
        )

    def _trail(self, visitor: Visitor) -> Trail:
        """What the visitor did last, one row."""
        known = self._space.trail(_user(visitor), np.array([self._now]))
        return self._space.judged(known, visitor.judged, liked=visitor.opinions)

    def _columns(self, visitor: Visitor, trail: Trail, *, item: int) -> Columns:
        """Arguments of the network for one item, a row for each of `trail`."""
        count = len(trail)
        return self._recommender.columns(
            _user(visitor).repeat(count),
            np.full(count, item),
            np.full(count, self._now),
            trail=trail,
        )

    def _columns_of_items(self) -> Columns:
        """Columns that depend on the item and not on the visitor, a row for each item."""
        count = self._split.tables.n_items
        found = self._recommender.columns(
            np.full(count, -1), np.arange(count), np.full(count, self._now)
        )
        texts = [text.name for text in self._recommender.texts if text.of == "item"]
        kept = ["item", *texts, *(["numbers"] if self._of_items else [])]
        return {name: found[name] for name in kept}

    def _joined(self, own: Columns, items: Whole) -> Columns:
        """Columns of one visitor, one row, with those of n items."""
        found = {name: column.repeat(len(items), axis=0) for name, column in own.items()}
        for name, column in self._catalogue.items():
            if name == "numbers":
                found[name][:, self._of_items] = column[items][:, self._of_items]
            else:
                found[name] = column[items]
        return found


def _user(visitor: Visitor) -> Whole:
    return np.array([-1 if visitor.user is None else visitor.user], dtype=np.int64)


def _events(trail: Trail) -> list[Influence]:
    """The events that row 0 shows, newest first, their effects not known yet."""
    count = int(trail.shown[0])
    items, liked = trail.items[0, ::-1][:count] - 1, trail.liked[0, ::-1][:count]
    return [
        of_event(item, liked=opinion, effect=0.0)
        for item, opinion in zip(items.tolist(), liked.tolist(), strict=True)
    ]


def _stacked(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
