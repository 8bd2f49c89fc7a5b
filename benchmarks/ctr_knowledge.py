"""Knowledge for the click-through-rate benchmarks: texts by a small local model, then vectors.

    python benchmarks/ctr_knowledge.py --out FOLDER [--data ML-100K] [--users 500] [--items 800]

Writes the tables of `benchmarks/ctr_data.py` and a recipe into FOLDER and runs its stages up to
`encode`: KAR's prompts, SmolLM2-135M, all-MiniLM-L6-v2. Stopped or killed, it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl
import yaml
from ctr_data import TEST_FROM, VALID_FROM, ml_100k, movielens

from tastemaker.data.splits import Split
from tastemaker.methods.pipeline import stages
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.stage import Run


def main() -> None:
    """Write tables and recipe, run the stages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of ml-100k [ratings of a package]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=500, help="with a preference text")
    parser.add_argument("--items", type=int, default=800, help="with a fact text")
    options = parser.parse_args()
    split = ml_100k(options.data) if options.data else movielens()
    recipe = write(split, options.out, users=options.users, items=options.items)
    run = Run(options.out / "run", seed=recipe.seed)
    for stage in stages(recipe, until="encode"):
        run.execute(stage)
        manifest = run.manifest(stage.name)
        print(stage.name, manifest.summary.get("line", "") if manifest else "", flush=True)


def write(split: Split, folder: Path, *, users: int, items: int) -> Recipe:
    """Tables as Parquet, and the recipe that reads them; returns the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    tables, schema = split.tables, split.tables.schema
    catalogue = tables.items.drop("item").rename({"item_id": schema.item})
    people = tables.users.drop("user").rename({"user_id": schema.user})
    title = schema.title or "title"
    catalogue = catalogue.rename({"title": title}) if title != "title" else catalogue
    events = tables.interactions.select(
        pl.Series(schema.user, tables.users["user_id"].gather(tables.interactions["user"])),
        pl.Series(schema.item, tables.items["item_id"].gather(tables.interactions["item"])),
        pl.col("time").alias(str(schema.time)),
        pl.col("rating").alias(str(schema.rating)),
    )
    frames = {"interactions": events, "items": catalogue, "users": people}
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    columns = schema.to_dict()
    columns.pop("text")
    recipe = {
        "name": "ctr-knowledge",
        "methods": ["kar"],
        "data": {
            **{name: f"{name}.parquet" for name in frames},
            "columns": {name: value for name, value in columns.items() if value is not None},
            "split": {"name": "global_time", "valid_from": VALID_FROM, "test_from": TEST_FROM},
            "requests": {"min_history": 0},
        },
        "reason": {
            "model": "local:smollm2",
            "history_cap": 10,
            "max_users": users,
            "max_items": items,
            "max_tokens": 48,
            "truncated": "trim",
            "batch_size": 128,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return load_recipe(path)


if __name__ == "__main__":
    main()
