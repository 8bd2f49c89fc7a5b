"""Guessing a recipe from tables: which column means what, and what was unsure about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tastemaker.data.describe_text import printable
from tastemaker.data.guess_columns import Column, Draft, described
from tastemaker.data.guess_features import guess_domain, guess_features, guess_title
from tastemaker.data.guess_meaning import guess_label, guess_rating, guess_time
from tastemaker.data.guess_names import IDS
from tastemaker.data.guess_protocol import guess_policies, guess_protocol, read_events
from tastemaker.data.readers.base import TableSource
from tastemaker.data.schema import parse_label
from tastemaker.errors import UserError, nearest

__all__ = ["Guess", "guess"]

_SAMPLE = 10_000
_ORDER = (
    *("user", "item", "time", "time_unit", "rating", "rating_range", "label"),
    *("domain", "title", "text", "lists", "categorical", "numeric"),
)


@dataclass(frozen=True)
class Guess:
    """A recipe's data section as far as it can be told from the tables.

    Attributes:
        files: Table → its files.
        rows: Table → its rows.
        columns: Key of `data.columns` → value, in the order of a recipe.
        settings: Other keys, such as `policies.duplicates`, `split` or `build.history` → value.
        reasons: Key → why it was chosen, in a few words.
        unsure: Key → what was unsure about it, one sentence.
        doubts: All that was unsure, one sentence each: what, what was chosen, what to check.
        unused: `table: column` → why it is left out.
        left_out: Tables that cannot be used as they are.
    """

    files: Mapping[str, tuple[Path, ...]]
    rows: Mapping[str, int]
    columns: Mapping[str, Any]
    settings: Mapping[str, Any]
    reasons: Mapping[str, str]
    unsure: Mapping[str, str]
    doubts: Sequence[str]
    unused: Mapping[str, str]
    left_out: Sequence[str] = ()


def guess(
    interactions: TableSource,
    *,
    items: TableSource | None = None,
    users: TableSource | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
) -> Guess:
    """Guess what columns mean, from names and values, and with which settings a recipe runs.

    Args:
        interactions: One row per event.
        items: One row per item.
        users: One row per user.
        user: Name of that column of the interactions, where it is known.
        item: Likewise.
        time: Likewise.
        rating: Likewise.

    Raises:
        UserError: no column can be told to be the user or item, or a given one does not exist.
        DataError: a table cannot be read.
    """
    sources = {"interactions": interactions, "items": items, "users": users}
    frames = {name: _read(source, name) for name, source in sources.items()}
    events = frames["interactions"]
    assert events is not None
    tables = {name: _columns(name, frames[name], sources[name]) for name in frames}
    draft = Draft()
    given = {"user": user, "item": item, "time": time, "rating": rating}
    _check_given(given, tables["interactions"], source=interactions)
    for key, table in (("user", "users"), ("item", "items")):
        _guess_id(key, given[key], tables, table=table, draft=draft, source=interactions)
        if frames[table] is not None and draft.columns[key] not in _names(tables[table]):
            _leave_out(table, tables[table], key, draft)
            frames[table], tables[table] = None, []

    unit = guess_time(tables["interactions"], time, draft)
    guess_rating(tables["interactions"], rating, draft, frame=events)
    guess_title(tables["items"], draft)
    guess_domain(tables, draft)
    guess_features(tables, draft)

    names = {key: draft.columns[key] for key in ("user", "item", "time", "rating")}
    read = read_events(events, **names, unit=unit)
    guess_label(read.frame["rating"], draft)
    kept = guess_policies(read, known=frames, draft=draft)
    labels = parse_label(draft.columns["label"]).apply(
        kept.select(pl.col("rating").alias(draft.columns["rating"] or "rating"))
    )
    clock = unit not in (None, "step")
    _warn_days(kept["time"], clock=clock, draft=draft)
    guess_protocol(kept, clock=clock, labels=labels, draft=draft)
    return _finished(draft, sources, frames)


def _read(source: TableSource | None, table: str) -> pl.DataFrame | None:
    """All of a table; text cells of items and users stay text, as the checks will see them."""
    if source is None:
        return None
    frame = source.read(typed=table == "interactions")
    if not frame.height:
        raise UserError(f"{source.name}: has no rows.", remedy=f"Name a table with {table}.")
    return frame


def _columns(table: str, frame: pl.DataFrame | None, source: TableSource | None) -> list[Column]:
    if frame is None or source is None:
        return []
    sample, hints = frame.head(_SAMPLE), source.hints
    return [Column(table, cells.name, cells, hints.get(cells.name, "")) for cells in sample]


def _names(columns: Iterable[Column]) -> list[str]:
    return [column.name for column in columns]


def _check_given(
    given: Mapping[str, str | None], columns: Sequence[Column], *, source: TableSource
) -> None:
    known = _names(columns)
    for key, name in given.items():
        if name is None or name in known:
            continue
        close = nearest(name, known)
        raise UserError(
            f"--{key} {name}: {source.name} has no such column"
            + (f"; did you mean '{close}'?" if close else "."),
            allowed=f"its columns: {', '.join(map(printable, known))}",
        )


def _guess_id(
    key: str,
    given: str | None,
    tables: Mapping[str, Sequence[Column]],
    *,
    table: str,
    draft: Draft,
    source: TableSource,
) -> None:
    """Choose the column of users or items; one that their own table has, too, goes first."""
    events = tables["interactions"]
    if given is not None:
        draft.choose(f"columns.{key}", given, "as given")
        return
    found = [one for one in IDS[key].order(events) if one.kind in ("number", "words", "text")]
    found = [one for one in found if one.name not in draft.columns.values()]
    own = _names(tables[table])
    found.sort(key=lambda one: one.name not in own)
    if not found:
        raise UserError(
            f"{source.name}: no column looks like the {key} of an interaction.",
            allowed=f"its columns: {', '.join(printable(name) for name in _names(events))}",
            remedy="Say which is which: --user COLUMN --item COLUMN --time COLUMN --rating COLUMN",
        )
    chosen = found[0]
    draft.choose(f"columns.{key}", chosen.name)
    if len(found) > 1:
        draft.doubt(
            f"columns.{key}",
            f"{described(found)} could each be the {key}; '{chosen.name}' was chosen, say "
            f"--{key} COLUMN if it is another.",
            about=found,
        )


def _leave_out(table: str, columns: Sequence[Column], key: str, draft: Draft) -> None:
    """Give up a table that lacks the id."""
    name = draft.columns[key]
    draft.doubt(
        table,
        f"The table of {table} has no column '{name}' (it has {', '.join(_names(columns))}), so "
        f"it is left out; give its id the same name as in the interactions.",
    )


def _warn_days(times: pl.Series, *, clock: bool, draft: Draft) -> None:
    if clock and len(times) and bool((times % 86400 == 0).all()):
        draft.doubt(
            "columns.time",
            "All times are whole days: events of one day count as simultaneous, and none is in "
            "the history of another; use finer times where there are any.",
        )


def _finished(
    draft: Draft,
    sources: Mapping[str, TableSource | None],
    frames: Mapping[str, pl.DataFrame | None],
) -> Guess:
    used = {name: sources[name] for name, frame in frames.items() if frame is not None}
    given = [name for name, source in sources.items() if source is not None]
    doubts = [(key, printable(text)) for key, text in draft.doubts]
    return Guess(
        files={name: source.files for name, source in used.items() if source is not None},
        rows={name: frame.height for name, frame in frames.items() if frame is not None},
        columns={key: draft.columns[key] for key in _ORDER if key in draft.columns},
        settings=draft.settings,
        reasons={key: printable(text) for key, text in draft.reasons.items()},
        unsure={key: text for key, text in reversed(doubts) if key},
        doubts=[text for _, text in doubts],
        unused={printable(name): why for name, why in draft.unused.items()},
        left_out=[name for name in given if name not in used],
    )
