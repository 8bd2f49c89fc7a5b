"""Metrics of re-ranked lists with several likes each, and the paired difference of two models.

Every metric gives one number per list, so that means, users and differences are taken alike
everywhere. Items with equal scores share their places: the metric is its mean over all orders of
the ties, so a model that scores everything alike is as good as chance and no better. In a list
without a like nothing can be found; it is NaN and left out of means, unless told otherwise (KAR
counts 0). Say how many lists were left out when a mean is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb

from tastemaker.eval.resample import user_weights

__all__ = ["Difference", "Divisor", "clicks_at", "map_at", "ndcg_at", "paired_difference"]

Values = NDArray[np.float64]
Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Divisor = Literal["reachable", "likes", "found"]
_CELLS = 4_000_000  # users x resamples held at once: 32 MB


@dataclass(frozen=True)
class Difference:
    """Two models on the same lists.

    Attributes:
        first: Mean of the first model.
        second: Mean of the second.
        value: The first minus the second.
        low: Lower end of the paired interval; NaN with fewer than two users.
        high: Upper end.
        lists: Lists that the metric is defined on.
        without: Lists left out because it is not.
        users: Users of the former.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    lists: int
    without: int
    users: int


@dataclass(frozen=True)
class _Tied:
    """Sorted lists, in groups of equal scores; int64 [n, K], the same at all places of a group.

    Attributes:
        start: Places before the group.
        size: Places of the group.
        before: Likes before the group.
        inside: Likes of the group.
        likes: Likes of the list, int64 [n].
    """

    start: NDArray[np.int64]
    size: NDArray[np.int64]
    before: NDArray[np.int64]
    inside: NDArray[np.int64]
    likes: NDArray[np.int64]


def clicks_at(
    scores: Scores,
    labels: Labels,
    *,
    k: int,
    mask: ArrayLike | None = None,
    empty: float = float("nan"),
) -> Values:
    """Likes among the first k.

    Args:
        scores: Float [n, K], larger is better.
        labels: 1 or 0, int [n, K].
        k: At least 1; K at most counts.
        mask: Bool [n, K], true at real items; all when None.
        empty: What a list without a like gets.

    Returns:
        float64 [n], 0 to k.

    Raises:
        ValueError: arrays of several shapes, other labels, NaN among the scores, or k below 1.
    """
    tied = _tied(scores, labels, k=k, mask=mask)
    found = (tied.inside / tied.size)[:, :k].sum(axis=1)
    return np.where(tied.likes > 0, found, empty)


def ndcg_at(
    scores: Scores,
    labels: Labels,
    *,
    k: int,
    mask: ArrayLike | None = None,
    empty: float = float("nan"),
) -> Values:
    """Likes among the first k discounted by 1 / log2(1 + place), relative to the best order.

    The best order is cut at k too. Arguments and errors as in `clicks_at`; float64 [n], 0 to 1.
    """
    tied = _tied(scores, labels, k=k, mask=mask)
    discounts = 1 / np.log2(2 + np.arange(min(k, tied.size.shape[1])))
    gained = (tied.inside / tied.size)[:, :k] @ discounts
    best = np.append(0.0, np.cumsum(discounts))[np.minimum(tied.likes, len(discounts))]
    return np.divide(gained, best, out=np.full(len(best), empty), where=tied.likes > 0)


def map_at(
    scores: Scores,
    labels: Labels,
    *,
    k: int,
    mask: ArrayLike | None = None,
    divisor: Divisor = "reachable",
    empty: float = float("nan"),
) -> Values:
    """Average precision of each list; its mean over lists is MAP.

    The precision at the place of each like among the first k is added up and divided by

    * `reachable`: the likes that the first k can hold, so that the best order has 1.
    * `likes`: all likes, as trec_eval's `map_cut` and ir-measures' `AP@k` do.
    * `found`: the likes found among the first k, as KAR's code does. A model that finds less is not
      worse for it: one like in first place is 1, wherever the others are. Numbers published for KAR
      are of this kind, with `empty=0`.

    Other arguments and errors as in `clicks_at`; float64 [n], 0 to 1.
    """
    tied = _tied(scores, labels, k=k, mask=mask)
    k = min(k, tied.size.shape[1])
    places = np.arange(1, k + 1)
    start, size, before, inside = (
        array[:, :k] for array in (tied.start, tied.size, tied.before, tied.inside)
    )
    # The group at place k may reach beyond: h of its likes are among its first `room` places.
    edge, room = start[:, -1], k - start[:, -1]
    beyond = places > edge[:, None]
    settled = np.where(beyond, 0.0, _precisions(places, start, size, before, inside)).sum(axis=1)
    total = np.zeros(len(edge))
    for h in range(k + 1):
        likes, members = inside[:, -1], size[:, -1]
        chance = comb(likes, h) * comb(members - likes, room - h) / comb(members, room)
        held = np.minimum(h, room)[:, None] + 0 * places
        partial = _precisions(
            places, start, np.broadcast_to(room[:, None], held.shape), before, held
        )
        sums = settled + np.where(beyond, partial, 0.0).sum(axis=1)
        total += (
            chance * sums / np.maximum(_divided_by(divisor, tied, k=k, found=before[:, -1] + h), 1)
        )
    return np.where(tied.likes > 0, total, empty)


def paired_difference(
    first: Values,
    second: Values,
    users: NDArray[np.integer[Any]],
    *,
    seed: int,
    count: int = 1000,
    confidence: float = 0.95,
) -> Difference:
    """Mean of `first` minus mean of `second`, with a bootstrap over users.

    Whole users are drawn with all their lists, the same ones for both models.

    Args:
        first: Metric of each list for one model, float64 [n]; NaN where undefined.
        second: Likewise for another model.
        users: Whom each list is for, int [n].
        seed: Of the draws.
        count: Number of resamples.
        confidence: Of the percentile interval, between 0 and 1.

    Raises:
        ValueError: arrays of several lengths, a list that is defined for one model only, or no
            defined list.
    """
    if not len(first) == len(second) == len(users):
        raise ValueError(f"{len(first)} and {len(second)} lists of {len(users)} users")
    defined = ~np.isnan(first)
    if not np.array_equal(defined, ~np.isnan(second)):
        raise ValueError("some lists are defined for one of the models only")
    if not defined.any():
        raise ValueError("the metric is defined on none of the lists")
    means = float(first[defined].mean()), float(second[defined].mean())
    members, owners = np.unique(users[defined], return_inverse=True)
    totals = np.asarray(np.bincount(owners, weights=(first - second)[defined]), np.float64)
    sizes = np.bincount(owners).astype(np.float64)
    low = high = float("nan")
    if len(members) > 1:
        draws = _draws(totals, sizes, count=count, seed=seed)
        tail = (1 - confidence) / 2
        low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    return Difference(
        *means,
        value=means[0] - means[1],
        low=low,
        high=high,
        lists=int(defined.sum()),
        without=int((~defined).sum()),
        users=len(members),
    )


def _draws(totals: Values, sizes: Values, *, count: int, seed: int) -> Values:
    """Mean per list of each resample of users, float64 [count]."""
    draws = np.empty(count)
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // len(totals))
    for start in range(0, count, step):
        stop = min(start + step, count)
        weights = user_weights(len(totals), stop - start, generator=generator)
        draws[start:stop] = (totals @ weights) / (sizes @ weights)
    return draws


def _precisions(
    places: NDArray[np.int64],
    start: NDArray[np.int64],
    size: NDArray[np.int64],
    before: NDArray[np.int64],
    inside: NDArray[np.int64],
) -> Values:
    """Expected precision at each place if a like stands there, else 0, over all orders of ties.

    A like stands there with chance inside / size; each place of the group before it then holds one
    of the others with chance (inside - 1) / (size - 1).
    """
    within = places - start  # from 1
    others = (within - 1) * (inside - 1) / np.maximum(size - 1, 1)
    return inside / size * (before + 1 + others) / places


def _divided_by(
    divisor: Divisor, tied: _Tied, *, k: int, found: NDArray[np.int64]
) -> NDArray[np.int64]:
    if divisor == "found":
        return found
    if divisor == "likes":
        return tied.likes
    if divisor == "reachable":
        return np.minimum(tied.likes, k)
    raise ValueError(f"divisor = {divisor!r}; it is reachable, likes or found")


def _tied(scores: Scores, labels: Labels, *, k: int, mask: ArrayLike | None) -> _Tied:
    """Sort lists by score, padding last, and find groups of equal scores."""
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    real = np.ones(values.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    _check(values, given, real, k=k)
    liked = real & (given == 1)
    order = np.lexsort((-values, ~real), axis=1)
    values, real, liked = (
        np.take_along_axis(part, order, axis=1) for part in (values, real, liked)
    )
    fresh = np.ones((len(values), values.shape[1] + 1), dtype=bool)
    fresh[:, 1:-1] = (values[:, 1:] != values[:, :-1]) | ~real[:, 1:]
    places = np.arange(values.shape[1])
    start = np.maximum.accumulate(np.where(fresh[:, :-1], places, 0), axis=1)
    ends = np.where(fresh[:, 1:], places + 1, values.shape[1])
    stop = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    running = np.zeros(fresh.shape, dtype=np.int64)
    np.cumsum(liked, axis=1, out=running[:, 1:])
    before = np.take_along_axis(running, start, axis=1)
    inside = np.take_along_axis(running, stop, axis=1) - before
    return _Tied(start, stop - start, before, inside, running[:, -1])


def _check(values: NDArray[Any], given: NDArray[Any], real: NDArray[np.bool_], *, k: int) -> None:
    if not values.shape == given.shape == real.shape or values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"scores {values.shape}, labels {given.shape}, mask {real.shape}")
    if not np.isin(given[real], (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, found {np.setdiff1d(given[real], (0, 1))[:5]}")
    if np.isnan(values[real]).any():
        raise ValueError("an item has no score (NaN), so its list has no order")
    if k < 1:
        raise ValueError(f"k = {k}; it is at least 1")
