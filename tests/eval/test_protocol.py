from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.data.splits import Split
from tastemaker.errors import DataError
from tastemaker.eval.protocol import Requests, candidates, one_of_n, requests
from tastemaker.testing.world import checkerboard_split


@pytest.fixture(scope="module")
def split() -> Split:
    return checkerboard_split()


@cache
def _small() -> Split:
    return checkerboard_split(12, 20, events=20)


def _earlier(split: Split, user: int, time: int) -> int:
    events = split.tables.interactions
    return events.filter((pl.col("user") == user) & (pl.col("time") < time)).height


@given(
    min_history=st.integers(0, 18),
    per_user=st.one_of(st.none(), st.integers(1, 4)),
    seed=st.integers(0, 5),
)
def test_no_row_has_too_few_strictly_earlier_events(
    min_history: int, per_user: int | None, seed: int
) -> None:
    split = _small()
    asked = requests(split, "test", min_history=min_history, per_user=per_user, seed=seed)
    counts = [_earlier(split, *pair) for pair in zip(asked.users, asked.times, strict=True)]
    assert asked.cuts.tolist() == counts
    assert min(counts) >= min_history
    enough = split.test[split.histories.counts(split.test) >= min_history]
    assert set(asked.rows) <= set(enough)
    assert (np.diff(asked.rows) > 0).all()
    if per_user is None:
        assert len(asked) == len(enough)
    else:
        assert np.bincount(asked.users).max() <= per_user


def test_all_rows_of_the_part_are_asked_by_default(split: Split) -> None:
    for part in ("valid", "test"):
        asked = requests(split, part)
        assert asked.rows.tolist() == split.part(part).tolist()
        events = split.tables.interactions[asked.rows]
        for name in ("user", "item", "time", "label"):
            assert asked.frame[name].to_list() == events[name].to_list()
        assert set(asked.frame["split"]) == {part}
        assert (asked.groups == asked.users).all()
        assert (asked.questions == asked.users).all()


def test_sampling_is_seeded_and_takes_what_there_is(split: Split) -> None:
    whole = requests(split, "test")
    first, again, other = (
        requests(split, "test", per_user=2, seed=seed).rows.tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) == np.minimum(np.bincount(whole.users), 2).sum()
    assert requests(split, "test", per_user=99, seed=1).rows.tolist() == whole.rows.tolist()


def test_sampling_draws_every_row_alike() -> None:
    split = checkerboard_split(2, 40, events=40)
    whole = requests(split, "test").rows
    drawn = np.zeros(len(whole))
    for seed in range(400):
        drawn += np.isin(whole, requests(split, "test", per_user=3, seed=seed).rows)
    own = requests(split, "test").users == 0
    share = drawn[own] / 400
    assert abs(share - 3 / own.sum()).max() < 0.12


def test_nothing_left_says_what_to_change(split: Split) -> None:
    with pytest.raises(DataError, match=r"no row of the test part has 1000 .*\n.*\n.*min_history"):
        requests(split, "test", min_history=1000)


def test_candidates_carry_the_cut_of_their_moment(split: Split) -> None:
    event = split.tables.interactions.row(int(split.test[5]), named=True)
    asked = candidates(split, event["user"], items=[3, 1, 2], time=event["time"])
    assert asked.items.tolist() == [3, 1, 2]
    assert set(asked.cuts) == {_earlier(split, event["user"], event["time"])}
    assert set(asked.rows) == set(asked.labels) == {-1}
    assert set(asked.questions) == {event["user"]}
    assert len(candidates(split, 0, items=[], time=0)) == 0


def test_saved_requests_come_back(split: Split, tmp_path: Path) -> None:
    asked = requests(split, "valid", per_user=3)
    asked.save(tmp_path / "sub" / "requests.parquet")
    assert Requests.load(tmp_path / "sub" / "requests.parquet").frame.equals(asked.frame)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["requests.parquet"]


def test_select_keeps_order_and_columns_can_be_changed_safely(split: Split) -> None:
    asked = requests(split, "test")
    liked = asked.select(asked.labels == 1)
    assert liked.rows.tolist() == asked.rows[asked.labels == 1].tolist()
    asked.users[:] = -5
    assert asked.users.min() >= 0


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as requests"):
        Requests.load(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read as requests"):
        Requests.load(tmp_path / "text.parquet")
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"requests have the columns \{'user': Int64\}"):
        Requests.load(tmp_path / "other.parquet")


def test_files_without_groups_are_refused(split: Split, tmp_path: Path) -> None:
    requests(split, "test").frame.drop("group").write_parquet(tmp_path / "old.parquet")
    with pytest.raises(DataError, match="Run the data stage again"):
        Requests.load(tmp_path / "old.parquet")


@pytest.mark.parametrize("strategy", ["uniform", "popularity"])
def test_each_like_stands_among_items_its_user_had_not_met(split: Split, strategy: str) -> None:
    asked = one_of_n(split, "test", n=6, strategy=strategy, seed=1, min_history=14)
    pointwise = requests(split, "test", min_history=14)
    liked = pointwise.rows[pointwise.labels == 1]
    assert asked.questions.tolist() == np.repeat(liked, 6).tolist()
    events = split.tables.interactions
    for question, frame in asked.frame.group_by("group", maintain_order=True):
        event = events.row(int(str(question[0])), named=True)
        met = events.filter((pl.col("user") == event["user"]) & (pl.col("time") <= event["time"]))
        assert sorted(frame["row"]) == [-1] * 5 + [question[0]]
        assert frame.filter(label=1).select("row", "item").rows() == [(question[0], event["item"])]
        others = frame.filter(label=0)
        assert others["item"].n_unique() == len(others) == 5
        assert not set(others["item"]) & set(met["item"])
        for name in ("user", "time"):
            assert set(frame[name]) == {event[name]}
        assert set(frame["cut"]) == {_earlier(split, event["user"], event["time"])}
        assert set(frame["split"]) == {"test"}


def test_questions_do_not_depend_on_each_other(split: Split) -> None:
    whole = one_of_n(split, "test", n=5, strategy="uniform", seed=1)
    assert whole.frame.equals(one_of_n(split, "test", n=5, strategy="uniform", seed=1).frame)
    fewer = one_of_n(split, "test", n=5, strategy="uniform", seed=1, per_user=1)
    assert np.bincount(fewer.users).max() == 5
    assert fewer.frame.equals(whole.select(np.isin(whole.questions, fewer.questions)).frame)
    other = one_of_n(split, "test", n=5, strategy="uniform", seed=2)
    assert not whole.frame.equals(other.frame)


def test_the_place_of_the_like_tells_nothing(split: Split) -> None:
    places = np.concatenate(
        [
            np.flatnonzero(one_of_n(split, "test", n=4, strategy="uniform", seed=seed).labels) % 4
            for seed in range(20)
        ]
    )
    shares = np.bincount(places, minlength=4) / len(places)
    assert abs(shares - 0.25).max() < 0.05


def test_no_like_left_says_so(split: Split) -> None:
    with pytest.raises(DataError, match="no liked row of the test part has 1000 earlier events"):
        one_of_n(split, "test", n=5, strategy="uniform", seed=1, min_history=1000)
