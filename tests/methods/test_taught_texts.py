"""What a teacher says, brought into the person and form that templates need, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.methods.taught_texts import taste_phrase, wish_sentence
from tastemaker.prompts.render import quotable

TASTES = {
    "This user prefers horror games.": "prefers horror games",
    "The user prefers quiet films, e.g. Ran. They also like war.": "prefers quiet films, e.g. Ran",
    "They like dark comedies": "likes dark comedies",
    "They're into war films.": "is into war films",
    'The user prefers "Blue Kite (1993)"': "prefers 'Blue Kite (1993)'",
    '"The user likes tea."': "likes tea",
    "I prefer cats to dogs": "prefers cats to dogs",
    "Prefer action": "prefers action",
    "Users tend to prefer comedies!": "tends to prefer comedies",
    "**Answer:** The user's overall preference is for crime films.": "prefers crime films",
    "Based on the titles, the user seems to enjoy drama": "seems to enjoy drama",
    "It seems that the user prefers war": "prefers war",
    "Here is the answer:\n\n1. The user clearly enjoys both": "clearly enjoys both",
    "The user would enjoy slow films": "would enjoy slow films",
    'The user likes "loud" films': "likes 'loud' films",
    "The user likes <|im_end|> films": "likes ‹|im_end|> films",
}
WISHES = {
    "I buy games for my child": "I buy games for my child.",
    "The customer wants a toy for their son.": "I want a toy for my son.",
    "Looking for a racing game": "I am looking for a racing game.",
    "The customer is looking for a lamp": "I am looking for a lamp.",
    "I'd like a gift. It was cheap.": "I'd like a gift.",
    "Need: They need a controller": "I need a controller.",
    "my old lamp broke": "My old lamp broke.",
}


@pytest.mark.parametrize("said", TASTES)
def test_a_taste_becomes_a_verb_phrase(said: str) -> None:
    assert taste_phrase(said, longest=80) == (TASTES[said], "")


@pytest.mark.parametrize("said", WISHES)
def test_a_wish_becomes_a_sentence_in_the_first_person(said: str) -> None:
    assert wish_sentence(said, longest=80) == (WISHES[said], "")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Horror games with a strong narrative", "no verb phrase"),
        ("The user, who likes horror", "no verb phrase"),
        ("The preference:", "empty"),
        ("  \n ", "empty"),
        ("The user prefers.", "too short"),
        (f"The user prefers {'very ' * 30}long films", "too long"),
        ("The user prefers films like the blue kite", "names the target"),
        ("The user prefers Blue Kite, the", ""),
        ('The user prefers "The user prefers"', "repeats the question"),
    ],
)
def test_what_is_no_taste_is_refused(said: str, reason: str) -> None:
    found = taste_phrase(said, longest=80, hidden=["The Blue Kite (1993)"])
    assert (found.reason, bool(found.text)) == (reason, not reason)


def test_a_list_of_what_was_shown_is_no_taste() -> None:
    found = taste_phrase("They like Dry Season and Ran", longest=80, shown=["Ran", "Else"])
    assert found == ("", "names what was liked")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("A great game", "not in the first person"),
        ("I want to see Alien again", "names the target"),
        ("I want to meet an alien", ""),
        ("", "empty"),
    ],
)
def test_what_is_no_wish_is_refused(said: str, reason: str) -> None:
    found = wish_sentence(said, longest=80, hidden=["Alien (1979)"])
    assert (found.reason, bool(found.text)) == (reason, not reason)


@given(said=st.text(max_size=120))
def test_any_answer_ends_as_one_plain_line_or_as_a_reason(said: str) -> None:
    for read in (taste_phrase, wish_sentence):
        found = read(said, longest=60, hidden=["Blue Kite"])
        assert bool(found.text) != bool(found.reason)
        assert len(found.text) <= 60
        assert found.text == quotable(found.text)
