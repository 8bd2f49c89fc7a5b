from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.data.splits import Split
from tastemaker.errors import DataError
from tastemaker.eval.protocol import Requests, candidates, requests
from tastemaker.testing.world import checkerboard_split


@pytest.fixture(scope="module")
def split() -> Split:
    return checkerboard_split()


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
    split = checkerboard_split(12, 20, events=20)
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
