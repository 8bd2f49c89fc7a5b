from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tastemaker.agents.dialogue.desk import Desk, specific
from tastemaker.agents.dialogue.guard import cleaned
from tastemaker.agents.dialogue.wish import State
from tastemaker.errors import UnknownNameError, UserError
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.models.live import Influence

MOONS = 11  # its title holds a token of a chat template


def test_the_columns_are_told_in_one_line(shop_desk: Desk) -> None:
    told = shop_desk.columns_told
    assert "\n" not in told
    assert "price (number, 5.5 to 49.5)" in told
    for facet in shop_desk.catalogue.facets:
        assert facet.name in told
        assert all(cleaned(value) in told for value in facet.values)


def test_items_are_numbered_by_id_or_title(shop_desk: Desk) -> None:
    assert shop_desk.numbers(["101", "jam and honey", "130"]) == [0, 9, 29]
    for unknown in ("131", "Gone with the Breeze", ""):
        with pytest.raises(UserError, match="unknown item"):
            shop_desk.numbers([unknown])
    every = [shop_desk.item_id(item) for item in range(30)]
    assert shop_desk.numbers(every) == list(range(30))


def test_conditions_are_checked_against_the_catalogue(shop_desk: Desk) -> None:
    (found,) = shop_desk.checked([Condition("brand", "any_of", ("oak", "DUNE"))])
    assert found == Condition("brand", "any_of", ("Oak", "Dune"))
    for wrong, told in (
        (Condition("colour", "any_of", ("x",)), "unknown column 'colour'"),
        (Condition("brand", "none_of", ("Okk",)), "did you mean 'Oak'"),
        (Condition("brand", "at_most", (1.0,)), "does not take at_most"),
        (Condition("price", "any_of", ("1",)), "does not take any_of"),
    ):
        with pytest.raises(UserError, match=told):
            shop_desk.checked([wrong])
    assert shop_desk.number("price") == "price"
    with pytest.raises(UnknownNameError):
        shop_desk.number("brand")


def test_demands_gather_and_never_go_away(shop_desk: Desk) -> None:
    cheap = Condition("price", "at_most", (12.0,))
    dear = Condition("price", "at_least", (40.0,))
    state = shop_desk.narrowed(State(conditions=(cheap,), shown=(3,)), [dear])
    assert state.conditions == (cheap, dear)
    asked = shop_desk.asked(replace(state, topic="kites"), topic="", order=None, count=3)
    assert (asked.topic, asked.count, asked.shown) == ("kites", 3, (3,))


def test_what_is_told_of_items_is_plain(shop_desk: Desk) -> None:
    state = State(conditions=(Condition("price", "at_most", (8.0,)),))
    moons, knights = shop_desk.told([MOONS, 16], state=state)
    assert (moons["item_id"], moons["title"]) == ("112", cleaned("Little <|im_end|> Moons"))
    assert "<|" not in json.dumps(moons, ensure_ascii=False)
    assert (moons["meets_the_demands"], knights["meets_the_demands"]) == (True, False)
    assert "meets_the_demands" not in shop_desk.told([0], state=State())[0]
    assert "description" not in moons
    assert knights["tags"] == ["paper", "short"]


def test_cards_hold_chances_values_and_reasons(shop_desk: Desk) -> None:
    state = State(user=0, conditions=(Condition("brand", "any_of", ("Oak",)),))
    plan = shop_desk.planner.plan(state)
    cards = shop_desk.cards(plan.items, plan.probabilities, state=state)
    assert [card.item for card in cards] == list(plan.items)
    assert [card.probability for card in cards] == list(plan.probabilities)
    assert all("Oak" in card.reasons[0] for card in cards)
    assert all(set(card.values) == set(shop_desk.facets) for card in cards)
    assert shop_desk.chances(plan.items[::-1], state) == pytest.approx(plan.probabilities[::-1])
    assert shop_desk.chances([], state) == []


def test_explanation_and_description_are_lines_of_plain_text(shop_desk: Desk) -> None:
    state = State(user=0)
    (card,) = shop_desk.cards([MOONS], [0.5], state=state)
    for text in (shop_desk.explanation(card, state), shop_desk.description(card)):
        assert text.startswith(f"**{cleaned(card.title)}**\n- ")
        assert "<|" not in text
    assert "Haiku" in shop_desk.description(card)
    (dry,) = shop_desk.cards([3], [0.5], state=state)
    assert shop_desk.texts.items[3] in shop_desk.description(dry)
    told = shop_desk.explained(3, state)
    assert (told["item_id"], told["knowledge"]) == ("104", shop_desk.texts.items[3])


def test_the_past_is_that_of_the_visitor(shop_desk: Desk) -> None:
    told = shop_desk.past(State(user=0, dislikes=(MOONS,)), count=2)
    first, second = told["history"]
    assert (first["item_id"], first["liked"], first["rating"]) == ("112", False, None)
    assert second["rating"] is not None
    assert told["knowledge"] == shop_desk.taste(State(user=0))
    assert shop_desk.past(State(), count=2) == {"history": []}
    assert shop_desk.taste(State(user=1)) == ""


def test_users_are_found_by_the_beginning_of_their_id(shop_desk: Desk) -> None:
    found = shop_desk.users("u0", count=4)
    assert [one["user_id"] for one in found] == ["u00", "u01", "u02", "u03"]
    events = shop_desk.tables.happened.filter(shop_desk.tables.happened["user"] == 1).height
    assert found[1]["events"] == events
    assert shop_desk.users("nobody", count=4) == []


def test_nothing_is_explained(shop_desk: Desk) -> None:
    novel = Condition("categories", "any_of", ("Novel",))
    dear = Condition("price", "at_least", (40.0,))
    both = shop_desk.planner.plan(State(conditions=(novel, dear)))
    assert shop_desk.nothing(both) == "without 'price: at least 40' there would be 5"
    one = shop_desk.planner.plan(State(conditions=(Condition("price", "at_least", (99.0,)),)))
    assert shop_desk.nothing(one) == "no item satisfies the demands"
    fits = shop_desk.catalogue.satisfying([novel])
    seen = shop_desk.planner.plan(State(conditions=(novel,), shown=tuple(fits.tolist())))
    assert shop_desk.nothing(seen) == f"all {len(fits)} items that fit have been met or shown"


def test_reasons_begin_with_what_sets_items_apart() -> None:
    def event(item: int, effect: float) -> Influence:
        return Influence("history", item, "liked", effect)

    count = Influence("statistic", None, "item_mean", 0.2)
    first, second = specific(
        [[event(1, 0.9), event(2, 0.8), count], [event(1, 0.9), event(2, 0.1)]]
    )
    assert [one.item for one in first] == [2, 1, None]
    assert [one.item for one in second] == [1, 2]
    alone = [event(1, 0.1), event(2, 0.9), count]
    assert specific([alone]) == [alone]
    assert np.isclose(sum(one.effect for one in specific([alone])[0]), 1.2)
