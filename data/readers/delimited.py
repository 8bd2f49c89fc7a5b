"""Text tables: CSV, TSV, RecBole's atomic files, and others with a separator between cells."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from tastemaker.data.readers.base import OneFile, chosen, open_bytes, text_lines
from tastemaker.data.readers.lossless import guess_types, is_exact, survey_numbers
from tastemaker.errors import DataError

__all__ = ["DelimitedFile"]

_RECBOLE = re.compile(r"(.+):(token|token_seq|float|float_seq)")
_STAND_IN = "\x1f"  # for separators of several characters; ASCII's own separator of units
_QUOTING = (",", ";", "\t", " ")
_SAMPLE = 1000
_CHUNK = 100_000
_CELLS = "cells as many as in the header, quotes closed; within quotes a quote is doubled"


@dataclass(frozen=True)
class _Header:
    names: list[str]
    hints: dict[str, str]
    lines: int


class DelimitedFile(OneFile):
    """A text table, gzipped or not; empty cells are null.

    Lines that are blank at the end of the file are no rows; elsewhere they are rows of nulls.
    Quotes mean something where the separator is a comma, semicolon, tab or blank, but not in
    RecBole's files; elsewhere (MovieLens' `|` and `::`) they are part of the text.

    Args:
        path: The file.
        separator: Of cells; several characters are allowed, such as MovieLens' `::`.
        encoding: Of the text.
        header: Names of the columns when the file has no header line.
    """

    def __init__(
        self,
        path: Path,
        *,
        separator: str = ",",
        encoding: str = "utf-8",
        header: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path)
        self.separator = separator
        self.encoding = encoding
        self._given = header

    @property
    def hints(self) -> Mapping[str, str]:
        """Types a RecBole header declares."""
        return self._header.hints

    def columns(self) -> list[str]:
        """Names of the columns; RecBole's without their types."""
        return list(self._header.names)

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        names = chosen(self.columns(), columns)
        try:
            frame = self._read_typed(names) if typed else None
            if frame is None:
                frame = self._parse(dict.fromkeys(self.columns(), pl.String()), names)
        except (OSError, pl.exceptions.PolarsError):
            frame = self._read_slowly(names)
        return frame.head(frame.height - self._blank_tail(frame))

    def places(self, rows: Sequence[int]) -> list[str]:
        """Lines as an editor counts them; quoted cells may span several."""
        wanted, lines = set(rows), dict[int, int]()
        records = self._records(strict=False, start=self._header.lines)
        for row, (line, _) in enumerate(records):
            if row in wanted:
                lines[row] = line
            if len(lines) == len(wanted):
                break
        return [f"{self.name}, line {lines.get(row, '?')}" for row in rows]

    @cached_property
    def _header(self) -> _Header:
        cells, lines = list(self._given or ()), 0
        if self._given is None:
            for lines, cells in self._records(strict=False, ends=True):  # noqa: B007
                if cells:
                    break
        if not cells:
            raise DataError(f"{self.path}, empty CSV", allowed="a header line and rows")
        typed = [_RECBOLE.fullmatch(cell.strip()) for cell in cells]
        names, hints = cells, dict[str, str]()
        if all(typed):
            pairs = [(match[1], match[2]) for match in typed if match]
            names, hints = [name for name, _ in pairs], dict(pairs)
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(f"{self.path}: column '{repeated[0]}' is there twice in the header.")
        return _Header(names, hints, lines)

    @cached_property
    def _quote(self) -> str | None:
        return '"' if self.separator in _QUOTING and not self.hints else None

    @cached_property
    def _is_plain(self) -> bool:
        """Whether polars (and a look at the bytes) can work on the file as it lies there."""
        with self.path.open("rb") as handle:
            packed = handle.read(2) == b"\x1f\x8b"
        ascii_separator = len(self.separator) == 1 and self.separator.isascii()
        return self.encoding == "utf-8" and ascii_separator and not packed

    def _read_typed(self, names: list[str]) -> pl.DataFrame | None:
        """The table with numbers where they are exact; None when text is the better way."""
        if not self._is_plain or self.separator not in ",\t;| ":
            return None
        text = dict.fromkeys(self.columns(), pl.String())
        types = guess_types(self._scan(text, rows=_SAMPLE).collect())
        if all(types[name] == pl.String for name in names):
            return None
        if pl.String() in types.values():
            # Points can be counted only where nothing but numbers has them.
            types = {n: pl.String() if t == pl.Float64 else t for n, t in types.items()}
        with ThreadPoolExecutor(1) as pool:
            survey = pool.submit(
                survey_numbers, self.path, skip=self._header.lines, separator=self.separator
            )
            try:
                frame = self._parse(types, self.columns())
            except pl.exceptions.PolarsError:
                return None  # as text, so that the checks can name the cell
            plain, points = survey.result()
        exact = is_exact(frame, points)
        return frame.select(names) if plain and all(exact.values()) else None

    def _parse(self, types: Mapping[str, pl.DataType], names: list[str]) -> pl.DataFrame:
        rows = self._scan(types)
        if names != list(types):
            # Polars takes less care in columns that it leaves out: lines with too many cells would
            # pass, and a stray quote would swallow lines. So every column is parsed, then dropped.
            rows = rows.map_batches(
                lambda batch: batch.select(names),
                projection_pushdown=False,
                streamable=True,
                schema={name: types[name] for name in names},
            )
        return rows.collect(engine="streaming")

    def _scan(self, types: Mapping[str, pl.DataType], *, rows: int | None = None) -> pl.LazyFrame:
        return pl.scan_csv(
            self.path if self._is_plain else self._recoded(),
            has_header=False,
            skip_lines=self._header.lines,
            schema=dict(types),
            missing_columns="insert",
            separator=self.separator if len(self.separator) == 1 else _STAND_IN,
            quote_char=self._quote,
            n_rows=rows,
            glob=False,
            encoding="utf8-lossy",
        )

    def _recoded(self) -> bytes:
        """The file in UTF-8, with a separator of one character."""
        recoded = io.BytesIO()
        for line in text_lines(self.path, self.encoding, lossy=True):
            cells = line if len(self.separator) == 1 else line.replace(self.separator, _STAND_IN)
            recoded.write(cells.encode())
        return recoded.getvalue()

    def _records(
        self, *, strict: bool, start: int = 0, ends: bool = False
    ) -> Iterator[tuple[int, list[str]]]:
        """The first line (or the last one, with `ends`) and the cells of each row."""
        lines = text_lines(self.path, self.encoding, lossy=True)
        for _ in range(start):
            next(lines, None)
        if len(self.separator) > 1:
            for number, line in enumerate(lines, start=start + 1):
                text = line.rstrip("\r\n")
                yield number, text.split(self.separator) if text else []
            return
        # Long reviews exceed the module's own limit.
        csv.field_size_limit(sys.maxsize)
        # The header is read before it is known whether there are quotes.
        literal = "_header" in self.__dict__ and not self._quote
        quoting: Literal[0, 3] = csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=self.separator, quoting=quoting, strict=strict)
        first = start + 1
        try:
            for cells in reader:
                yield start + reader.line_num if ends else first, cells
                first = start + reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{self.path}, line {first}: {error}", allowed=_CELLS) from None

    def _read_slowly(self, names: list[str]) -> pl.DataFrame:
        """For files that polars refuses: read by the rules of CSV, or the bad line is named."""
        have = self.columns()
        places = [have.index(name) for name in names]
        schema = dict.fromkeys(names, pl.String())
        frames, rows = [pl.DataFrame(schema=schema)], list[list[str | None]]()
        for line, cells in self._records(strict=True, start=self._header.lines):
            if any(cells[len(have) :]):
                raise DataError(
                    f"{self.path}, line {line}: {len(cells)} cells, the header has {len(have)}",
                    allowed=_CELLS,
                )
            rows.append([(cells[at] or None) if at < len(cells) else None for at in places])
            if len(rows) == _CHUNK:
                frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
                rows = []
        return pl.concat([*frames, pl.DataFrame(rows, schema=schema, orient="row")])

    def _blank_tail(self, frame: pl.DataFrame) -> int:
        """Number of blank lines at the end that were read as rows."""
        if not frame.height or any(cell is not None for cell in frame.row(-1)):
            return 0
        tail = b""
        with open_bytes(self.path) as handle:
            while chunk := handle.read(1 << 20):
                tail = (tail + chunk)[-(1 << 20) :]
        ends = tail[len(tail.rstrip(b"\r\n")) :].count(b"\n")
        return max(min(ends - 1, frame.height), 0)
