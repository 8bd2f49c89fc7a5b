"""Ratings read from texts, and errors that count every question."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from tastemaker.eval.ratings import parse_ratings, rating_draws, rating_errors
from tastemaker.eval.resample import user_weights


@pytest.mark.parametrize(
    ("text", "value", "rest"),
    [
        ("4", 4.0, ""),
        ("4.0", 4.0, ""),
        ("5.0", 5.0, ""),
        ("1", 1.0, ""),
        (" 3.5.", 3.5, "."),
        ("-4", 4.0, ""),
        ("\u22124", 4.0, ""),
        (".5", 1.0, ""),
        ("4.2 , great smell", 4.2, "great smell"),
        ("4 stars", 4.0, "stars"),
        ("Rating: 3.5 of 5", 3.5, "of 5"),
        ("user_12 gives item-7 a 2", 2.0, ""),
        ("7", 5.0, ""),
        ("0", 1.0, ""),
        ("9" * 400, 5.0, ""),
    ],
)
def test_the_first_number_is_the_rating(text: str, value: float, rest: str) -> None:
    found = parse_ratings([text], lowest=1, highest=5)
    assert (found.values.tolist(), found.rests) == ([value], (rest,))


@pytest.mark.parametrize("text", ["", "yes", "I love it", "item_4", "v1.5x", "nan", "inf", "-"])
def test_a_text_without_a_number_has_no_rating(text: str) -> None:
    found = parse_ratings([text], lowest=1, highest=5)
    assert np.isnan(found.values).all()
    assert not found.outside.any()
    assert found.rests == (text,)


def test_numbers_beyond_the_scale_are_moved_to_its_end_and_counted() -> None:
    found = parse_ratings(["0.5", "5.5", "5.0", "5", "x"], lowest=1, highest=5)
    assert found.values[:4].tolist() == [1.0, 5.0, 5.0, 5.0]
    assert found.outside.tolist() == [True, True, False, False, False]
    negative = parse_ratings(["-4", "-12"], lowest=-10, highest=10)
    assert negative.values.tolist() == [-4.0, -10.0]
    assert negative.outside.tolist() == [False, True]


@settings(max_examples=30)
@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_text_is_answered_on_the_scale_or_not_at_all(texts: list[str]) -> None:
    found = parse_ratings(texts, lowest=1, highest=5)
    assert len(found) == len(texts) == len(found.rests)
    known = found.values[~np.isnan(found.values)]
    assert ((known >= 1) & (known <= 5)).all()


@given(st.floats(1, 5))
def test_a_written_number_is_read_again(value: float) -> None:
    found = parse_ratings([f"{value:.1f}", f"{value:.3f} , fine"], lowest=1, highest=5)
    assert found.values == pytest.approx([round(value, 1), round(value, 3)])
    assert found.rests == ("", "fine")


ratings = st.lists(
    st.tuples(st.floats(1, 5), st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0])), min_size=1, max_size=30
)


@given(ratings)
def test_errors_are_scikit_learns(pairs: list[tuple[float, float]]) -> None:
    predicted, actual = (np.array(column) for column in zip(*pairs, strict=True))
    found = rating_errors(predicted, actual, fallback=3.0)
    assert found.rmse == pytest.approx(root_mean_squared_error(actual, predicted), abs=1e-12)
    assert found.mae == pytest.approx(mean_absolute_error(actual, predicted), abs=1e-12)
    assert (found.n, found.unparsable, found.out_of_range) == (len(pairs), 0, 0)


def test_no_prediction_is_dropped() -> None:
    texts, actual = ["5.0", "4.9", "no idea", "9", "1"], [1.0, 5.0, 4.0, 5.0, 1.0]
    found = rating_errors(parse_ratings(texts, lowest=1, highest=5), actual, fallback=3.0)
    # P5 would leave out "5.0", the text and the 9: RMSE .07.
    assert found.rmse == pytest.approx(math.sqrt((16 + 0.01 + 1 + 0 + 0) / 5))
    assert found.mae == pytest.approx((4 + 0.1 + 1) / 5)
    assert (found.n, found.unparsable, found.out_of_range) == (5, 1, 1)
    other = rating_errors(parse_ratings(texts, lowest=1, highest=5), actual, fallback=4.0)
    assert other.mae == pytest.approx((4 + 0.1) / 5)


def test_draws_are_the_errors_of_copied_questions() -> None:
    random = np.random.default_rng(0)
    predicted, actual = random.uniform(1, 5, 20), random.integers(1, 6, 20)
    predicted[3] = np.nan
    users = random.integers(0, 4, 20) * 10
    found = rating_draws(predicted, actual, users, fallback=2.5, count=30, seed=4)
    members = np.unique(users)
    weights = user_weights(len(members), 30, generator=np.random.default_rng(4)).astype(int)
    for draw, column in enumerate(weights.T):
        copied = np.repeat(np.arange(20), column[np.searchsorted(members, users)])
        wanted = rating_errors(predicted[copied], actual[copied], fallback=2.5)
        assert (found["rmse"][draw], found["mae"][draw]) == pytest.approx((wanted.rmse, wanted.mae))


def test_what_has_no_error_is_refused() -> None:
    with pytest.raises(ValueError, match="from 5 to 1"):
        parse_ratings(["4"], lowest=5, highest=1)
    with pytest.raises(ValueError, match=r"predicted ratings \(1,\), true ones \(2,\)"):
        rating_errors([4.0], [4.0, 5.0], fallback=3.0)
    with pytest.raises(ValueError, match="NaN"):
        rating_errors([4.0], [np.nan], fallback=3.0)
    empty = rating_errors([], [], fallback=3.0)
    assert empty.n == 0
    assert np.isnan([empty.rmse, empty.mae]).all()
