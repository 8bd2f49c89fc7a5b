"""Data that knows likes only: nothing to compare by scores, and generated answers all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tastemaker import registry
from tastemaker.eval.answers import Measure, Result
from tastemaker.methods import comparison, reporting
from tastemaker.methods.base import Exhibits, Method
from tastemaker.methods.pipeline import stages
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

RECIPE: dict[str, Any] = {
    "name": "implicit",
    "methods": ["p5"],
    "data": {
        "interactions": "events.csv",
        "columns": {"rating": None, "label": "implicit", "title": None},
        "split": {"name": "leave_one_out"},
        "requests": {"min_history": 1},
    },
    "build": {
        "templates": ["p5/2-1", "p5/2-13"],
        "history": 4,
        "min_history": 1,
        "indexing": "sequential",
    },
    "tune": {
        "model": "new-t5",
        "kind": "full",
        "shots": 32,
        "valid_shots": 8,
        "epochs": 1,
        "whole_words": 64,
        "new_model": {"layers": 1, "width": 16, "heads": 2, "feed_forward": 16, "vocabulary": 200},
    },
    "generate": {"examples": 6, "k": 5, "beams": 5, "free": 2},
    "evaluate": {"bootstrap": 20},
}
RESULT = Result(
    task="sequential",
    template="p5/2-1",
    role="fixed",
    model="new-t5 tuned",
    protocol="30 names of items",
    rows=24,
    users=24,
    metrics={"HR@10": Measure(0.5, 0.25, 0.75)},
)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Beside a file of events without ratings."""
    tables = checkerboard(24, 30, events=10, seed=1)
    tables.interactions.select(
        user_id=pl.format("u{}", "user"), item_id=pl.format("i{}", "item"), timestamp="time"
    ).write_csv(tmp_path / "events.csv")
    (tmp_path / "implicit.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return load_recipe(tmp_path / "implicit.yaml")


def _unscorable(*_: Any) -> Any:
    raise AssertionError("nothing is to be scored")


def _finished(recipe: Recipe, folder: Path, results: list[Result]) -> Run:
    """A run whose method has these results, from its data on."""
    method: Method = registry.load("method", "p5")
    shown = replace(method, contenders=_unscorable, exhibits=lambda _: Exhibits(results=results))
    run = Run(folder, seed=recipe.seed)
    run.execute(stages(recipe, until="data")[0])
    run.execute(comparison.evaluate_stage(recipe, [shown], needs=["data"]))
    run.execute(reporting.report_stage(recipe, [shown], needs=["data", "evaluate"]))
    return run


def test_likes_only_end_in_one_sentence_and_the_answers(recipe: Recipe, tmp_path: Path) -> None:
    run = _finished(recipe, tmp_path / "run", [RESULT])
    why = comparison.load_comparison(run)
    assert isinstance(why, str)
    assert "all 24 test rows are likes" in why
    text = reporting.terminal_summary(run)
    assert " ".join(text.split()).startswith(why)
    assert ".5000 [.2500, .7500]" in text
    assert max(map(len, text.split("\n\nreport: ")[0].splitlines())) <= 80
    page = (run.artefact("report") / reporting.PAGE).read_text(encoding="utf-8")
    assert why in page
    assert "0.5000" in page
    assert "<h2>Comparison</h2>" not in page
    assert reporting.markdown_summary(run) == why
    values = json.loads(json.dumps(reporting.summary_values(run), allow_nan=False))
    assert values["uncompared"] == why
    assert [Result.from_dict(one) for one in values["results"]] == [RESULT]


def test_without_answers_either_the_sentence_stands_alone(recipe: Recipe, tmp_path: Path) -> None:
    run = _finished(recipe, tmp_path / "run", [])
    assert "Generated answers" not in reporting.terminal_summary(run)
    (run.artefact("report") / "results.json").unlink()  # of a report made before there were any
    assert reporting.summary_values(run)["results"] == []


def test_training_likes_only_are_found_too(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    events = pl.read_csv(path)
    last = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    odd = pl.col("user_id").str.ends_with("1")
    events.with_columns(rating=pl.when(last & odd).then(1).otherwise(5)).write_csv(path)
    (tmp_path / "rated.yaml").write_text(
        yaml.safe_dump(RECIPE | {"data": RECIPE["data"] | {"columns": {"title": None}}}),
        encoding="utf-8",
    )
    run = _finished(load_recipe(tmp_path / "rated.yaml"), tmp_path / "run", [])
    why = comparison.load_comparison(run)
    assert isinstance(why, str)
    assert "training rows are likes" in why


@pytest.mark.slow
def test_a_whole_run_prints_the_answers(recipe: Recipe, tmp_path: Path, tastemaker: Any) -> None:
    for command in ("generate", "run"):
        found = tastemaker(command, "implicit.yaml", "--out", "run", cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        assert "Generated answers" in found.stdout
        assert "Popularity, the same questions" in found.stdout
    found = tastemaker("report", "run", cwd=tmp_path)
    assert "Popularity, the same questions" in found.stdout
