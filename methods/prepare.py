"""The data stage: tables in, validated tables, split and requests out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tastemaker.data.builtin.base import find_builtin, load_builtin
from tastemaker.data.describe import describe
from tastemaker.data.readers import read_tables
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import SPLITTERS, Split, split_tables
from tastemaker.data.tables import Tables
from tastemaker.errors import RecipeError, UnknownNameError
from tastemaker.eval.protocol import requests
from tastemaker.recipe import DataConfig, Recipe
from tastemaker.stage import Stage, Workspace, atomic_file

__all__ = ["check", "data_stage", "facts", "read"]


def check(recipe: Recipe) -> None:
    """Find what the data section gets wrong before anything is read.

    Raises:
        UserError: neither or both of `source` and `interactions`, or an unknown source or splitter.
    """
    config = recipe.data
    if (config.source is None) == (config.interactions is None):
        raise RecipeError(
            "data: give either source (a built-in data set) or interactions (a file).",
            remedy="For the embedded MovieLens write  data: {source: movielens-small}",
        )
    if config.source is not None:
        find_builtin(config.source).locate()
        if config.columns.model_fields_set:
            raise RecipeError(
                f"data: {config.source} brings its own columns.",
                remedy="Remove data.columns, or give your own files as data.interactions.",
            )
    if config.split.name not in SPLITTERS:
        raise UnknownNameError("splitter", config.split.name, SPLITTERS)
    LabelRule.parse(config.columns.label)


def data_stage(recipe: Recipe) -> Stage:
    """Stage `data`: validated tables, split, requests of validation and test, facts."""
    config = recipe.data
    files = (config.interactions, config.items, config.users)
    return Stage(
        name="data",
        needs=(),
        run=lambda space: _run(config, space),
        config=config.model_dump(mode="json"),
        sources=tuple(path for path in files if path is not None and path.is_file()),
    )


def read(config: DataConfig) -> Tables:
    """Read and validate the tables a recipe names.

    Raises:
        DataError: naming file, row and column of everything that is wrong.
        MissingError: the package of a built-in data set is not installed.
    """
    if config.source is not None:
        return load_builtin(config.source)
    names = config.columns
    schema = Schema(
        user=names.user,
        item=names.item,
        time=names.time,
        rating=names.rating,
        label=LabelRule.parse(names.label),
        title=names.title,
        text=names.text,
    )
    return read_tables(
        Path(str(config.interactions)), items=config.items, users=config.users, schema=schema
    )


def facts(config: DataConfig) -> dict[str, Any]:
    """Plain numbers about the tables and their split, nothing written."""
    tables = read(config)
    return describe(tables, _split(tables, config))


def _split(tables: Tables, config: DataConfig) -> Split:
    return split_tables(tables, config.split.name, **config.split.model_dump(exclude={"name"}))


def _run(config: DataConfig, space: Workspace) -> Mapping[str, Any]:
    tables = read(config)
    split = _split(tables, config)
    tables.save(space.out / "tables")
    split.save(space.out / "split")
    rows = {}
    for part in ("valid", "test"):
        chosen = requests(
            split,
            part,
            min_history=config.requests.min_history,
            per_user=config.requests.per_user,
            seed=space.seed,
        )
        chosen.save(space.out / f"requests-{part}.parquet")
        rows[f"{part}_requests"] = len(chosen)
    found = {**describe(tables, split), **rows}
    with atomic_file(space.out / "facts.json") as handle:
        handle.write(json.dumps(found, indent=1).encode())
    line = (
        f"{tables.interactions.height:,} events, {tables.n_users:,} users, "
        f"{tables.n_items:,} items; {rows['test_requests']:,} test requests"
    )
    return {**found, "line": line}
