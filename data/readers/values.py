"""Columns from Python values, and frames of the same columns put together; nothing turns null."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import polars as pl

from tastemaker.errors import DataError

__all__ = ["EXACT_FLOAT", "as_series", "as_text", "stack"]

EXACT_FLOAT = 2.0**53  # beyond it, a float no longer knows every whole number
_LARGEST = 2**63 - 1
_WORDS = pl.List(pl.String)


def as_series(name: str, values: Sequence[Any]) -> pl.Series:
    """A column of values from JSON or a database.

    Whole numbers become Int64, numbers Float64, lists of words List(String); anything mixed, and
    anything nested in another way, becomes text (JSON where it was no word). Without any value the
    type is Null.

    >>> as_series("price", [12.5, None, "—"]).to_list()
    ['12.5', None, '—']
    """
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {bytes}:
        return pl.Series(name, values, dtype=pl.Binary)
    if kinds <= {int, float}:
        return _numbers(name, values, kinds)
    if kinds == {list} and all(_is_words(value) for value in values):
        return pl.Series(name, values, dtype=_WORDS)
    return pl.Series(name, [as_text(value) for value in values], dtype=pl.String)


def as_text(value: Any) -> str | None:
    """A value as text: words as they are, everything else as JSON."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # JSON may escape halves of a surrogate pair, which no encoding can write.
    return text.encode("utf-8", errors="replace").decode()


def _numbers(name: str, values: Sequence[Any], kinds: Collection[type]) -> pl.Series:
    wholes = [value for value in values if isinstance(value, int)]
    bound = int(EXACT_FLOAT) if float in kinds else _LARGEST
    if wholes and max(map(abs, wholes)) > bound:
        return pl.Series(name, [as_text(value) for value in values], dtype=pl.String)
    return pl.Series(name, values, dtype=pl.Float64 if float in kinds else pl.Int64, strict=False)


def _is_words(value: list[Any] | None) -> bool:
    return value is None or all(part is None or isinstance(part, str) for part in value)


def stack(frames: Sequence[pl.DataFrame], *, names: Sequence[str] = ()) -> pl.DataFrame:
    """One frame below the other; a column lacking in one is null there.

    Where types differ, numbers become Float64 when all are known exactly, everything else text
    (lists of words as JSON).

    Args:
        frames: At least one.
        names: What messages call them.

    Raises:
        DataError: a column is nested in one of them and something else in another.
    """
    order = list(dict.fromkeys(name for frame in frames for name in frame.columns))
    casts = {name: _common(name, frames, names) for name in order}
    uniform = [
        frame.with_columns(
            _as(casts[name], frame[name])
            for name in frame.columns
            if frame.schema[name] != casts[name]
        )
        for frame in frames
    ]
    return pl.concat(uniform, how="diagonal").select(order)


def _common(name: str, frames: Sequence[pl.DataFrame], names: Sequence[str]) -> pl.DataType:
    columns = [frame[name] for frame in frames if name in frame.columns]
    types = {column.dtype for column in columns if column.dtype != pl.Null}
    if len(types) < 2:
        return next(iter(types), pl.String())
    if all(dtype.is_integer() for dtype in types) and not types & {pl.UInt64(), pl.Int128()}:
        return pl.Int64()
    if all(dtype.is_float() for dtype in types):
        return pl.Float64()
    if all(dtype.is_numeric() for dtype in types) and all(map(_is_small, columns)):
        return pl.Float64()
    odd = [dtype for dtype in types if dtype.is_nested() or dtype == pl.Binary]
    nested = [dtype for dtype in odd if dtype != _WORDS]
    if nested:
        where = (
            names[[frame.schema.get(name) for frame in frames].index(nested[0])] if names else ""
        )
        others = ", ".join(sorted(str(dtype) for dtype in types - {nested[0]}))
        raise DataError(
            f"{where}: column '{name}' holds {nested[0]}, elsewhere {others}.",
            remedy="Give all shards the same columns.",
        )
    return pl.String()


def _as(dtype: pl.DataType, column: pl.Series) -> pl.Series:
    if column.dtype == _WORDS and dtype == pl.String:
        return pl.Series(column.name, [as_text(cell) for cell in column.to_list()], dtype=dtype)
    return column.cast(dtype)


def _is_small(column: pl.Series) -> bool:
    sizes: Iterable[Any] = (column.min(), column.max())
    return all(size is None or abs(float(size)) < EXACT_FLOAT for size in sizes)
