"""From foreign tables to a first recipe: guess, write it with comments, say what was unsure."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tastemaker.data.describe_text import printable
from tastemaker.data.guess import Guess, guess
from tastemaker.data.readers import TableSource, open_table
from tastemaker.errors import UserError
from tastemaker.methods.starting_text import CATALOGUE, METHODS, NO_CATALOGUE, WHAT
from tastemaker.stage import atomic_file

__all__ = ["RECIPE", "found_lines", "next_lines", "start", "write_recipe"]

RECIPE = "recipe.yaml"
_SEPARATORS = (";", "\t", "|")
_WIDTH = 80
_COMMENT_AT = 34
# What files and columns are called → how templates call the items.
_WORDS = (
    (re.compile(r"movie|film", re.IGNORECASE), ("movie", "movies")),
    (re.compile(r"book", re.IGNORECASE), ("book", "books")),
)
_ANY_ITEMS = ("item", "items")
_INTRODUCTION = (
    "# Written by `tastemaker init` after a look at the tables. Every value is a guess that you",
    "# may change; look first at the lines marked `unsure`. Then:",
    "#   tastemaker data validate RECIPE    checks every cell and writes nothing",
    "#   tastemaker run RECIPE              runs everything below",
)
_TABLES = ("interactions", "items", "users")
_SPLITS: dict[str, dict[str, float]] = {
    "global_time": {"valid_from": 0.8, "test_from": 0.9},
    "leave_one_out": {"min_events": 3},
}
Entry = str | list[str] | dict[str, str]


def start(
    folder: Path,
    *,
    interactions: Path,
    items: Path | None = None,
    users: Path | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    force: bool = False,
) -> tuple[Path, Guess]:
    """Look at tables and write a recipe for them.

    Args:
        folder: Gets `recipe.yaml`, and names it.
        interactions: File, folder or glob of shards; one row per event.
        items: One row per item.
        users: One row per user.
        user: Name of that column of the interactions, where it is known.
        item: Likewise.
        time: Likewise.
        rating: Likewise.
        force: Replace a recipe that is there.

    Returns:
        The recipe's path, and what it was written from.

    Raises:
        UserError: a table cannot be read or understood, or there is a recipe already.
    """
    _check_free(folder, force=force)
    paths = {"interactions": interactions, "items": items, "users": users}
    opened = {name: _open(path) for name, path in paths.items() if path is not None}
    sources = {name: source for name, (source, _) in opened.items()}
    found = guess(**sources, user=user, item=item, time=time, rating=rating)
    entries = {name: entry for name, (_, entry) in opened.items()}
    name = _name(folder)
    return write_recipe(folder, found, name=name, entries=entries, force=force), found


def write_recipe(
    folder: Path,
    guess: Guess,
    *,
    name: str,
    entries: Mapping[str, Entry] | None = None,
    force: bool = False,
) -> Path:
    """Write a commented recipe, complete or not at all.

    Args:
        folder: Gets `recipe.yaml`.
        guess: What to write.
        name: Of the recipe.
        entries: Table → its path, or path and separator; the guess's own files when None.
        force: Replace a recipe that is there.

    Raises:
        UserError: there is one and `force` is not set.
    """
    _check_free(folder, force=force)
    given = entries or {
        table: [str(file) for file in files] for table, files in guess.files.items()
    }
    placed = {
        table: _placed(entry, folder) for table, entry in given.items() if table in guess.files
    }
    path = folder / RECIPE
    with atomic_file(path) as handle:
        handle.write("\n".join(_recipe(guess, placed, name=name)).encode())
    return path


def found_lines(guess: Guess) -> Iterator[str]:
    """What was found and what was unsure, for a terminal of 80 columns."""
    for table, rows in guess.rows.items():
        names = ", ".join(sorted({printable(file.name) for file in guess.files[table]})[:3])
        yield from _wrapped(f"{table:<14}{names}: {rows:,} rows", indent=14)
    yield ""
    for key, value in {**guess.columns, **guess.settings}.items():
        full = f"columns.{key}" if key in guess.columns else key
        why = guess.reasons.get(full, "")
        text = f"{_shown(value)}" + (f"  ({why})" if why else "")
        yield from _wrapped(f"  {key:<24}{text}", indent=26)
    for column, why in guess.unused.items():
        yield from _wrapped(f"  {'left out':<24}{column}: {why}", indent=26)
    yield ""
    doubts = guess.doubts
    if not doubts:
        yield "Nothing was unsure."
        return
    yield f"Unsure, please check ({len(doubts)}):"
    for number, doubt in enumerate(doubts, start=1):
        yield from _wrapped(f"{number:>3}. {doubt}", indent=5)


def next_lines(recipe: Path) -> Iterator[str]:
    """What to do with the recipe."""
    yield ""
    yield f"recipe: {recipe}"
    yield f"next:   tastemaker data validate {recipe}"
    yield f"        tastemaker data describe {recipe}"
    yield f"        tastemaker run {recipe}"


def _open(path: Path) -> tuple[TableSource, Entry]:
    """A table, and how the recipe names it; a separator that its ending does not tell is found."""
    source = open_table(str(path))
    columns = source.columns()
    if len(columns) == 1:
        for separator in _SEPARATORS:
            if separator in columns[0]:
                other = open_table(str(path), separator=separator)
                return other, {"path": str(path), "separator": separator}
    return source, str(path)


def _check_free(folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file.", remedy="Name a folder for the recipe.")
    if (folder / RECIPE).exists() and not force:
        raise UserError(
            f"{folder / RECIPE}: is there already.",
            remedy="Name another folder, or replace it with --force.",
        )


def _name(folder: Path) -> str:
    """The folder's name with only what a recipe's name may hold."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-._")
    return name or "mine"


def _placed(entry: Any, folder: Path) -> Any:
    """An entry whose paths are seen from the folder of the recipe."""
    if isinstance(entry, Mapping):
        return {**entry, "path": _placed(entry["path"], folder)}
    if isinstance(entry, list):
        placed = [_placed(one, folder) for one in entry]
        return placed[0] if len(placed) == 1 else placed
    target, home = Path(entry).expanduser().absolute(), folder.absolute()
    relative = Path(os.path.relpath(target, home))
    # A path that climbs to the root says less than the whole one.
    return str(target) if list(relative.parts[:4]) == [".."] * 4 else relative.as_posix()


def _recipe(guess: Guess, placed: Mapping[str, Any], *, name: str) -> Iterator[str]:
    """Lines of the recipe."""
    yield from _INTRODUCTION
    yield f"name: {_scalar(name)}"
    yield from _line("seed: 7", "of every sample and every training")
    yield from _line("methods: [tallrec, kar]", "tastemaker methods lists them all")
    yield ""
    yield "data:"
    for table in _TABLES:
        if table in placed:
            yield from _line(f"  {table}: {_scalar(placed[table])}", f"{guess.rows[table]:,} rows")
        elif table in guess.left_out:
            yield from _unsure(guess.unsure.get(table, ""), indent=2)
    yield "  columns:"
    for key, value in guess.columns.items():
        yield from _keyed(guess, f"columns.{key}", f"    {key}: {_scalar(value)}")
    for column, why in guess.unused.items():
        yield f"    # left out, {column}: {why}"
    for section in ("policies", "filters", "negatives"):
        yield from _section(guess, section)
    split = guess.settings["split"]
    options: dict[str, Any] = {"name": split, **_SPLITS[split]}
    yield from _keyed(guess, "split", f"  split: {_scalar(options)}", WHAT[f"split.{split}"])
    yield from _section(guess, "requests")
    yield ""
    yield from _methods(guess)


def _section(guess: Guess, section: str) -> Iterator[str]:
    keys = [key for key in guess.settings if key.startswith(f"{section}.")]
    if keys:
        yield f"  {section}:"
    for key in keys:
        line = f"    {key.partition('.')[2]}: {_scalar(guess.settings[key])}"
        yield from _keyed(guess, key, line)


def _keyed(guess: Guess, key: str, line: str, what: str = "") -> Iterator[str]:
    """A line with what it means and why, and above it what was unsure."""
    yield from _unsure(guess.unsure.get(key, ""), indent=len(line) - len(line.lstrip()))
    told = [what or WHAT.get(key, ""), guess.reasons.get(key, "")]
    yield from _line(line, "; ".join(filter(None, told)))


def _methods(guess: Guess) -> Iterator[str]:
    """The sections of the methods, as in the packaged recipe."""
    thing, things = _called(guess)
    words = {"question": f"tallrec/{thing}", "things": things}
    words["catalogue"] = CATALOGUE if find_spec("lancedb") else NO_CATALOGUE
    yield from METHODS.format(history=guess.settings["build.history"], **words).splitlines()
    yield ""


def _called(guess: Guess) -> tuple[str, str]:
    """What templates call the items: one, and several."""
    files = [file.name for files in guess.files.values() for file in files]
    names = " ".join([*files, *map(str, guess.columns.values())])
    return next((words for sign, words in _WORDS if sign.search(names)), _ANY_ITEMS)


def _line(line: str, comment: str) -> Iterator[str]:
    """A line of YAML with its comment beside it, or above it when there is no room."""
    padded = f"{f'{line} ':<{_COMMENT_AT}}# {comment}"
    if not comment or len(padded) <= 100:
        yield padded if comment else line
        return
    yield from _comment(comment, indent=len(line) - len(line.lstrip()))
    yield line


def _unsure(text: str, *, indent: int) -> Iterator[str]:
    if text:
        yield from _comment(f"unsure: {text}", indent=indent)


def _comment(text: str, *, indent: int) -> Iterator[str]:
    lead = f"{' ' * indent}# "
    yield from textwrap.wrap(
        text, 100, initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False
    )


def _scalar(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _shown(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(printable(f"{one}") for one in value)
    if isinstance(value, dict):
        return ", ".join(printable(f"{one} ({_parted(sep)})") for one, sep in value.items())
    return f"{value:,}" if isinstance(value, int) else printable(f"{value}")


def _parted(separator: str) -> str:
    if separator == "json":
        return "lists"
    return "parted by blanks" if separator == " " else f"parted by {separator.strip()}"


def _wrapped(text: str, *, indent: int) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent) or [text]
