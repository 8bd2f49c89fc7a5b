from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.eval.protocol import candidates
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.features import Feature
from tastemaker.models.live_ctr import LiveCtr
from tastemaker.models.text_vectors import FUSIONS, TextVectors
from tastemaker.models.training import TrainingPlan
from tastemaker.models.visitor import Visitor
from tastemaker.testing.world import checkerboard_split, shop_split

ITEM_STEPS = ("item", "categories", "price", "rating")
RICH = [
    Feature("item", "categorical"),
    Feature("categories", "list"),
    Feature("price", "numeric"),
    Feature("user", "categorical"),
    Feature("gender", "categorical"),
    Feature("age", "numeric"),
    Feature("feature", "categorical"),
    *(Feature(n, "statistic") for n in ("liked_share", "item_mean", "user_count", "item_count")),
    Feature("long", "sequence", steps=(*ITEM_STEPS, "feature"), length=7),
    Feature("short", "sequence", steps=("item", "rating"), length=3),
]


def texts_of(split: Split) -> list[TextVectors]:
    """Noise in every fusion; the last user and the last item have texts too."""
    random = np.random.default_rng(5)
    owners: list[tuple[Literal["user", "item"], int]]
    owners = [("user", split.tables.n_users), ("item", split.tables.n_items)]
    return [
        TextVectors(
            f"{of}_{fusion}",
            of,
            random.standard_normal((count, 6)).astype(np.float32),
            np.where(np.arange(count) % 5 == 1, -1, np.arange(count)),
            fusion=fusion,
        )
        for of, count in owners
        for fusion in FUSIONS
    ]


def trained(split: Split, backbone: str, **changes: Any) -> CtrRecommender:
    plan = TrainingPlan(learning_rate=1e-2, batch_size=64, epochs=changes.pop("epochs", 1))
    return CtrRecommender(backbone, backbone, dim=8, plan=plan, **changes).fit(split)


@pytest.fixture(scope="module")
def shop() -> Split:
    return shop_split()


@pytest.fixture(scope="module", params=["din", "dien", "deepfm"])
def rich(request: pytest.FixtureRequest, shop: Split) -> CtrRecommender:
    return trained(shop, request.param, features=RICH, texts=texts_of(shop))


@pytest.fixture(scope="module")
def board() -> Split:
    return checkerboard_split(60, 30, events=25)


@pytest.fixture(scope="module")
def even_and_odd(board: Split) -> CtrRecommender:
    return trained(board, "din", epochs=8)


def with_events(
    split: Split, user: int, *, items: Sequence[int], ratings: Sequence[float]
) -> Split:
    """The split of tables in which a user really did this, after everything else."""
    events = split.tables.interactions
    last = int(events["time"].max())  # type: ignore[arg-type]
    further = pl.DataFrame(
        {
            "user": [user] * len(items),
            "item": items,
            "time": [last + 1 + place for place in range(len(items))],
            "rating": ratings,
            "label": [int(rating > 3) for rating in ratings],
        },
        schema={name: events.schema[name] for name in ("user", "item", "time", "rating", "label")},
    )
    longer = pl.concat([events, further], how="diagonal")
    return replace(split, tables=replace(split.tables, interactions=longer))


def usual(split: Split, *, liked: bool) -> float:
    events = split.tables.interactions[split.train_events]
    return float(np.median(events.filter(pl.col("label") == int(liked))["rating"].to_numpy()))


def asked(split: Split, model: CtrRecommender, user: int, *, items: np.ndarray) -> np.ndarray:
    now = int(split.tables.interactions["time"].max()) + 1  # type: ignore[arg-type]
    return model.score(candidates(split, user, items=items, time=now))


def test_a_known_user_gets_the_scores_of_the_recommender(rich: CtrRecommender, shop: Split) -> None:
    live, items = LiveCtr(rich, shop), np.arange(shop.tables.n_items)[::-1].copy()
    for user in (0, 5, 23):
        scores = live.score(Visitor(user), items)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, asked(shop, rich, user, items=items), atol=1e-5)
    assert len(np.unique(scores.round(4))) > 5
    assert live.score(Visitor(0), items[:0]).shape == (0,)


def test_judgements_count_as_events_really_appended(
    rich: CtrRecommender, shop: Split, tmp_path: Path
) -> None:
    rich.save(tmp_path)
    items = np.arange(shop.tables.n_items)
    like, dislike = usual(shop, liked=True), usual(shop, liked=False)
    ratings = [dislike, like, like]
    for user, judged in ((2, [4, 28, 7]), (23, [9, 0, 9])):
        longer = with_events(shop, user, items=judged, ratings=ratings)
        expected = asked(
            longer,
            CtrRecommender.load(tmp_path, split=longer, texts=rich.texts),
            user,
            items=items,
        )
        visitor = Visitor(user, liked=tuple(judged[1:]), disliked=tuple(judged[:1]))
        scores = LiveCtr(rich, shop).score(visitor, items)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        plain = LiveCtr(rich, shop).score(Visitor(user), items)
        assert np.abs(scores - plain).max() > 1e-3


def test_somebody_new_is_nobody_of_the_tables(rich: CtrRecommender, shop: Split) -> None:
    """Neither the features nor the texts nor the past of the last user, whose place is -1."""
    columns = rich.columns(*(np.array([number]) for number in (-1, 3, 2_000_000_000)))
    assert columns["user"].tolist() == [0]
    assert not columns["long"].any()
    assert [columns[f"user_{fusion}"].tolist() for fusion in FUSIONS] == [[-1]] * 3
    assert columns["item_concat"].tolist() == [3]
    live, items = LiveCtr(rich, shop), np.arange(shop.tables.n_items)
    last = live.score(Visitor(shop.tables.n_users - 1), items)
    assert not np.allclose(live.score(Visitor(), items), last)
    assert live.met(Visitor()).tolist() == []
    assert live.history(Visitor()) == []


def test_somebody_new_is_scored_like_a_user_without_events(
    even_and_odd: CtrRecommender, board: Split
) -> None:
    first = int(board.tables.interactions["time"][0])
    items = np.arange(board.tables.n_items)
    expected = even_and_odd.score(candidates(board, 0, items=items, time=first - 1))
    scores = LiveCtr(even_and_odd, board, time=first - 1).score(Visitor(), items)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_likes_of_a_conversation_tell_the_parity_of_somebody_new(
    even_and_odd: CtrRecommender, board: Split
) -> None:
    live, items = LiveCtr(even_and_odd, board), np.arange(board.tables.n_items)
    for parity in (0, 1):
        liked, disliked = items[parity::2][:3], items[1 - parity :: 2][:2]
        visitor = Visitor(liked=tuple(liked.tolist()), disliked=tuple(disliked.tolist()))
        offered = np.setdiff1d(items, live.met(visitor))
        best = offered[np.argsort(-live.score(visitor, offered))]
        assert (best[:12] % 2 == parity).all()
        assert (best[13:] % 2 != parity).all()
    only_dislikes = live.score(Visitor(disliked=(1, 3, 5)), items)
    assert only_dislikes[::2].mean() > only_dislikes[1::2].mean() + 1


def test_influences_name_the_even_likes_behind_an_even_candidate(
    even_and_odd: CtrRecommender, board: Split
) -> None:
    live = LiveCtr(even_and_odd, board)
    visitor = Visitor(liked=(2, 4, 8))
    found = live.influences(visitor, 10)
    assert {(one.kind, one.item, one.name) for one in found} == {
        ("history", item, "liked") for item in (2, 4, 8)
    }
    assert min(one.effect for one in found) > 0.01
    assert [one.effect for one in found] == sorted((one.effect for one in found), reverse=True)
    against = live.influences(visitor, 11)
    assert max(one.effect for one in against) < -0.01


def test_an_influence_is_the_score_less_that_of_a_visitor_without_it(
    rich: CtrRecommender, shop: Split
) -> None:
    live, visitor = LiveCtr(rich, shop), Visitor(liked=(3, 8), disliked=(21,))
    whole = live.score(visitor, np.array([5]))[0]
    effects = {one.item: one.effect for one in live.influences(visitor, 5) if one.item is not None}
    assert set(effects) == {3, 8, 21}
    for item, effect in effects.items():
        less = Visitor(
            liked=tuple(i for i in visitor.liked if i != item),
            disliked=tuple(i for i in visitor.disliked if i != item),
        )
        np.testing.assert_allclose(effect, whole - live.score(less, np.array([5]))[0], atol=1e-5)


def test_texts_and_statistics_have_their_influence(rich: CtrRecommender, shop: Split) -> None:
    live = LiveCtr(rich, shop)
    found = live.influences(Visitor(user=2, liked=(3,)), 5)
    named = {kind: {one.name for one in found if one.kind == kind} for kind in ("knowledge",)}
    assert named["knowledge"] == {f"{of}_{one}" for of in ("user", "item") for one in FUSIONS}
    assert {"item_mean", "liked_share"} <= {one.name for one in found if one.kind == "statistic"}
    strengths = [abs(one.effect) for one in found]
    assert strengths == sorted(strengths, reverse=True)
    columns = rich.columns(
        *(np.array([number]) for number in (2, 5, 2_000_000_000)),
        trail=rich.space.judged(
            rich.space.trail(np.array([2]), np.array([2_000_000_000])), [3], liked=[True]
        ),
    )
    expected = rich.logits(columns) - rich.logits({**columns, "item_concat": np.array([-1])})
    effect = next(one.effect for one in found if one.name == "item_concat")
    np.testing.assert_allclose(effect, expected[0], atol=1e-5)
    new = {one.name for one in live.influences(Visitor(), 5) if one.kind == "knowledge"}
    assert new == {f"item_{fusion}" for fusion in FUSIONS}


def test_threads_get_the_same_answers(rich: CtrRecommender, shop: Split) -> None:
    live, items = LiveCtr(rich, shop), np.arange(shop.tables.n_items)
    visitors = [Visitor(user, liked=(user,)) for user in range(12)]
    one_by_one = [live.score(visitor, items) for visitor in visitors]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda visitor: live.score(visitor, items), visitors))
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_strange_numbers_are_refused(even_and_odd: CtrRecommender, board: Split) -> None:
    live, some = LiveCtr(even_and_odd, board), np.array([1])
    with pytest.raises(UserError, match="no user with the dense number -1"):
        live.score(Visitor(user=-1), some)
    with pytest.raises(UserError, match="no item with the dense number 30"):
        live.score(Visitor(liked=(30,)), some)
    with pytest.raises(UserError, match="no item with the dense number -1"):
        live.influences(Visitor(), -1)
    with pytest.raises(UserError, match="no user with the dense number 60"):
        live.met(Visitor(user=60))
