from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from tastemaker.eval.metrics import METRICS, auc, log_loss, user_aucs, within_user_auc
from tastemaker.eval.wording import METRIC_TITLES

Answered = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


@st.composite
def answered(draw: st.DrawFn) -> Answered:
    """Scores with many ties, labels with both classes, users."""
    rows = draw(st.integers(2, 40))
    scores = draw(st.lists(st.integers(-6, 6), min_size=rows, max_size=rows))
    labels = draw(st.lists(st.integers(0, 1), min_size=rows - 2, max_size=rows - 2))
    users = draw(st.lists(st.integers(-3, 3), min_size=rows, max_size=rows))
    return np.array(scores) / 2, np.array([0, 1, *labels]), np.array(users)


@given(answered())
def test_auc_is_scikit_learns(case: Answered) -> None:
    scores, labels, _ = case
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(answered())
def test_log_loss_is_scikit_learns(case: Answered) -> None:
    scores, labels, _ = case
    expected = sklearn_log_loss(labels, 1 / (1 + np.exp(-scores)))
    assert log_loss(scores, labels) == pytest.approx(expected, abs=1e-12)


@given(answered())
def test_within_user_auc_is_the_row_weighted_mean_of_scikit_learns(case: Answered) -> None:
    scores, labels, users = case
    aucs, rows = [], []
    for user in np.unique(users):
        own = users == user
        if len(np.unique(labels[own])) == 2:
            aucs.append(roc_auc_score(labels[own], scores[own]))
            rows.append(own.sum())
    found = within_user_auc(scores, labels, users)
    if aucs:
        assert found == pytest.approx(np.average(aucs, weights=rows), abs=1e-12)
    else:
        assert math.isnan(found)


@given(answered(), st.permutations(range(40)))
def test_row_order_does_not_matter(case: Answered, order: list[int]) -> None:
    scores, labels, users = case
    place = np.array([row for row in order if row < len(scores)])
    for metric in METRICS.values():
        before = metric(scores, labels, users)
        after = metric(scores[place], labels[place], users[place])
        assert after == pytest.approx(before, abs=1e-12, nan_ok=True)


def test_a_constant_per_user_changes_auc_but_not_within_user_auc() -> None:
    scores, labels = np.array([2.0, 1.0, 2.0, 1.0]), np.array([1, 0, 1, 0])
    users = np.array([0, 0, 1, 1])
    shifted = scores + 5 * users
    assert within_user_auc(shifted, labels, users) == within_user_auc(scores, labels, users) == 1
    assert (auc(scores, labels), auc(shifted, labels)) == (1.0, 0.75)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_rows_without_a_score_are_left_out(metric: Any) -> None:
    scores = np.array([0.5, np.nan, -1.0, 2.0, np.nan, 1.0])
    labels, users = np.array([1, 0, 0, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 1])
    kept = ~np.isnan(scores)
    assert metric(scores, labels, users) == metric(scores[kept], labels[kept], users[kept])
    assert math.isnan(metric(np.full(6, np.nan), labels, users))
    assert math.isnan(metric(np.array([]), np.array([], int), np.array([], int)))


def test_one_class_has_no_auc_but_a_log_loss() -> None:
    scores, labels, users = np.array([0.0, 0.0]), np.array([1, 1]), np.array([3, 3])
    assert math.isnan(auc(scores, labels))
    assert math.isnan(within_user_auc(scores, labels, users))
    assert log_loss(scores, labels) == pytest.approx(math.log(2))


def test_log_loss_of_large_log_odds_is_exact() -> None:
    assert log_loss(np.array([800.0, -800.0]), np.array([0, 1])) == 800
    assert log_loss(np.array([800.0]), np.array([1])) == 0


def test_user_aucs_name_their_users_and_rows() -> None:
    each = user_aucs(
        np.array([1.0, 1.0, 0.0, 9.0, 3.0, 2.0]),
        np.array([1, 0, 0, 1, 0, 1]),
        np.array([7] * 3 + [9] + [2] * 2),
    )
    assert each.users.tolist() == [2, 7]
    assert each.aucs.tolist() == [0.0, 0.75]
    assert each.rows.tolist() == [2, 3]


def test_wrong_labels_and_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("labels must be 0 or 1, found [-1]")):
        auc(np.zeros(2), np.array([1, -1]))
    with pytest.raises(ValueError, match=re.escape("(2,), (3,), (2,)")):
        auc(np.zeros(2), np.array([1, 0, 1]))


def test_every_metric_has_a_title() -> None:
    assert METRIC_TITLES.keys() == METRICS.keys()
