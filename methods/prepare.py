"""The data stage: tables in, validated tables, split and requests out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tastemaker.data.builtin.base import find_builtin, load_builtin
from tastemaker.data.describe import describe
from tastemaker.data.domains import with_domains
from tastemaker.data.explanations import with_explanations
from tastemaker.data.filters import FilterStep, filter_tables
from tastemaker.data.loading import read_tables
from tastemaker.data.negatives import with_negatives
from tastemaker.data.readers import TableSource, open_table
from tastemaker.data.schema import Policies, Schema, parse_label
from tastemaker.data.splits import Split
from tastemaker.data.splitters import split_tables
from tastemaker.data.tables import Tables
from tastemaker.errors import RecipeError
from tastemaker.eval.protocol import one_of_n, requests
from tastemaker.recipe import Recipe
from tastemaker.recipe_data import DataConfig, GivenConfig
from tastemaker.stage import Stage, Workspace, atomic_file

__all__ = ["check", "data_stage", "facts", "prepared", "read"]

_TABLES = ("interactions", "items", "users")


def check(recipe: Recipe) -> None:
    """Find what the data section gets wrong before anything is read.

    Raises:
        UserError: neither or both of `source` and `interactions`, an unknown source, a missing
            file, domains from two places, or a label rule that cannot be read.
    """
    config = recipe.data
    if (config.source is None) == (config.interactions is None):
        raise RecipeError(
            "data: give either source (a built-in data set) or interactions (a file).",
            remedy="For the embedded MovieLens write  data: {source: movielens-small}",
        )
    if config.source is not None:
        _check_builtin(config)
    for name in _TABLES:
        _open(config, name)
    if config.domains is not None and config.columns.domain is not None:
        raise RecipeError(
            f"data.domains: data.columns.domain names '{config.columns.domain}' already.",
            remedy="Leave out one of the two.",
        )
    parse_label(config.columns.label)


def data_stage(recipe: Recipe) -> Stage:
    """Stage `data`: validated tables, split, requests of validation and test, facts."""
    config = recipe.data
    return Stage(
        name="data",
        needs=(),
        run=lambda space: _run(config, space),
        config=config.model_dump(mode="json"),
        sources=_files(config),
    )


def read(config: DataConfig) -> Tables:
    """Read and validate the tables a recipe names.

    Raises:
        DataError: naming file, row and column of everything that is wrong.
        MissingError: the package or files of a built-in data set are not there.
    """
    if config.source is not None:
        return load_builtin(config.source, folder=config.folder)
    interactions = _open(config, "interactions")
    assert interactions is not None
    return read_tables(
        interactions,
        items=_open(config, "items"),
        users=_open(config, "users"),
        schema=_schema(config),
        policies=Policies(**config.policies.model_dump()),
    )


def prepared(config: DataConfig, *, seed: int) -> tuple[Split, list[FilterStep]]:
    """Tables read, cut into domains, filtered, given explanations and negatives, and split.

    Returns:
        The split, and what each filter did.

    Raises:
        DataError: see `read`; also when domains, a filter or the split leave nothing.
    """
    tables = read(config)
    if config.domains is not None:  # before the filters, which are to hold for what is left
        cut = config.domains
        tables = with_domains(tables, cut.column, groups=dict(cut.groups), others=cut.others)
    tables, steps = filter_tables(tables, **config.filters.model_dump(), seed=seed)
    if config.explanations is not None:  # after the filters, which leave fewer reviews to read
        tables = with_explanations(tables, config.explanations, seed=seed)
    if config.negatives is not None:
        tables = with_negatives(tables, **config.negatives.model_dump(), seed=seed)
    options = config.split.model_dump(exclude={"name"})
    return split_tables(tables, config.split.name, seed=seed, **options), steps


def facts(config: DataConfig, *, seed: int) -> dict[str, Any]:
    """Plain numbers about the tables and their split, nothing written."""
    split, _ = prepared(config, seed=seed)
    return describe(split.tables, split)


def _schema(config: DataConfig) -> Schema:
    """What the recipe says, with the column of the parts where there is one."""
    schema = Schema.from_dict(config.columns.model_dump())
    if isinstance(config.split, GivenConfig) and config.split.column not in schema.features:
        return replace(schema, categorical=(*schema.categorical, config.split.column))
    return schema


def _check_builtin(config: DataConfig) -> None:
    source = str(config.source)
    find_builtin(source).locate(config.folder)
    own = ("columns", "policies", "items", "users")
    given = [name for name in own if name in config.model_fields_set]
    if given:
        raise RecipeError(
            f"data: {source} brings its own {given[0]}.",
            remedy=f"Remove data.{given[0]}, or give your own files as data.interactions.",
        )


def _open(config: DataConfig, name: str) -> TableSource | None:
    table = getattr(config, name)
    return None if table is None else open_table(**table.model_dump())


def _files(config: DataConfig) -> tuple[Path, ...]:
    """Every file that the tables are read from."""
    if config.source is not None:
        return tuple(find_builtin(config.source).paths(config.folder).values())
    opened = (_open(config, name) for name in _TABLES)
    return tuple(file for table in opened if table is not None for file in table.files)


def _run(config: DataConfig, space: Workspace) -> Mapping[str, Any]:
    split, steps = prepared(config, seed=space.seed)
    tables = split.tables
    for note in (*tables.notes, *split.notes):
        space.report.line(f"  note: {note}")
    tables.save(space.out / "tables")
    split.save(space.out / "split")
    rows = _write_requests(split, config, space.out, seed=space.seed)
    told = {"filters": [asdict(step) for step in steps]}
    found = {**describe(tables, split), **told, **rows}
    with atomic_file(space.out / "facts.json") as handle:
        handle.write(json.dumps(found, indent=1).encode())
    line = (
        f"{found['events']:,} events, {tables.n_users:,} users, "
        f"{tables.n_items:,} items; {rows['test_requests']:,} test requests"
    )
    return {"line": line, "filters": told["filters"], "notes": found["notes"], **rows}


def _write_requests(split: Split, config: DataConfig, folder: Path, *, seed: int) -> dict[str, int]:
    """Write what every model is asked, and return the numbers of rows."""
    wanted, ranking = config.requests, config.requests.candidates
    rows = {}
    for part in ("valid", "test"):
        chosen = requests(
            split, part, min_history=wanted.min_history, per_user=wanted.per_user, seed=seed
        )
        chosen.save(folder / f"requests-{part}.parquet")
        rows[f"{part}_requests"] = len(chosen)
        if ranking is not None:
            ranked = one_of_n(
                split,
                part,
                n=ranking.n,
                strategy=ranking.strategy,
                seed=seed,
                min_history=wanted.min_history,
                per_user=wanted.per_user,
            )
            ranked.save(folder / f"candidates-{part}.parquet")
            rows[f"{part}_candidates"] = len(ranked)
    return rows
