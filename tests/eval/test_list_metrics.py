from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score

from tastemaker.eval import lists as module
from tastemaker.eval.lists import Divisor, clicks_at, map_at, ndcg_at, paired_difference

DIVISORS: list[Divisor] = ["reachable", "likes", "found"]


def naive(labels: list[int], k: int, divisor: Divisor) -> tuple[float, float, float]:
    """Average precision, NDCG and clicks of labels in ranked order, as loops."""
    found, total, gained = 0, 0.0, 0.0
    for place, label in enumerate(labels[:k], start=1):
        found += label
        total += label * found / place
        gained += label / np.log2(1 + place)
    likes = sum(labels)
    best = sum(1 / np.log2(1 + place) for place in range(1, min(k, likes, len(labels)) + 1))
    by = {"reachable": min(k, likes), "likes": likes, "found": found}[divisor]
    return total / by if by else 0.0, gained / best, float(found)


def over_all_orders(
    scores: NDArray[Any], labels: NDArray[Any], k: int, divisor: Divisor
) -> NDArray[np.float64]:
    """Mean of the metrics over every order that the scores allow."""
    values = [
        naive([int(labels[i]) for i in order], k, divisor)
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    return np.mean(values, axis=0)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6),
    k=st.integers(1, 7),
    divisor=st.sampled_from(DIVISORS),
)
def test_ties_count_as_the_mean_of_all_their_orders(
    rows: list[tuple[int, int]], k: int, divisor: Divisor
) -> None:
    scores, labels = np.array(rows).T
    found = (
        map_at(scores[None], labels[None], k=k, divisor=divisor),
        ndcg_at(scores[None], labels[None], k=k),
        clicks_at(scores[None], labels[None], k=k),
    )
    if not labels.any():
        assert np.isnan(found).all()
        return
    expected = over_all_orders(scores, labels, k, divisor)
    assert np.ravel(found) == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 500), k=st.integers(1, 10), levels=st.sampled_from([3, 1000]))
def test_ndcg_is_that_of_scikit_learn(seed: int, k: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    scores, labels = random.integers(0, levels, (4, 10)), random.integers(0, 2, (4, 10))
    labels[:, 0] = 1
    expected = [ndcg_score(y[None], s[None], k=k) for s, y in zip(scores, labels, strict=True)]
    assert ndcg_at(scores, labels, k=k) == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 500))
def test_whole_lists_have_the_average_precision_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, labels = random.normal(size=(4, 10)), random.integers(0, 2, (4, 10))
    labels[:, 0] = 1
    expected = [average_precision_score(y, s) for s, y in zip(scores, labels, strict=True)]
    for divisor in DIVISORS:
        found = map_at(scores, labels, k=10, divisor=divisor)
        assert found == pytest.approx(expected, abs=1e-12)


def test_by_hand() -> None:
    # Ranked: like, no, like, no, like.
    scores, labels = np.array([[5.0, 4, 3, 2, 1]]), np.array([[1, 0, 1, 0, 1]])
    assert map_at(scores, labels, k=3).item() == pytest.approx((1 + 2 / 3) / 3)
    assert map_at(scores, labels, k=3, divisor="found").item() == pytest.approx((1 + 2 / 3) / 2)
    assert map_at(scores, labels, k=1).item() == 1.0
    assert map_at(scores, labels, k=1, divisor="likes").item() == pytest.approx(1 / 3)
    best = 1 + 1 / np.log2(3) + 1 / 2
    assert ndcg_at(scores, labels, k=3).item() == pytest.approx((1 + 1 / 2) / best)
    assert clicks_at(scores, labels, k=3).item() == 2.0
    # All alike: a share of 3/5 at each place.
    level = np.zeros((1, 5))
    assert clicks_at(level, labels, k=2).item() == pytest.approx(6 / 5)
    assert map_at(level, labels, k=1).item() == pytest.approx(3 / 5)


def test_numbers_of_ir_measures() -> None:
    """AP@k, nDCG@k of ir-measures 0.4.3 for ranks 2, 5, 6 of 10 liked, and for 1, 3, 10."""
    labels = np.zeros((2, 10), dtype=int)
    labels[0, [1, 4, 5]] = 1
    labels[1, [0, 2, 9]] = 1
    scores = np.tile(np.arange(10, 0, -1.0), (2, 1))
    for k, precision, gain in IR_MEASURES:
        assert map_at(scores, labels, k=k, divisor="likes") == pytest.approx(precision, abs=1e-6)
        assert ndcg_at(scores, labels, k=k) == pytest.approx(gain, abs=1e-6)


IR_MEASURES: list[tuple[int, list[float], list[float]]] = [
    (1, [0.0, 0.3333333], [0.0, 1.0]),
    (3, [0.1666667, 0.5555556], [0.2960819, 0.7039181]),
    (5, [0.3, 0.5555556], [0.4776237, 0.7039181]),
    (7, [0.4666667, 0.5555556], [0.6447842, 0.7039181]),
    (10, [0.4666667, 0.6555556], [0.6447842, 0.8395701]),
]


def test_padding_is_not_there() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 3, (5, 6)), random.integers(0, 2, (5, 6))
    labels[:, 0] = 1
    places = random.permuted(np.tile(np.arange(9), (5, 1)), axis=1)[:, :6]
    wide, marked, mask = np.full((5, 9), np.nan), np.full((5, 9), -1), np.zeros((5, 9), bool)
    np.put_along_axis(wide, places, scores, axis=1)
    np.put_along_axis(marked, places, labels, axis=1)
    np.put_along_axis(mask, places, True, axis=1)
    for metric in (map_at, ndcg_at, clicks_at):
        for k in (1, 4, 8, 20):
            expected = pytest.approx(metric(scores, labels, k=k), abs=1e-12)
            for rubbish in (np.nan, 0.0, 9.0, -np.inf):
                filled = np.where(mask, wide, rubbish)
                assert metric(filled, marked, k=k, mask=mask) == expected
    lowest = np.where(mask, np.where(wide == 0, -np.inf, wide), np.nan)
    ranked = ndcg_at(lowest, marked, k=4, mask=mask)
    assert ranked == pytest.approx(ndcg_at(scores, labels, k=4), abs=1e-12)


def test_lists_without_a_like_have_no_value_unless_told() -> None:
    scores, labels = np.zeros((2, 4)), np.array([[0, 0, 0, 0], [1, 0, 0, 0]])
    for metric in (map_at, ndcg_at, clicks_at):
        assert np.isnan(metric(scores, labels, k=2)).tolist() == [True, False]
        assert metric(scores, labels, k=2, empty=0.0)[0] == 0.0


def test_what_has_no_order_is_refused() -> None:
    scores, labels = np.zeros((2, 3)), np.ones((2, 3), dtype=int)
    with pytest.raises(ValueError, match="no score"):
        map_at(np.full((2, 3), np.nan), labels, k=1)
    with pytest.raises(ValueError, match=r"labels \(3,\)"):
        ndcg_at(scores, labels[0], k=1)
    with pytest.raises(ValueError, match="must be 0 or 1"):
        clicks_at(scores, labels * 2, k=1)
    with pytest.raises(ValueError, match="k = 0"):
        clicks_at(scores, labels, k=0)
    with pytest.raises(ValueError, match="divisor = 'all'"):
        map_at(scores, labels, k=1, divisor="all")  # type: ignore[arg-type]


def test_the_interval_is_of_users_not_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(30), 20)
    second = random.random(600)
    first = second + np.repeat(random.normal(0.1, 0.3, 30), 20)
    whole = paired_difference(first, second, users, seed=1, count=2000)
    each = (first - second)[::20]
    assert whole.value == pytest.approx(each.mean())
    assert (whole.first, whole.second) == pytest.approx((first.mean(), second.mean()))
    # Of users: about 1.96 standard errors of 30 numbers, not of 600.
    half = 1.96 * each.std() / np.sqrt(30)
    assert whole.high - whole.value == pytest.approx(half, rel=0.15)
    assert whole.value - whole.low == pytest.approx(half, rel=0.15)
    monkeypatch.setattr(module, "_CELLS", 90)
    parts = paired_difference(first, second, users, seed=1, count=2000)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high))


def test_resamples_are_the_means_of_copied_lists() -> None:
    random = np.random.default_rng(3)
    users = np.array([7, 7, 7, 2, 9, 9])
    first, second = random.random((2, 6))
    found = paired_difference(first, second, users, seed=5, count=40, confidence=0.9)
    weights = module.user_weights(3, 40, generator=np.random.default_rng(5)).astype(int)
    means = []
    for column in weights.T:
        times = dict(zip((2, 7, 9), column.tolist(), strict=True))
        copied = [d for d, u in zip(first - second, users, strict=True) for _ in range(times[u])]
        means.append(np.mean(copied))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))


def test_undefined_lists_are_counted_and_left_out() -> None:
    first, second = np.array([0.5, np.nan, 1.0]), np.array([0.25, np.nan, 0.5])
    found = paired_difference(first, second, np.array([1, 1, 2]), seed=0)
    assert (found.lists, found.without, found.users) == (2, 1, 2)
    assert found.value == pytest.approx(0.375)
    alone = paired_difference(first, second, np.array([1, 1, 1]), seed=0)
    assert np.isnan([alone.low, alone.high]).all()
    with pytest.raises(ValueError, match="one of the models only"):
        paired_difference(first, np.ones(3), np.array([1, 1, 2]), seed=0)
    with pytest.raises(ValueError, match="none of the lists"):
        paired_difference(first[1:2], second[1:2], np.array([1]), seed=0)
    with pytest.raises(ValueError, match="3 and 2 lists"):
        paired_difference(first, second[:2], np.array([1, 1, 2]), seed=0)
