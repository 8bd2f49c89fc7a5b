from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, ndcg_score, roc_auc_score, root_mean_squared_error

from tastemaker.eval.answers import (
    Draws,
    Measure,
    Result,
    mean_measure,
    measures_of_labels,
    measures_of_ranks,
    measures_of_ratings,
    measures_of_texts,
)
from tastemaker.eval.ratings import parse_ratings
from tastemaker.eval.texts import text_scores

DRAWS = Draws(200)
RANDOM = np.random.default_rng(3)


def test_ranks_give_hit_rates_and_gains_worked_out_by_hand() -> None:
    ranks = np.array([1.0, 3.0, 7.0, math.inf])
    found = measures_of_ranks(ranks, [1, 2, 3, 4], cuts=[1, 5, 10], draws=DRAWS)
    assert list(found) == ["HR@1", "HR@5", "NDCG@5", "HR@10", "NDCG@10"]
    assert [found[f"HR@{k}"].value for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert found["NDCG@5"].value == pytest.approx((1 + 1 / 2) / 4)
    assert found["NDCG@10"].value == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)


def test_gains_equal_scikit_learns() -> None:
    scores = RANDOM.normal(size=(50, 12))
    truth = np.eye(12)[RANDOM.integers(0, 12, 50)]
    own = (scores * truth).sum(axis=1, keepdims=True)
    ranks = 1.0 + (scores > own).sum(axis=1)
    found = measures_of_ranks(ranks, np.arange(50), cuts=[3, 10], draws=DRAWS)
    for k in (3, 10):
        assert found[f"NDCG@{k}"].value == pytest.approx(ndcg_score(truth, scores, k=k))


def test_nothing_found_is_zero_and_not_left_out() -> None:
    found = measures_of_ranks(np.full(5, math.inf), np.arange(5), cuts=[1, 10], draws=DRAWS)
    assert set(found.values()) == {Measure(0.0, 0.0, 0.0)}


def test_intervals_hold_the_value_and_shrink_with_users() -> None:
    widths = []
    for users in (20, 500):
        values = np.random.default_rng(users).random(users * 4)
        found = mean_measure(values, np.repeat(np.arange(users), 4), draws=DRAWS)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 3


def test_users_are_resampled_and_not_questions() -> None:
    values = np.repeat(RANDOM.random(20), 50)
    of_users = mean_measure(values, np.repeat(np.arange(20), 50), draws=DRAWS)
    of_questions = mean_measure(values, np.arange(1000), draws=DRAWS)
    assert of_users.high - of_users.low > 3 * (of_questions.high - of_questions.low)


def test_confidence_widens_and_the_seed_repeats_an_interval() -> None:
    values, users = RANDOM.random(60), np.arange(60)
    wide, narrow = (mean_measure(values, users, draws=Draws(300, c)) for c in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide == mean_measure(values, users, draws=Draws(300, 0.99))
    assert wide != mean_measure(values, users, draws=Draws(300, 0.99, seed=1))


def test_ratings_give_errors_of_every_question() -> None:
    texts = ["4.0", "5.0", "no idea", "9"]
    actual = np.array([5.0, 5.0, 1.0, 4.0])
    parsed = parse_ratings(texts, lowest=1, highest=5)
    found, counts = measures_of_ratings(parsed, actual, [1, 2, 3, 4], fallback=3.0, draws=DRAWS)
    predicted = [4.0, 5.0, 3.0, 5.0]
    assert found["RMSE"].value == pytest.approx(root_mean_squared_error(actual, predicted))
    assert found["MAE"].value == pytest.approx(mean_absolute_error(actual, predicted))
    assert found["RMSE"].low <= found["RMSE"].value <= found["RMSE"].high
    assert counts == {"unparsable": 1, "out of range": 1}


def test_labels_give_accuracy_and_area() -> None:
    labels = RANDOM.integers(0, 2, 80).astype(np.int8)
    scores = RANDOM.normal(size=80) + labels
    found = measures_of_labels(scores, labels, np.arange(80) // 2, draws=DRAWS)
    assert found["AUC"].value == pytest.approx(roc_auc_score(labels, scores))
    assert found["accuracy"].value == pytest.approx(((scores > 0) == labels).mean())
    assert all(one.low < one.value < one.high for one in found.values())


def test_one_kind_of_label_has_no_area() -> None:
    likes = np.ones(4, dtype=np.int8)
    found = measures_of_labels(np.array([1.0, -1.0, 2.0, 3.0]), likes, [1, 2, 3, 4], draws=DRAWS)
    assert list(found) == ["accuracy"]
    assert found["accuracy"].value == 0.75


def test_texts_that_are_equal_have_full_marks() -> None:
    texts = ["a quiet film about the sea", "loud and long but very funny"]
    found = measures_of_texts(text_scores(texts, texts), [1, 2], draws=DRAWS)
    assert list(found) == ["bleu_4", "rouge_1", "rouge_2", "rouge_l"]
    assert [one.value for one in found.values()] == pytest.approx([100.0] * 4)


def test_a_result_survives_json_with_figures_that_are_unknown() -> None:
    result = Result(
        task="rating",
        template="p5/1-1",
        role="fixed",
        model="Item mean",
        protocol="the likeliest number",
        rows=3,
        users=2,
        metrics={"RMSE": Measure(1.0, 0.5, 1.5)},
        counts={"unparsable": 1},
        oracle=True,
        rule=True,
    )
    kept = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert Result.from_dict(kept) == result
    unknown = Result.from_dict({**kept, "metrics": {"AUC": vars(Measure(0.5, math.nan, math.nan))}})
    again = Result.from_dict(json.loads(json.dumps(unknown.to_dict(), allow_nan=False)))
    assert math.isnan(again.metrics["AUC"].low)
    assert again.metrics["AUC"].value == 0.5


def test_results_kept_without_the_newest_field_are_read() -> None:
    result = Result("direct", "p5/5-1", "fixed", "T5", "yes or no", 1, 1, {})
    kept = result.to_dict()
    del kept["rule"]
    assert Result.from_dict(kept) == result
