"""Which examples are used."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.history import Histories
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.selection import balanced, few, near_duplicates, sampled
from tastemaker.testing.world import checkerboard, shop_split, tied_world

SHOP = shop_split()
# Few films and many people: most questions are asked twice.
WORLD = checkerboard(40, 7, events=7)
LABELS = st.lists(st.integers(0, 1), max_size=40)


def labelled(labels: list[int]) -> Examples:
    rows = np.arange(len(labels))
    return Examples(rows, rows, rows, rows, np.array(labels, dtype=np.int8))


# Shots


def test_fewer_shots_are_among_more() -> None:
    examples = Examples.of_rows(SHOP.tables, SHOP.train)
    shots = [set(few(examples, count, seed=3).tolist()) for count in (0, 1, 16, 64, 10_000)]
    assert [len(one) for one in shots] == [0, 1, 16, 64, len(examples)]
    assert all(one <= two for one, two in pairwise(shots))


def test_shots_are_repeatable_and_other_seeds_choose_others() -> None:
    examples = Examples.of_rows(SHOP.tables, SHOP.train)
    first, other = few(examples, 32, seed=0), few(examples, 32, seed=1)
    assert first.tolist() == few(examples, 32, seed=0).tolist() == sorted(first.tolist())
    assert 0 < len(np.intersect1d(first, other)) < 20


@given(st.integers(0, 30), st.integers(0, 5), st.randoms())
def test_shots_belong_to_the_examples_and_not_to_their_order(
    count: int, seed: int, random: Any
) -> None:
    examples = Examples.of_rows(SHOP.tables, SHOP.train[:40])
    order = random.sample(range(40), 40)
    shuffled = examples.take(np.array(order))
    chosen = {int(row) for row in examples.rows[few(examples, count, seed=seed)]}
    assert chosen == {int(row) for row in shuffled.rows[few(shuffled, count, seed=seed)]}


# Balance


@given(LABELS, st.integers(0, 5))
def test_as_many_likes_as_others(labels: list[int], seed: int) -> None:
    examples = labelled(labels)
    places = balanced(examples, seed=seed)
    kept = examples.labels[places]
    least = min(labels.count(0), labels.count(1))
    assert (kept == 1).sum() == (kept == 0).sum() == least
    assert places.tolist() == sorted(set(places.tolist()))
    rarer = int(labels.count(1) <= labels.count(0))
    of_rarer = [place for place, label in enumerate(labels) if label == rarer]
    assert set(of_rarer) <= set(places.tolist())


def test_another_seed_keeps_others_of_the_commoner_label() -> None:
    examples = labelled([1] * 10 + [0] * 50)
    first, other = (balanced(examples, seed=seed) for seed in (0, 1))
    assert first.tolist() == balanced(examples, seed=0).tolist()
    assert first.tolist() != other.tolist()
    assert first[:10].tolist() == other[:10].tolist() == list(range(10))


# Samples


def test_a_sample_is_sorted_and_without_repeats() -> None:
    rows = np.arange(100, 200)
    found = sampled(rows, 30, seed=0)
    assert found.tolist() == sorted(set(found.tolist()))
    assert set(found) <= set(rows)
    assert found.tolist() == sampled(rows, 30, seed=0).tolist()
    assert found.tolist() != sampled(rows, 30, seed=1).tolist()
    for size in (None, 100, 101):
        assert sampled(rows, size, seed=0).tolist() == rows.tolist()
    assert sampled(rows, 0, seed=0).tolist() == []


# Near-duplicates


def shown(histories: Histories, items: Any, row: int, *, history: int) -> set[int]:
    return {int(items[event]) for event in histories.before([row], max_length=history)[0]}


def near(
    examples: Examples, histories: Histories, codes: Any, *, history: int, threshold: float
) -> Any:
    """Whether two examples ask nearly the same, for all pairs with an earlier one: bool [n, n]."""
    sets = [shown(histories, codes, row, history=history) for row in examples.rows.tolist()]
    keys = list(zip(examples.items.tolist(), examples.labels.tolist(), strict=True))

    def share(one: set[int], two: set[int]) -> float:
        return len(one & two) / len(one | two) if one | two else 1.0

    found = np.zeros((len(examples), len(examples)), dtype=bool)
    for two in range(len(examples)):
        for one in range(two):
            if keys[one] == keys[two]:
                found[two, one] = share(sets[one], sets[two]) >= threshold
    return found


@settings(max_examples=25)
@given(
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(20, 280),
)
def test_near_duplicates_against_all_pairs(
    threshold: float, history: int, seed: int, count: int
) -> None:
    histories = Histories.from_interactions(WORLD.interactions)
    examples = Examples.of_rows(WORLD, np.arange(count))
    items = WORLD.interactions["item"].to_numpy()
    options: dict[str, Any] = {"history": history, "threshold": threshold}
    found = near_duplicates(examples, histories, items, seed=seed, **options)
    pairs = near(examples, histories, items, **options)
    assert not (found & ~pairs.any(axis=1)).any()
    # Of those that stay, hardly any is near to an earlier one that stays.
    missed = pairs[np.ix_(~found, ~found)].any(axis=1).sum()
    assert missed <= 2 + 0.1 * pairs.any(axis=1).sum()


@pytest.mark.parametrize("history", [1, 3, 6])
def test_equal_questions_are_found_without_exception(history: int) -> None:
    histories = Histories.from_interactions(WORLD.interactions)
    items = WORLD.interactions["item"].to_numpy()
    examples = Examples.of_rows(WORLD, np.arange(len(items)))
    options: dict[str, Any] = {"history": history, "threshold": 1.0}
    found = near_duplicates(examples, histories, items, seed=0, **options)
    true = near(examples, histories, items, **options).any(axis=1)
    assert found.tolist() == true.tolist()
    assert true.sum() > 50


def test_duplicates_by_eye() -> None:
    tables = tied_world()
    histories = Histories.from_interactions(tables.interactions)
    items = tables.interactions["item"].to_numpy()

    def found(rows: list[int], **options: Any) -> list[bool]:
        examples = Examples.of_rows(tables, rows, items=options.pop("asked", None))
        given: dict[str, Any] = {"history": 10, "threshold": 1.0, "seed": 0, **options}
        return near_duplicates(examples, histories, given.pop("codes", items), **given).tolist()

    assert found([]) == []
    assert found([0, 1, 2, 3, 4, 5]) == [False] * 6
    assert found([5, 5]) == [False, True]
    # Rows 3 and 4 share a second and so their past; their films differ.
    assert found([3, 4]) == [False, False]
    assert found([3, 4], asked=[4, 4]) == [False, True]
    # The same film asked at 20 and at 30: one of two films in common.
    assert found([2, 3], asked=[4, 4]) == [False, False]
    assert found([2, 3], asked=[4, 4], threshold=0.5) == [False, True]
    assert found([2, 3], asked=[4, 4], history=1) == [False, False]
    # Nothing is shown of either.
    assert found([0, 1], asked=[4, 4]) == [False, True]
    # Films that share a title are one film to the reader.
    assert found([2, 3], asked=[4, 4], codes=np.zeros(6, dtype=int)) == [False, True]


def test_a_like_and_its_drawn_items_are_different_questions() -> None:
    labels = SHOP.tables.interactions["label"].to_numpy()
    rows = SHOP.train[labels[SHOP.train] == 1]
    own = Examples.of_rows(SHOP.tables, rows)
    drawn = Examples.of_rows(SHOP.tables, rows, items=(own.items + 1) % 30)
    both = own.followed_by(drawn)
    items = SHOP.tables.interactions["item"].to_numpy()
    found = near_duplicates(both, SHOP.histories, items, history=10, threshold=0.9, seed=0)
    alone = near_duplicates(own, SHOP.histories, items, history=10, threshold=0.9, seed=0)
    again = near_duplicates(drawn, SHOP.histories, items, history=10, threshold=0.9, seed=0)
    assert found[::2].tolist() == alone.tolist()
    assert found[1::2].tolist() == again.tolist()


# Examples


def test_examples_of_rows_users_and_items() -> None:
    tables = tied_world()
    own = Examples.of_rows(tables, [5, 0])
    assert (own.users.tolist(), own.items.tolist()) == ([0, 0], [4, 0])
    assert (own.times.tolist(), own.labels.tolist()) == ([40, 10], [1, 1])
    drawn = Examples.of_rows(tables, [5, 0], items=[1, 2])
    assert (drawn.items.tolist(), drawn.labels.tolist()) == ([1, 2], [0, 0])
    both = own.followed_by(drawn)
    assert both.rows.tolist() == [0, 0, 5, 5]
    assert both.items.tolist() == [0, 2, 4, 1]
    assert both.take([3, 0]).items.tolist() == [1, 0]
    people, things = Examples.of_users([1, 0], before=7), Examples.of_items([2], before=7)
    assert (people.users.tolist(), people.items.tolist()) == ([1, 0], [-1, -1])
    assert (things.users.tolist(), things.items.tolist()) == ([-1], [2])
    for one in (people, things):
        assert set(one.times.tolist()) == {7}
        assert set(one.rows.tolist()) == set(one.labels.tolist()) == {-1}


@pytest.mark.parametrize("make", [Examples.of_users, Examples.of_items])
def test_examples_of_nothing(make: Any) -> None:
    assert len(make([], before=0)) == 0
