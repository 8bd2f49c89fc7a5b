"""Explanations and features out of reviews."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.data.explanations import explanations, with_explanations
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError

Pair = tuple[str | None, str | None]


def of(*reviews: str | None, seed: int = 0) -> list[Pair]:
    found = explanations(pl.Series(reviews, dtype=pl.String), seed=seed)
    assert found.schema == {"explanation": pl.String, "feature": pl.String}
    return found.rows()


@pytest.mark.parametrize(
    ("sentence", "feature"),
    [
        ("The strings are very cheap.", "strings"),
        ("What a great smell!", "smell"),
        ("smell is wonderful", "smell"),
        ("The handle is not very sturdy, though.", "handle"),
        ("These are soft and warm gloves", "gloves"),
        ("It has nice big buttons", "buttons"),
        ("I love the high-quality sound", "sound"),
        ("The SCREEN looks Amazing", "screen"),
        ("This is of poor quality", "quality"),
    ],
)
def test_a_noun_beside_an_opinion_is_the_feature(sentence: str, feature: str) -> None:
    assert of(sentence) == [(sentence, feature)]


@pytest.mark.parametrize(
    "review",
    [
        None,
        "",
        "   ",
        "Great smell!",  # two words
        "It is great.",
        "They are very nice and they work",
        "It works great for him",
        "I bought the blue bottle yesterday.",
        "We got a great 20 of it",
        "It is easy to be happy, really good",
        "It is really good usually",
        " ".join(["word"] * 38 + ["great", "smell", "here"]),  # 41 words
    ],
)
def test_without_a_pair_there_is_nothing(review: str | None) -> None:
    assert of(review) == [(None, None)]


def test_sentences_end_at_marks_lines_and_tags() -> None:
    whole = ("The strings are very cheap", "strings")
    for end in (". ", "!\n", "<br />", '." ', "\r\n"):
        review = f"I bought it in May{end}The strings are very cheap{end}They broke"
        ((sentence, feature),) = of(review)
        assert (str(sentence).rstrip('."!'), feature) == whole
    assert of("I &#34;love&#34; the nice &amp; soft smell, such a great smell") == [
        ('I "love" the nice & soft smell, such a great smell', "smell")
    ]
    token = "The lid <|im_end|> has a nice shape"
    assert of(token) == [(token, "shape")]  # what prompts make harmless is left as it is


def test_one_sentence_is_drawn_by_the_review_and_the_seed_alone() -> None:
    reviews = [f"The smell is great, {n}. The colour is awful, {n}." for n in range(200)]
    found = of(*reviews)
    smells = sum(feature == "smell" for _, feature in found)
    assert 60 < smells < 140
    assert of(*reviews[::-1]) == found[::-1]
    assert of(*reviews[7:9]) == found[7:9]
    assert of(*reviews, seed=1) != found
    assert of(*reviews) == found


@given(st.lists(st.none() | st.text(max_size=60), max_size=5), st.integers(0, 3))
def test_any_text_is_answered(reviews: list[str | None], seed: int) -> None:
    found = of(*reviews, seed=seed)
    assert len(found) == len(reviews)
    for explanation, feature in found:
        assert (explanation is None) == (feature is None)
        if explanation is not None and feature is not None:
            assert feature in explanation.lower()
            assert len(feature) >= 3
            assert 3 <= len(explanation.split(" ")) <= 40


def tables(column: str = "text") -> Tables:
    events = pl.DataFrame(
        {
            "user_id": ["a", "a", "a", "b"],
            "item_id": ["x", "y", "z", "x"],
            "timestamp": [1, 2, 3, 4],
            "rating": [5, 1, 4, 5],
            column: ["The lid is great.", "The cap was very weak.", None, "ok"],
        }
    )
    schema = Schema(
        user="user_id",
        item="item_id",
        time="timestamp",
        rating="rating",
        label=LabelRule("rating", ">", 3.0),
        title=None,
        text=(column,),
        time_unit="s",
    )
    return build_tables(events, schema=schema)


def test_tables_get_two_columns_of_the_event_that_are_saved(tmp_path: Path) -> None:
    found = with_explanations(tables(), "text", seed=0)
    assert found.interactions["feature"].to_list() == ["lid", "cap", None, None]
    assert found.interactions["explanation"][1] == "The cap was very weak."
    assert found.schema.text == ("text", "explanation", "feature")
    assert "feature" not in found.items.columns
    found.save(tmp_path)
    assert Tables.load(tmp_path).interactions.equals(found.interactions)


def test_wrong_columns_are_named() -> None:
    with pytest.raises(DataError, match="no texts 'txt'; did you mean 'text'") as raised:
        with_explanations(tables(), "txt", seed=0)
    assert raised.value.allowed == "columns of text: text"
    with pytest.raises(DataError, match="no texts 'rating'"):
        with_explanations(tables(), "rating", seed=0)
    with pytest.raises(DataError, match="a column 'explanation' already"):
        with_explanations(tables("explanation"), "explanation", seed=0)
