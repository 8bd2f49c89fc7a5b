"""Which columns of items and users are titles, domains and features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import polars as pl

from tastemaker.data.guess_columns import Column, Draft, described
from tastemaker.data.guess_names import CODES, DOMAINS, TITLES

__all__ = ["guess_domain", "guess_features", "guess_title"]

_MOST_DOMAINS = 50
_MANY_VALUES = 1000
_FEW_NUMBERS = 20
_ID_SHARE = 0.5
_ID_ROWS = 50
_LONG_PART = 6.0
_USELESS = {
    "empty": "empty",
    "link": "links",
    "nested": "nested values",
    "moment": "moments; only numbers and words are features",
}
_RESERVED = {"items": ("item", "item_id", "title"), "users": ("user", "user_id")}


def guess_title(items: Sequence[Column], draft: Draft) -> None:
    """Choose what items are called."""
    named = [one for one in TITLES.order(items) if one.kind in ("text", "words", "lists")]
    if not items:
        draft.choose("columns.title", None, "there is no table of items")
        draft.doubt(
            "columns.title",
            "Without a table of items they are called by their ids, which tell a language model "
            "nothing; give one with --items.",
        )
    elif not named:
        draft.choose("columns.title", None, "no column looks like one")
        draft.doubt(
            "columns.title",
            "No column of the items looks like a title, so they are called by their ids; name the "
            f"right one of {', '.join(one.name for one in items)} as data.columns.title.",
        )
    else:
        draft.choose("columns.title", named[0].name, f"such as {_example(named[0])}")
        if len(named) > 1:
            draft.doubt(
                "columns.title",
                f"{described(named)} could each be the title; '{named[0].name}' was chosen, check "
                "which one people know the item by.",
            )


def guess_domain(tables: Mapping[str, Sequence[Column]], draft: Draft) -> None:
    """Choose a column of shops or categories, only where one is called so."""
    used = set(draft.columns.values()) - {None}
    for table in ("interactions", "items"):
        for column in sorted(tables[table], key=lambda one: one.name):
            if column.plain not in DOMAINS or column.name in used:
                continue
            complete = len(column.filled) == len(column.cells)
            plain = column.kind in ("words", "number", "text") and complete
            if plain and 2 <= column.distinct <= _MOST_DOMAINS:
                draft.choose("columns.domain", column.name, f"{column.distinct} different values")
                draft.doubt(
                    "columns.domain",
                    f"'{column.name}' of the {table} is taken for the domain (shop or market) of "
                    "an interaction; if it is a mere property, list it as categorical.",
                )
                return


def guess_features(tables: Mapping[str, Sequence[Column]], draft: Draft) -> None:
    """Sort the columns of items and users into texts, lists, categories and numbers."""
    found: dict[str, list[str]] = {"text": [], "categorical": [], "numeric": []}
    lists: dict[str, str] = {}
    taken = {value for value in draft.columns.values() if isinstance(value, str)}
    elsewhere = _shared(tables)
    free = [one for name in ("items", "users") for one in tables[name] if one.name not in taken]
    for column in free:
        reason = "stands in another table, too" if column.name in elsewhere else _useless(column)
        if reason:
            draft.unused[f"{column.table}: {column.name}"] = reason
        elif column.kind == "lists":
            lists[column.name] = column.separator
        else:
            found[_sort_of(column)].append(column.name)
            _warn_many(column, draft)
    for key, values in {**found, "lists": lists}.items():
        if values:
            draft.choose(f"columns.{key}", values)
    _warn_aggregates(free, draft)
    _warn_reserved(free, draft)
    _leave_out_context(tables["interactions"], taken, draft)


def _warn_aggregates(columns: Sequence[Column], draft: Draft) -> None:
    found = [column for column in columns if column.is_aggregate]
    if found:
        draft.doubt(
            "",
            f"{described(found)} look{'s' if len(found) == 1 else ''} like a sum over all time, "
            "which would carry the future into every training row; left out, add it only if it "
            "was known before the first event.",
        )


def _leave_out_context(events: Sequence[Column], taken: set[str], draft: Draft) -> None:
    rest = [column for column in events if column.name not in taken]
    for column in rest:
        draft.unused[f"interactions: {column.name}"] = "may be known only after the event"
    rest = [column for column in rest if column.name not in draft.told]
    if rest:
        draft.doubt(
            "",
            f"{described(rest)} of the interactions {'is' if len(rest) == 1 else 'are'} left out: "
            "what is written down with an event (a review, a vote, a duration) tells its outcome; "
            "add to data.columns only what was known before it.",
        )


def _useless(column: Column) -> str:
    """Why a column is no feature; empty when it is one."""
    if column.is_aggregate:
        return "summed up over all time, it would carry the future"
    if column.kind in _USELESS:
        return _USELESS[column.kind]
    if CODES.intersection(column.tokens):
        return "looks like an id or code"
    if column.kind == "lists":
        return "lists of long texts" if _part_words(column) > _LONG_PART else ""
    rows = len(column.filled)
    if column.distinct == 1 and rows > 1:
        return "always the same"
    many = rows >= _ID_ROWS and column.distinct >= _ID_SHARE * rows
    return "nearly every value is another" if many and column.kind == "words" else ""


def _sort_of(column: Column) -> str:
    if column.kind != "number":
        return "text" if column.kind == "text" else "categorical"
    if {"age", "year"}.intersection(column.tokens):
        return "numeric"
    few = column.distinct <= _FEW_NUMBERS and _is_whole(column)
    return "categorical" if few or column.hint == "token" else "numeric"


def _warn_many(column: Column, draft: Draft) -> None:
    if _sort_of(column) == "categorical" and column.distinct > _MANY_VALUES:
        draft.doubt(
            "columns.categorical",
            f"'{column.name}' has more than {_MANY_VALUES:,} different values; it was taken as "
            "categorical, drop it if each stands for few items only.",
        )


def _warn_reserved(columns: Sequence[Column], draft: Draft) -> None:
    for column in columns:
        if column.name in _RESERVED[column.table]:
            draft.doubt(
                "",
                f"'{column.name}' of the {column.table} has a name that tastemaker gives to "
                "another column; rename it in the file.",
            )


def _shared(tables: Mapping[str, Sequence[Column]]) -> set[str]:
    """Names that more than one table has."""
    names = [column.name for columns in tables.values() for column in columns]
    return {name for name in names if names.count(name) > 1}


def _is_whole(column: Column) -> bool:
    return bool((column.numbers.floor() == column.numbers).all())


def _part_words(column: Column) -> float:
    """Mean number of words in a part of a list."""
    if column.separator != "json":
        return 0.0
    cells = column.filled
    lists = cells if isinstance(cells.dtype, pl.List) else [json.loads(cell) for cell in cells]
    words = [len(str(part).split()) for parts in lists for part in parts]
    return sum(words) / max(len(words), 1)


def _example(column: Column) -> str:
    text = str(column.filled[0])
    return f'"{text}"' if len(text) <= 40 else f'"{text[:39]}…"'
