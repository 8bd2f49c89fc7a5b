"""Candidates of the build stage: uniform, popular, hard; the target always exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from tastemaker.errors import DataError
from tastemaker.methods.base import load_split
from tastemaker.methods.building import arranged, audit_build
from tastemaker.methods.offering import candidate_source, matcher
from tastemaker.methods.pipeline import stages
from tastemaker.recipe import Recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard, checkerboard_split

SOURCES = ("uniform", "popularity", "hard")


def built(folder: Path, **build: Any) -> Run:
    tables = checkerboard(n_users=20, n_items=24, events=12, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(folder / "r.csv")
    tables.items.select("item_id", "title", "genres").write_csv(folder / "i.csv")
    recipe = Recipe.model_validate(
        {
            "name": "world",
            "data": {
                "interactions": str(folder / "r.csv"),
                "items": str(folder / "i.csv"),
                "requests": {"min_history": 1},
            },
            "build": {
                "templates": "instructrec/recommend-7",
                "candidates": 5,
                "history": 4,
                "min_history": 0,
                **build,
            },
        }
    )
    run = Run(folder / "run", seed=recipe.seed)
    for stage in stages(recipe, until="build"):
        run.execute(stage)
    return run


@pytest.mark.parametrize("source", SOURCES)
def test_every_list_has_its_target_once_and_nothing_met(tmp_path: Path, source: str) -> None:
    run = built(tmp_path, candidates_from=source)
    split = load_split(run)
    events = split.tables.interactions
    ids = split.tables.items["item_id"].to_list()
    users, items, times = (events[name].to_numpy() for name in ("user", "item", "time"))
    expected = candidate_source(split, source)  # type: ignore[arg-type]
    for part in ("train", "test"):
        frame = arranged(run.artefact("build"), part)
        assert frame.height
        for one in frame.iter_rows(named=True):
            row, shown = one["row"], one["candidates"]
            assert shown.count(ids[items[row]]) == 1
            assert len(set(shown)) == 5
            met = items[(users == users[row]) & (times <= times[row])]
            assert not {ids[item] for item in met if item != items[row]} & set(shown)
            if source == "hard":
                others = {ids[item] for item in expected(np.array([row]), per_row=4, seed=0)[0]}
                assert others == set(shown) - {ids[items[row]]}
    assert [one.severity for one in audit_build(run, split) if "candidates" in one.check] == [
        "pass"
    ]


def test_hard_ones_are_of_the_kind_the_user_likes() -> None:
    split = checkerboard_split(n_users=60, n_items=40, events=14, seed=2)
    events = split.tables.interactions
    rows = split.test[events["label"].to_numpy()[split.test] == 1]
    items, users = events["item"].to_numpy()[rows], events["user"].to_numpy()[rows]
    assert (items % 2 == users % 2).all()
    share = {
        name: float(
            (candidate_source(split, name)(rows, per_row=4, seed=0) % 2 == users[:, None] % 2)  # type: ignore[arg-type]
            .mean()
        )
        for name in SOURCES
    }
    assert share["hard"] > 0.9
    assert share["uniform"] < 0.6


def test_the_matcher_learns_once_and_only_from_training() -> None:
    split = checkerboard_split(n_users=30, n_items=24, events=12, seed=2)
    found = matcher(split)
    first = found(split.test, per_row=3)
    events = split.tables.interactions
    changed = events.with_columns(
        item=pl.when(pl.int_range(pl.len()).is_in(split.test[len(split.test) // 2 :].tolist()))
        .then((pl.col("item") + 2) % 24)
        .otherwise("item")
    )
    from dataclasses import replace

    other = replace(split, tables=replace(split.tables, interactions=changed))
    again = matcher(other)(split.test[:5], per_row=3)
    assert (again == first[:5]).all()


def test_too_small_a_catalogue_and_wrong_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hard ones are needed"):
        built(tmp_path, candidates_from="hard", candidates=24)
    with pytest.raises(ValidationError, match="candidates_from"):
        Recipe.model_validate({"name": "x", "build": {"candidates_from": "hardest"}})
