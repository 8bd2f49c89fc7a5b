from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import candidates, requests
from tastemaker.models.base import Recommender
from tastemaker.models.baselines import ItemMean, LikedShare, LikedShareAndItemMean
from tastemaker.testing.recommender import ScoringContract
from tastemaker.testing.world import checkerboard_split


class TestItemMean(ScoringContract):
    def make(self) -> ItemMean:
        return ItemMean()


class TestLikedShare(ScoringContract):
    def make(self) -> LikedShare:
        return LikedShare(history=5)


class TestLikedShareAndItemMean(ScoringContract):
    def make(self) -> LikedShareAndItemMean:
        return LikedShareAndItemMean(history=5)


@pytest.fixture(scope="module")
def split() -> Split:
    return checkerboard_split()


def relabelled(split: Split, labels: np.ndarray) -> Split:
    """The same events with other labels."""
    column = split.tables.interactions["label"].clone().to_frame().with_columns(label=labels)
    events = split.tables.interactions.with_columns(column["label"].cast(int)).cast(
        split.tables.interactions.schema
    )
    return replace(split, tables=replace(split.tables, interactions=events))


def probability(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores.astype(np.float64)))


def test_item_mean_is_the_smoothed_share_of_likes(split: Split) -> None:
    events = split.tables.interactions[split.train]
    item = int(events["item"][0])
    labels = events.filter(events["item"] == item)["label"].to_numpy()
    overall = events["label"].mean()
    model = ItemMean(strength=4.0).fit(split)
    score = model.score(candidates(split, 0, items=[item], time=0))
    expected = (labels.sum() + 4 * overall) / (len(labels) + 4)
    np.testing.assert_allclose(probability(score), expected, rtol=1e-5)


def test_leaving_one_out_is_the_mean_without_that_row(split: Split) -> None:
    rows = split.train[:20]
    events = split.tables.interactions[rows]
    model = ItemMean(strength=4.0).fit(split)
    found = model.log_odds(events["item"].to_numpy(), without=events["label"].to_numpy())
    train = split.tables.interactions[split.train]
    overall = train["label"].mean()
    for place, row in enumerate(rows):
        others = split.tables.interactions[np.setdiff1d(split.train, row)]
        others = others.filter(others["item"] == events["item"][place])["label"].to_numpy()
        share = (others.sum() + 4 * overall) / (len(others) + 4)
        assert found[place] == pytest.approx(np.log(share / (1 - share)))


def test_liked_share_counts_the_last_events_before_the_request(split: Split) -> None:
    asked = requests(split, "test", min_history=6, seed=0)
    model = LikedShare(history=6, strength=0.0).fit(split)
    scores = model.score(asked)
    labels = split.tables.interactions["label"].to_numpy()
    past = split.histories.before(asked.rows, max_length=6)
    shares = [labels[past[place]].mean() for place in range(len(asked))]
    np.testing.assert_allclose(probability(scores), np.clip(shares, 1e-4, 1 - 1e-4), rtol=1e-3)


def test_without_history_the_overall_share_stands_in(split: Split) -> None:
    labels = split.tables.interactions["label"].to_numpy()
    asked = candidates(split, 0, items=[1], time=0)
    for strength in (0.0, 2.0):
        scores = LikedShare(strength=strength).fit(split).score(asked)
        np.testing.assert_allclose(probability(scores), labels[split.train].mean(), rtol=1e-5)


def test_the_regression_finds_both_effects() -> None:
    split = checkerboard_split(80, 40, events=30)
    events = split.tables.interactions
    users, items = events["user"].to_numpy(), events["item"].to_numpy()
    odds = 2.0 * (users % 2) - 1.0 + 2.0 * (items % 2) - 1.0
    labels = np.random.default_rng(0).random(len(odds)) < 1 / (1 + np.exp(-1.5 * odds))
    split = relabelled(split, labels.astype(np.int8))
    asked = requests(split, "test", seed=0)
    models: list[Recommender] = [LikedShareAndItemMean(), LikedShare(), ItemMean()]
    both, share, mean = (auc(model.fit(split).score(asked), asked.labels) for model in models)
    assert both > max(share, mean) + 0.03


@pytest.mark.parametrize("model", [ItemMean(), LikedShare(), LikedShareAndItemMean()])
def test_scoring_before_fitting_says_what_to_do(model: Recommender, split: Split) -> None:
    with pytest.raises(UserError, match="has not been fitted"):
        model.score(candidates(split, 0, items=[1], time=0))
