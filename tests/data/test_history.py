import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.history import Histories, Past, order_by
from tastemaker.errors import UserError

# Few users and few moments: ties everywhere.
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40)
# user, time, label, domain, happened
TOLD = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 4), st.integers(0, 1), st.integers(0, 2), st.booleans()
    ),
    min_size=1,
    max_size=40,
)
MAX_LENGTH = st.none() | st.integers(0, 4)


def build(events):
    users, times = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    return Histories(users, times), users, times


def earlier(users, times, *, user, time, max_length=None):
    """The slow, obvious answer."""
    rows = [row for row in range(len(users)) if users[row] == user and times[row] < time]
    rows.sort(key=lambda row: (times[row], row))
    return rows if max_length is None else rows[max(len(rows) - max_length, 0) :]


@settings(deadline=None)
@given(events=EVENTS, max_length=MAX_LENGTH)
def test_before_is_everything_strictly_earlier_and_nothing_else(events, max_length):
    histories, users, times = build(events)
    past = histories.before(np.arange(len(events)), max_length=max_length)
    for row in range(len(events)):
        expected = earlier(users, times, user=users[row], time=times[row], max_length=max_length)
        assert past[row].tolist() == expected


@settings(deadline=None)
@given(events=EVENTS, asked=EVENTS, max_length=MAX_LENGTH)
def test_at_answers_for_moments_and_users_that_never_happened(events, asked, max_length):
    histories, users, times = build(events)
    asked = [*asked, (7, 3), (-1, 3), (0, -9), (3, 99)]
    past = histories.at(*zip(*asked, strict=True), max_length=max_length)
    for index, (user, time) in enumerate(asked):
        expected = earlier(users, times, user=user, time=time, max_length=max_length)
        assert past[index].tolist() == expected


@settings(deadline=None)
@given(events=EVENTS)
def test_counts_are_the_lengths_of_before(events):
    histories, _, _ = build(events)
    rows = np.arange(len(events))[::-1]
    assert np.array_equal(histories.counts(rows), histories.before(rows).lengths)


@settings(deadline=None)
@given(events=EVENTS, counts=st.lists(st.integers(0, 12), min_size=6, max_size=6))
def test_oldest_never_parts_a_group_of_equal_times(events, counts):
    histories, users, times = build(events)
    asked = np.arange(6)
    past = histories.oldest(asked, counts=counts)
    for user, count in zip(asked, counts, strict=True):
        everything = earlier(users, times, user=user, time=100)
        given_rows = past[user].tolist()
        assert given_rows == everything[: len(given_rows)]
        rest = everything[len(given_rows) :]
        if given_rows and rest:
            assert times[given_rows[-1]] < times[rest[0]]
        # Nothing is dropped without need: one more whole group would be too much.
        group = [row for row in rest if times[row] == times[rest[0]]]
        assert len(given_rows) <= count
        assert not rest or len(given_rows) + len(group) > count


@settings(deadline=None)
@given(events=EVENTS, width=st.integers(0, 6))
def test_padded_keeps_the_newest_at_the_right_end(events, width):
    histories, _, _ = build(events)
    past = histories.before(np.arange(len(events)))
    padded = past.padded(width, fill=-7)
    assert padded.shape == (len(events), width)
    for index, row in enumerate(padded.tolist()):
        kept = past[index].tolist()[max(len(past[index]) - width, 0) :]
        assert row == [-7] * (width - len(kept)) + kept


def test_an_example_checked_by_eye():
    frame = pl.DataFrame({"user": [0, 1, 0, 0, 0], "time": [10, 10, 20, 20, 30]})
    histories = Histories.from_interactions(frame)
    past = histories.before([4, 3, 2, 1, 0])
    assert [past[index].tolist() for index in range(5)] == [[0, 2, 3], [0], [0], [], []]
    assert past[-5].tolist() == [0, 2, 3]
    assert past.offsets.tolist() == [0, 3, 4, 5, 5, 5]
    assert histories.at([0], [21]).events.tolist() == [0, 2, 3]
    assert histories.oldest([0], counts=[2]).events.tolist() == [0]
    assert past.events.dtype == past.offsets.dtype == np.int64


def test_asking_for_a_row_that_is_no_event_is_an_error():
    histories = Histories([0, 0], [1, 2])
    for row in (-1, 2):
        with pytest.raises(IndexError, match=f"row {row} is not an event; rows are 0 to 1"):
            histories.before([row])
        with pytest.raises(IndexError, match="is not an event"):
            histories.counts([row])
    with pytest.raises(TypeError, match="whole numbers"):
        histories.before([0.5])
    with pytest.raises(IndexError, match="past 1 of 1"):
        histories.before([0])[1]


def test_empty_questions_and_empty_tables():
    histories = Histories([0, 0], [1, 2])
    assert len(histories.before([])) == 0
    assert histories.before([]).padded(3).shape == (0, 3)
    nobody = Histories([], [])
    assert nobody.at([0, 3], [5, 5]).lengths.tolist() == [0, 0]
    assert nobody.oldest([0], counts=[2]).lengths.tolist() == [0]
    assert Past(np.array([0]), np.array([], dtype=np.int64)).padded(2).shape == (0, 2)


@given(
    events=TOLD,
    max_length=MAX_LENGTH,
    only=st.sampled_from([None, "liked", "disliked"]),
    within_domain=st.booleans(),
    in_order=st.booleans(),
)
def test_every_view_of_the_past_is_what_brute_force_finds(
    events, max_length, only, within_domain, in_order
):
    events = sorted(events, key=lambda event: event[1]) if in_order else events
    columns = ("user", "time", "label", "domain", "sampled")
    names = pl.DataFrame(events, schema=columns, orient="row")
    names = names.with_columns(pl.col("domain").cast(pl.String), sampled=~pl.col("sampled"))
    histories = Histories.from_interactions(names)
    rows = np.arange(len(events))
    past = histories.before(rows, max_length=max_length, only=only, within_domain=within_domain)
    whole = histories.at([event[0] for event in events], [event[1] for event in events], only=only)
    for row, (user, time, _, domain, _) in enumerate(events):
        expected = [
            other
            for other, (who, when, label, where, happened) in enumerate(events)
            if who == user and when < time and happened
            if only is None or label == (only == "liked")
            if not within_domain or where == domain
        ]
        expected.sort(key=lambda other: (events[other][1], other))
        kept = expected if max_length is None else expected[max(len(expected) - max_length, 0) :]
        assert past[row].tolist() == kept
        assert past.events[past.offsets[row] : past.offsets[row + 1]].tolist() == kept
        assert past.padded(2)[row].tolist() == [-1] * (2 - len(kept[-2:])) + kept[-2:]
        if not within_domain:
            assert whole[row].tolist() == expected


def test_many_pasts_are_gathered_in_blocks():
    random = np.random.default_rng(3)
    users, times = random.integers(0, 50, 3000), np.sort(random.integers(0, 900, 3000))
    past = Histories(users, times).before(np.arange(3000))
    padded, copied = past.padded(70), Past(past.offsets, past.events).padded(70)
    assert np.array_equal(padded, copied)
    for row in (0, 1, 1500, 2999):
        kept = past[row][-70:]
        assert padded[row, 70 - len(kept) :].tolist() == kept.tolist()
        assert (padded[row, : 70 - len(kept)] == -1).all()
    assert past.events.dtype == padded.dtype == np.int64
    assert np.array_equal(np.concatenate([past[row] for row in range(3000)]), past.events)


def test_views_need_what_they_look_at():
    histories = Histories([0, 0], [1, 2])
    with pytest.raises(ValueError, match="needs labels"):
        histories.before([1], only="liked")
    with pytest.raises(ValueError, match="only = 'loved'"):
        Histories([0], [1], labels=[1]).before([0], only="loved")
    with pytest.raises(UserError, match=r"no domain\.\nName the column as data\.columns\.domain"):
        histories.before([1], within_domain=True)
    with pytest.raises(ValueError, match="users are numbered from 0, found -1"):
        Histories([-1], [1])


def test_events_without_a_domain_share_one():
    names = pl.Series("domain", ["a", None, "b", None], dtype=pl.Enum(["a", "b"]))
    frame = pl.DataFrame({"user": [0] * 4, "time": [1, 2, 3, 4], "domain": names})
    histories = Histories.from_interactions(frame)
    past = histories.before([0, 1, 2, 3], within_domain=True)
    assert [past[row].tolist() for row in range(4)] == [[], [], [], [1]]


@given(keys=st.lists(st.integers(0, 9), max_size=40), data=st.data())
def test_the_counting_sort_is_stable(keys, data):
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(keys), max_size=len(keys)))
    order, starts = order_by(np.array(keys, dtype=np.int32), times=np.array(times, dtype=int))
    assert order.tolist() == sorted(range(len(keys)), key=lambda row: (keys[row], times[row]))
    assert np.diff(starts).tolist() == np.bincount(keys).tolist() if keys else len(starts) == 1
