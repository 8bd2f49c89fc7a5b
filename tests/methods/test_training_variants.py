"""Stage `train`: several backbones, ablations, declared features, search; on the checkerboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.errors import RecipeError, UnknownNameError, UserError
from tastemaker.methods.base import load_split
from tastemaker.methods.pipeline import stages
from tastemaker.methods.training import Variant, best_recommender, load_recommender, variants
from tastemaker.models.vectors import Vectors
from tastemaker.recipe import Recipe, TrainConfig, load_recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

EVERYTHING = ("preference", "facts", "random", "titles")


def recipe(folder: Path, **train: Any) -> Recipe:
    tables = checkerboard(n_users=30, n_items=24, events=16, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(folder / "r.csv")
    tables.items.select("item_id", "title", "genres").write_csv(folder / "i.csv")
    values = {"epochs": 1, "batch_size": 64, "embedding_dim": 8, **train}
    return Recipe.model_validate(
        {
            "name": "world",
            "methods": ["kar"],
            "data": {
                "interactions": folder / "r.csv",
                "items": folder / "i.csv",
                "columns": {"categorical": ["genres"]},
                "split": {"valid_from": 0.7, "test_from": 0.85},
                "requests": {"min_history": 1},
            },
            "reason": {"model": "scripted:echo", "history_cap": 4, "max_tokens": 500},
            "encode": {"encoder": "hashing:32"},
            "train": values,
            "evaluate": {"bootstrap": 50},
        }
    )


def ran(found: Recipe, folder: Path, *, until: str | None = None) -> Run:
    run = Run(folder / "run", seed=found.seed)
    for stage in stages(found, until=until):
        run.execute(stage)
    return run


def test_ablations_and_backbones_stand_in_one_comparison(tmp_path: Path) -> None:
    found = recipe(tmp_path, backbone=["din", "dcnv2"], ablations=EVERYTHING)
    run = ran(found, tmp_path)
    names = [variant.name for variant in variants(found.train)]
    assert names[:3] == ["DIN", "DIN + KAR", "DIN + preference"]
    assert names[-1] == "DCNv2 + titles"
    scores = pl.read_parquet(run.artefact("evaluate") / "scores.parquet")
    assert set(names) <= set(scores.columns)
    assert len({tuple(scores[name].to_list()) for name in names}) == len(names)
    manifest = run.manifest("train")
    assert manifest is not None
    used = manifest.summary["DIN + KAR"]["texts"]
    assert set(used) == {"user_text", "item_text"}
    assert all(one["gradient"] > 0 and one["loss"] != one["loss_without"] for one in used.values())
    assert set(manifest.summary["DCNv2 + titles"]["texts"]) == {"item_text"}
    slices = json.loads((run.artefact("evaluate") / "slices.json").read_text())
    assert {"cold users", "cold items", "long tail"} <= {one["name"] for one in slices}
    assert "Where it holds" in (run.artefact("report") / "index.html").read_text()


def test_a_run_in_which_nobody_has_a_text_still_compares(tmp_path: Path) -> None:
    found = recipe(tmp_path, ablations=["random", "preference"])
    none = found.model_copy(update={"reason": found.reason.model_copy(update={"max_users": 0})})
    run = ran(none, tmp_path, until="train")
    manifest = run.manifest("train")
    assert manifest is not None
    assert manifest.summary["DIN + preference"]["texts"]["user_text"]["rows"] == 0


def test_the_served_model_is_the_one_that_validation_prefers(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    run = ran(found, tmp_path, until="train")
    split = load_split(run)
    manifest = run.manifest("train")
    assert manifest is not None
    best = max(
        ("DIN", "DIN + KAR"),
        key=lambda name: max(e["valid_auc"] for e in manifest.summary[name]["curve"]),
    )
    assert best_recommender(run, split, found.train).name == best


def test_declared_features_and_any_folder_of_vectors_enter(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    ids = [str(number) for number in range(24)]
    Vectors.create(folder, ids, np.eye(2, 5)[np.arange(24) % 2], encoder="parity")
    declared = {
        "item": "categorical",
        "genres": "categorical",
        "liked_share": "statistic",
        "history": {"sequence": ["item", "rating"], "length": 5},
        "item_parity": {"vectors": str(folder), "fusion": "project"},
    }
    found = recipe(tmp_path, backbone="deepfm", features=declared)
    run = ran(found, tmp_path, until="train")
    split = load_split(run)
    plain = load_recommender(run, split, Variant("deepfm", "plain"), config=found.train)
    assert [text.name for text in plain.texts] == ["item_parity"]
    assert plain.network.features.shape.steps == (2,)
    assert plain.network.features.shape.context == 1
    whole = load_recommender(run, split, Variant("deepfm", "knowledge"), config=found.train)
    assert [text.name for text in whole.texts] == ["item_parity", "user_text", "item_text"]


def test_a_search_chooses_on_validation_and_goes_on_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = {"trials": 2, "learning_rate": [1e-4, 1e-2], "options": {"hidden": [[8], [16, 8]]}}
    found = recipe(tmp_path, search=search)
    run = ran(found, tmp_path, until="train")
    manifest = run.manifest("train")
    assert manifest is not None
    chosen = manifest.summary["DIN"]["chosen"]
    assert 1e-4 <= chosen["learning_rate"] <= 1e-2
    assert chosen["options"]["hidden"] in ([8], [16, 8])
    split = load_split(run)
    again = load_recommender(run, split, Variant("din", "plain"), config=found.train)
    hidden = [layer.out_features for layer in again.network.backbone.head.layers[::2]]
    assert hidden[:-1] == chosen["options"]["hidden"]


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ({"backbone": "dinn"}, "did you mean 'din'"),
        ({"options": {"hiden": [8]}}, "did you mean 'hidden'"),
        ({"options": {"dropout": 3.0}}, "din cannot be built with"),
        ({"backbone": "dcn", "options": {"deep": []}}, "dcn cannot be built with"),
        ({"backbone": "dien", "options": {"evolution": "lstm"}}, "augru"),
        ({"search": {"learning_rate": [1.0, 0.1]}}, "is no range"),
        ({"search": {"learning_rate": None}}, "nothing is to be chosen"),
        ({"features": {"text": {"vectors": "x"}}}, "whose vectors are these"),
        ({"features": {"a b": "categorical"}}, "is no name"),
        ({"features": {"item_text": {"vectors": "/nowhere"}}}, "nowhere"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    train: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=problem):
        stages(recipe(tmp_path, **train))


def test_vectors_of_nobody_here_are_refused(tmp_path: Path) -> None:
    Vectors.create(tmp_path / "own", ["x"], np.ones((1, 3)), encoder="none")
    found = recipe(
        tmp_path, features={"item": "categorical", "item_text": {"vectors": str(tmp_path / "own")}}
    )
    with pytest.raises(UserError, match="of none of the 24 items"):
        ran(found, tmp_path, until="train")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{features: {a: sequence}}", "belong together"),
        ("{features: {a: {vectors: x, fusions: y}}}", "did you mean 'fusion'"),
        ("{features: {a: foo}}", "'categorical', 'numeric'"),
        ("{ablations: [foo]}", "'preference', 'facts'"),
        ("{class_weight: -1}", "greater than 0"),
    ],
)
def test_wrong_sections_are_explained(section: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: x\ntrain: {section}")
    with pytest.raises(RecipeError, match=problem):
        load_recipe(path)


def test_vectors_are_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\ntrain: {features: {item_text: {vectors: own}}}")
    assert load_recipe(path).train.features["item_text"].vectors == str(tmp_path / "own")
    assert TrainConfig(backbone="din").backbone == ("din",)  # type: ignore[arg-type]


def test_unknown_names_are_unknown_name_errors(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        stages(recipe(tmp_path, backbone=["din", "deepffm"]))
