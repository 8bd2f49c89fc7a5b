"""JSON lines, as Amazon Reviews and Yelp are published: fields may lack, nest, or change type."""

from __future__ import annotations

import glob
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import polars as pl

from tastemaker.data.readers.base import OneFile, chosen, not_utf8, open_bytes
from tastemaker.data.readers.lossless import WHOLE
from tastemaker.data.readers.values import EXACT_FLOAT, as_series, stack
from tastemaker.errors import DataError

__all__ = ["JsonLines"]

_SAMPLE = 1000
_CHUNK = 50_000
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_ALLOWED = 'one object a line, such as {"user_id": "A1", "rating": 5.0}'

Types = Mapping[str, pl.DataType]


class JsonLines(OneFile):
    """A file with a JSON object in each line (or one array of objects), gzipped or not.

    Numbers and words keep their type; a column that holds both is text. Lists of words are lists;
    objects and other lists are JSON text. Columns are those of the first thousand rows, but others
    can be read, too.
    """

    open_ended = True

    def columns(self) -> list[str]:
        """Names of the columns in the first thousand rows."""
        return list(self._types)

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        late = sorted(set(columns or ()) - set(self._types))
        types = dict(self._types) | dict.fromkeys(late, pl.String())
        types = {name: types[name] for name in chosen(list(types), columns)}
        frame = self._read_fast(types)
        if frame is None:
            frame = self._read_slowly(list(types))
        found = [name for name in frame.columns if name in self._types or _is_filled(frame[name])]
        return frame.select(found) if found else self.read(self.columns()[:1])

    def places(self, rows: Sequence[int]) -> list[str]:
        """Lines as an editor counts them."""
        if self._is_array:
            return super().places(rows)
        wanted, lines = set(rows), dict[int, int]()
        for row, (line, _) in enumerate(self._lines()):
            if row in wanted:
                lines[row] = line
        return [f"{self.name}, line {lines.get(row, '?')}" for row in rows]

    @cached_property
    def _types(self) -> dict[str, pl.DataType]:
        sample = [row for _, row in islice(self._rows(), _SAMPLE)]
        if not any(sample):
            raise DataError(f"{self.path}: has no rows.", allowed=_ALLOWED)
        names = dict.fromkeys(name for row in sample for name in row)
        types = {name: as_series(name, [row.get(name) for row in sample]).dtype for name in names}
        return {name: pl.String() if t == pl.Null else t for name, t in types.items()}

    @cached_property
    def _is_array(self) -> bool:
        with open_bytes(self.path) as handle:
            return handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["

    def _read_fast(self, types: Types) -> pl.DataFrame | None:
        """By polars, lazily; None when its values could differ from the file's."""
        if self._is_array:
            return None
        # Numbers as text hold whatever comes; a struct or mixed list is JSON text already.
        loose = {name: pl.String() if t.is_numeric() else t for name, t in types.items()}
        for attempt in (types, loose):
            try:
                frame = self._scan(attempt).collect()
            except (OSError, pl.exceptions.PolarsError):
                continue
            floats = [column for column in frame if column.dtype == pl.Float64]
            if all(_is_known(column) for column in floats):
                restored = [n for n, t in types.items() if t != attempt[n]]
                return frame.with_columns(_as_numbers(frame[n], types[n]) for n in restored)
        return None

    def _scan(self, types: Types) -> pl.LazyFrame:
        return pl.scan_ndjson(glob.escape(str(self.path)), schema=dict(types))

    def _read_slowly(self, names: list[str]) -> pl.DataFrame:
        """By Python: any mixture, or the malformed line is named."""
        rows = (row for _, row in self._rows())
        frames = []
        while chunk := list(islice(rows, _CHUNK)):
            frames.append(
                pl.DataFrame([as_series(name, [row.get(name) for row in chunk]) for name in names])
            )
        return stack(frames or [pl.DataFrame(schema=dict.fromkeys(names, pl.String()))])

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each object with its line (in an array: its position, from 1)."""
        if not self._is_array:
            yield from ((line, self._object(text, line)) for line, text in self._lines())
            return
        with open_bytes(self.path) as handle:
            try:
                values = json.loads(handle.read())
            except ValueError as error:
                raise DataError(f"{self.path}: not valid JSON: {error}", allowed=_ALLOWED) from None
        for position, value in enumerate(values, start=1):
            if not isinstance(value, dict):
                raise DataError(f"{self.path}, row {position}: not an object", allowed=_ALLOWED)
            yield position, value

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, with their numbers."""
        with open_bytes(self.path) as handle:
            for number, line in enumerate(handle, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text

    def _object(self, text: bytes, line: int) -> dict[str, Any]:
        try:
            value = json.loads(text.decode())
        except UnicodeDecodeError:
            raise not_utf8(self.path, line) from None
        except ValueError as error:
            raise DataError(
                f"{self.path}, line {line}: not valid JSON: {error}", allowed=_ALLOWED
            ) from None
        if not isinstance(value, dict):
            raise DataError(f"{self.path}, line {line}: not an object", allowed=_ALLOWED)
        return value


def _is_filled(column: pl.Series) -> bool:
    return column.null_count() < len(column)


def _is_known(column: pl.Series) -> bool:
    """Whether no whole number can have been rounded on its way into a float."""
    return bool((column.abs() < EXACT_FLOAT).all())


def _as_numbers(cells: pl.Series, before: pl.DataType) -> pl.Series:
    """Int64 (unless fractions came `before`) or Float64 when all are such numbers, else text."""
    filled = cells.drop_nulls()
    if before.is_integer() and filled.str.contains(WHOLE).all():
        return cells.cast(pl.Int64)
    if filled.str.contains(_NUMBER).all():
        numbers = cells.cast(pl.Float64)
        return numbers if _is_known(numbers) else cells
    return cells
