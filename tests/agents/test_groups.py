"""Groups of items and users, and the questions about them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.agents.groups import (
    Side,
    item_group_questions,
    item_groups,
    user_group_questions,
    user_groups,
    user_vectors,
)
from tastemaker.agents.questions import Question
from tastemaker.agents.reasoning import messages_of
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import checkerboard, shop_world

WORLD = checkerboard(24, 40, events=12)
EVERYTHING = np.arange(WORLD.interactions.height)
PARITY = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
SIDES: tuple[Side, Side] = ("disliked", "liked")


def parity_of(tables: Tables) -> np.ndarray:
    """Of each item: the vector of even or of odd ones."""
    return PARITY[np.array(tables.items["item_id"].to_list()) % 2]


def asked(groups: np.ndarray, vectors: np.ndarray, *, members: int = 20) -> list[Question]:
    return list(
        item_group_questions(WORLD, groups, vectors, factors=["parity; or not"], members=members)
    )


# Groups


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 60),
    distinct=st.integers(1, 60),
    count=st.one_of(st.none(), st.integers(1, 40)),
    seed=st.integers(0, 5),
)
def test_groups_are_whole_ordered_and_the_same_again(
    rows: int, distinct: int, count: int | None, seed: int
) -> None:
    vectors = np.random.default_rng(seed).normal(size=(distinct, 3)).astype(np.float32)
    vectors = vectors[np.random.default_rng(seed + 1).integers(0, distinct, size=rows)]
    found = item_groups(vectors, count=count, seed=seed)
    assert found.dtype == np.int64
    assert found.shape == (rows,)
    sizes = np.bincount(found)
    assert (sizes > 0).all()
    assert (np.diff(sizes) <= 0).all()
    firsts = np.array([np.flatnonzero(found == number)[0] for number in range(len(sizes))])
    same = np.flatnonzero(np.diff(sizes) == 0)
    assert (firsts[same] < firsts[same + 1]).all()
    assert len(sizes) <= (count or max(1, round(rows * 107 / 3706)))
    assert np.array_equal(found, item_groups(vectors, count=count, seed=seed))


def test_clear_groups_are_found() -> None:
    found = item_groups(parity_of(WORLD), count=2, seed=0)
    parity = np.array(WORLD.items["item_id"].to_list()) % 2
    assert set(zip(found.tolist(), parity.tolist(), strict=True)) in (
        {(0, 0), (1, 1)},
        {(0, 1), (1, 0)},
    )


def test_rekis_ratio_is_the_default() -> None:
    generator = np.random.default_rng(0)
    found = item_groups(generator.normal(size=(3706, 4)), seed=0)
    assert found.max() + 1 == 107
    half = item_groups(generator.normal(size=(400, 4)).astype(np.float16), seed=0)
    assert half.max() + 1 == 12


def test_length_does_not_matter_and_rows_of_zeros_are_grouped() -> None:
    vectors = np.array([[1, 0], [50, 0], [0, 1], [0, 0.01], [0, 0]], dtype=np.float32)
    found = item_groups(vectors, count=3, seed=0)
    assert found[0] == found[1] != found[2] == found[3] != found[4]


@pytest.mark.parametrize(
    ("vectors", "count", "message"),
    [
        (np.zeros((0, 2)), None, "nothing to group"),
        (np.ones((3, 2)), 0, "0 groups cannot be made"),
        (np.array([[np.nan, 1.0], [1.0, 1.0]]), 1, "not finite"),
    ],
)
def test_what_cannot_be_grouped(vectors: np.ndarray, count: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        item_groups(vectors, count=count, seed=0)


def test_users_are_the_means_of_what_they_liked_or_disliked() -> None:
    tables, generator = shop_world(), np.random.default_rng(0)
    vectors = generator.normal(size=(tables.n_items, 5)).astype(np.float16)
    events = generator.permutation(tables.interactions.height)[:150]
    for side in SIDES:
        means, known = user_vectors(tables, vectors, events=events, side=side)
        frame = tables.interactions[np.sort(events)]
        for user in range(tables.n_users):
            mine = (frame["user"] == user) & ((frame["label"] == 1) == (side == "liked"))
            items = frame.filter(mine)["item"].to_numpy()
            assert known[user] == bool(len(items))
            wanted = vectors[items].astype(np.float32).mean(axis=0) if len(items) else np.zeros(5)
            assert np.allclose(means[user], wanted, atol=1e-5)


def test_users_of_one_parity_share_their_groups_on_both_sides() -> None:
    found = user_groups(WORLD, parity_of(WORLD), events=EVERYTHING, count=2, seed=0)
    assert found.counts == (2, 2)
    parity = np.array(WORLD.users["user_id"].to_list()) % 2
    for place in range(2):
        of = found.of[:, place]
        assert all(len(set(of[(parity == one) & (of >= 0)])) == 1 for one in (0, 1))


def test_a_side_without_events_is_minus_one() -> None:
    liked = np.flatnonzero(WORLD.interactions["label"].to_numpy() == 1)[:10]
    found = user_groups(WORLD, parity_of(WORLD), events=liked, count=2, seed=0)
    users = WORLD.interactions["user"].to_numpy()[liked]
    assert (found.of[:, 0] == -1).all()
    assert set(np.flatnonzero(found.of[:, 1] >= 0)) == set(users.tolist())
    assert found.counts[0] == 0
    assert list(user_group_questions(WORLD, found, side="disliked", factors=["x"])) == []
    with pytest.raises(UserError, match="no user has an event"):
        user_groups(WORLD, parity_of(WORLD), events=[], seed=0)


def test_sampled_events_form_no_groups() -> None:
    flags = pl.Series("sampled", EVERYTHING >= 50)
    frame = WORLD.interactions.with_columns(flags)
    tables = Tables(WORLD.users, WORLD.items, frame, WORLD.schema, WORLD.source)
    found = user_groups(tables, parity_of(tables), events=EVERYTHING, count=2, seed=0)
    assert set(found.events.tolist()) == set(range(50))


# Questions


def test_item_groups_show_the_nearest_and_some_far_members() -> None:
    angles = np.linspace(0, 1, WORLD.n_items)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    (whole,) = asked(np.zeros(WORLD.n_items, dtype=np.int64), vectors, members=100)
    assert sorted(whole.items) == list(range(WORLD.n_items))
    (some,) = asked(np.zeros(WORLD.n_items, dtype=np.int64), vectors, members=7)
    assert len(some.items) == len(set(some.items)) == 7
    assert some.items[:4] == whole.items[:4]
    assert some.items[-1] == whole.items[-1]
    assert set(whole.items[:2]) <= {18, 19, 20, 21}
    (one,) = asked(np.zeros(WORLD.n_items, dtype=np.int64), vectors, members=1)
    assert one.items == whole.items[:1]


def test_every_item_group_is_asked_about_once_from_titles_alone() -> None:
    groups = item_groups(parity_of(WORLD), count=2, seed=0)
    questions = asked(groups, parity_of(WORLD))
    assert [(it.kind, it.entity, it.entity_id) for it in questions] == [
        ("item_group", 0, "0"),
        ("item_group", 1, "1"),
    ]
    for question in questions:
        assert (question.cut_time, question.events) == (None, ())
        assert set(groups[list(question.items)].tolist()) == {question.entity}
        (message,) = messages_of(find_template("kar/group_items"), question.values)
        assert all(f'"{WORLD.titles[item]}"' in message["content"] for item in question.items)
        assert "(consider parity, or not)" in message["content"]


@settings(max_examples=30, deadline=None)
@given(
    events=st.sets(st.integers(0, WORLD.interactions.height - 1), min_size=1),
    side=st.sampled_from(SIDES),
    members=st.integers(1, 12),
)
def test_user_groups_show_their_commonest_titles_and_nothing_later_than_the_cut(
    events: set[int], side: Side, members: int
) -> None:
    rows = np.array(sorted(events))
    groups = user_groups(WORLD, parity_of(WORLD), events=rows, count=3, seed=0)
    frame = WORLD.interactions
    ofside = frame.with_row_index().filter(
        pl.Series(np.isin(EVERYTHING, rows)) & ((pl.col("label") == 1) == (side == "liked"))
    )
    place = SIDES.index(side)
    found = list(user_group_questions(WORLD, groups, side=side, factors=["x"], members=members))
    assert len(found) == groups.counts[place]
    for number, question in enumerate(found):
        assert (question.entity, question.entity_id) == (number, f"{side}-{number}")
        users = np.flatnonzero(groups.of[:, place] == number)
        mine = ofside.filter(pl.col("user").is_in(users.tolist()))
        counts = mine["item"].value_counts(sort=True)
        sizes = dict(counts.iter_rows())
        shown = [sizes[item] for item in question.items]
        assert shown == sorted(shown, reverse=True) == counts["count"].to_list()[: len(shown)]
        assert len(question.items) == min(members, len(sizes))
        assert question.cut_time == ofside["time"].max()
        assert set(question.events) == set(
            mine.filter(pl.col("item").is_in(list(question.items)))["index"].to_list()
        )
        assert frame["time"].gather(list(question.events)).max() <= question.cut_time
        assert set(question.events) <= events
        template = find_template(f"kar/group_users_{side}")
        (message,) = messages_of(template, question.values)
        assert f'items: "{WORLD.titles[question.items[0]]}"' in message["content"]


def test_events_that_may_not_be_shown_change_nothing() -> None:
    times = WORLD.interactions["time"].to_numpy()
    early = np.flatnonzero(times < np.median(times))
    other = WORLD.interactions.with_columns(
        label=pl.when(pl.Series(times < np.median(times))).then(pl.col("label")).otherwise(0)
    )
    changed = Tables(WORLD.users, WORLD.items, other, WORLD.schema, WORLD.source)
    vectors = parity_of(WORLD)
    one, two = (user_groups(it, vectors, events=early, seed=0) for it in (WORLD, changed))
    assert np.array_equal(one.of, two.of)
    for side in SIDES:
        questions = [
            list(user_group_questions(it, groups, side=side, factors=["x"]))
            for it, groups in ((WORLD, one), (changed, two))
        ]
        assert questions[0] == questions[1]
