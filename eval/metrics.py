"""Metrics as pure NumPy functions of `(scores, labels, groups)`.

`scores` are log-odds of a like, float [n], larger is better; `labels` are 1 or 0, int [n];
`groups` are users, int [n]. A score of NaN means that the model cannot answer: such rows are left
out. A metric that is undefined on what remains (no rows, or one class only) is NaN. Labels other
than 0 and 1 and arrays of different lengths raise ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "METRICS",
    "Groups",
    "Labels",
    "Scores",
    "UserAucs",
    "auc",
    "log_loss",
    "losses",
    "user_aucs",
    "within_user_auc",
]

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Groups = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class UserAucs:
    """AUC within each user that has both classes, users ascending.

    Attributes:
        users: int64 [u].
        aucs: float64 [u], 0 to 1.
        rows: Scored rows of each user, int64 [u].
    """

    users: NDArray[np.int64]
    aucs: NDArray[np.float64]
    rows: NDArray[np.int64]


def auc(scores: Scores, labels: Labels, groups: Groups | None = None) -> float:
    """Chance that a liked row outranks a row not liked, ties counting one half; 0 to 1.

    `groups` is not used: pairs are formed across users, so differences between users count too.
    """
    values, liked, _ = _known(scores, labels, groups)
    whole = _aucs(values, liked, np.zeros(len(values), dtype=np.int64))
    return float(whole.aucs[0]) if len(whole.aucs) else float("nan")


def within_user_auc(scores: Scores, labels: Labels, groups: Groups) -> float:
    """Average AUC of the users with both classes, weighted by their scored rows (GAUC); 0 to 1.

    Pairs are formed within a user only, so a constant per user changes nothing.
    """
    each = user_aucs(scores, labels, groups)
    return float(np.average(each.aucs, weights=each.rows)) if len(each.aucs) else float("nan")


def log_loss(scores: Scores, labels: Labels, groups: Groups | None = None) -> float:
    """Mean negative log-likelihood of the labels in nats, at least 0, smaller is better."""
    values, liked, _ = _known(scores, labels, groups)
    return float(losses(values, liked).mean()) if len(values) else float("nan")


def user_aucs(scores: Scores, labels: Labels, groups: Groups) -> UserAucs:
    """AUC of each user that has both classes among the scored rows."""
    return _aucs(*_known(scores, labels, groups))


def losses(scores: Scores, liked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Negative log-likelihood of each row in nats, exact for large log-odds; float64 [n]."""
    against = np.where(liked, -scores, scores).astype(np.float64)
    return np.logaddexp(0.0, against)


METRICS: dict[str, Callable[[Scores, Labels, Groups], float]] = {
    "auc": auc,
    "within_user_auc": within_user_auc,
    "log_loss": log_loss,
}


def _known(
    scores: Scores, labels: Labels, groups: Groups | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Checked arrays of the rows that have a score: float64, bool (liked), int64; all [m]."""
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    users = np.zeros(len(values), np.int64) if groups is None else np.asarray(groups, np.int64)
    if not values.shape == given.shape == users.shape or values.ndim != 1:
        shapes = f"{values.shape}, {given.shape}, {users.shape}"
        raise ValueError(f"scores, labels and groups must have one length, found {shapes}")
    if not np.isin(given, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, found {np.setdiff1d(given, (0, 1))[:5]}")
    scored = ~np.isnan(values)
    return values[scored], given[scored] == 1, users[scored]


def _aucs(
    values: NDArray[np.float64], liked: NDArray[np.bool_], groups: NDArray[np.int64]
) -> UserAucs:
    """Mann-Whitney statistic of each group from average ranks."""
    order = np.lexsort((values, groups))
    values, liked, groups = values[order], liked[order], groups[order]
    users, starts, rows = np.unique(groups, return_index=True, return_counts=True)
    if not len(users):
        return UserAucs(users, np.empty(0), rows)
    # Ties share the middle of the ranks they occupy; ranks count from 1 within the group.
    changed = np.ones(len(values), dtype=bool)
    changed[1:] = (values[1:] != values[:-1]) | (groups[1:] != groups[:-1])
    first = np.flatnonzero(changed)
    last = np.append(first[1:], len(values)) - 1
    middle = np.repeat((first + last) / 2, last - first + 1)
    ranks = middle - np.repeat(starts, rows) + 1
    positives = np.add.reduceat(liked, starts, dtype=np.int64)
    rank_sums = np.add.reduceat(ranks * liked, starts)
    both = (positives > 0) & (positives < rows)
    above = rank_sums[both] - positives[both] * (positives[both] + 1) / 2
    return UserAucs(
        users[both], above / (positives[both] * (rows[both] - positives[both])), rows[both]
    )
