"""What a single column looks like, by its name and by its values."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import polars as pl

from tastemaker.data.checks import Problems, RawTable
from tastemaker.data.schema import TimeUnit
from tastemaker.data.times import as_times

__all__ = ["Column", "Draft", "Kind", "described"]

Kind = Literal["empty", "number", "moment", "lists", "text", "link", "words", "nested"]
_MOST = 0.95
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")
_LINK = re.compile(r"https?://|www\.|/[\w/-]+\.(jpg|png)")
_SEPARATORS = ("|", ";", ", ", ",")
_LISTED = 0.05  # of the filled cells part several values
_PARTS_REPEAT = 0.5  # different parts over all parts, at most
_PART_WORDS = 4.0
_TEXT_WORDS = 4.0
_AVERAGES = (
    "average avg mean popularity popular trending stars score rating ratings votes vote views "
    "likes dislikes fans followers subscribers downloads plays listeners sales rank bestseller "
    "reviews useful funny cool helpful compliment compliments clicks purchases sold"
)
_COUNTS = "count counts number num n total"
_COUNTED = "rating ratings review reviews vote votes play plays event events"
_FIXED = "page pages word words calorie calories track tracks age minimum max"
_YEAR_1973, _YEAR_2100 = 1e8, 4.2e9


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a table.

    Attributes:
        table: `interactions`, `items` or `users`.
        name: As in the file.
        cells: The sampled ones.
        hint: `token`, `float`, `token_seq` or `float_seq`, where the format declares it.
    """

    table: str
    name: str
    cells: pl.Series
    hint: str = ""

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Words of the name: `unixReviewTime` → unix, review, time."""
        return tuple(part.lower() for part in _BOUNDARY.split(self.name) if part)

    @property
    def plain(self) -> str:
        """The name in small letters, without what is between its words."""
        return "".join(self.tokens)

    @cached_property
    def filled(self) -> pl.Series:
        """Cells that hold something; text without surrounding blanks."""
        cells = self.cells.drop_nulls()
        if cells.dtype in (pl.Categorical, pl.Enum):
            cells = cells.cast(pl.String)
        if cells.dtype != pl.String:
            return cells
        cells = cells.str.strip_chars()
        return cells.filter(cells != "")

    @cached_property
    def numbers(self) -> pl.Series:
        """Float64 of the filled cells; null where one is no finite number."""
        cells = self.filled
        if cells.dtype.is_temporal() or cells.dtype.is_nested():
            return pl.Series([None] * len(cells), dtype=pl.Float64)
        found = cells.cast(pl.Float64, strict=False)
        return found.zip_with(
            found.is_finite().fill_null(False), pl.Series([None], dtype=pl.Float64)
        )

    @property
    def is_numeric(self) -> bool:
        """Whether every filled cell is a finite number."""
        return len(self.numbers) > 0 and self.numbers.null_count() == 0

    @cached_property
    def distinct(self) -> int:
        """Different filled cells of the sample; 0 for nested ones."""
        return 0 if self.filled.dtype.is_nested() else self.filled.n_unique()

    @cached_property
    def kind(self) -> Kind:
        """What the cells look like."""
        cells = self.filled
        if not len(cells):
            return "empty"
        if isinstance(cells.dtype, pl.List) and cells.dtype.inner == pl.String:
            return "lists"
        if cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object, pl.Duration):
            return "nested"
        if cells.dtype.is_temporal():
            return "moment"
        if self.is_numeric:
            return "number"
        if cells.dtype != pl.String:
            return "words"
        return self._kind_of_text()

    def _kind_of_text(self) -> Kind:
        cells = self.filled
        if cells.str.contains(_LINK.pattern).mean() > _MOST:  # type: ignore[operator]
            return "link"
        if self.separator:
            return "lists"
        if _enclosed(cells, "{}") or _enclosed(cells, "[]"):
            return "nested"
        if self.time_unit() == "iso":
            return "moment"
        words = cells.str.count_matches(r"\S+").mean()
        return "text" if words >= _TEXT_WORDS else "words"  # type: ignore[operator]

    @cached_property
    def separator(self) -> str:
        """What parts several values of a cell, `json` for JSON lists; empty for single values."""
        cells = self.filled
        if isinstance(cells.dtype, pl.List):
            return "json"
        if cells.dtype != pl.String or not len(cells):
            return ""
        if self.hint.endswith("_seq"):
            return " "
        if _enclosed(cells, "[]"):
            return "json" if _simple_lists(cells) else ""
        return next((one for one in _SEPARATORS if _parts(cells, one)), "")

    def time_unit(self) -> TimeUnit | None:
        """In which form the cells are times of a calendar, or None."""
        cells = self.filled
        if not len(cells) or cells.dtype.is_nested() or cells.dtype == pl.Boolean:
            return None
        scratch = Problems()
        seconds, unit = as_times(
            RawTable("", cells.alias("time").to_frame()), "time", unit="auto", problems=scratch
        )
        if seconds.null_count() > (1 - _MOST) * len(cells):
            return None
        if unit == "s" and not (_YEAR_1973 <= float(seconds.median() or 0) <= _YEAR_2100):  # type: ignore[arg-type]
            return None
        return unit

    @property
    def is_aggregate(self) -> bool:
        """Whether the name speaks of a sum over all time: `average_rating`, `review_count`."""
        tokens = set(self.tokens)
        if self.kind != "number" or tokens.intersection(_FIXED.split()):
            return False
        counted = tokens.intersection(_COUNTS.split()) and tokens.intersection(_COUNTED.split())
        return bool(counted or tokens.intersection(_AVERAGES.split()))


@dataclass(eq=False)
class Draft:
    """What has been decided so far, and what was unsure about it.

    Attributes:
        columns: Key of `data.columns` → value.
        settings: Other keys, such as `policies.duplicates` → value.
        reasons: Key → why, in a few words.
        doubts: (key, sentence) in order; the key may be empty.
        unused: `table: column` → why it is left out.
        told: Names of columns that a doubt speaks of.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    doubts: list[tuple[str, str]] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def choose(self, key: str, value: Any, why: str = "") -> None:
        """Settle a key; those of `data.columns` are written `columns.user`."""
        section, _, name = key.partition(".")
        if section == "columns":
            self.columns[name] = value
        else:
            self.settings[key] = value
        if why:
            self.reasons[key] = why

    def doubt(self, key: str, sentence: str, *, about: Sequence[Column] = ()) -> None:
        """Say what was unsure, what was chosen and what to check."""
        self.doubts.append((key, sentence))
        self.told.update(column.name for column in about)


def described(columns: Sequence[Column]) -> str:
    """Names for a sentence: `'a', 'b' and 'c'`."""
    names = [f"'{column.name}'" for column in columns]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _parts(cells: pl.Series, separator: str) -> bool:
    """Whether the cells are lists parted so: short parts, and the same ones in other cells."""
    several = cells.str.contains(separator, literal=True)
    if not several.any() or several.mean() < _LISTED:  # type: ignore[operator]
        return False
    parts = cells.unique().str.split(separator).explode(empty_as_null=False).str.strip_chars()
    parts = parts.filter(parts != "")
    if parts.str.count_matches(r"\S+").mean() > _PART_WORDS:  # type: ignore[operator]
        return False
    # A comma or semicolon also stands in prose; a bar hardly ever does.
    return separator == "|" or parts.n_unique() <= _PARTS_REPEAT * len(parts)


def _enclosed(cells: pl.Series, marks: str) -> bool:
    start, end = marks[0], marks[1]
    return float((cells.str.starts_with(start) & cells.str.ends_with(end)).mean() or 0) > _MOST  # type: ignore[arg-type]


def _simple_lists(cells: pl.Series) -> bool:
    """Whether every cell is a JSON list of words or numbers."""
    try:
        lists = [json.loads(cell) for cell in cells]
    except ValueError:
        return False
    return not any(isinstance(part, list | dict) for parts in lists for part in parts)
