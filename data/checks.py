"""Everything wrong with foreign tables, gathered so that one message tells all of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from tastemaker.errors import DataError, nearest

__all__ = ["Problem", "Problems", "RawTable", "TablesError"]

_EXAMPLES = 20
_TEXT_FILES = (".csv", ".tsv")
_WORDS = (pl.Categorical, pl.Enum)  # cast to numbers they would give their codes
_UNUSABLE = (pl.Binary, pl.Object, pl.Duration)
_REMEDY = "Correct the files (or the columns named in the recipe) and run again."

Severity = Literal["error", "warning"]


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table as it was read.

    Attributes:
        name: Shown in messages; the file name where there is one.
        frame: The cells.
        locate: Where rows (numbers from 0) stand in their files; None counts rows of the frame.
        known: All columns of the source; the frame may hold fewer.
    """

    name: str
    frame: pl.DataFrame
    locate: Callable[[Sequence[int]], Sequence[str]] | None = None
    known: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """All columns of the source."""
        return list(self.known) or self.frame.columns

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

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where rows (from 0) stand: the line of a text file, else the row counted from 1."""
        if self.locate is not None:
            return list(self.locate(rows))
        if not self.name.lower().endswith(_TEXT_FILES):
            return [f"{self.name}, row {row + 1}" for row in rows]
        return [f"{self.name}, line {row + 2 + self._breaks(row)}" for row in rows]

    def _breaks(self, row: int) -> int:
        """Line breaks inside quoted cells before `row`."""
        texts = self.frame.head(row).select(pl.col(pl.String))
        return sum(int(column.str.count_matches("\n").sum()) for column in texts)


@dataclass(frozen=True)
class Problem:
    """One kind of problem in one column.

    Attributes:
        severity: `error` stops, `warning` is told.
        table: Name of the table.
        column: Name of the column; empty when the table as a whole is meant.
        complaint: What is wrong.
        remedy: What to do about it.
        count: Cells or rows concerned.
        examples: (place, value) of the first ones.
    """

    severity: Severity
    table: str
    column: str
    complaint: str
    remedy: str
    count: int = 1
    examples: tuple[tuple[str, str], ...] = ()

    def lines(self, limit: int) -> list[str]:
        """At most `limit` examples, the number of further ones, and the remedy."""
        if not self.examples:
            return [self.complaint, *([f"→ {self.remedy}"] if self.remedy else [])]
        shown = [
            f"{place}, column '{self.column}': {value} {self.complaint}"
            for place, value in self.examples[:limit]
        ]
        rest = self.count - len(shown)
        if rest and shown:
            shown.append(f"… and {rest:,} more of this kind")
        elif rest:
            shown = [f"{self.table}, column '{self.column}': {rest:,} × {self.complaint}"]
        return [*shown, *([f"→ {self.remedy}"] if self.remedy else [])]

    def sentence(self) -> str:
        """All of it in one line, for notes."""
        if not self.examples:
            return self.complaint
        place, value = self.examples[0]
        first = f"{place}, column '{self.column}': {value} {self.complaint}"
        return first if self.count == 1 else f"{first} (and {self.count - 1:,} more)"


class TablesError(DataError):
    """Tables cannot be used; `problems` lists every kind."""

    def __init__(self, message: str, *, problems: Sequence[Problem]) -> None:
        super().__init__(message, remedy=_REMEDY)
        self.problems = tuple(problems)


@dataclass(eq=False)
class Problems:
    """Collects problems, and notes of what was done; see `check`."""

    found: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, text: str, *, table: str = "", column: str = "", remedy: str = "") -> None:
        """Note one problem that is no cell's."""
        self.found.append(Problem("error", table, column, text, remedy))

    def add_cells(
        self,
        table: RawTable,
        column: str,
        *,
        bad: pl.Series,
        complaint: str,
        remedy: str = "",
        severity: Severity = "error",
    ) -> None:
        """Note every cell of `column` where the Boolean series `bad` is true."""
        if column not in table.frame.columns:
            return  # noted once by `need`
        count = int(bad.sum() or 0)
        if not count:
            return
        rows = bad.fill_null(False).arg_true().head(_EXAMPLES).to_list()
        values = [_shown(table.frame[column][row]) for row in rows]
        examples = tuple(zip(table.places(rows), values, strict=True))
        self.found.append(Problem(severity, table.name, column, complaint, remedy, count, examples))

    def need(self, table: RawTable, columns: Sequence[str]) -> None:
        """Note missing or unusable columns, and a table without rows."""
        for column in dict.fromkeys(columns):
            if column not in table.frame.columns:
                close = nearest(column, table.columns)
                hint = f"; did you mean '{close}'?" if close else "."
                has = ", ".join(table.columns)
                self.add(
                    f"{table.name}: no column '{column}'{hint} It has: {has}.",
                    table=table.name,
                    column=column,
                    remedy="Name the right column in data.columns.",
                )
            elif not table.has(column):
                self.add(
                    f"{table.name}: column '{column}' holds {table.frame[column].dtype}, "
                    "not words, numbers or moments.",
                    table=table.name,
                    column=column,
                )

    def avoid(self, table: RawTable, columns: Collection[str]) -> None:
        """Note columns whose names tastemaker needs for itself."""
        for column in sorted(set(columns) & set(table.frame.columns)):
            self.add(
                f"{table.name}: column '{column}' has a name that tastemaker gives to another "
                "column; rename it.",
                table=table.name,
                column=column,
            )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not stop, one sentence each."""
        return tuple(one.sentence() for one in self.found if one.severity == "warning")

    def check(self) -> None:
        """Raise when there is an error.

        Raises:
            TablesError: names the first problems of each kind and the number of all.
        """
        errors = [one for one in self.found if one.severity == "error"]
        if not errors:
            return
        count = sum(one.count for one in errors)
        each = max(_EXAMPLES // len(errors), 1)
        lines = [f"  {line}" for one in errors for line in one.lines(each)]
        told = self.warnings
        if told:
            lines += ["Also noticed:", *(f"  {line}" for line in told)]
        raise TablesError(
            f"{count:,} problem(s) in the tables\n" + "\n".join(lines), problems=self.found
        )


def _shown(value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return "an empty cell"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
