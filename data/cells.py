"""Reading the cells of foreign tables as ids, numbers, words and lists."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

from tastemaker.data.checks import Problems, RawTable
from tastemaker.data.readers.lossless import WHOLE

__all__ = ["as_ids", "as_lists", "as_numbers", "as_words", "check_text", "harmonise"]

_WIDE = (pl.UInt64, pl.Int128, pl.UInt128)
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069]"
_TOKENS = r"<\|[^|<>\n]{1,40}\|>|</?s>|<<?/?SYS>>?|\[/?INST\]|<(start|end)_of_turn>|<(bos|eos)>"
_REPLACED = "\ufffd"


def as_ids(table: RawTable, column: str, *, problems: Problems) -> pl.Series:
    """External ids as Int64 or String; text loses surrounding blanks, empty ids are noted."""
    cells = table.cells(column)
    if cells.dtype.is_float():
        whole = cells.cast(pl.Int64, strict=False)
        bad = cells.is_not_null() & ~whole.cast(cells.dtype).eq_missing(cells)
        problems.add_cells(table, column, bad=bad, complaint="is not a whole number")
        ids = whole.zip_with(~bad, pl.Series([0]))
    elif cells.dtype.is_integer() and cells.dtype not in _WIDE:
        ids = cells.cast(pl.Int64)
    else:
        text = cells.cast(pl.String).str.strip_chars()
        ids = text.zip_with(text != "", pl.Series([None], dtype=pl.String))
        broken = text.str.contains(_REPLACED, literal=True)
        problems.add_cells(table, column, bad=broken, complaint=_BROKEN, remedy=_ENCODING)
    if ids.null_count() and table.has(column):
        remedy = "Fill it in, or remove the row."
        problems.add_cells(
            table, column, bad=ids.is_null(), complaint="is not an id", remedy=remedy
        )
    return ids


def harmonise(ids: Sequence[pl.Series]) -> list[pl.Series]:
    """The same type for ids of the same thing: Int64 when all are whole numbers, else String.

    >>> [series.dtype for series in harmonise([pl.Series(["1", "20"]), pl.Series([3])])]
    [Int64, Int64]
    """
    texts = [series for series in ids if series.dtype == pl.String]
    if all(bool(text.str.contains(WHOLE).all()) for text in texts):
        return [series.cast(pl.Int64) for series in ids]
    return [series.cast(pl.String) for series in ids]


def as_numbers(
    table: RawTable,
    column: str,
    *,
    problems: Problems,
    span: tuple[float, float] | None = None,
    optional: bool = False,
) -> pl.Series:
    """Float64 values; whatever is not a finite float32 number is noted.

    Args:
        table: Holds the column.
        column: Its name.
        problems: Gets what is wrong.
        span: Lowest and highest number allowed.
        optional: Empty cells are no problem and stay null.
    """
    cells = table.cells(column)
    if cells.dtype == pl.String:
        cells = cells.str.strip_chars()
    if cells.dtype.is_temporal():
        cells = cells.cast(pl.String)  # a date is no number; cast to a float it would pass for one
    numbers = cells.cast(pl.Float64, strict=False)
    bad = ~numbers.cast(pl.Float32).is_finite().fill_null(False)
    if optional:
        bad = bad & cells.is_not_null() & (cells.cast(pl.String) != "")
    problems.add_cells(
        table,
        column,
        bad=bad,
        complaint="is not a finite number",
        remedy="Give a number like 3 or 4.5.",
    )
    if span is not None:
        outside = ~numbers.is_between(*span) & ~bad
        complaint = f"is outside the declared range {span[0]:g} to {span[1]:g}"
        remedy = "Correct it, or data.columns.rating_range."
        problems.add_cells(table, column, bad=outside, complaint=complaint, remedy=remedy)
    return numbers


def as_words(table: RawTable, column: str) -> pl.Series:
    """String cells without surrounding blanks; empty ones are null."""
    cells = table.cells(column)
    text = cells.cast(pl.String, strict=False).str.strip_chars()
    return text.zip_with(text != "", pl.Series([None], dtype=pl.String)).alias(column)


def as_lists(table: RawTable, column: str, *, separator: str, problems: Problems) -> pl.Series:
    """List(String) cells without blanks and empty parts; an empty cell is an empty list.

    Args:
        table: Holds the column, as lists or as text.
        column: Its name.
        separator: What parts the values of a text; `json` reads a JSON array.
        problems: Gets what is wrong.
    """
    cells = table.frame[column]
    if isinstance(cells.dtype, pl.List | pl.Array):
        lists = cells.cast(pl.List(pl.String), strict=False)
    elif separator == "json":
        text = as_words(table, column)
        lists = pl.Series([_json_list(cell) for cell in text], dtype=pl.List(pl.String))
        problems.add_cells(
            table,
            column,
            bad=lists.is_null() & text.is_not_null(),
            complaint="is not a JSON list",
            remedy='Write it like ["Drama", "War"].',
        )
    else:
        lists = as_words(table, column).str.split(separator)
    parts = pl.element().str.strip_chars()
    return (
        lists.alias(column)
        .to_frame()
        .select(pl.col(column).list.eval(parts.filter(parts != "")).fill_null([]))
        .to_series()
    )


def check_text(
    table: RawTable, column: str, *, problems: Problems, missing: str = "", quiet: bool = False
) -> None:
    """Note what is odd in a column of words: empty, broken, invisible, or meant for a model.

    Args:
        table: Holds the column.
        column: Its name.
        problems: Gets an error for broken text, warnings for the rest.
        missing: What happens to empty cells; nothing is said when empty.
        quiet: Only broken text is noted, for columns that no prompt shows.
    """
    if not table.has(column) or table.frame[column].dtype != pl.String:
        return
    cells = table.frame[column]
    broken = cells.str.contains(_REPLACED, literal=True)
    problems.add_cells(table, column, bad=broken, complaint=_BROKEN, remedy=_ENCODING)
    if quiet:
        return
    odd = {
        "holds invisible or control characters, which prompts leave out": cells.str.contains(
            _CONTROL
        ),
        "holds a chat-template token, which prompts make harmless": cells.str.contains(_TOKENS),
    }
    if missing:
        odd[missing] = cells.is_null() | (cells.str.strip_chars() == "")
    for complaint, bad in odd.items():
        problems.add_cells(table, column, bad=bad, complaint=complaint, severity="warning")


_BROKEN = "was not valid text in its encoding"
_ENCODING = "Save the file as UTF-8, or name its encoding (such as latin-1) in the recipe."


def _json_list(cell: str | None) -> list[str] | None:
    if cell is None:
        return None
    try:
        found = json.loads(cell)
    except ValueError:
        return None
    return [str(one) for one in found] if isinstance(found, list) else None
