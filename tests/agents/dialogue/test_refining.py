from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.agents.dialogue.refining import refined
from tastemaker.agents.dialogue.wish import State, Step, Wish
from tastemaker.models.catalogue.conditions import Condition, holds

ITEMS: list[dict[str, Any]] = [
    {"year": 1990 + n, "price": 2.5 * n, "genres": ["Comedy", "Drama"][: 1 + n % 2]}
    for n in range(10)
] + [{"year": None, "price": None, "genres": None}]
GENRES = ("Comedy", "Drama", "Horror", "War")


def values_of(items: Sequence[int]) -> list[Mapping[str, Any]]:
    return [ITEMS[item] for item in items]


def after(state: State, **wish: Any) -> State:
    return refined(state, Wish(**wish), values_of=values_of)


def any_of(*values: str) -> Condition:
    return Condition("genres", "any_of", values)


def none_of(*values: str) -> Condition:
    return Condition("genres", "none_of", values)


def at_least(year: float) -> Condition:
    return Condition("year", "at_least", (year,))


def at_most(year: float) -> Condition:
    return Condition("year", "at_most", (year,))


@pytest.mark.parametrize(
    ("before", "wish", "expected"),
    [
        ((any_of("Comedy"),), {"conditions": (any_of("Drama"),)}, {any_of("Drama")}),
        (
            (any_of("Comedy"),),
            {"conditions": (any_of("Drama"),), "additional": True},
            {any_of("Comedy"), any_of("Drama")},
        ),
        ((any_of("Comedy"),), {"conditions": (at_most(1994),)}, {any_of("Comedy"), at_most(1994)}),
        ((none_of("War"),), {"conditions": (none_of("Horror"),)}, {none_of("War", "Horror")}),
        ((none_of("War", "Horror"),), {"conditions": (any_of("War"),)},
         {none_of("Horror"), any_of("War")}),
        ((any_of("War", "Drama"),), {"conditions": (none_of("War"),)},
         {any_of("Drama"), none_of("War")}),
        ((any_of("War"),), {"conditions": (none_of("War"),)}, {none_of("War")}),
        ((at_least(1980),), {"conditions": (at_least(1990),)}, {at_least(1990)}),
        ((at_least(1990), at_most(1999)), {"conditions": (at_most(1994),)},
         {at_least(1990), at_most(1994)}),
        ((at_least(1990), at_most(1999)), {"conditions": (at_least(2001),)}, {at_least(2001)}),
        ((at_least(1990), at_most(1999)), {"conditions": (at_least(1980), at_most(1989))},
         {at_least(1980), at_most(1989)}),
        ((at_least(1990), any_of("War")), {"withdrawn": ("year",)}, {any_of("War")}),
        ((none_of("War", "Horror"),), {"lifted": (("genres", "War"),)}, {none_of("Horror")}),
        ((any_of("War"),), {"lifted": (("genres", "War"),)}, set()),
        ((any_of("War"),), {"withdrawn": ("genres",), "conditions": (none_of("War"),)},
         {none_of("War")}),
        ((), {"steps": (Step("year", "lower"),)}, {at_most(1991)}),
        ((at_least(1995),), {"steps": (Step("year", "lower"),)}, {at_most(1991)}),
        ((), {"steps": (Step("year", "higher"),)}, {at_least(1995)}),
    ],
)  # fmt: skip
def test_what_a_message_does_to_the_demands(
    before: tuple[Condition, ...], wish: dict[str, Any], expected: set[Condition]
) -> None:
    state = State(conditions=before, last=(2, 4, 10))
    assert set(after(state, **wish).conditions) == expected


def test_a_step_is_strict_for_numbers_with_fractions() -> None:
    cheaper = after(State(last=(3, 5)), steps=(Step("price", "lower"),)).conditions
    assert cheaper == (Condition("price", "at_most", (math.nextafter(7.5, 0),)),)
    assert not holds(cheaper, {"price": 7.5})


def test_a_step_against_nothing_says_nothing() -> None:
    assert after(State(), steps=(Step("year", "lower"),)).conditions == ()
    assert after(State(last=(10,)), steps=(Step("year", "lower"),)).conditions == ()


def test_judgements_gather_and_the_newer_one_counts() -> None:
    state = after(State(likes=(1, 2), dislikes=(3,)), act="like", likes=(3, 1))
    assert (state.likes, state.dislikes) == ((2, 3, 1), ())
    state = after(replace(state, similar=(1, 4)), act="dislike", dislikes=(1,))
    assert (state.likes, state.dislikes, state.similar) == ((2, 3), (1,), (4,))


def test_shown_is_kept_until_the_demands_change() -> None:
    state = State(conditions=(any_of("Comedy"),), shown=(1, 2), last=(2,))
    assert after(state, act="more").shown == (1, 2)
    assert after(state, conditions=(any_of("Comedy"),)).shown == (1, 2)
    assert after(state, act="like", likes=(1,)).shown == (1, 2)
    assert after(state, conditions=(any_of("Drama"),)).shown == ()
    assert after(state, topic="chess").shown == ()


def test_a_new_kind_ends_the_old_topic_and_a_bound_does_not() -> None:
    state = State(topic="chess", conditions=(any_of("Comedy"),))
    assert after(state, conditions=(at_most(1990),)).topic == "chess"
    assert after(state, conditions=(any_of("Drama"),)).topic == ""
    assert after(state, conditions=(any_of("Drama"),), topic="war").topic == "war"


def test_reset_keeps_only_the_user() -> None:
    state = State(user=7, conditions=(any_of("Comedy"),), likes=(1,), shown=(2,), count=3)
    assert after(state, act="reset") == State(user=7)


VALUES = st.lists(st.sampled_from(GENRES), min_size=1, max_size=3, unique=True).map(tuple)
YEARS = st.integers(1985, 2005).map(float)
CONDITIONS = st.one_of(
    VALUES.map(lambda values: any_of(*values)),
    VALUES.map(lambda values: none_of(*values)),
    YEARS.map(at_least),
    YEARS.map(at_most),
)
NUMBERS = st.lists(st.integers(0, 10), max_size=3, unique=True).map(tuple)


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    """Wishes as reading makes them: no value both wanted and refused, bounds that can be met."""
    found = draw(st.lists(CONDITIONS, max_size=3))
    wanted = {value for one in found if one.operator == "any_of" for value in one.values}
    kept = [one for one in found if one.operator != "none_of" or not wanted & set(one.values)]
    bounds = [one for one in kept if one.operator in ("at_least", "at_most")]
    return Wish(
        conditions=tuple(one for one in kept if one not in bounds) + tuple(bounds[:1]),
        withdrawn=draw(st.sampled_from([(), (), ("genres",), ("year",)])),
        additional=draw(st.booleans()),
        likes=draw(NUMBERS),
        dislikes=draw(NUMBERS),
        similar=draw(NUMBERS),
        steps=draw(st.sampled_from([(), (), (Step("year", "lower"),), (Step("price", "higher"),)])),
        topic=draw(st.sampled_from(["", "chess"])),
        act=draw(st.sampled_from(["recommend", "more", "like"])),
    )


@given(st.lists(wishes(), min_size=1, max_size=5), NUMBERS)
def test_whatever_is_said_the_last_message_holds(said: list[Wish], last: tuple[int, ...]) -> None:
    state = State(last=last)
    for wish in said:
        state = refined(state, wish, values_of=values_of)
    final = said[-1]
    for stated in final.conditions:
        if stated.operator == "any_of":
            assert stated in state.conditions
        elif stated.operator == "none_of":
            refused = [one for one in state.conditions if one.operator == "none_of"]
            assert any(set(stated.values) <= set(one.values) for one in refused)
        elif not final.steps:
            assert stated in state.conditions
    assert len(set(state.conditions)) == len(state.conditions)
    for column in ("genres", "year", "price"):
        own = [one for one in state.conditions if one.column == column]
        wanted = {v for one in own if one.operator == "any_of" for v in one.values}
        refused = {v for one in own if one.operator == "none_of" for v in one.values}
        assert not wanted & refused
        low = [one.values[0] for one in own if one.operator == "at_least"]
        high = [one.values[0] for one in own if one.operator == "at_most"]
        assert len(low) <= 1
        assert len(high) <= 1
        assert not (low and high) or low[0] <= high[0]
    assert not set(state.likes) & set(state.dislikes)
    assert not set(state.similar) & set(state.dislikes)
    assert set(final.dislikes) <= set(state.dislikes)


@given(wishes(), NUMBERS)
def test_saying_the_same_twice_changes_nothing(wish: Wish, last: tuple[int, ...]) -> None:
    once = refined(State(last=last), wish, values_of=values_of)
    twice = refined(once, wish, values_of=values_of)
    assert replace(twice, conditions=()) == replace(once, conditions=())
    assert set(twice.conditions) == set(once.conditions)


@given(
    NUMBERS.filter(bool), st.sampled_from(["lower", "higher"]), st.sampled_from(["year", "price"])
)
def test_what_a_step_allows_is_beyond_all_that_was_shown(
    last: tuple[int, ...], direction: Any, column: str
) -> None:
    state = after(State(last=last), steps=(Step(column, direction),))
    known = [ITEMS[item][column] for item in last if ITEMS[item][column] is not None]
    for item in ITEMS:
        allowed = item[column] is not None and all(
            item[column] < one if direction == "lower" else item[column] > one for one in known
        )
        assert holds(state.conditions, item) == (allowed or not known)
