import json

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import Split, global_time, split_tables
from tastemaker.data.tables import build_tables
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.testing.world import checkerboard

SCHEMA = Schema("u", "i", "t", "r", LabelRule("r", ">", 3.0), "title")
EVENTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 20)), min_size=20, max_size=60
)
EARLY, LATE = st.floats(0.2, 0.5), st.floats(0.6, 0.9)


def small_tables(events):
    users, items, times = zip(*events, strict=True)
    frame = pl.DataFrame({"u": users, "i": items, "t": times, "r": [4.0] * len(events)})
    return build_tables(frame, schema=SCHEMA)


def split_or_skip(events, valid_from, test_from):
    try:
        return global_time(small_tables(events), valid_from=valid_from, test_from=test_from)
    except DataError:
        assume(False)
        raise AssertionError from None


@settings(deadline=None)
@given(events=EVENTS, valid_from=EARLY, test_from=LATE)
def test_parts_cover_every_row_once_and_respect_time(events, valid_from, test_from):
    split = split_or_skip(events, valid_from, test_from)
    rows = np.concatenate([split.train, split.valid, split.test])
    assert np.array_equal(rows, np.arange(len(events)))
    times = split.tables.interactions["time"].to_numpy()
    assert times[split.train].max() < split.boundaries["valid"] == times[split.valid].min()
    assert times[split.valid].max() < split.boundaries["test"] == times[split.test].min()


@settings(deadline=None)
@given(events=EVENTS, valid_from=EARLY, test_from=LATE)
def test_no_history_reaches_its_target_or_beyond(events, valid_from, test_from):
    split = split_or_skip(events, valid_from, test_from)
    times = split.tables.interactions["time"].to_numpy()
    users = split.tables.interactions["user"].to_numpy()
    for part in ("train", "valid", "test"):
        rows = split.part(part)
        past = split.histories.before(rows)
        targets = np.repeat(rows, past.lengths)
        assert (times[past.events] < times[targets]).all()
        assert (users[past.events] == users[targets]).all()


@settings(deadline=None)
@given(events=EVENTS)
def test_a_failed_split_names_the_empty_part(events):
    tables = small_tables([(user, item, 5) for user, item, _ in events])
    with pytest.raises(DataError, match="the train part is empty") as raised:
        global_time(tables, valid_from=0.5, test_from=0.8)
    assert "between 1970-01-01 00:00:05 and 1970-01-01 00:00:05" in str(raised.value)


def test_shares_are_shares_of_rows():
    tables = small_tables([(0, 0, second) for second in range(100)])
    split = global_time(tables, valid_from=0.29, test_from=0.57)
    assert [len(split.train), len(split.valid), len(split.test)] == [29, 28, 43]


def test_dates_cut_at_midnight_utc():
    days = ["2015-01-30T23:59:59", "2015-01-31", "2015-01-31T12:00:00", "2015-02-01T00:00:00Z"]
    frame = pl.DataFrame({"u": [1] * 4, "i": [1, 2, 3, 4], "t": days, "r": [1] * 4})
    tables = build_tables(frame, schema=SCHEMA)
    split = global_time(tables, valid_from="2015-01-31", test_from="2015-02-01")
    assert [split.train.tolist(), split.valid.tolist(), split.test.tolist()] == [[0], [1, 2], [3]]
    assert split.boundaries == {"valid": 1_422_662_400, "test": 1_422_748_800}


def test_parts_in_the_wrong_order_are_explained():
    with pytest.raises(DataError, match="the valid part is empty") as raised:
        global_time(checkerboard(), valid_from=0.9, test_from=0.8)
    assert "Choose valid_from earlier than test_from" in str(raised.value)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 80, "yesterday", "0.8", float("nan")])
def test_a_cut_that_is_neither_share_nor_date(value):
    with pytest.raises(UserError, match=r"valid_from = .* is neither a share nor a date") as raised:
        global_time(checkerboard(), valid_from=value, test_from=0.9)
    assert "2015-01-31" in str(raised.value)


def test_splitters_are_found_by_name():
    tables = checkerboard()
    split = split_tables(tables, "global_time", valid_from=0.8, test_from=0.9)
    assert np.array_equal(
        split.test, global_time(tables, valid_from=0.8, test_from=0.9).part("test")
    )
    with pytest.raises(UnknownNameError, match="did you mean 'global_time'"):
        split_tables(tables, "global_tme")
    with pytest.raises(UserError, match="has no option 'valid_form'; did you mean 'valid_from'"):
        split_tables(tables, "global_time", valid_form=0.8, valid_from=0.8, test_from=0.9)
    with pytest.raises(UserError, match="needs the option 'test_from'"):
        split_tables(tables, "global_time", valid_from=0.8)
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        split.part("tests")


def test_save_and_load(tmp_path):
    tables = checkerboard()
    split = global_time(tables, valid_from=0.8, test_from=0.9)
    split.save(tmp_path)
    again = Split.load(tmp_path, tables)
    for part in ("train", "valid", "test"):
        assert np.array_equal(again.part(part), split.part(part))
        assert again.part(part).dtype == np.int64
    assert again.boundaries == split.boundaries
    assert sorted(path.name for path in tmp_path.iterdir()) == ["split.json", "split.parquet"]


def test_loading_a_broken_or_foreign_split_is_an_error(tmp_path):
    tables = checkerboard()
    with pytest.raises(DataError, match="holds no readable split"):
        Split.load(tmp_path, tables)
    global_time(tables, valid_from=0.8, test_from=0.9).save(tmp_path)
    with pytest.raises(DataError, match="made for 800 interactions, the tables have 400"):
        Split.load(tmp_path, checkerboard(20))
    (tmp_path / "split.json").write_text(json.dumps({"boundaries": {}}))
    with pytest.raises(DataError, match="holds no readable split"):
        Split.load(tmp_path, tables)
