"""Other people's tables, from their files to the comparison: every stage, then the audit."""

import gzip
import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tastemaker.eval.protocol import Requests
from tastemaker.methods.auditing import audit
from tastemaker.methods.base import load_split
from tastemaker.methods.pipeline import stages
from tastemaker.methods.recommending import recommend
from tastemaker.recipe import Recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard


def write_tables(folder: Path) -> None:
    """Likes of the checkerboard as two gzipped JSON shards, its items in a database."""
    tables = checkerboard(n_users=30, n_items=24, events=16, seed=1)
    likes = tables.interactions.filter(pl.col("label") == 1).select(
        visitor=pl.format("u{}", "user"),
        article="item",
        seen=pl.from_epoch("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        shop=pl.when(pl.col("item") < 12).then(pl.lit("north")).otherwise(pl.lit("south")),
    )
    half = likes.height // 2
    for number, part in enumerate((likes.head(half), likes.tail(-half))):
        text = part.write_ndjson()
        (folder / f"clicks-{number}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("create table goods (article integer, name text, tags text)")
        rows = tables.items.select("item_id", "title", "genres").rows()
        shop.executemany("insert into goods values (?, ?, ?)", rows)
    shop.close()


def recipe(folder: Path, **data: Any) -> Recipe:
    columns = {"user": "visitor", "item": "article", "time": "seen", "rating": None}
    meaning = {"label": "implicit", "title": "name", "domain": "shop", "lists": {"tags": "|"}}
    return Recipe.model_validate(
        {
            "name": "clicks",
            "methods": ["kar"],
            "data": {
                "interactions": str(folder / "clicks-*.jsonl.gz"),
                "items": {"database": str(folder / "shop.db"), "query": "select * from goods"},
                "columns": {**columns, **meaning},
                "filters": {"k_core": 3},
                "negatives": {"per_positive": 1},
                "requests": {"min_history": 1, "candidates": {"n": 6}},
                **data,
            },
            "reason": {"model": "scripted:echo", "history_cap": 4, "max_tokens": 500},
            "encode": {"encoder": "hashing:32"},
            "train": {"epochs": 2, "batch_size": 64, "embedding_dim": 8},
            "evaluate": {"bootstrap": 50},
        }
    )


def run_until(found: Recipe, folder: Path, until: str | None = None) -> Run:
    run = Run(folder / "run", seed=found.seed)
    for stage in stages(found, until=until):
        run.execute(stage)
    return run


def test_likes_only_from_shards_and_a_database_to_the_comparison(tmp_path: Path) -> None:
    write_tables(tmp_path)
    found = recipe(tmp_path)
    run = run_until(found, tmp_path)
    split = load_split(run)
    events = split.tables.interactions
    assert events["sampled"].sum() * 2 == events.height
    assert events["domain"].dtype == pl.Enum(["north", "south"])
    assert any("k_core 3 keeps" in note for note in split.tables.notes)
    ranked = Requests.load(run.artefact("data") / "candidates-test.parquet")
    assert set(ranked.frame.group_by("group").len()["len"]) == {6}
    scores = pl.read_parquet(run.artefact("evaluate") / "scores.parquet")
    assert {"DIN", "DIN + KAR", "Item mean"} <= set(scores.columns)

    report = audit(found, run)
    assert not report.failed, "\n".join(report.lines())
    checks = {finding.check for finding in report.findings}
    assert any(check.startswith("negatives") for check in checks)
    assert any(check.startswith("DIN") for check in checks)

    # What was only drawn has not been met: it may be recommended.
    user = split.tables.users["user_id"][0]
    met = events.filter((pl.col("user") == 0) & ~pl.col("sampled"))["item"]
    offered = {one.item_id for one in recommend(run, user, count=24)}
    assert offered == set(split.tables.items["item_id"]) - set(split.tables.items["item_id"][met])


@pytest.mark.parametrize(
    "split",
    [
        {"name": "leave_one_out"},
        {"name": "user_time_ratio", "valid": 0.2, "test": 0.2},
        {"name": "user_holdout", "valid": 0.2, "test": 0.2},
        {"name": "rolling", "folds": 2, "window": 0.15},
    ],
    ids=lambda split: split["name"],
)
def test_every_protocol_passes_its_audit(tmp_path: Path, split: dict[str, Any]) -> None:
    write_tables(tmp_path)
    found = recipe(tmp_path, split=split)
    report = audit(found, run_until(found, tmp_path, until="data"))
    assert not report.failed, "\n".join(report.lines())
    warned = any(finding.severity == "warn" for finding in report.findings)
    assert warned == (split["name"] != "rolling")
