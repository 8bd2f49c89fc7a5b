import json
from dataclasses import replace
from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tastemaker.data.schema import LabelRule, Policies, Schema
from tastemaker.data.splits import Split
from tastemaker.data.splitters import SPLITTERS, global_time, rolling_splits, split_tables
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.recipe_data import SplitConfig
from tastemaker.testing.world import checkerboard

SCHEMA = Schema("u", "i", "t", "r", LabelRule("r", ">", 3.0), "title")
EVENTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 20)), min_size=20, max_size=60
)
EARLY, LATE = st.floats(0.2, 0.5), st.floats(0.6, 0.9)


def small_tables(events):
    """Tables as `build_tables` makes them, in a hundredth of its time."""
    columns = {"user": pl.Int32, "item": pl.Int32, "time": pl.Int64}
    rows = pl.DataFrame(events, schema=columns, orient="row").sort("time", "user", "item")
    rows = rows.with_columns(rating=pl.lit(4.0, pl.Float32), label=pl.lit(1, pl.Int8))
    people = pl.DataFrame({"user": np.arange(rows["user"].max() + 1, dtype=np.int32)})
    things = pl.DataFrame({"item": np.arange(rows["item"].max() + 1, dtype=np.int32)})
    people = people.with_columns(user_id="user")
    things = things.with_columns(item_id="item", title=pl.lit("film"))
    return Tables(people, things, rows, schema=SCHEMA, source="test")


def built_tables(events):
    users, items, times = zip(*events, strict=True)
    frame = pl.DataFrame({"u": users, "i": items, "t": times, "r": [4.0] * len(events)})
    return build_tables(frame, schema=SCHEMA, policies=Policies(duplicates="keep"))


def split_or_skip(events, valid_from, test_from):
    try:
        return global_time(small_tables(events), valid_from=valid_from, test_from=test_from)
    except DataError:
        assume(False)
        raise AssertionError from None


@settings(max_examples=50)
@given(events=EVENTS, valid_from=EARLY, test_from=LATE)
def test_parts_cover_every_row_once_and_respect_time(events, valid_from, test_from):
    split = split_or_skip(events, valid_from, test_from)
    rows = np.concatenate([split.train, split.valid, split.test])
    assert np.array_equal(rows, np.arange(len(events)))
    times = split.tables.interactions["time"].to_numpy()
    assert times[split.train].max() < split.boundaries["valid"] == times[split.valid].min()
    assert times[split.valid].max() < split.boundaries["test"] == times[split.test].min()


@settings(max_examples=50)
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


@settings(max_examples=50)
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


# Few users, items and moments: ties everywhere.
TIED = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 6)), min_size=4, max_size=40
)
OPTIONS = {
    "global_time": {"valid_from": 0.4, "test_from": 0.7},
    "leave_one_out": {"min_events": 3},
    "user_time_ratio": {"valid": 0.2, "test": 0.3},
    "user_holdout": {"valid": 0.3, "test": 0.3},
    "rolling": {"folds": 2, "fold": 0, "window": 0.2},
}
STEPS = replace(SCHEMA, time_unit="step")


def test_every_splitter_has_options_here_and_a_section_in_recipes():
    sections = {get_args(part)[1].tag for part in get_args(get_args(SplitConfig)[0])}
    assert set(SPLITTERS) == {*OPTIONS, "given"} == sections


def attempt(tables, name, **options):
    try:
        return split_tables(tables, name, **options)
    except DataError:
        assume(False)
        raise AssertionError from None


def with_sampled(tables):
    """Two rows that never happened beside every like, in the order of tables."""
    events = tables.interactions.with_columns(sampled=pl.lit(False))
    drawn = [
        events.filter(pl.col("label") == 1).with_columns(
            sampled=pl.lit(True), label=pl.lit(0, pl.Int8), item=(pl.col("item") + 1) % 2
        )
        for _ in range(2)
    ]
    whole = pl.concat([events, *drawn]).sort("time", "user", "item", "rating", "label")
    return replace(tables, interactions=whole)


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=40)
@given(events=TIED, sampled=st.booleans(), seed=st.integers(0, 3))
def test_every_splitter_partitions(name, events, sampled, seed):
    tables = small_tables(events)
    tables = with_sampled(tables) if sampled else tables
    split = attempt(tables, name, seed=seed, **OPTIONS[name])
    rows = np.concatenate([split.train, split.valid, split.test])
    assert len(np.unique(rows)) == len(rows)
    times = tables.interactions["time"].to_numpy()
    unused = np.setdiff1d(np.arange(len(times)), rows)
    if len(unused):
        assert name == "rolling"
        assert times[unused].min() > times[split.test].max()
        note = f"{len(unused):,} of {len(times):,} rows are later than the test window"
        assert split.notes[0].startswith(note)
    for part in ("train", "valid", "test"):
        assert (np.diff(split.part(part)) > 0).all()
        assert split.part(part).dtype == np.int64
    assert split.name == name
    assert OPTIONS[name].items() <= split.options.items()


@settings(max_examples=15)
@given(events=TIED, data=st.data())
def test_the_order_of_the_input_changes_nothing(events, data):
    shuffled = data.draw(st.permutations(events))
    one, other = built_tables(events), built_tables(shuffled)
    for name, options in OPTIONS.items():
        try:
            split = split_tables(one, name, **options)
        except DataError:
            continue
        again = split_tables(other, name, **options)
        for part in ("train", "valid", "test"):
            assert np.array_equal(split.part(part), again.part(part))


@settings(max_examples=60)
@given(events=TIED, sampled=st.booleans())
def test_leave_one_out_keeps_the_last_two_and_their_sampled_rows(events, sampled):
    tables = small_tables(events)
    tables = with_sampled(tables) if sampled else tables
    split = attempt(tables, "leave_one_out", min_events=3)
    frame = tables.interactions.with_row_index("row")
    real = frame.filter(~pl.col("sampled")) if sampled else frame
    part = dict.fromkeys(range(len(frame)), "train")
    part |= {row: name for name in ("valid", "test") for row in split.part(name).tolist()}
    for (user,), own in real.group_by("user"):
        parts = [part[row] for row in own["row"]]
        assert (parts.count("valid"), parts.count("test")) == ((1, 1) if len(own) > 2 else (0, 0))
        times = dict(zip(parts, own["time"].to_list(), strict=True))
        if len(own) > 2:
            assert times["test"] == own["time"].max()
            assert times["train"] <= times["valid"] <= times["test"]
        if sampled:
            drawn = frame.filter(pl.col("sampled"), user=user)["row"].to_list()
            for name in ("train", "valid", "test"):
                assert [part[row] for row in drawn].count(name) == 2 * parts.count(name)


def test_leave_one_out_by_eye():
    events = [
        (0, 0, 1),
        (0, 1, 3),
        (0, 2, 2),
        (1, 0, 5),
        (1, 1, 6),
        (2, 2, 9),
        (2, 0, 4),
        (2, 1, 7),
    ]
    split = split_tables(small_tables(events), "leave_one_out", min_events=3)
    frame = split.tables.interactions.select("user", "item")
    assert frame[split.test].rows() == [(0, 1), (2, 2)]
    assert frame[split.valid].rows() == [(0, 2), (2, 1)]
    assert split.boundaries == {}
    assert split.notes == (
        "1 of 3 users have fewer than 3 events: they are train only.",
        "1 of 2 valid rows are not later than the newest training event of other users: training "
        "knows their future (compare with global_time).",
        "1 of 2 test rows are not later than the newest training event of other users: training "
        "knows their future (compare with global_time).",
    )
    assert split.leaky_rows("test").tolist() == [True, False]


@given(events=TIED)
def test_leaky_rows_are_what_brute_force_finds(events):
    split = attempt(small_tables(events), "leave_one_out", min_events=3)
    frame = split.tables.interactions
    users, times = frame["user"].to_list(), frame["time"].to_list()
    for name in ("train", "valid", "test"):
        expected = [
            any(users[other] != users[row] and times[other] >= times[row] for other in split.train)
            for row in split.part(name)
        ]
        assert split.leaky_rows(name).tolist() == expected
        for column, cold in (("user", split.cold_users(name)), ("item", split.cold_items(name))):
            known = set(frame[column].to_numpy()[split.train])
            values = frame[column].to_numpy()[split.part(name)]
            assert cold.tolist() == [value not in known for value in values]


def test_the_order_of_ties_does_not_tell_the_item_number():
    n_users = 1500
    events = [
        (user, item, time) for user in range(n_users) for item, time in ((0, 0), (1, 1), (2, 1))
    ]
    tables = small_tables(events)
    drawn = [
        split_tables(tables, "leave_one_out", min_events=3, seed=seed).test for seed in (1, 1, 2)
    ]
    items = tables.interactions["item"].to_numpy()[drawn[0]]
    assert abs((items == 2).mean() - 0.5) < 0.05
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_user_time_ratio_rounds_down_and_gives_every_part_an_event():
    events = [(0, item, item) for item in range(10)] + [(1, item, item) for item in range(3)]
    events += [(2, item, item) for item in range(2)]
    split = split_tables(small_tables(events), "user_time_ratio", valid=0.25, test=0.39)
    users = split.tables.interactions["user"].to_numpy()
    sizes = {part: np.bincount(users[split.part(part)], minlength=3) for part in ("valid", "test")}
    assert {part: size.tolist() for part, size in sizes.items()} == {
        "valid": [2, 1, 0],
        "test": [3, 1, 0],
    }
    times = split.tables.interactions["time"].to_numpy()
    assert sorted(times[split.test[users[split.test] == 0]]) == [7, 8, 9]
    most = split_tables(small_tables(events), "user_time_ratio", valid=0.01, test=0.98)
    assert (np.bincount(users[most.train]) > 0).all()


def test_user_holdout_keeps_users_whole():
    tables = checkerboard(20, 20, events=10)
    split = split_tables(tables, "user_holdout", valid=0.1, test=0.25, seed=3)
    users = tables.interactions["user"].to_numpy()
    held = [set(users[split.part(part)]) for part in ("train", "valid", "test")]
    assert [len(part) for part in held] == [13, 2, 5]
    assert len(set.union(*held)) == 20
    assert split.cold_users("test").all()
    assert "test rows are not later" in split.notes[1]
    other = split_tables(tables, "user_holdout", valid=0.1, test=0.25, seed=4)
    assert set(users[other.test]) != held[2]


def test_rolling_windows_follow_each_other():
    tables = small_tables([(second % 3, second % 4, second) for second in range(100)])
    folds = rolling_splits(tables, folds=3, window=0.1)
    spans = [
        [(int(rows[0]), int(rows[-1])) for rows in (fold.train, fold.valid, fold.test)]
        for fold in folds
    ]
    assert spans == [
        [(0, 59), (60, 69), (70, 79)],
        [(0, 69), (70, 79), (80, 89)],
        [(0, 79), (80, 89), (90, 99)],
    ]
    newest = split_tables(tables, "rolling", folds=3, fold=-1, window=0.1)
    assert np.array_equal(newest.test, folds[-1].test)
    assert newest.notes == ()
    assert folds[0].notes == (
        "20 of 100 rows are later than the test window (from 1970-01-01 00:01:20) and are not "
        "used.",
    )
    for options, message in (
        ({"folds": 2, "fold": 2, "window": 0.1}, "no fold 2 of 2"),
        ({"folds": 3, "fold": 0, "window": 0.25}, "leaves nothing to train on"),
    ):
        with pytest.raises(UserError, match=message):
            split_tables(tables, "rolling", **options)
    with pytest.raises(DataError, match="in fold 1 of 2 validation starts at"):
        split_tables(small_tables([(0, 0, 1)] * 9), "rolling", folds=2, fold=1, window=0.1)


def given_tables(words):
    frame = pl.DataFrame({"u": [1, 2, 3, 1], "i": [1, 2, 3, 4], "t": [1, 2, 3, 4], "r": [4.0] * 4})
    schema = replace(SCHEMA, categorical=("part",))
    return build_tables(frame.with_columns(part=pl.Series(words)), schema=schema)


def test_given_parts_are_taken_as_written():
    split = split_tables(
        given_tables(["Training", "dev", "test", " train"]), "given", column="part"
    )
    assert [split.train.tolist(), split.valid.tolist(), split.test.tolist()] == [[0, 3], [1], [2]]
    assert len(split.notes) == 2
    some = split_tables(given_tables(["train", "valid", "test", None]), "given", column="part")
    assert [some.train.tolist(), some.valid.tolist(), some.test.tolist()] == [[0], [1], [2]]
    assert "1 rows have nothing in column 'part': they are in no part." in some.notes
    with pytest.raises(
        DataError, match=r"holds in 2 rows what names no part: holdout, later\."
    ) as raised:
        split_tables(given_tables(["train", "later", "test", "holdout"]), "given", column="part")
    assert "train, training, valid, validation, val, dev, test" in str(raised.value)
    with pytest.raises(UserError, match="no column 'parts'; did you mean 'part'") as raised:
        split_tables(given_tables(["train", "valid", "test", "test"]), "given", column="parts")
    assert "data.columns.categorical" in str(raised.value)
    with pytest.raises(DataError, match="the valid part is empty: given with column part"):
        split_tables(given_tables(["train", "test", "test", "test"]), "given", column="part")


def test_shares_and_sizes_that_leave_nothing_are_refused():
    tables = small_tables([(0, 0, 1), (0, 1, 2), (1, 0, 3)])
    with pytest.raises(DataError, match="the valid part is empty: leave_one_out with min_events 3"):
        split_tables(tables, "leave_one_out", min_events=3)
    with pytest.raises(UserError, match="min_events = 2 is too small"):
        split_tables(tables, "leave_one_out", min_events=2)
    for name in ("user_time_ratio", "user_holdout"):
        with pytest.raises(UserError, match="together below 1"):
            split_tables(tables, name, valid=0.5, test=0.5)
    with pytest.raises(DataError, match="the train part is empty: user_holdout"):
        split_tables(tables, "user_holdout", valid=0.1, test=0.1)


def test_steps_are_no_dates():
    frame = pl.DataFrame({"u": [1] * 4, "i": [1, 2, 3, 4], "t": [1, 2, 3, 4], "r": [1] * 4})
    tables = build_tables(frame, schema=STEPS)
    split = global_time(tables, valid_from="2", test_from=0.5)
    assert split.boundaries == {"valid": 2, "test": 3}
    with pytest.raises(UserError, match="'2015-01-31' is neither a share nor a step"):
        global_time(tables, valid_from="2015-01-31", test_from=0.9)
    with pytest.raises(DataError, match="between step 1 and step 4"):
        global_time(tables, valid_from=0.1, test_from=0.9)
    twins = pl.concat([frame, frame.with_columns(u=pl.lit(2, pl.Int64))])
    notes = split_tables(build_tables(twins, schema=STEPS), "leave_one_out", min_events=3).notes
    assert notes == ()
    longer = twins[:-1]
    notes = split_tables(build_tables(longer, schema=STEPS), "leave_one_out", min_events=3).notes
    assert "by their steps: training may know their future" in notes[0]


def test_a_saved_split_tells_how_it_was_made_and_what_is_cold(tmp_path):
    tables = checkerboard(20, 20, events=10)
    split = split_tables(tables, "user_holdout", valid=0.1, test=0.25, seed=3)
    split.save(tmp_path)
    again = Split.load(tmp_path, tables)
    assert again.options == {"valid": 0.1, "test": 0.25, "seed": 3}
    assert (again.name, again.notes, again.boundaries) == ("user_holdout", split.notes, {})
    frame = pl.read_parquet(tmp_path / "split.parquet")
    assert frame.columns == ["row", "part", "cold_user", "cold_item"]
    assert (frame["cold_user"] == (frame["part"].cast(pl.String) != "train")).all()
