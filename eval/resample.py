"""Bootstrap over users: the metrics of many resamples at once, from how often each user was drawn.

A user's rows are not independent, so whole users are drawn. Every model sees the same draws: the
difference of two models on one draw is a paired difference. A resample is a column of *weights*
(times each user was drawn); no rows are copied, and equal metrics to copying them are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.eval.metrics import Groups, Labels, Scores, losses, user_aucs

__all__ = ["WEIGHTED", "Weighted", "resample", "resampled_sums", "user_weights"]

Weighted = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From weights float64 [users, c] to the metric of each resample, float64 [c]."""

_CELLS = 4_000_000  # rows x resamples held at once: 32 MB per array


def user_weights(
    n_users: int, count: int, *, generator: np.random.Generator
) -> NDArray[np.float64]:
    """How often each user is drawn in `count` draws of `n_users` users with replacement.

    Returns:
        float64 [n_users, count]; every column sums to `n_users`.
    """
    drawn = generator.integers(n_users, size=(count, n_users)) + n_users * np.arange(count)[:, None]
    times = np.bincount(drawn.ravel(), minlength=n_users * count)
    return np.ascontiguousarray(times.reshape(count, n_users).T, dtype=np.float64)


def resample(
    scores: Mapping[str, Scores], labels: Labels, *, groups: Groups, count: int, seed: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Metrics of every model on the same `count` resamples of users.

    Args:
        scores: Log-odds of each model, float [n], finite.
        labels: 1 or 0, int [n].
        groups: Users, int [n].
        count: Number of resamples.
        seed: Of the draws.

    Returns:
        Model → metric → float64 [count]; NaN where a resample leaves the metric undefined.
    """
    members, users = np.unique(groups, return_inverse=True)
    prepared = {
        model: {name: prepare(values, labels, users) for name, prepare in WEIGHTED.items()}
        for model, values in scores.items()
    }
    draws = {model: {name: np.empty(count) for name in WEIGHTED} for model in scores}
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // len(users))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        weights = user_weights(len(members), part.stop - start, generator=generator)
        for model, metrics in prepared.items():
            for name, weighted in metrics.items():
                draws[model][name][part] = weighted(weights)
    return draws


def resampled_sums(
    values: NDArray[np.float64], groups: ArrayLike, *, count: int, seed: int
) -> NDArray[np.float64]:
    """Sums of columns over the rows of `count` resamples of users.

    Args:
        values: float64 [n, m].
        groups: Users, integers [n].
        count: Number of resamples.
        seed: Of the draws, which are those of `resample` for the same users.

    Returns:
        float64 [count, m].

    Raises:
        ValueError: another number of groups.
    """
    users = np.asarray(groups)
    if users.shape != values.shape[:1]:
        raise ValueError(f"values {values.shape}, groups {users.shape}")
    members, owners = np.unique(users, return_inverse=True)
    totals = np.stack([np.bincount(owners, weights=column) for column in values.T], axis=1)
    generator = np.random.default_rng(seed)
    sums = np.empty((count, values.shape[1]))
    step = max(1, _CELLS // max(len(members), 1))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        weights = user_weights(len(members), part.stop - start, generator=generator)
        sums[part] = weights.T @ totals
    return sums


def _auc(scores: Scores, labels: Labels, users: NDArray[Any]) -> Weighted:
    """Weighted count of won pairs: each liked row meets the running sum of weights below it."""
    liked = np.asarray(labels) == 1
    order = np.argsort(scores[~liked])
    rivals, own = users[~liked][order], users[liked]
    ladder = scores[~liked][order]
    below = np.searchsorted(ladder, scores[liked], side="left")
    not_above = np.searchsorted(ladder, scores[liked], side="right")

    def weighted(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        running = np.zeros((len(rivals) + 1, weights.shape[1]))
        np.cumsum(weights[rivals], axis=0, out=running[1:])
        positives = weights[own]
        won = np.einsum("pc,pc->c", positives, running[below] + running[not_above]) / 2
        return _ratio(won, positives.sum(axis=0) * running[-1])

    return weighted


def _within_user_auc(scores: Scores, labels: Labels, users: NDArray[Any]) -> Weighted:
    """The AUC of a user does not depend on the draw; only its weight does."""
    each = user_aucs(scores, labels, users)

    def weighted(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = weights[each.users].T
        return _ratio(drawn @ (each.aucs * each.rows), drawn @ each.rows.astype(np.float64))

    return weighted


def _log_loss(scores: Scores, labels: Labels, users: NDArray[Any]) -> Weighted:
    """Sums of each user's losses, weighted by the draw."""
    totals = np.bincount(users, weights=losses(scores, np.asarray(labels) == 1))
    rows = np.bincount(users).astype(np.float64)

    def weighted(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ratio(totals @ weights, rows @ weights)

    return weighted


WEIGHTED: dict[str, Callable[[Scores, Labels, NDArray[Any]], Weighted]] = {
    "auc": _auc,
    "within_user_auc": _within_user_auc,
    "log_loss": _log_loss,
}
"""The metrics of `metrics.METRICS`, prepared for weights; users are 0 to n_users-1 here."""


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
