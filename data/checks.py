"""Reading columns of foreign tables, with every bad cell named by file, row, column and value."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from tastemaker.errors import DataError, nearest

__all__ = ["Problems", "RawTable", "as_ids", "as_numbers", "as_times", "harmonise"]

_SHOWN = 20
_TEXT_FILES = (".csv", ".tsv")
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # years 1 and 9999
_WORDS = (pl.Categorical, pl.Enum)  # cast to numbers they would give their codes
_UNUSABLE = (pl.Binary, pl.Object, pl.Duration)
_WIDE = (pl.UInt64, pl.Int128, pl.UInt128)
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table as it was read.

    Attributes:
        name: Shown in messages; the file name where there is one.
        frame: The cells.
    """

    name: str
    frame: pl.DataFrame

    def has(self, column: str) -> bool:
        """Whether `column` is there and holds words, numbers or moments."""
        dtype = self.frame.schema.get(column)
        return dtype is not None and not dtype.is_nested() and dtype not in _UNUSABLE

    def cells(self, column: str) -> pl.Series:
        """The column; nothing but nulls when it is not usable, so that checks can go on."""
        if self.has(column):
            cells = self.frame[column]
            return cells.cast(pl.String) if cells.dtype in _WORDS else cells
        return pl.Series(column, [None] * self.frame.height, dtype=pl.String)

    def place(self, row: int) -> str:
        """Where row `row` (from 0) stands: the line of a text file, else the row counted from 1."""
        if not self.name.lower().endswith(_TEXT_FILES):
            return f"{self.name}, row {row + 1}"
        # A quoted cell may span lines.
        texts = self.frame.head(row).select(pl.col(pl.String))
        breaks = sum(int(column.str.count_matches("\n").sum()) for column in texts)
        return f"{self.name}, line {row + 2 + breaks}"


@dataclass(eq=False)
class Problems:
    """Collects what is wrong, so that one message tells all of it."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, text: str) -> None:
        """Note one problem."""
        self.count += 1
        if len(self.lines) < _SHOWN:
            self.lines.append(text)

    def add_cells(self, table: RawTable, column: str, *, bad: pl.Series, complaint: str) -> None:
        """Note every cell of `column` where the Boolean series `bad` is true."""
        if not table.has(column):
            return  # noted once by `need`
        rows = bad.fill_null(False).arg_true()
        self.count += len(rows)
        for row in rows.head(max(_SHOWN - len(self.lines), 0)):
            shown = _shown(table.frame[column][row])
            self.lines.append(f"{table.place(row)}, column '{column}': {shown} {complaint}")

    def need(self, table: RawTable, columns: Sequence[str]) -> None:
        """Note missing or unusable columns, and a table without rows."""
        have = table.frame.columns
        for column in dict.fromkeys(columns):
            if column not in have:
                close = nearest(column, have)
                hint = f"; did you mean '{close}'?" if close else "."
                self.add(f"{table.name}: no column '{column}'{hint} It has: {', '.join(have)}.")
            elif not table.has(column):
                self.add(
                    f"{table.name}: column '{column}' holds {table.frame[column].dtype}, "
                    "not words, numbers or moments."
                )
        if not table.frame.height:
            self.add(f"{table.name}: has no rows.")

    def avoid(self, table: RawTable, columns: Collection[str]) -> None:
        """Note columns whose names tastemaker needs for itself."""
        for column in sorted(set(columns) & set(table.frame.columns)):
            self.add(
                f"{table.name}: column '{column}' has a name that tastemaker gives to another "
                "column; rename it."
            )

    def check(self) -> None:
        """Raise when anything was noted.

        Raises:
            DataError: names the first problems and the number of all.
        """
        if not self.count:
            return
        lines = [f"  {line}" for line in self.lines]
        if self.count > len(lines):
            lines.append(f"  … and {self.count - len(lines)} more")
        raise DataError(
            f"{self.count} problem(s) in the tables\n" + "\n".join(lines),
            remedy="Correct the files (or the columns named in the recipe) and run again.",
        )


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
    problems.add_cells(table, column, bad=ids.is_null(), complaint="is not an id")
    return ids


def harmonise(ids: Sequence[pl.Series]) -> list[pl.Series]:
    """The same type for ids of the same thing: Int64 when all are whole numbers, else String.

    >>> [series.dtype for series in harmonise([pl.Series(["1", "20"]), pl.Series([3])])]
    [Int64, Int64]
    """
    texts = [series for series in ids if series.dtype == pl.String]
    if all(bool(text.str.contains(_WHOLE).all()) for text in texts):
        return [series.cast(pl.Int64) for series in ids]
    return [series.cast(pl.String) for series in ids]


def as_numbers(table: RawTable, column: str, *, problems: Problems) -> pl.Series:
    """Float64 values; whatever is not a finite float32 number is noted."""
    cells = table.cells(column)
    if cells.dtype == pl.String:
        cells = cells.str.strip_chars()
    if cells.dtype.is_temporal():
        cells = cells.cast(pl.String)  # a date is no number; cast to a float it would pass for one
    numbers = cells.cast(pl.Float64, strict=False)
    bad = ~numbers.cast(pl.Float32).is_finite().fill_null(False)
    problems.add_cells(table, column, bad=bad, complaint="is not a finite number")
    return numbers


def as_times(table: RawTable, column: str, *, problems: Problems) -> pl.Series:
    """Int64 unix seconds, rounded down, from numbers, dates or ISO text (UTC when not said)."""
    cells = table.cells(column)
    if cells.dtype == pl.String:
        seconds = _text_times(cells.str.strip_chars())
    elif cells.dtype in (pl.Date, pl.Datetime):
        seconds = cells.dt.timestamp("us") // 1_000_000
    elif cells.dtype.is_float():
        seconds = _floor(cells)
    elif cells.dtype.is_integer():
        seconds = cells.cast(pl.Int64, strict=False)
    else:
        seconds = pl.Series(column, [None] * len(cells), dtype=pl.Int64)
    bad = ~seconds.is_between(_FIRST_SECOND, _LAST_SECOND).fill_null(False)
    complaint = "is not a time; give unix seconds (not milliseconds) or ISO text"
    problems.add_cells(table, column, bad=bad, complaint=complaint)
    return seconds


def _text_times(cells: pl.Series) -> pl.Series:
    whole = cells.cast(pl.Int64, strict=False)
    seconds = whole.zip_with(whole.is_not_null(), _floor(cells.cast(pl.Float64, strict=False)))
    unread = cells.filter(seconds.is_null()).drop_nulls().unique()
    if not len(unread):
        return seconds
    moments = pl.Series("seconds", [_iso_seconds(text) for text in unread], dtype=pl.Int64)
    known = pl.DataFrame({"text": unread, "seconds": moments})
    found = pl.DataFrame({"text": cells}).join(known, on="text", how="left", maintain_order="left")
    return seconds.zip_with(seconds.is_not_null(), found["seconds"])


def _iso_seconds(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() // 1)


def _floor(numbers: pl.Series) -> pl.Series:
    return numbers.floor().cast(pl.Int64, strict=False)


def _shown(value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return "an empty cell"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
