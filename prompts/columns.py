"""Values of many prompts at once: columns of texts, and lists of them.

A column may be *coded*: few distinct values and the place of each row's value among them. What is
done to its texts is then done once per distinct value (an item's title, a user's name), not once
per row, and lists are joined by copying finished fragments one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Column", "Listing", "Part", "Value", "borders", "glued", "joined"]

Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Column:
    """One value a row: text, whole number or truth value; never null.

    Attributes:
        values: One a row, or the distinct values when `codes` is given.
        codes: Integers [rows], place of each row's value in `values`.
    """

    values: pl.Series
    codes: Numbers | None = None

    @property
    def height(self) -> int:
        """Number of rows."""
        return len(self.values) if self.codes is None else len(self.codes)

    @property
    def dtype(self) -> pl.DataType:
        """Type of the values."""
        return self.values.dtype

    def series(self) -> pl.Series:
        """One value a row."""
        return self.values if self.codes is None else self.values.gather(self.codes)

    def map(self, function: Callable[[pl.Series], pl.Series]) -> Column:
        """The same change made to every value."""
        return Column(function(self.values), self.codes)

    def text(self) -> Column:
        """As Jinja prints it."""
        if self.dtype == pl.Boolean:
            return self.map(
                lambda one: one.replace_strict(
                    {True: "True", False: "False"}, return_dtype=pl.String
                )
            )
        return self if self.dtype == pl.String else self.map(lambda one: one.cast(pl.String))

    def take(self, rows: Numbers) -> Column:
        """The rows given, in their order."""
        if self.codes is None:
            return Column(self.values, rows)
        return Column(self.values, self.codes[rows])

    def truth(self) -> pl.Series:
        """What an `if` makes of it, one a row."""
        return self.map(_truth).series()

    def to_list(self) -> list[Any]:
        """Python values, one a row."""
        return self.series().to_list()


@dataclass(frozen=True, eq=False)
class Listing:
    """A list of texts, or of tuples of texts, in each row.

    Attributes:
        offsets: int64 [rows + 1]; row i has the elements from `offsets[i]` to `offsets[i + 1]`.
        columns: One for texts; one per place of the tuples. Their rows are the elements.
        tuples: Whether elements are tuples.
    """

    offsets: Numbers
    columns: tuple[Column, ...]
    tuples: bool = False

    @property
    def height(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Numbers:
        """Elements in each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> Numbers:
        """Row of each element."""
        return np.repeat(np.arange(self.height), self.lengths)

    @property
    def places(self) -> Numbers:
        """Place of each element in its row, from 0."""
        return np.arange(int(self.offsets[-1])) - np.repeat(self.offsets[:-1], self.lengths)

    def sliced(self, start: int | None, stop: int | None) -> Listing:
        """Elements `[start:stop]` of each row, as in Python."""
        lengths, places = self.lengths, self.places
        whole = np.repeat(lengths, lengths)
        low = _bound(start, whole, default=0)
        high = _bound(stop, whole, default=None)
        kept = (places >= low) & (places < high)
        counts = np.bincount(self.rows[kept], minlength=self.height)
        chosen = np.flatnonzero(kept)
        columns = tuple(column.take(chosen) for column in self.columns)
        return Listing(borders(counts), columns, self.tuples)

    def to_list(self) -> list[list[Any]]:
        """Python lists, one a row."""
        found = [column.to_list() for column in self.columns]
        elements = list(zip(*found, strict=True)) if self.tuples else found[0]
        return [elements[start:stop] for start, stop in pairwise(self.offsets.tolist())]


Value = Column | Listing
Part = str | Column


def borders(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Where rows of these lengths begin and end: int64 [rows + 1], from 0."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def joined(listing: Listing, separator: str | Column = "") -> Column:
    """The texts of each row one after another, with the separator between them."""
    (column,) = (one.text() for one in listing.columns)
    if separator == "":
        return Column(_run_together(column, listing.offsets))
    first = np.zeros(column.height, dtype=bool)
    first[listing.offsets[:-1][listing.lengths > 0]] = True
    if isinstance(separator, Column):
        before = separator.text().take(listing.rows)
        before = Column(before.series().set(pl.Series(first), ""))
        return Column(_run_together(Column(glued([before, column])), listing.offsets))
    if len(column.values) > 2 * column.height:
        column = Column(column.series())
    # Each distinct text is there twice: as the first of its row, and after a separator.
    codes = np.arange(column.height) if column.codes is None else column.codes
    both = pl.concat([column.values, pl.select(pl.lit(separator) + column.values).to_series()])
    doubled = Column(both, np.where(first, codes, codes + len(column.values)))
    return Column(_run_together(doubled, listing.offsets))


def glued(parts: Sequence[Part], *, height: int | None = None) -> pl.Series:
    """The parts of each row one after another; `height` is needed when all parts are constant."""
    columns = [part for part in parts if isinstance(part, Column)]
    if not columns:
        return pl.repeat("".join(map(str, parts)), height or 0, dtype=pl.String, eager=True)
    names = iter(range(len(columns)))
    frame = pl.DataFrame(
        [part.text().series().alias(str(place)) for place, part in enumerate(columns)]
    )
    shown = [
        pl.col(str(next(names))) if isinstance(part, Column) else pl.lit(part) for part in parts
    ]
    return frame.select(text=pl.concat_str(shown)).to_series()


def _run_together(column: Column, offsets: Numbers) -> pl.Series:
    """Texts lie one after another in memory already: only the borders between rows change."""
    values = column.values.to_arrow().cast(pa.large_string())
    if column.codes is not None:
        values = pc.take(values, pa.array(column.codes))
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    _, borders, data = values.buffers()
    inner = np.frombuffer(borders, dtype=np.int64)[values.offset : values.offset + len(values) + 1]
    if not len(inner):
        inner = np.zeros(1, dtype=np.int64)
    outer = np.ascontiguousarray(inner[offsets])
    texts = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(outer), data)
    return pl.Series(pl.from_arrow(texts), dtype=pl.String)


def _truth(values: pl.Series) -> pl.Series:
    if values.dtype == pl.Boolean:
        return values
    return values != ("" if values.dtype == pl.String else 0)


def _bound(value: int | None, lengths: Numbers, *, default: int | None) -> Numbers:
    if value is None:
        return lengths if default is None else np.full_like(lengths, default)
    return np.minimum(value, lengths) if value >= 0 else np.maximum(lengths + value, 0)
