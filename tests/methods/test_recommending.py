"""Top K and live recommenders of a run on the checkerboard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.eval.protocol import candidates
from tastemaker.methods.base import load_split
from tastemaker.methods.pipeline import stages
from tastemaker.methods.recommending import live_recommender, offered_items, recommend
from tastemaker.methods.training import best_recommender
from tastemaker.models.live import LiveRecommender, PopularItems
from tastemaker.models.live_ctr import LiveCtr
from tastemaker.models.visitor import Visitor
from tastemaker.recipe import Recipe, TrainConfig
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard


def recipe(folder: Path) -> Recipe:
    tables = checkerboard(n_users=30, n_items=24, events=16, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(folder / "r.csv")
    tables.items.select("item_id", "title", "genres").write_csv(folder / "i.csv")
    return Recipe.model_validate(
        {
            "name": "world",
            "methods": ["kar"],
            "data": {
                "interactions": folder / "r.csv",
                "items": folder / "i.csv",
                "split": {"valid_from": 0.7, "test_from": 0.85},
            },
            "reason": {"model": "scripted:echo", "history_cap": 4, "max_tokens": 500},
            "encode": {"encoder": "hashing:32"},
            "train": {"epochs": 2, "batch_size": 64, "embedding_dim": 8},
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("world")
    found = recipe(folder)
    run = Run(folder / "run", seed=found.seed)
    for stage in stages(found, until="train"):
        run.execute(stage)
    return run


@pytest.fixture(scope="module")
def split(run: Run) -> Split:
    return load_split(run)


def test_the_best_of_what_the_recommender_says_unmet(run: Run, split: Split) -> None:
    manifest = run.manifest("train")
    assert manifest is not None
    model = best_recommender(run, split, TrainConfig.model_validate(manifest.config))
    events = split.tables.interactions
    met = events.filter(events["user"] == 5)["item"].to_numpy()
    items = np.setdiff1d(np.arange(24), met)
    now = int(events["time"].max()) + 1  # type: ignore[arg-type]
    scores = model.score(candidates(split, 5, items=items, time=now))
    order = np.argsort(-scores, kind="stable")[:4]
    user = str(split.tables.users["user_id"][5])
    found = recommend(run, user, count=4)
    ids, titles = split.tables.items["item_id"].to_list(), split.tables.titles
    assert [(one.item_id, one.title) for one in found] == [
        (ids[item], titles[item]) for item in items[order]
    ]
    np.testing.assert_allclose(
        [one.probability for one in found], 1 / (1 + np.exp(-scores[order])), atol=1e-5
    )
    assert len(recommend(run, user, count=100)) == len(items)


def test_a_conversation_is_answered_by_the_best_trained_recommender(run: Run, split: Split) -> None:
    live: LiveRecommender = live_recommender(run, split)
    assert isinstance(live, LiveCtr)
    assert live.name in ("DIN", "DIN + KAR")
    scores = live.score(Visitor(liked=(2, 4)), np.arange(24))
    assert np.isfinite(scores).all()
    assert not np.allclose(scores, live.score(Visitor(), np.arange(24)))


def test_without_a_trained_recommender_popular_items_answer(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(run.artefact("data"))
    young = Run(tmp_path)
    split = load_split(young)
    live = live_recommender(young, split, similarity=lambda those, items: np.ones(len(items)))
    assert isinstance(live, PopularItems)
    items = np.arange(24)
    gain = live.score(Visitor(liked=(1,)), items) - live.score(Visitor(), items)
    np.testing.assert_allclose(gain, 1, atol=1e-6)
    with pytest.raises(UserError, match="no finished 'train' stage"):
        recommend(young, "5")


def test_items_that_training_has_not_seen_are_not_offered(split: Split) -> None:
    items = split.tables.interactions["item"].to_numpy()
    fewer = replace(split, train=split.train[items[split.train] != 6])
    assert offered_items(fewer).tolist() == [item for item in range(24) if item != 6]
    assert offered_items(fewer, trained=False).tolist() == list(range(24))
