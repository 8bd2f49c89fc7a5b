"""What the `data` commands tell of a recipe's tables and split, and the parts as files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from tastemaker.data.checks import TablesError
from tastemaker.data.describe import describe_parts
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError
from tastemaker.methods.prepare import check, prepared, read
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.stage import atomic_file

__all__ = ["check_free", "load", "split_facts", "split_lines", "validated", "write_parts"]

_COLUMNS = 80


def load(path: Path, overrides: Sequence[str]) -> Recipe:
    """A recipe whose data section makes sense.

    Raises:
        UserError: see `load_recipe` and `prepare.check`.
    """
    recipe = load_recipe(path, overrides=overrides)
    check(recipe)
    return recipe


def validated(recipe: Recipe) -> dict[str, Any]:
    """Read and check the tables.

    Returns:
        `ok`, and then `source`, `events`, `users`, `items` and `notes`, or else `message` and
        `problems` (each with severity, table, column, complaint, remedy, count, examples).
    """
    try:
        tables = read(recipe.data)
    except TablesError as error:
        problems = [asdict(problem) for problem in error.problems]
        return {"ok": False, "message": str(error), "problems": problems}
    sizes = {"events": tables.interactions.height, "users": tables.n_users, "items": tables.n_items}
    return {"ok": True, "source": tables.source, **sizes, "notes": list(tables.notes)}


def split_facts(recipe: Recipe) -> tuple[dict[str, Any], Split]:
    """Filters with counts before and after, each part with its sizes, warnings; and the split."""
    split, steps = prepared(recipe.data, seed=recipe.seed)
    options = recipe.data.split.model_dump()
    facts = {
        "splitter": options.pop("name"),
        "options": options,
        "filters": [{**asdict(step), "told": str(step)} for step in steps],
        "parts": describe_parts(split),
        "notes": [*split.tables.notes, *split.notes],
    }
    return facts, split


def split_lines(facts: dict[str, Any]) -> Iterator[str]:
    """The facts for a terminal of 80 columns."""
    for step in facts["filters"]:
        yield from _wrapped(step["told"])
    options = ", ".join(f"{name} {value}" for name, value in facts["options"].items())
    yield from _wrapped(f"Split by {facts['splitter']} ({options}).")
    heads = ("rows", "users", "items", "liked", "cold users", "cold items", "leaky")
    yield " " * 6 + "".join(f"{head:>{_width(head)}}" for head in heads)
    for name, part in facts["parts"].items():
        liked = "–" if part["liked_share"] is None else f"{part['liked_share']:.1%}"
        keys = ("events", "users", "items", "", "cold_user_rows", "cold_item_rows", "leaky_rows")
        cells = [f"{part[key]:,}" if key else liked for key in keys]
        row = "".join(f"{cell:>{_width(head)}}" for cell, head in zip(cells, heads, strict=True))
        yield f"{name:<6}{row}"
    yield "cold: no training event; leaky: training knows the future of the row"
    for note in facts["notes"]:
        if note not in {step["told"] for step in facts["filters"]}:
            yield from _wrapped(f"note: {note}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, subsequent_indent="  ")


def _width(head: str) -> int:
    return 8 if head == "liked" else 11


def check_free(folder: Path | None) -> None:
    """Complain about a folder for parts that holds something else.

    Raises:
        DataError: it is not empty, or a file.
    """
    if folder is not None and folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file.", remedy="Name a folder.")
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty.", remedy="Name another folder.")


def write_parts(split: Split, folder: Path) -> None:
    """Write `train.parquet`, `valid.parquet` and `test.parquet` with the ids of the files."""
    for part in PARTS:
        with atomic_file(folder / f"{part}.parquet") as handle:
            _with_ids(split.tables, split, part).write_parquet(handle)


def _with_ids(tables: Tables, split: Split, part: str) -> pl.DataFrame:
    events = tables.interactions[split.part(part)]
    cold_user, cold_item = split.cold_users(part), split.cold_items(part)
    return events.select(
        tables.users["user_id"].gather(events["user"]),
        tables.items["item_id"].gather(events["item"]),
        pl.exclude("user", "item"),
        pl.Series("cold_user", cold_user),
        pl.Series("cold_item", cold_item),
    )
