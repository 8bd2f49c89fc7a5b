from __future__ import annotations

from dataclasses import replace

import pytest

from tastemaker.agents.dialogue.reasons import (
    Evidence,
    amount,
    demands,
    explanation,
    reasons,
    value_told,
)
from tastemaker.agents.dialogue.wish import Card, State
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.models.live import Influence, Past

TITLES = ["Heat (1995)", "Ronin <|im_end|> (1998)", "A " + "very " * 20 + "long title"]
CARD = Card(9, "9", "Dog Day (1975)", 0.83, {"genres": ["Crime", "Drama"], "year": 1975.0})
CRIME = Condition("genres", "any_of", ("Crime", "Comedy"))
NO_WAR = Condition("genres", "none_of", ("War",))
OLD = Condition("year", "at_most", (1980,))
LIKED = Influence("history", 0, "liked", 0.8)
EVIDENCE = Evidence(
    TITLES,
    influences=(
        Influence("history", 1, "disliked", -1.4),
        LIKED,
        Influence("history", 2, "liked", 0.4),
        Influence("knowledge", None, "item_text", 0.2),
        Influence("statistic", None, "item_mean", 0.1),
    ),
    past={0: Past(0, 5.0, True, 1), 1: Past(1, None, False, None)},
    texts={"item_text": "A heist goes wrong. More follows."},
)


def test_what_was_asked_for_comes_first_then_the_strongest_evidence() -> None:
    state = State(conditions=(CRIME, NO_WAR, OLD))
    assert reasons(CARD, state=state, evidence=EVIDENCE, count=9) == (
        "Crime from 1975, no War, as asked",
        "suggested by Heat (1995), which you rated 5",
        'about it: "A heist goes wrong"',
        "well liked by others",
    )


def test_a_demand_that_the_item_does_not_meet_is_no_reason() -> None:
    unmet = State(conditions=(Condition("genres", "any_of", ("Western",)),))
    found = reasons(CARD, state=unmet, evidence=Evidence(TITLES))
    assert found == ()
    text = explanation(CARD, state=unmet, evidence=Evidence(TITLES))
    assert "does not meet 'Western' (genres: Crime, Drama)" in text


@pytest.mark.parametrize("effect", [-0.5, 0.01])
def test_what_did_not_raise_the_score_is_no_reason(effect: float) -> None:
    weak = tuple(replace(one, effect=effect) for one in EVIDENCE.influences)
    assert reasons(CARD, state=State(), evidence=replace(EVIDENCE, influences=weak)) == ()


def test_resemblance_is_told_of_what_was_named() -> None:
    found = reasons(CARD, state=State(similar=(0,)), evidence=Evidence(TITLES, named=(0,)))
    assert found == ("similar to Heat (1995)",)


def test_phrases_are_short_and_plain_whatever_the_texts() -> None:
    long = Evidence(
        TITLES,
        influences=(replace(LIKED, item=2), Influence("knowledge", None, "user_text", 0.3)),
        texts={"user_text": "Likes " + "<|im_start|>`**so**` " * 30},
        named=(1,),
    )
    found = reasons(CARD, state=State(), evidence=long, count=9)
    assert len(found) == 3
    for phrase in found:
        assert len(phrase.replace(" …", "").split()) <= 12
        assert not set("<*`[") & set(phrase)


def test_a_text_that_may_not_be_shown_is_not_quoted() -> None:
    found = reasons(CARD, state=State(), evidence=replace(EVIDENCE, safe=lambda text: False))
    assert not any("heist" in phrase for phrase in found)


def test_an_explanation_tells_both_signs_and_the_text() -> None:
    state = State(conditions=(OLD,))
    assert explanation(CARD, state=state, evidence=EVIDENCE).splitlines() == [
        "**Dog Day (1975)**",
        "- It meets 'up to 1980' (year: 1975).",
        "- Raised by: Heat (1995), which you rated 5 (clearly); "
        f"{TITLES[2]}, which you liked (clearly); the text about it (a little).",
        "- Lowered by: Ronin ‹|imˍend|> (1998), which you did not like (a lot).",
        '- The model read about it: "A heist goes wrong"',
        "- Estimated chance that you like it: 83 %.",
    ]


def test_without_evidence_the_explanation_says_so() -> None:
    bare = replace(CARD, probability=None)
    text = explanation(bare, state=State(), evidence=Evidence(TITLES))
    assert text.endswith("No single piece of evidence stands out.")


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ([], ""),
        ([CRIME, NO_WAR, OLD], "Crime or Comedy, no War, up to 1980"),
        ([OLD, Condition("year", "at_least", (1970,))], "from 1970 to 1980"),
        ([Condition("year", "at_least", (2001,))], "from 2001 on"),
        ([Condition("year", "at_least", (7,)), Condition("year", "at_most", (7,))], "from 7"),
        ([Condition("price", "at_most", (12.5,))], "price at most 12.5"),
        ([Condition("run_time", "at_least", (90,))], "run time at least 90"),
    ],
)
def test_demands_in_words(conditions: list[Condition], told: str) -> None:
    assert demands(conditions) == told


def test_values_in_words() -> None:
    assert [value_told(one) for one in (None, "", 1994.0, 12.5, ["A", "B*"], "x")] == [
        *("", "", "1994", "12.5"),
        *("A, B∗", "x"),
    ]
    assert amount(0.1 + 0.2) == "0.3"
