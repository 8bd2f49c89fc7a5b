import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.history import Histories, Past

# Few users and few moments: ties everywhere.
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40)
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
