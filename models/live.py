"""Scores for somebody who is here now: the known past, and what was judged in the conversation.

`PopularItems` answers where nothing has been trained; `models.live_ctr` asks a trained recommender.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.models.baselines import ItemMean
from tastemaker.models.visitor import Visitor

__all__ = ["Acquaintance", "Influence", "LiveRecommender", "Past", "PopularItems", "Similarity"]

Whole = NDArray[np.int64]
Scores = NDArray[np.float32]
Similarity = Callable[[Whole, Whole], NDArray[np.floating]]
_TOLD = ("item", "label", "rating", "time")
_LEAST_EFFECT = 1e-6  # below it, rounding


@dataclass(frozen=True)
class Past:
    """One thing that a visitor did.

    Attributes:
        item: Dense number.
        rating: As given; None in a conversation, or where the data have no ratings.
        liked: Whether it counts as a like.
        time: Unix seconds, or steps; None in a conversation.
    """

    item: int
    rating: float | None
    liked: bool
    time: int | None


@dataclass(frozen=True)
class Influence:
    """What one piece of evidence does to one score.

    Attributes:
        kind: `history`: an event of the visitor. `knowledge`: a text of the visitor or the item.
            `statistic`: a count.
        item: Of the event; else None.
        name: `liked` or `disliked` for an event, else the name of the text or the statistic.
        effect: Log-odds of a like with it less those without it.
    """

    kind: Literal["history", "knowledge", "statistic"]
    item: int | None
    name: str
    effect: float


class LiveRecommender(Protocol):
    """Answers for one visitor at a time, as of now; safe to ask from several threads.

    Attributes:
        name: Shown to people.
        known: Bool [items], those that training has seen. Of others it knows next to nothing:
            offer them only where nothing else is left.
    """

    name: str
    known: NDArray[np.bool_]

    def score(self, visitor: Visitor, items: Whole) -> Scores:
        """Log-odds of a like for dense items [n], float32 [n]."""

    def history(self, visitor: Visitor, *, count: int = 10) -> list[Past]:
        """What the visitor did, newest first; what the conversation told comes before the rest."""

    def met(self, visitor: Visitor) -> Whole:
        """Items not to be offered again, ascending int64: those of the past and those judged."""

    def influences(self, visitor: Visitor, item: int) -> list[Influence]:
        """What drove the score of a dense item, strongest first."""


class Acquaintance:
    """What any live recommender knows of a visitor's past.

    Args:
        split: Tables and histories; its train part tells which items are known.
        time: The moment that counts as now; None: just after the end of the data.

    Attributes:
        known: Bool [items], those that training has seen.
    """

    def __init__(self, split: Split, *, time: int | None = None) -> None:
        events = split.tables.interactions
        self._split = split
        self._now = int(events["time"].max()) + 1 if time is None else time  # type: ignore[arg-type]
        self.known = np.zeros(split.tables.n_items, dtype=bool)
        self.known[events["item"].to_numpy()[split.train_events]] = True

    def history(self, visitor: Visitor, *, count: int = 10) -> list[Past]:
        """As `LiveRecommender.history`."""
        judged = zip(visitor.judged, visitor.opinions, strict=True)
        found = [Past(item, None, liked, None) for item, liked in judged][::-1]
        rows = self._rows(visitor)[::-1][: max(count - len(found), 0)]
        rated = self._split.tables.schema.rating is not None
        events = self._split.tables.interactions[rows].select(_TOLD)
        for item, label, rating, time in events.iter_rows():
            found.append(Past(item, rating if rated else None, label == 1, time))
        return found[:count]

    def met(self, visitor: Visitor) -> Whole:
        """As `LiveRecommender.met`."""
        items = self._split.tables.interactions["item"].to_numpy()[self._rows(visitor)]
        judged = np.asarray(visitor.judged, dtype=np.int64)
        return np.union1d(items.astype(np.int64), judged)

    def _rows(self, visitor: Visitor) -> Whole:
        """Interaction rows of the known past, oldest first."""
        self._check(visitor)
        user = -1 if visitor.user is None else visitor.user
        return self._split.histories.at([user], [self._now])[0]

    def _check(self, visitor: Visitor, items: ArrayLike = ()) -> None:
        """Numbers below 0 would silently mean others, counted from the end.

        Raises:
            UserError: a user or an item that the tables do not have.
        """
        tables = self._split.tables
        users = [] if visitor.user is None else [visitor.user]
        wanted = np.concatenate([np.asarray(visitor.judged), np.asarray(items)])
        for noun, numbers, most in (
            ("user", np.asarray(users), tables.n_users),
            ("item", wanted, tables.n_items),
        ):
            strange = numbers[(numbers < 0) | (numbers >= most)]
            if len(strange):
                raise UserError(
                    f"there is no {noun} with the dense number {int(strange[0])}.",
                    allowed=f"0 to {most - 1}",
                )


class PopularItems(Acquaintance):
    """The fallback without a trained recommender: how much an item is liked by everyone.

    The score is the smoothed item mean of the train part (`ItemMean`). With a similarity of
    contents, how much nearer the item is to what the visitor last liked than to what they last
    disliked is added; nothing of that is learned, so it is kept small beside the item means.

    Args:
        split: The items are counted in its train part.
        time: The moment that counts as now; None: just after the end of the data.
        similarity: From dense items [m] and dense items [n] to how near each of the n is to the m
            together, [n], about 0 to 1; None: item means only.
        taste: Log-odds that a similarity of 1 adds; at least 0.
        recent: Newest events of a visitor that count.
    """

    name = "Popular items"

    def __init__(
        self,
        split: Split,
        *,
        time: int | None = None,
        similarity: Similarity | None = None,
        taste: float = 1.0,
        recent: int = 10,
    ) -> None:
        super().__init__(split, time=time)
        self._mean = ItemMean().fit(split)
        self._similarity, self._taste, self._recent = similarity, taste, recent
        labels = split.tables.interactions["label"].to_numpy()[split.train]
        share = float(np.clip(labels.mean(), 1e-4, 1 - 1e-4))
        self._everyone = float(np.log(share / (1 - share)))

    def score(self, visitor: Visitor, items: Whole) -> Scores:
        """As `LiveRecommender.score`."""
        self._check(visitor, items)
        wanted = np.asarray(items, dtype=np.int64)
        liking = self._liking(self.history(visitor, count=self._recent), wanted)
        return (self._mean.log_odds(wanted) + liking).astype(np.float32)

    def influences(self, visitor: Visitor, item: int) -> list[Influence]:
        """As `LiveRecommender.influences`; the item mean is set against that of everything."""
        self._check(visitor, [item])
        wanted = np.array([item])
        past = self.history(visitor, count=self._recent)
        whole = self._liking(past, wanted)[0]
        popular = float(self._mean.log_odds(wanted)[0]) - self._everyone
        found = [Influence("statistic", None, "item_mean", popular)]
        for place, event in enumerate(past):
            less = self._liking([*past[:place], *past[place + 1 :]], wanted)[0]
            found.append(of_event(event.item, liked=event.liked, effect=float(whole - less)))
        return strongest(found)

    def _liking(self, past: list[Past], items: Whole) -> NDArray[np.float64]:
        """What the visitor's taste adds, in log-odds [n]."""
        total = np.zeros(len(items))
        if self._similarity is None:
            return total
        for liked, sign in ((True, 1.0), (False, -1.0)):
            those = np.array([event.item for event in past if event.liked is liked], dtype=np.int64)
            if len(those):
                total += sign * self._taste * np.asarray(self._similarity(those, items))
        return total


def of_event(item: int, *, liked: bool, effect: float) -> Influence:
    """The influence of an event."""
    return Influence("history", item, "liked" if liked else "disliked", effect)


def strongest(found: list[Influence]) -> list[Influence]:
    """Those that have an effect at all, the strongest first."""
    effective = [one for one in found if abs(one.effect) > _LEAST_EFFECT]
    return sorted(effective, key=lambda one: -abs(one.effect))
