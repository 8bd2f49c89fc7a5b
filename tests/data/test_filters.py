from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.filters import FilterStep, filter_tables
from tastemaker.data.schema import LabelRule, Policies, Schema
from tastemaker.data.tables import build_tables
from tastemaker.errors import DataError, UserError

SCHEMA = Schema("u", "i", "t", "r", LabelRule("r", ">", 3.0), "title", domain="shop")
EVENTS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=40
)


def built(events, schema=SCHEMA):
    """Users and items beyond the events, with ids that are not their dense numbers."""
    users, items, times = zip(*events, strict=True)
    frame = pl.DataFrame(
        {
            "u": [f"u{user}" for user in users],
            "i": [item * 10 for item in items],
            "t": times,
            "r": [4.0] * len(events),
        }
    )
    catalogue = pl.DataFrame(
        {
            "i": [item * 10 for item in range(9)],
            "title": [f"film {item}" for item in range(9)],
            "shop": ["even" if item % 2 == 0 else "odd" for item in range(9)],
        }
    )
    people = pl.DataFrame({"u": [f"u{user}" for user in range(8)]})
    return build_tables(
        frame,
        items=catalogue,
        users=people,
        schema=schema,
        policies=Policies(duplicates="keep"),
    )


def external(tables):
    """Events by external id; checks that numbers and ids belong together."""
    assert tables.users["user"].to_list() == list(range(tables.n_users))
    assert tables.items["item"].to_list() == list(range(tables.n_items))
    assert tables.users["user"].dtype == tables.items["item"].dtype == pl.Int32
    assert tables.users["user_id"].is_sorted()
    assert tables.items["item_id"].is_sorted()
    events = tables.interactions
    assert events.select("time", "user", "item").equals(
        events.select("time", "user", "item").sort("time", "user", "item")
    )
    frame = events.join(tables.users, on="user").join(tables.items, on="item")
    return sorted(frame.select("user_id", "item_id", "time", "title", "domain").rows())


def core(events, k):
    """The slow, obvious k-core."""
    while True:
        users = Counter(user for user, _, _ in events)
        items = Counter(item for _, item, _ in events)
        left = [event for event in events if users[event[0]] >= k and items[event[1]] >= k]
        if len(left) == len(events):
            return left
        events = left


@settings(max_examples=25)
@given(events=EVENTS, k=st.integers(1, 4))
def test_the_core_is_the_fixed_point_and_ids_survive(events, k):
    expected = core(events, k)
    tables = built(events)
    if not expected:
        with pytest.raises(DataError, match=f"filter k_core {k} leaves no event"):
            filter_tables(tables, k_core=k)
        return
    filtered, (step,) = filter_tables(tables, k_core=k)
    names = [(f"u{u}", i * 10, t, f"film {i}", "odd" if i % 2 else "even") for u, i, t in expected]
    assert external(filtered) == sorted(names)
    assert filtered.items["item_id"].to_list() == sorted({i * 10 for _, i, _ in expected})
    assert filtered.users["user_id"].to_list() == sorted({f"u{u}" for u, _, _ in expected})
    assert filtered.interactions.schema == tables.interactions.schema
    assert (step.users_before, step.items_before, step.events_before) == (8, 9, len(events))
    assert (step.users_after, step.items_after, step.events_after) == (
        filtered.n_users,
        filtered.n_items,
        len(expected),
    )


@settings(max_examples=12)
@given(events=EVENTS, users=st.integers(1, 5), seed=st.integers(0, 2), data=st.data())
def test_the_order_of_the_input_changes_nothing(events, users, seed, data):
    shuffled = data.draw(st.permutations(events))
    options = {"time_from": "1970-01-01T00:00:00", "min_history": 1, "users": users, "seed": seed}
    one, _ = filter_tables(built(events), **options)
    other, _ = filter_tables(built(shuffled), **options)
    assert one.interactions.equals(other.interactions)
    assert one.users.equals(other.users)
    assert one.n_users == min(users, len({user for user, _, _ in events}))
    assert one.n_items == 9


def test_filters_run_in_order_and_are_told():
    events = [(user, item, user + item) for user in range(6) for item in range(user)]
    tables = replace(built(events), notes=("told before",))
    filtered, steps = filter_tables(
        tables,
        time_from="1970-01-01T00:00:02Z",
        time_to="1970-01-01T00:00:08",
        k_core=2,
        min_history=3,
        users=1,
        seed=1,
    )
    assert [step.name for step in steps] == [
        "time_from 1970-01-01T00:00:02Z",
        "time_to 1970-01-01T00:00:08",
        "k_core 2",
        "min_history 3",
        "users 1 (seed 1)",
    ]
    assert str(steps[0]) == (
        "Filter time_from 1970-01-01T00:00:02Z keeps 4 of 8 users, 9 of 9 items and 14 of 15 "
        "events."
    )
    for before, after in pairwise(steps):
        assert before.events_after == after.events_before
        assert before.users_after == after.users_before
    assert filtered.n_users == 1
    assert filtered.notes[:2] == ("told before", str(steps[0]))
    assert "over the whole time span" in filtered.notes[-1]
    times = filtered.interactions["time"]
    assert times.min() >= 2
    assert times.max() < 8


def test_min_history_counts_once():
    tables = built([(0, 0, 1), (0, 1, 2), (1, 0, 3)])
    filtered, _ = filter_tables(tables, min_history=2)
    assert external(filtered) == [("u0", 0, 1, "film 0", "even"), ("u0", 10, 2, "film 1", "odd")]
    assert filtered.n_items == 9


def test_samples_do_not_look_at_users_without_events():
    events = [(user, 0, user) for user in range(7)]
    drawn = {}
    for users in ((), ("a", "b")):
        tables = built(events)
        extra = pl.DataFrame({"user_id": [*users]}, schema={"user_id": pl.String})
        people = pl.concat([extra, tables.users.select("user_id")]).sort("user_id")
        people = people.with_columns(user=pl.int_range(pl.len(), dtype=pl.Int32))
        shifted = tables.interactions.with_columns(pl.col("user") + len(users))
        wider = replace(tables, users=people, interactions=shifted.cast({"user": pl.Int32}))
        drawn[users] = filter_tables(wider, users=3, seed=5)[0].users["user_id"].to_list()
    assert drawn[()] == drawn[("a", "b")]


def test_nothing_asked_nothing_done():
    tables = built([(0, 0, 1)])
    assert filter_tables(tables) == (tables, [])


def test_moments_that_cannot_be_read_or_leave_nothing():
    tables = built([(0, 0, 1), (1, 1, 5)])
    with pytest.raises(UserError, match="time_from = 'soon' is not a date") as raised:
        filter_tables(tables, time_from="soon")
    assert "between 1970-01-01 00:00:01 and 1970-01-01 00:00:05" in str(raised.value)
    with pytest.raises(DataError, match="filter time_to 1970-01-01 leaves no event") as raised:
        filter_tables(tables, time_to="1970-01-01")
    assert "0 of 2 events" in str(raised.value)
    steps = built([(0, 0, 1), (1, 1, 5)], replace(SCHEMA, time_unit="step"))
    assert filter_tables(steps, time_from="2")[0].interactions["time"].to_list() == [5]
    with pytest.raises(UserError, match="time_to = '1970-01-01' is not a step"):
        filter_tables(steps, time_to="1970-01-01")


def test_sampled_events_come_after_filters():
    tables = built([(0, 0, 1)])
    drawn = replace(tables, interactions=tables.interactions.with_columns(sampled=pl.lit(True)))
    with pytest.raises(ValueError, match="before negatives"):
        filter_tables(drawn, k_core=1)


def test_steps_hold_plain_numbers():
    _, (step,) = filter_tables(built([(0, 0, 1)]), k_core=1)
    assert step == FilterStep("k_core 1", 8, 1, 9, 1, 1, 1)
    assert not any(isinstance(value, np.generic) for value in vars(step).values())
