from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tastemaker.agents.dialogue.desk import Desk
from tastemaker.agents.dialogue.planning import Planner
from tastemaker.agents.dialogue.wish import State
from tastemaker.models.catalogue.conditions import Condition, holds
from tastemaker.models.live import PopularItems
from tastemaker.testing.world import shop_split

SLOW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = {
    "categories": ("Novel", "Strategy", "Crime", "Family", "Travel"),
    "brand": ("Dune", "Oak", "Kite Press"),
    "city": ("Lyon", "Oslo", "Zürich"),
    "tags": ("hard", "calm"),
}
CHOICES = st.one_of(
    st.sampled_from(sorted(VALUES)).flatmap(
        lambda column: st.builds(
            Condition,
            st.just(column),
            st.sampled_from(["any_of", "none_of"]),
            st.lists(st.sampled_from(VALUES[column]), min_size=1, max_size=2).map(tuple),
        )
    ),
    st.builds(
        Condition,
        st.just("price"),
        st.sampled_from(["at_least", "at_most"]),
        st.floats(4, 50).map(lambda bound: (bound,)),
    ),
)
ITEMS = st.lists(st.integers(0, 29), max_size=6).map(lambda found: tuple(dict.fromkeys(found)))


def fitting(desk: Desk, conditions: Any) -> set[int]:
    items = desk.catalogue.items(range(len(desk.catalogue)))
    return {one.item for one in items if holds(conditions, one.values)}


@SLOW
@given(
    conditions=st.lists(CHOICES, max_size=3).map(tuple),
    user=st.sampled_from([None, 0, 5]),
    likes=ITEMS,
    shown=ITEMS,
    similar=ITEMS,
    topic=st.sampled_from(["", "a slow walk", "city of games"]),
    order=st.sampled_from([None, ("price", True)]),
)
def test_only_fitting_items_that_are_new_are_offered(shop_desk: Desk, **parts: Any) -> None:
    dislikes = tuple(item for item in parts["shown"][:1] if item not in parts["likes"])
    state = State(**parts, dislikes=dislikes, count=7)
    plan = shop_desk.planner.plan(state)
    allowed = fitting(shop_desk, state.conditions)
    met = set(shop_desk.recommender.met(shop_desk.visitor(state)).tolist())
    known = met | {*state.similar, *state.likes, *state.dislikes}
    fresh = allowed - known - set(state.shown)
    assert len(plan.items) == len(set(plan.items)) == min(7, len(fresh))
    assert set(plan.items) <= fresh
    assert (plan.allowed, plan.met) == (len(allowed), len(allowed & met))
    assert plan.shown == len((allowed - known) & set(state.shown))
    assert len(plan.probabilities) == len(plan.items)
    assert all(0 < chance < 1 for chance in plan.probabilities)


@SLOW
@given(conditions=st.lists(CHOICES, min_size=2, max_size=4, unique=True).map(tuple))
def test_relaxations_count_what_would_remain(
    shop_desk: Desk, conditions: tuple[Condition, ...]
) -> None:
    plan = shop_desk.planner.plan(State(conditions=conditions))
    expected = {}
    if not fitting(shop_desk, conditions):
        for one in conditions:
            found = len(fitting(shop_desk, [other for other in conditions if other != one]))
            expected |= {one: found} if found else {}
    assert {one.condition: one.items for one in plan.relaxations} == expected
    counts = [one.items for one in plan.relaxations]
    assert counts == sorted(counts, reverse=True)


def test_an_impossible_demand_says_which_one_to_drop(shop_desk: Desk) -> None:
    novel = Condition("categories", "any_of", ("Novel",))
    dear = Condition("price", "at_least", (40.0,))
    plan = shop_desk.planner.plan(State(conditions=(novel, dear)))
    assert (plan.items, plan.allowed) == ((), 0)
    assert [(one.condition, one.items) for one in plan.relaxations] == [(dear, 5), (novel, 1)]


def test_probabilities_are_those_of_the_recommender_best_first(shop_desk: Desk) -> None:
    plan = shop_desk.planner.plan(State(count=30))
    assert sorted(plan.items) == list(range(30))
    scores = shop_desk.recommender.score(shop_desk.visitor(State()), np.array(plan.items))
    assert list(plan.probabilities) == sorted(plan.probabilities, reverse=True)
    assert plan.probabilities == pytest.approx(1 / (1 + np.exp(-scores.astype(np.float64))))
    ranked = shop_desk.planner.ranked(plan.items[::-1], shop_desk.visitor(State()))
    assert [chance for _, chance in ranked] == pytest.approx(plan.probabilities)


def test_a_topic_brings_what_is_about_it_forward(shop_desk: Desk) -> None:
    usual = shop_desk.planner.plan(State(count=30)).items
    asked = shop_desk.planner.plan(State(count=30, topic="recipes without a scale")).items
    recipes = shop_desk.catalogue.titles.index("Jam and Honey")
    assert asked.index(recipes) < 10 < usual.index(recipes)


def test_resemblance_changes_the_order_and_leaves_the_example_out(shop_desk: Desk) -> None:
    books = shop_desk.planner.plan(State(count=5, similar=(0, 5)))
    games = shop_desk.planner.plan(State(count=5, similar=(15, 19)))
    assert not {0, 5} & set(books.items)
    assert sum(item < 15 for item in books.items) > sum(item < 15 for item in games.items)


def test_what_search_did_not_find_stands_behind_what_it_found(
    shop_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = shop_desk.planner.plan(State(count=30)).items[-1]
    hit = shop_desk.catalogue.lookup(shop_desk.catalogue.titles[worst], count=1)
    monkeypatch.setattr(shop_desk.catalogue, "search", lambda *_, **__: hit)
    plan = shop_desk.planner.plan(State(count=5, topic="anything"))
    assert plan.items[0] == hit[0].item
    assert list(plan.probabilities[1:]) == sorted(plan.probabilities[1:], reverse=True)
    assert len(plan.items) == 5


@pytest.mark.parametrize("descending", [True, False])
def test_order_by_a_column_with_missing_values_last(shop_desk: Desk, descending: bool) -> None:
    plan = shop_desk.planner.plan(State(count=30, order=("price", descending)))
    prices = [one.values["price"] for one in shop_desk.catalogue.items(plan.items)]
    known = [price for price in prices if price is not None]
    assert known == sorted(known, reverse=descending)
    assert 0 < len(known) < len(prices) == 30
    assert prices[: len(known)] == known


def test_items_that_training_has_not_seen_come_last(shop_desk: Desk) -> None:
    recommender = PopularItems(shop_split())
    best = shop_desk.planner.plan(State(count=3)).items
    recommender.known = recommender.known.copy()
    recommender.known[list(best)] = False
    plan = Planner(shop_desk.catalogue, recommender).plan(State(count=30))
    assert plan.items[-3:] == best
    demand = Condition(
        "categories", "any_of", shop_desk.catalogue.item(best[0]).values["categories"]
    )
    only = Planner(shop_desk.catalogue, recommender).plan(
        State(count=30, conditions=(replace(demand, values=tuple(demand.values)),))
    )
    assert best[0] in only.items


def test_everything_shown_leaves_nothing_and_says_so(shop_desk: Desk) -> None:
    state = State(user=0, conditions=(Condition("brand", "any_of", ("Oak",)),))
    allowed = fitting(shop_desk, state.conditions)
    met = allowed & set(shop_desk.recommender.met(shop_desk.visitor(state)).tolist())
    seen: tuple[int, ...] = ()
    while plan := shop_desk.planner.plan(replace(state, count=2, shown=seen)):
        if not plan.items:
            break
        seen += plan.items
    assert set(seen) == allowed - met
    assert len(seen) == len(set(seen))
    assert (plan.allowed, plan.met, plan.shown) == (len(allowed), len(met), len(seen))
    assert plan.relaxations == ()
    told = shop_desk.nothing(plan)
    assert str(len(allowed)) in told


def test_no_answer_is_longer_than_allowed(shop_desk: Desk) -> None:
    planner = Planner(shop_desk.catalogue, shop_desk.recommender, count=4, most=6)
    assert len(planner.plan(State()).items) == 4
    plan = planner.plan(State(count=1000))
    assert (len(plan.items), plan.wanted) == (6, 6)
