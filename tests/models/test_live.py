from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tastemaker.data.splits import Split
from tastemaker.eval.protocol import candidates
from tastemaker.models.baselines import ItemMean
from tastemaker.models.feature_space import FeatureSpace
from tastemaker.models.features import Feature
from tastemaker.models.live import Past, PopularItems
from tastemaker.models.live_trail import Trail
from tastemaker.models.visitor import Visitor
from tastemaker.testing.world import checkerboard_split

PAST = Feature("history", "sequence", steps=("item", "rating"), length=4)


@pytest.fixture(scope="module")
def split() -> Split:
    return checkerboard_split()


def same_parity(those: np.ndarray, items: np.ndarray) -> np.ndarray:
    """How many of those an item resembles, 0 to 1."""
    return (those[:, None] % 2 == items % 2).mean(axis=0)


def test_without_similarity_everybody_gets_the_item_means(split: Split) -> None:
    items = np.array([3, 0, 7])
    expected = ItemMean().fit(split).score(candidates(split, 0, items=items, time=0))
    live = PopularItems(split)
    for visitor in (Visitor(), Visitor(user=4, liked=(3,))):
        np.testing.assert_array_equal(live.score(visitor, items), expected)
    [only] = live.influences(Visitor(), 3)
    assert (only.kind, only.item, only.name) == ("statistic", None, "item_mean")
    labels = split.tables.interactions["label"].to_numpy()[split.train]
    everyone = np.log(labels.mean() / (1 - labels.mean()))
    np.testing.assert_allclose(only.effect, expected[0] - everyone, atol=1e-6)


def test_a_similarity_brings_what_resembles_likes_and_not_dislikes(split: Split) -> None:
    plain, live = PopularItems(split), PopularItems(split, similarity=same_parity)
    items = np.arange(10)
    visitor = Visitor(liked=(2, 4), disliked=(5,))
    gain = live.score(visitor, items) - plain.score(visitor, items)
    np.testing.assert_allclose(gain, np.where(items % 2 == 0, 1, -1), atol=1e-6)
    effects = {one.item: one.effect for one in live.influences(visitor, 7) if one.item is not None}
    assert set(effects) == {5}  # one like is as good as two
    assert effects[5] == pytest.approx(-1)


def test_history_is_newest_first_and_the_conversation_is_newer(split: Split) -> None:
    live = PopularItems(split)
    found = live.history(Visitor(user=3, liked=(1, 5), disliked=(2,)), count=6)
    assert found[:3] == [
        Past(5, None, True, None),
        Past(1, None, True, None),
        Past(2, None, False, None),
    ]
    own = split.tables.interactions.filter(split.tables.interactions["user"] == 3)[::-1][:3]
    assert [one.item for one in found[3:]] == own["item"].to_list()
    assert [one.rating for one in found[3:]] == own["rating"].to_list()
    assert [one.liked for one in found[3:]] == (own["label"] == 1).to_list()
    assert [one.time for one in found[3:]] == own["time"].to_list()
    assert len(live.history(Visitor(user=3, liked=(1, 5)), count=1)) == 1


def test_only_what_was_before_now_has_been_met(split: Split) -> None:
    events = split.tables.interactions
    own = events.filter(events["user"] == 3)
    met = PopularItems(split).met(Visitor(user=3, liked=(39,), disliked=(38,)))
    assert met.tolist() == sorted({*own["item"].to_list(), 39, 38})
    moment = int(own["time"][5])
    earlier = PopularItems(split, time=moment).met(Visitor(user=3))
    assert earlier.tolist() == sorted(own.filter(own["time"] < moment)["item"].to_list())
    assert PopularItems(split).met(Visitor()).tolist() == []


def test_items_of_training_are_known(split: Split) -> None:
    items = split.tables.interactions["item"].to_numpy()
    fewer = replace(split, train=split.train[items[split.train] != 6])
    assert np.flatnonzero(~PopularItems(fewer).known).tolist() == [6]


def test_what_is_left_out_of_a_trail_leaves_it_shorter() -> None:
    trail = Trail(
        np.array([[0, 7, 8, 9]], np.int32),
        np.array([[False, True, False, True]]),
        {"rating": np.array([[0, 3, 4, 5]], np.int32)},
        np.array([12]),
    )
    found = trail.left_out()
    assert found.items.tolist() == [[0, 7, 8, 9], [0, 0, 7, 8], [0, 0, 7, 9], [0, 0, 8, 9]]
    assert found.codes["rating"].tolist() == [
        [0, 3, 4, 5],
        [0, 0, 3, 4],
        [0, 0, 3, 5],
        [0, 0, 4, 5],
    ]
    assert found.likes.tolist() == [2, 1, 2, 1]
    assert found.counts.tolist() == [12, 11, 11, 11]


def test_a_trail_makes_room_for_newer_events() -> None:
    empty = Trail(np.zeros((2, 3), np.int32), np.zeros((2, 3), bool), {}, np.zeros(2, np.int64))
    two = empty.followed_by([4, 5], liked=[True, False], codes={})
    assert two.items.tolist() == [[0, 5, 6]] * 2
    assert two.shown.tolist() == two.counts.tolist() == [2, 2]
    five = two.followed_by([0, 1, 2, 3], liked=[True] * 4, codes={})
    assert five.items.tolist() == [[2, 3, 4]] * 2
    assert five.likes.tolist() == [3, 3]
    assert five.counts.tolist() == [6, 6]
    assert two.followed_by([], liked=[], codes={}).items.tolist() == two.items.tolist()


def test_judgements_carry_the_usual_ratings(split: Split) -> None:
    space = FeatureSpace.fit(split, [Feature("item", "categorical"), PAST], min_count=1)
    known = space.trail(np.array([0]), np.array([0]))
    trail = space.judged(known, [3, 1], liked=[False, True])
    assert trail.items.tolist() == [[0, 0, 4, 2]]
    assert space.own_ratings[trail.codes["rating"][0, 2:] - 3].tolist() == [1.0, 5.0]
    assert trail.liked.tolist() == [[False, False, False, True]]


def test_dislikes_are_no_events_where_every_event_is_a_like(split: Split) -> None:
    labels = split.tables.interactions["label"].to_numpy()
    likes = replace(split, train=split.train[labels[split.train] == 1])
    space = FeatureSpace.fit(likes, [Feature("item", "categorical"), PAST], min_count=1)
    known = space.trail(np.array([0]), np.array([0]))
    trail = space.judged(known, [3, 1], liked=[False, True])
    assert trail.items.tolist() == [[0, 0, 0, 2]]
    assert trail.counts.tolist() == [1]
