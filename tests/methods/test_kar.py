"""KAR on the checkerboard world, with a scripted chat model and hashed words."""

from pathlib import Path
from typing import Any

import polars as pl

from tastemaker.methods.base import load_split
from tastemaker.methods.pipeline import stages
from tastemaker.methods.training import Variant, load_recommender
from tastemaker.recipe import Recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard


def recipe(folder: Path, **train: Any) -> Recipe:
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
                "requests": {"min_history": 1},
            },
            "reason": {"model": "scripted:echo", "history_cap": 4, "max_tokens": 500},
            "encode": {"encoder": "hashing:32"},
            "train": {"epochs": 3, "batch_size": 64, "embedding_dim": 8, **train},
            "evaluate": {"bootstrap": 50},
        }
    )


def test_every_stage_on_own_tables(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    run = Run(tmp_path / "run", seed=found.seed)
    for stage in stages(found):
        run.execute(stage)
    scores = pl.read_parquet(run.artefact("evaluate") / "scores.parquet")
    assert {"DIN", "DIN + KAR", "Item mean"} <= set(scores.columns)
    knowledge = pl.read_parquet(run.artefact("reason") / "knowledge.parquet")
    assert knowledge.filter(pl.col("kind") == "item").height == 24
    split = load_split(run)
    again = load_recommender(run, split, Variant("din", "knowledge"), config=found.train)
    assert again.name == "DIN + KAR"
    assert (run.artefact("report") / "index.html").stat().st_size > 10_000
    assert all(run.is_current(stage) for stage in stages(found))


def test_no_user_text_shows_an_event_of_its_targets(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    run = Run(tmp_path / "run", seed=found.seed)
    for stage in stages(found, until="reason"):
        run.execute(stage)
    knowledge = pl.read_parquet(run.artefact("reason") / "knowledge.parquet")
    users = knowledge.filter(pl.col("kind") == "user")
    tables = load_split(run).tables
    titles = tables.titles
    for row in users.iter_rows(named=True):
        events = tables.interactions.filter(pl.col("user") == row["entity"])
        earlier = events.filter(pl.col("time") <= row["cut_time"])
        assert row["prompt"].count(" stars; ") == earlier.height <= 4
        for item in earlier["item"]:
            assert f'"{titles[item]}"' in row["prompt"]
        later_only = set(events["item"]) - set(earlier["item"])
        assert not [item for item in later_only if f'"{titles[item]}"' in row["prompt"]]
