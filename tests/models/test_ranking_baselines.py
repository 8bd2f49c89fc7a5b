"""Popularity, item kNN and the next number: by hand, by brute force, and by the contract."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.data.id_probe import id_probe
from tastemaker.data.item_index import item_index
from tastemaker.data.splits import Split
from tastemaker.data.splitters import split_tables
from tastemaker.data.tables import build_tables
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.eval.protocol import candidates, one_of_n
from tastemaker.eval.ranking import full_ranking, hit_rate, ranked_rows, ranks_of
from tastemaker.models.base import Recommender
from tastemaker.models.ranking_baselines import ItemKNN, NextNumber, PopularItems
from tastemaker.testing.recommender import RecommenderContract, ScoringContract
from tastemaker.testing.world import SCHEMA, checkerboard_split


class TestPopularItems(ScoringContract):
    def make(self) -> PopularItems:
        return PopularItems()


class TestItemKNN(RecommenderContract):
    def make(self) -> ItemKNN:
        return ItemKNN(k=20, shrinkage=1.0)


class TestNextNumber(ScoringContract):
    def make(self) -> NextNumber:
        return NextNumber(np.arange(30))


class TestNextNumberOfTheLast(ScoringContract):
    def make(self) -> NextNumber:
        return NextNumber(np.arange(30)[::-1], rule="last")


def sequences(lists: list[list[int]]) -> Split:
    """Users whose n-th event is at step n, all of them likes; the last two are held out."""
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(lists)), [len(items) for items in lists]),
            "item_id": np.concatenate(lists),
            "timestamp": np.concatenate([np.arange(len(items)) for items in lists]),
            "rating": 5.0,
        }
    )
    items = pl.DataFrame({"item_id": np.arange(max(map(max, lists)) + 1)})
    items = items.with_columns(title=pl.lit("x"), genres=pl.lit("x"))
    return split_tables(
        build_tables(frame, items=items, schema=SCHEMA), "leave_one_out", min_events=3
    )


SMALL = [[0, 1, 2, 3], [1, 0, 3, 2], [0, 2, 1, 3], [0, 0, 2, 1]]


def test_popularity_orders_by_training_events() -> None:
    split = sequences(SMALL)  # train events: 0 1 / 1 0 / 0 2 / 0 0
    scores = PopularItems().fit(split).catalogue_scores(split.test)
    assert scores.shape == (4, 4)
    expected = np.log((np.array([5, 2, 1, 0]) + 0.5) / (np.array([3, 6, 7, 8]) + 0.5))
    np.testing.assert_allclose(scores, np.tile(expected, (4, 1)), rtol=1e-6)


def test_popularity_counts_likes_or_everything() -> None:
    split = checkerboard_split(20, 20, events=15)
    events = split.tables.interactions[split.train]
    likes = np.bincount(events.filter(events["label"] == 1)["item"].to_numpy(), minlength=20)
    every = np.bincount(events["item"].to_numpy(), minlength=20)
    assert (likes.argsort(kind="stable") != every.argsort(kind="stable")).any()
    for liked_only, counts in ((True, likes), (False, every)):
        scores = PopularItems(liked_only=liked_only).fit(split).catalogue_scores(split.test)[0]
        np.testing.assert_array_equal(
            np.argsort(scores, kind="stable"), counts.argsort(kind="stable")
        )


def brute_force(split: Split, row: int, *, k: int, shrinkage: float, liked: bool) -> Any:
    """Dense cosine, neighbours by a loop, and a sum."""
    events, n_items = split.tables.interactions, split.tables.n_items
    taken = np.zeros((split.tables.n_users, n_items))
    for user, item, label in events[split.train].select("user", "item", "label").iter_rows():
        if label == 1 or not liked:
            taken[user, item] = 1
    counts = taken.sum(axis=0)
    similar = taken.T @ taken / (np.sqrt(np.outer(counts, counts)) + max(shrinkage, 1e-12))
    np.fill_diagonal(similar, 0)
    kept = np.zeros_like(similar)
    for item in range(n_items):
        for other in np.argsort(-similar[item].astype(np.float32), kind="stable")[:k]:
            kept[item, other] = similar[item, other]
    user, time = events["user"][row], events["time"][row]
    past = events.filter((pl.col("user") == user) & (pl.col("time") < time))
    if liked:
        past = past.filter(pl.col("label") == 1)
    return kept[past["item"].unique().to_list()].sum(axis=0) + 0.001 * counts / counts.max()


@pytest.mark.parametrize(
    ("k", "shrinkage", "liked"), [(3, 0.0, True), (50, 0.0, False), (5, 2.5, True)]
)
def test_item_knn_is_the_cosine_of_those_who_took_both(
    k: int, shrinkage: float, liked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.models.ranking_baselines._BLOCK", 7)
    split = checkerboard_split(30, 25, events=12)
    model = ItemKNN(k=k, shrinkage=shrinkage, liked_only=liked).fit(split)
    rows = split.test[:15]
    scores = model.catalogue_scores(rows)
    for place, row in enumerate(rows.tolist()):
        expected = brute_force(split, row, k=k, shrinkage=shrinkage, liked=liked)
        np.testing.assert_allclose(scores[place], expected, rtol=1e-5, atol=1e-6)


def test_item_knn_looks_at_the_newest_events_only() -> None:
    split = sequences(SMALL)
    whole, last = (ItemKNN(history=history).fit(split) for history in (None, 1))
    similar = whole._similar.toarray()
    prior = whole.catalogue_scores(split.train[:0]).sum() + whole._prior
    # User 0 had met 0, 1, 2 before the test item.
    test = split.test[split.tables.interactions["user"].to_numpy()[split.test] == 0]
    np.testing.assert_allclose(last.catalogue_scores(test)[0], similar[2] + prior)
    np.testing.assert_allclose(whole.catalogue_scores(test)[0], similar[:3].sum(axis=0) + prior)


def test_without_history_popularity_decides() -> None:
    split = sequences(SMALL)
    asked = candidates(split, 0, items=[0, 1, 2, 3], time=0)
    scores = ItemKNN().fit(split).score(asked)
    assert np.argsort(-scores, kind="stable").tolist() == [0, 1, 2, 3]
    assert (ItemKNN(popularity=0.0).fit(split).score(asked) == 0).all()


@pytest.mark.parametrize(
    "model",
    [
        PopularItems(),
        ItemKNN(k=5),
        NextNumber(np.arange(40)),
        NextNumber(np.arange(40), rule="last"),
    ],
)
def test_candidates_and_the_catalogue_are_scored_alike(model: Any) -> None:
    split = checkerboard_split()
    model.fit(split)
    asked = one_of_n(split, "test", n=8, strategy="uniform", seed=0)
    scores = model.score(asked)
    whole = model.catalogue_scores(asked.questions)
    np.testing.assert_allclose(scores, whole[np.arange(len(asked)), asked.items], rtol=1e-6)
    assert len(ranks_of(scores, asked.labels, asked.questions)) == len(asked) / 8


def test_item_knn_ranks_likes_of_the_checkerboard_first() -> None:
    split = checkerboard_split(60, 30, events=25)
    ranks = full_ranking(ItemKNN().fit(split).catalogue_scores, split, part="test")
    popular = full_ranking(PopularItems().fit(split).catalogue_scores, split, part="test")
    assert len(ranks) == len(ranked_rows(split, "test"))
    assert ranks.mean() < popular.mean() - 2


def test_the_next_number_by_hand() -> None:
    # Numbers of items 0 to 4: 40 10 30 20 50, so places 3 0 2 1 4.
    split = sequences([[1, 3, 2, 0], [2, 1, 3, 4], [0, 1, 2, 3]])
    numbers = [40, 10, 30, 20, 50]
    largest = NextNumber(numbers).fit(split).catalogue_scores(split.test)
    # Histories 10 20 30, 30 10 20 and 40 10 30: 40 and 50 follow twice, then 50.
    assert largest.tolist() == [[-1, -6, -6, -6, -2], [-1, -6, -6, -6, -2], [-6, -6, -6, -6, -1]]
    last = NextNumber(pl.Series(map(str, numbers)), rule="last").fit(split)
    assert last.catalogue_scores(split.test).tolist()[1] == [-2, -6, -1, -6, -3]
    ranks = full_ranking(NextNumber(numbers).fit(split).catalogue_scores, split, part="test")
    assert ranks.tolist() == [1.0, 2.0, 2.0]
    nothing = NextNumber(numbers).fit(split).score(candidates(split, 0, items=[0, 1], time=0))
    assert nothing.tolist() == [-6, -6]


def leaking(n_users: int = 200, length: int = 6) -> Split:
    """Every fourth user takes items that nobody took before, numbered as they first appear."""
    random = np.random.default_rng(0)
    fresh, lists = 50, []
    for user in range(n_users):
        if user % 4:
            lists.append(random.permutation(50)[:length].tolist())
        else:
            lists.append(list(range(fresh, fresh + length)))
            fresh += length
    return sequences(lists)


def test_numbers_of_complete_sequences_find_the_next_item_and_honest_ones_do_not() -> None:
    split = leaking()
    n_items = split.tables.n_items
    found = {"dense": pl.Series(np.arange(n_items))}
    for scheme in ("random", "sequential"):
        found[scheme] = item_index(split.tables, split.train, scheme, seed=0).texts  # type: ignore[arg-type]
    hits = {
        name: hit_rate(
            full_ranking(NextNumber(texts).fit(split).catalogue_scores, split, part="test"), 1
        )
        for name, texts in found.items()
    }
    assert hits["dense"] > 0.25
    assert max(hits["random"], hits["sequential"]) < 0.05
    probe = id_probe(split, numbers=found["dense"])
    assert probe is not None
    ten = full_ranking(NextNumber(found["dense"]).fit(split).catalogue_scores, split, part="test")
    assert hit_rate(ten, 10) == pytest.approx(probe.hr10)


def test_wrong_numbers_and_settings_are_refused() -> None:
    split = sequences(SMALL)
    with pytest.raises(DataError, match="3 numbers for a catalogue of 4"):
        NextNumber([1, 2, 3]).fit(split)
    with pytest.raises(DataError, match="'<CI1><CI2>', which is no whole number"):
        NextNumber(pl.Series(["<CI1><CI2>", "1001"]))
    with pytest.raises(DataError, match="no whole number"):
        NextNumber([0.5, 1.0])
    with pytest.raises(UnknownNameError, match="'first'"):
        NextNumber([1], rule="first")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="k = 0"):
        ItemKNN(k=0)
    with pytest.raises(UserError, match="shrinkage = -1"):
        ItemKNN(shrinkage=-1)


@pytest.mark.parametrize("model", [PopularItems(), ItemKNN(), NextNumber(np.arange(40))])
def test_scoring_before_fitting_says_what_to_do(model: Recommender) -> None:
    split = checkerboard_split()
    with pytest.raises(UserError, match="has not been fitted"):
        model.score(candidates(split, 0, items=[1], time=0))


def test_drawn_negatives_are_not_counted() -> None:
    split = sequences(SMALL)
    events = split.tables.interactions
    sampled = events.with_columns(sampled=pl.Series(np.arange(events.height) == split.train[0]))
    marked = replace(split, tables=replace(split.tables, interactions=sampled))
    item = int(events["item"][int(split.train[0])])
    before, after = (
        PopularItems().fit(one).score(candidates(one, 0, items=[item], time=9))
        for one in (split, marked)
    )
    assert after < before


@pytest.mark.realdata
def test_the_probe_finds_what_was_measured_on_amazon_beauty() -> None:
    """The file's own numbers under "largest + 1, + 2, …": HR@1 .0441, HR@10 .0463."""
    place = os.environ.get("TASTEMAKER_DATA")
    file = Path(place or "") / "s3rec" / "Beauty.txt"
    if not place or not file.is_file():
        pytest.skip("no s3rec/Beauty.txt in TASTEMAKER_DATA")
    split = sequences(
        [[int(item) for item in line.split()[1:]] for line in file.read_text().splitlines()]
    )
    probe = NextNumber(split.tables.items["item_id"]).fit(split)
    ranks = full_ranking(probe.catalogue_scores, split, part="test")
    assert (hit_rate(ranks, 1), hit_rate(ranks, 10)) == pytest.approx((0.0441, 0.0463), abs=6e-5)
    numbers = item_index(split.tables, split.train, "random", seed=0).texts
    honest = full_ranking(NextNumber(numbers).fit(split).catalogue_scores, split, part="test")
    assert hit_rate(honest, 10) < 0.003
    neighbours = full_ranking(ItemKNN().fit(split).catalogue_scores, split, part="test")
    popular = full_ranking(PopularItems().fit(split).catalogue_scores, split, part="test")
    assert hit_rate(neighbours, 10) > 0.05 > 0.012 > hit_rate(popular, 10)
