from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tastemaker.errors import StageError, UnknownNameError
from tastemaker.eval.compare import Comparison, compare
from tastemaker.eval.metrics import METRICS
from tastemaker.eval.resample import resample

TRIVIAL = ("Item mean", "Liked share", "Liked share + item mean")


@pytest.fixture(scope="module")
def comparison(taste: Any) -> Comparison:
    scores, asked = taste
    return compare(scores, asked, against="DIN", trivial=TRIVIAL, bootstrap=400, seed=1)


def test_values_are_the_metrics_on_the_same_rows(comparison: Comparison, taste: Any) -> None:
    scores, asked = taste
    assert comparison.models == list(scores)
    assert comparison.metrics == list(METRICS)
    for model, values in scores.items():
        for name, metric in METRICS.items():
            row = comparison.row(model, name)
            assert row.value == metric(values, asked.labels, asked.groups)
            assert row.low < row.value < row.high
    assert (comparison.n_rows, comparison.n_users) == (1500, 60)
    assert comparison.positive_rate == asked.labels.mean()
    assert comparison.unscored == {}
    with pytest.raises(KeyError):
        comparison.row("DIN", "accuracy")


def test_identical_scores_have_no_difference(taste: Any) -> None:
    scores, asked = taste
    both = {"DIN": scores["DIN"], "twin": scores["DIN"].copy()}
    comparison = compare(both, asked, against="DIN", bootstrap=100, trivial=["DIN"])
    for row in comparison.rows:
        assert (row.difference, row.difference_low, row.difference_high) == (0, 0, 0)
        assert (row.best, row.tied) == (row.model == "DIN", row.model == "twin")
    assert not any(verdict.beats or verdict.worse for verdict in comparison.verdicts)


def test_paired_differences_are_sharper_than_the_intervals(taste: Any) -> None:
    scores, asked = taste
    near = scores["DIN"] + np.random.default_rng(0).normal(0, 0.05, len(asked))
    comparison = compare({"DIN": scores["DIN"], "near": near}, asked, against="DIN")
    row = comparison.row("near", "auc")
    assert row.difference_high - row.difference_low < (row.high - row.low) / 5


def test_best_and_tied_follow_the_direction_of_the_metric(comparison: Comparison) -> None:
    assert comparison.row("KAR (DIN + knowledge)", "auc").best
    assert not comparison.row("SmolLM2-135M, not tuned", "auc").tied
    for metric, direction in (("auc", max), ("within_user_auc", max), ("log_loss", min)):
        rows = [row for row in comparison.rows if row.metric == metric]
        assert [row for row in rows if row.best] == [direction(rows, key=lambda row: row.value)]


def test_verdicts_compare_with_the_best_trivial_baseline(comparison: Comparison) -> None:
    on_auc = {verdict.model: verdict for verdict in comparison.verdicts if verdict.metric == "auc"}
    assert set(on_auc) == set(comparison.models) - set(TRIVIAL)
    assert {verdict.baseline for verdict in on_auc.values()} == {"Liked share + item mean"}
    assert on_auc["KAR (DIN + knowledge)"].beats
    assert on_auc["SmolLM2-135M, not tuned"].worse
    within = [verdict for verdict in comparison.verdicts if verdict.metric == "within_user_auc"]
    assert all(verdict.baseline_value > 0.6 for verdict in within)
    for verdict in comparison.verdicts:
        assert verdict.difference == verdict.value - verdict.baseline_value
        assert verdict.low < verdict.difference < verdict.high


def test_intervals_are_quantiles_of_the_same_resamples(taste: Any) -> None:
    scores, asked = taste
    pair = {name: scores[name] for name in ("DIN", "Liked share")}
    comparison = compare(pair, asked, against="DIN", bootstrap=300, confidence=0.8, seed=4)
    draws = resample(pair, asked.labels, groups=asked.groups, count=300, seed=4)
    for metric in METRICS:
        row, own = comparison.row("Liked share", metric), draws["Liked share"][metric]
        assert [row.low, row.high] == pytest.approx(np.quantile(own, [0.1, 0.9]))
        expected = np.quantile(own - draws["DIN"][metric], [0.1, 0.9])
        assert [row.difference_low, row.difference_high] == pytest.approx(expected)


def test_intervals_cover_the_truth(asked: Any) -> None:
    """Fresh samples of 40 users: about 90 % of the 90 % intervals hold the true values."""
    random = np.random.default_rng(11)
    # Two normals one apart: AUC = Phi(1 / sqrt 2).
    truth, covered, worlds = 0.7602, 0, 120
    for _ in range(worlds):
        users = np.repeat(np.arange(40), 12)
        labels = random.integers(0, 2, len(users))
        values = random.normal(0, 1, len(users)) + labels
        comparison = compare(
            {"model": values}, asked(users, labels), against="model", bootstrap=200, confidence=0.9
        )
        row = comparison.row("model", "auc")
        covered += row.low <= truth <= row.high
    assert 0.82 <= covered / worlds <= 0.97


def test_a_difference_between_equally_good_models_is_rarely_found(asked: Any) -> None:
    random = np.random.default_rng(3)
    found = 0
    for seed in range(60):
        users = np.repeat(np.arange(30), 10)
        labels = random.integers(0, 2, len(users))
        pair = {name: labels + random.normal(0, 1, len(users)) for name in ("one", "two")}
        comparison = compare(
            pair, asked(users, labels), against="one", trivial=["one"], bootstrap=200, seed=seed
        )
        found += comparison.verdicts[0].beats
    assert found <= 6


def test_rows_that_one_model_cannot_score_are_left_out_for_all(taste: Any) -> None:
    scores, asked = taste
    gaps = scores["DIN"].copy()
    gaps[:300] = np.nan
    comparison = compare({"gaps": gaps, "KAR": scores["DIN"]}, asked, against="KAR", bootstrap=50)
    assert comparison.n_rows == 1200
    assert comparison.unscored == {"gaps": 300}
    assert comparison.row("gaps", "auc").value == comparison.row("KAR", "auc").value


def test_one_user_has_values_but_no_intervals(asked: Any) -> None:
    comparison = compare(
        {"one": np.array([1.0, 0.0, 2.0]), "two": np.array([0.0, 1.0, 2.0])},
        asked([4, 4, 4], [1, 0, 1]),
        against="one",
        trivial=["one"],
        bootstrap=50,
    )
    row = comparison.row("two", "auc")
    assert row.value == 0.5
    assert math.isnan(row.low)
    assert math.isnan(row.difference_high)
    assert row.tied
    assert not comparison.verdicts[0].beats


def test_one_class_leaves_auc_open(asked: Any) -> None:
    comparison = compare(
        {"one": np.array([1.0, 0.0])}, asked([1, 2], [1, 1]), against="one", bootstrap=20
    )
    assert math.isnan(comparison.row("one", "auc").value)
    assert not comparison.row("one", "auc").best
    assert comparison.row("one", "log_loss").best


def test_a_comparison_survives_json(comparison: Comparison, asked: Any) -> None:
    text = json.dumps(comparison.to_dict(), allow_nan=False)
    assert Comparison.from_dict(json.loads(text)) == comparison
    lone = compare({"one": np.array([1.0, 0.0])}, asked([1, 1], [1, 1]), against="one")
    text = json.dumps(lone.to_dict(), allow_nan=False)
    back = Comparison.from_dict(json.loads(text))
    assert math.isnan(back.row("one", "auc").value)
    assert json.dumps(back.to_dict()) == text


def test_the_same_seed_gives_the_same_numbers(comparison: Comparison, taste: Any) -> None:
    scores, asked = taste
    again = compare(scores, asked, against="DIN", trivial=TRIVIAL, bootstrap=400, seed=1)
    other = compare(scores, asked, against="DIN", trivial=TRIVIAL, bootstrap=400, seed=2)
    assert again == comparison != other


def test_mistakes_are_named(taste: Any) -> None:
    scores, asked = taste
    with pytest.raises(UnknownNameError, match=r"'DINN'; did you mean 'DIN'\?"):
        compare(scores, asked, against="DINN")
    with pytest.raises(UnknownNameError, match="'popularity'"):
        compare(scores, asked, against="DIN", trivial=["popularity"])
    with pytest.raises(StageError, match="bad: 1500 scores are infinite"):
        compare({"bad": np.full(1500, np.inf)}, asked, against="bad")
    nothing = {"DIN": scores["DIN"], "mute": np.full(1500, np.nan)}
    with pytest.raises(StageError, match="every model: mute left out 1,500"):
        compare(nothing, asked, against="DIN")
    with pytest.raises(ValueError, match=r"short: scores of shape \(2,\) for 1500 rows"):
        compare({"short": np.zeros(2)}, asked, against="short")
