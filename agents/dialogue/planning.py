"""From what a conversation has come to ask for to the items of an answer.

    demands ─ SQL ─► allowed − met − shown ─ topic and resemblance: search ─► pool ─ taste ─► items

Only allowed items are ever offered; where nothing is allowed, the plan says which demand to drop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tastemaker.agents.dialogue.wish import State
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.models.catalogue.store import Catalogue, Hit
from tastemaker.models.live import LiveRecommender
from tastemaker.models.visitor import Visitor

__all__ = ["Plan", "Planner", "Relaxation", "visitor_of"]

Whole = NDArray[np.int64]
_POOL = 200  # items that a search hands on
_FUSION = 60.0  # reciprocal rank fusion; Cormack et al., SIGIR 2009: 60
_ASKED, _ASKED_WEIGHT = 20.0, 2.0  # likewise, where what was asked for meets what is liked


@dataclass(frozen=True)
class Relaxation:
    """A demand without which there would be items.

    Attributes:
        condition: The demand.
        items: How many items satisfy all the others.
    """

    condition: Condition
    items: int


@dataclass(frozen=True)
class Plan:
    """The items of an answer and how they came about.

    Attributes:
        items: Dense numbers, best first.
        probabilities: That the visitor likes each, 0 to 1.
        allowed: Items that satisfy the demands, met and shown ones included.
        met: How many of these the visitor has met or judged already.
        shown: How many of these the conversation has shown already.
        wanted: How many items were asked for.
        relaxations: Where nothing is allowed: demands to drop, the most helpful first.
    """

    items: tuple[int, ...]
    probabilities: tuple[float, ...]
    allowed: int
    met: int
    shown: int
    wanted: int
    relaxations: tuple[Relaxation, ...] = ()


class Planner:
    """Filters, searches and ranks.

    Args:
        catalogue: What may be offered.
        recommender: Whose taste decides.
        count: Items per answer where nobody says how many.
        most: Items per answer at most.
    """

    def __init__(
        self, catalogue: Catalogue, recommender: LiveRecommender, *, count: int = 5, most: int = 100
    ) -> None:
        self._catalogue, self._recommender = catalogue, recommender
        self._count, self._most = count, most

    def plan(self, state: State) -> Plan:
        """The items for what a conversation has come to ask for."""
        wanted = min(state.count or self._count, self._most)
        visitor = visitor_of(state)
        allowed = self._allowed(state.conditions)
        met = np.intersect1d(allowed, self._recommender.met(visitor))
        named = [*state.similar, *state.likes, *state.dislikes]
        fresh = np.setdiff1d(allowed, np.union1d(met, np.array(named, dtype=np.int64)))
        shown = np.intersect1d(fresh, np.array(state.shown, dtype=np.int64))
        fresh = np.setdiff1d(fresh, shown)
        ranked, scores = self._ranked(fresh, state, visitor, wanted=wanted)
        chances = 1 / (1 + np.exp(-scores[:wanted].astype(np.float64)))
        return Plan(
            items=tuple(map(int, ranked[:wanted])),
            probabilities=tuple(map(float, chances)),
            allowed=len(allowed),
            met=len(met),
            shown=len(shown),
            wanted=wanted,
            relaxations=() if len(allowed) else self._relaxations(state.conditions),
        )

    def ranked(self, items: Sequence[int], visitor: Visitor) -> list[tuple[int, float]]:
        """Given items by taste, best first, with the probability of a like."""
        wanted = np.array(items, dtype=np.int64)
        scores = self._recommender.score(visitor, wanted)
        order = np.argsort(-scores, kind="stable")
        return [(int(wanted[one]), float(1 / (1 + np.exp(-scores[one])))) for one in order]

    def _allowed(self, conditions: Sequence[Condition]) -> Whole:
        if not conditions:
            return np.arange(len(self._catalogue))
        return self._catalogue.satisfying(conditions)

    def _ranked(
        self, fresh: Whole, state: State, visitor: Visitor, *, wanted: int
    ) -> tuple[Whole, NDArray[np.float32]]:
        """Items in the order to offer them, with their log-odds."""
        found = self._found(state, fresh)
        rest = np.setdiff1d(fresh, found) if len(found) < wanted else found[:0]
        pool = np.concatenate([found, rest])
        scores = self._recommender.score(visitor, pool)
        first, size = self._by_taste(found, scores[: len(found)]), len(found)
        behind = self._by_taste(rest, scores[size:])
        order = np.concatenate([_fused(first, size), size + behind])
        if state.order is not None:
            order = self._sorted(pool, order, by=state.order)
        return pool[order], scores[order]

    def _by_taste(self, items: Whole, scores: NDArray[np.float32]) -> Whole:
        """Places of items from the best to the worst, those that training has not seen last."""
        return np.lexsort((items, -scores, ~self._recommender.known[items]))

    def _found(self, state: State, fresh: Whole) -> Whole:
        """What topic and resemblance find among fresh items, best first."""
        merit: dict[int, float] = dict.fromkeys(fresh.tolist(), 0.0)
        for hits in self._searches(state):
            for rank, hit in enumerate(hits):
                if hit.item in merit:
                    merit[hit.item] += 1 / (_FUSION + rank)
        found = [item for item, value in merit.items() if value > 0]
        return np.array(sorted(found, key=lambda item: (-merit[item], item)), dtype=np.int64)

    def _searches(self, state: State) -> Iterator[list[Hit]]:
        if state.similar:
            yield self._catalogue.similar(
                state.similar, conditions=state.conditions, count=_POOL, without=state.similar
            )
        if state.topic:
            yield self._catalogue.search(
                state.topic, conditions=state.conditions, count=_POOL, mode="hybrid"
            )

    def _sorted(self, pool: Whole, order: Whole, *, by: tuple[str, bool]) -> Whole:
        column, descending = by
        values = [one.values.get(column) for one in self._catalogue.items(pool[order].tolist())]
        sign = -1 if descending else 1
        keys = [np.inf if value is None else sign * float(value) for value in values]
        return order[np.argsort(np.array(keys, dtype=np.float64), kind="stable")]

    def _relaxations(self, conditions: Sequence[Condition]) -> tuple[Relaxation, ...]:
        found = []
        for place, condition in enumerate(conditions):
            others = [*conditions[:place], *conditions[place + 1 :]]
            if others and (items := len(self._allowed(others))):
                found.append(Relaxation(condition, items))
        return tuple(sorted(found, key=lambda one: -one.items))


def visitor_of(state: State) -> Visitor:
    """Whose taste counts: a known history, and what was judged in the conversation."""
    return Visitor(user=state.user, liked=state.likes, disliked=state.dislikes)


def _fused(by_taste: Whole, size: int) -> Whole:
    """One order of a pool that stands in the order of the search, and of its order by taste."""
    merit = _ASKED_WEIGHT / (_ASKED + np.arange(size))
    merit[by_taste] += 1 / (_FUSION + np.arange(size))
    return np.argsort(-merit, kind="stable")
