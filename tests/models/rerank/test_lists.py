from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.negatives import with_negatives
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.splitters import global_time
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UnknownNameError
from tastemaker.models.rerank.lists import RankingLists, ranking_lists
from tastemaker.testing.world import checkerboard, checkerboard_split

SCHEMA = Schema("u", "i", "t", "r", LabelRule("r", ">", 3.0), None)
N_ITEMS = 30
EVENT = st.tuples(
    st.integers(0, 3), st.integers(0, 11), st.integers(0, 9), st.booleans(), st.sampled_from(PARTS)
)


def split_of(events: list[tuple[int, int, int, bool, str]], *, extra: int) -> Split:
    """Any events in any parts; items 12 to 12 + extra are known in training by user 4."""
    known = [(4, 12 + number, 0, True, "train") for number in range(extra)]
    schema = {"user": pl.Int32, "item": pl.Int32, "time": pl.Int64, "like": pl.Boolean, "p": str}
    rows = pl.DataFrame(events + known, schema=schema, orient="row")
    rows = rows.sort("time", "user", "item", "like", maintain_order=True)
    interactions = rows.select(
        pl.col("user", "item", "time"),
        pl.when(pl.col("like")).then(4).otherwise(1).cast(pl.Float32).alias("rating"),
        pl.col("like").cast(pl.Int8).alias("label"),
    )
    people = pl.DataFrame({"user": np.arange(5, dtype=np.int32)})
    things = pl.DataFrame({"item": np.arange(N_ITEMS, dtype=np.int32)})
    tables = Tables(
        people.with_columns(user_id=pl.format("u{}", "user")),
        things.with_columns(item_id="item", title=pl.lit("film")),
        interactions,
        schema=SCHEMA,
        source="test",
    )
    train, valid, test = (np.flatnonzero((rows["p"] == part).to_numpy()) for part in PARTS)
    return Split(tables, train, valid, test, {})


def equal(one: RankingLists, two: RankingLists) -> bool:
    names = ("user", "moment", "items", "labels", "real", "rows")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


@settings(max_examples=60)
@given(
    events=st.lists(EVENT, min_size=25, max_size=60),
    extra=st.integers(2, 8),
    real=st.integers(1, 4),
    drawn=st.integers(1, 4),
    part=st.sampled_from(PARTS),
    seed=st.integers(0, 3),
    cut=st.integers(-1, 5),
)
def test_what_a_list_holds(
    events: Any, extra: int, real: int, drawn: int, part: str, seed: int, cut: int
) -> None:
    split = split_of(events, extra=extra)
    frame = split.tables.interactions
    users, items, times, labels = (
        frame[name].to_numpy() for name in ("user", "item", "time", "label")
    )
    after = np.array([cut, -1, cut, -1, -1])
    rows = split.part(part)
    rows = rows[times[rows] > after[users[rows]]]
    known = set(items[split.train].tolist())
    met = {user: set(items[users == user].tolist()) for user in range(5)}
    counts = {user: int((users[rows] == user).sum()) // real for user in range(5)}
    if not any(counts.values()):
        with pytest.raises(DataError, match=f"no user has {real} events"):
            ranking_lists(split, part, seed=seed, after=after, real=real, drawn=drawn)
        return
    if any(len(known - met[user]) < drawn for user in range(5) if counts[user]):
        with pytest.raises(DataError, match="can be drawn for user 'u"):
            ranking_lists(split, part, seed=seed, after=after, real=real, drawn=drawn)
        return
    lists = ranking_lists(split, part, seed=seed, after=after, real=real, drawn=drawn)
    assert lists.items.shape == (sum(counts.values()), real + drawn)
    assert np.array_equal(np.bincount(lists.user, minlength=5), list(counts.values()))
    past = split.histories.at(lists.user, lists.moment)
    walked: dict[int, list[int]] = {user: [] for user in range(5)}
    for place, user in enumerate(lists.user.tolist()):
        own = np.sort(lists.rows[place][lists.real[place]])
        chosen = own[np.lexsort((own, times[own]))]
        walked[user] += chosen.tolist()
        assert lists.moment[place] == times[chosen].min() > after[user]
        # Neither the history nor anything else strictly earlier holds an event of the list.
        assert not set(past[place].tolist()) & set(chosen.tolist())
        assert len(own) == real
        for item, label, is_real, row in zip(
            *(getattr(lists, name)[place].tolist() for name in ("items", "labels", "real", "rows")),
            strict=True,
        ):
            if is_real:
                assert (users[row], items[row], labels[row]) == (user, item, label)
            else:
                assert label == 0
                assert row == -1
                assert item in known
                assert item not in met[user]
        assert len(set(lists.items[place][~lists.real[place]].tolist())) == drawn
    for user, found in walked.items():
        own = rows[users[rows] == user]
        own = own[np.lexsort((own, times[own]))]
        assert found == own[: len(found)].tolist()


def test_a_list_of_kar_has_four_events_and_six_others() -> None:
    lists = ranking_lists(checkerboard_split(20, 60), "train", seed=1)
    assert lists.items.shape[1] == 10
    assert (lists.real.sum(axis=1) == 4).all()
    assert lists.items.dtype == lists.user.dtype == np.int32
    assert lists.labels.dtype == np.int8
    assert lists.moment.dtype == lists.rows.dtype == np.int64
    assert 0 < lists.liked.sum() < len(lists)
    assert np.array_equal(lists.liked, lists.labels.max(axis=1) == 1)


def test_every_item_that_may_be_drawn_is_drawn_as_often() -> None:
    events = [(user, 2 * n, n, True, "train") for user in range(4) for n in range(4)]
    split = split_of(events, extra=8)
    counts = np.zeros(N_ITEMS)
    for seed in range(500):
        lists = ranking_lists(split, "train", seed=seed, real=4, drawn=3)
        counts += np.bincount(
            lists.items[~lists.real & (lists.user[:, None] < 4)], minlength=N_ITEMS
        )
    # Eight items for 500 seeds x 4 users x 3 draws: 750 each, standard deviation 22.
    assert np.flatnonzero(counts).tolist() == list(range(12, 20))
    assert np.abs(counts[12:20] - 750).max() < 90


def test_places_tell_nothing_about_what_is_real() -> None:
    split = checkerboard_split(40, 60)
    share = np.mean([ranking_lists(split, "train", seed=s).real.mean(axis=0) for s in range(20)], 0)
    assert np.abs(share - 0.4).max() < 0.05


def test_as_kar_drew_a_future_like_may_stand_there_as_not_liked() -> None:
    split = checkerboard_split(20, 60)
    users, items = (split.tables.interactions[name].to_numpy() for name in ("user", "item"))
    met = {user: set(items[users == user].tolist()) for user in range(20)}

    def wrong(lists: RankingLists) -> int:
        pairs = zip(lists.user.tolist(), lists.items, lists.real, strict=True)
        return sum(len(met[user] & set(row[~real].tolist())) for user, row, real in pairs)

    assert wrong(ranking_lists(split, "train", seed=0)) == 0
    careless = ranking_lists(split, "train", seed=0, exclude="none")
    assert wrong(careless) > 0
    distinct = [len(set(r[~real])) for r, real in zip(careless.items, careless.real, strict=True)]
    assert set(distinct) == {6}
    catalogue = {item for seed in range(5) for item in np.unique(careless_items(split, seed))}
    assert catalogue == set(range(60))


def careless_items(split: Split, seed: int) -> Any:
    lists = ranking_lists(split, "train", seed=seed, exclude="none")
    return lists.items[~lists.real]


def test_a_list_does_not_change_when_others_are_cut_shorter() -> None:
    split = checkerboard_split(20, 60)
    whole = ranking_lists(split, "train", seed=3)
    after = np.full(20, np.iinfo(np.int64).max)
    after[[4, 7]] = -1
    assert equal(
        ranking_lists(split, "train", seed=3, after=after),
        whole.select(np.isin(whole.user, [4, 7])),
    )
    assert not equal(ranking_lists(split, "train", seed=4), whole)


def test_negatives_that_were_drawn_before_are_no_events() -> None:
    tables = with_negatives(checkerboard(20, 60), per_positive=1, seed=0)
    split = global_time(tables, valid_from=0.7, test_from=0.85)
    lists = ranking_lists(split, "train", seed=0)
    assert tables.sampled is not None
    assert not tables.sampled[lists.rows[lists.real]].any()


def test_saved_lists_come_back(tmp_path: Path) -> None:
    lists = ranking_lists(checkerboard_split(20, 60), "test", seed=1)
    lists.save(tmp_path / "lists.parquet")
    loaded = RankingLists.load(tmp_path / "lists.parquet")
    assert equal(loaded, lists)
    assert loaded.items.flags.writeable
    none = lists.select(np.zeros(len(lists), dtype=bool))
    none.save(tmp_path / "none.parquet")
    assert RankingLists.load(tmp_path / "none.parquet").items.shape == (0, 10)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as ranking lists"):
        RankingLists.load(tmp_path / "missing.parquet")
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="cannot be read as ranking lists"):
        RankingLists.load(tmp_path / "other.parquet")


def test_lists_that_contradict_themselves_are_refused() -> None:
    lists = ranking_lists(checkerboard_split(20, 60), "test", seed=1)
    wrong: dict[str, Any] = {
        "labels": np.ones_like(lists.labels),
        "real": ~lists.real,
        "items": lists.items.astype(np.int64),
        "user": lists.user[:-1],
    }
    for name, value in wrong.items():
        with pytest.raises(DataError, match="no ranking lists"):
            replace(lists, **{name: value})


def test_wrong_questions_are_refused() -> None:
    split = checkerboard_split(20, 60)
    with pytest.raises(UnknownNameError):
        ranking_lists(split, "trian", seed=0)
    with pytest.raises(ValueError, match="after has the shape"):
        ranking_lists(split, "train", seed=0, after=[1, 2])
    with pytest.raises(ValueError, match="at least 1"):
        ranking_lists(split, "train", seed=0, drawn=0)
    with pytest.raises(ValueError, match="exclude = 'seen'"):
        ranking_lists(split, "train", seed=0, exclude="seen")  # type: ignore[arg-type]
