from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.eval import resample as module
from tastemaker.eval.metrics import METRICS
from tastemaker.eval.resample import WEIGHTED, resample, user_weights


def test_every_metric_has_a_weighted_form() -> None:
    assert WEIGHTED.keys() == METRICS.keys()


@given(seed=st.integers(0, 1000), users=st.integers(2, 6), levels=st.integers(1, 8))
def test_weights_equal_copying_the_rows_of_the_drawn_users(
    seed: int, users: int, levels: int
) -> None:
    random = np.random.default_rng(seed)
    groups = np.append(np.arange(users), random.integers(0, users, 25)) * 10 + 3
    scores = random.integers(0, levels, len(groups)) - 1.5
    labels = random.integers(0, 2, len(groups))
    draws = resample({"model": scores}, labels, groups=groups, count=20, seed=seed)["model"]

    weights = user_weights(users, 20, generator=np.random.default_rng(seed))
    members = np.unique(groups)
    for place, column in enumerate(weights.T):
        rows, copies = [], []
        for copy, user in enumerate(np.repeat(members, column.astype(int))):
            own = np.flatnonzero(groups == user)
            rows.append(own)
            copies.append(np.full(len(own), copy))
        chosen, fresh = np.concatenate(rows), np.concatenate(copies)
        for name, metric in METRICS.items():
            naive = metric(scores[chosen], labels[chosen], fresh)
            assert draws[name][place] == pytest.approx(naive, abs=1e-12, nan_ok=True)


def test_weights_are_draws_with_replacement() -> None:
    weights = user_weights(5, 4000, generator=np.random.default_rng(0))
    assert weights.shape == (5, 4000)
    assert (weights.sum(axis=0) == 5).all()
    # Binomial(5, 1/5): mean 1, variance 0.8.
    assert weights.mean(axis=1) == pytest.approx(1, abs=0.06)
    assert weights.var(axis=1) == pytest.approx(0.8, abs=0.08)


def test_all_models_see_the_same_draws_however_many_at_once(
    monkeypatch: pytest.MonkeyPatch, taste: Any
) -> None:
    scores, asked = taste
    pair = {"one": scores["DIN"], "two": scores["DIN"]}
    whole = resample(pair, asked.labels, groups=asked.groups, count=50, seed=3)
    monkeypatch.setattr(module, "_CELLS", 7 * len(asked))
    parts = resample(pair, asked.labels, groups=asked.groups, count=50, seed=3)
    for name in METRICS:
        assert (whole["one"][name] == whole["two"][name]).all()
        assert whole["one"][name] == pytest.approx(parts["one"][name], abs=1e-12)
