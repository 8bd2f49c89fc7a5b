"""Which text columns may be read as numbers such that every cell can be told from its number.

`7` and `007` are different ids, but the same number; likewise `4`, `4.0` and `4e0`. A column is
read as numbers only when every cell is spelled in the one way that the number itself would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["WHOLE", "guess_types", "is_exact", "survey_numbers"]

# At most 18 digits: any such number fits Int64.
WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]*)\.[0-9]$"
_CHUNK = 1 << 16  # stays in the processor's cache
_ZERO, _DOT, _NEWLINE, _QUOTE = b'0.\n"'
_LARGEST_WHOLE = 10**18 - 1
_LARGEST_DECIMAL = 1e14  # with one digit after the point, a float still knows each digit

Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


def guess_types(sample: pl.DataFrame) -> dict[str, pl.DataType]:
    """Int64, Float64 or String for each column, by the spelling of some of its cells."""
    types: dict[str, pl.DataType] = {}
    for cells in sample:
        filled = cells.drop_nulls()
        if len(filled) and filled.str.contains(WHOLE).all():
            types[cells.name] = pl.Int64()
        elif len(filled) and filled.str.contains(_DECIMAL).all():
            types[cells.name] = pl.Float64()
        else:
            types[cells.name] = pl.String()
    return types


def survey_numbers(path: Path, *, skip: int, separator: str) -> tuple[bool, int | None]:
    r"""Look through a text file for numbers that are not spelled as the number would be.

    Args:
        path: A file of cells, not packed.
        skip: Lines of the header.
        separator: Of cells, one byte.

    Returns:
        Whether no cell starts with a blank, `+`, `-0`, or 0 and a digit; and the number of points
        in the file, None unless each stands between a digit and one last digit of its cell.
    """
    points: int | None = 0
    with path.open("rb") as handle:
        for _ in range(skip):
            handle.readline()
        while chunk := handle.read(_CHUNK):
            text = b"".join((b"\n", chunk, handle.readline(), b"\n\n"))
            if not _starts_plainly(text, separator.encode()):
                return False, None
            if points is not None:
                found = _count_points(np.frombuffer(text, np.uint8), ord(separator))
                points = None if found is None else points + found
    return True, points


def _starts_plainly(text: bytes, separator: bytes) -> bool:
    cells = np.frombuffer(text, np.uint8)
    before, at = cells[:-1], cells[1:]
    starts = (before == separator[0]) | (before == _NEWLINE)
    if b'"' in text:
        starts |= before == _QUOTE
    for first in b"0+ \t-":
        if first not in text:
            continue
        places = np.flatnonzero((at == first) & starts)
        after = cells[places + 2]
        odd = _is_digit(after) if first == _ZERO else after == _ZERO
        if len(places) and (first in b"+ \t" or odd.any()):
            return False
    return True


def _count_points(cells: Bytes, separator: int) -> int | None:
    points = np.flatnonzero(cells == _DOT)
    if not len(points):
        return 0
    last = cells[points + 2]
    ends = (last == separator) | (last == _NEWLINE) | (last == ord("\r")) | (last == _QUOTE)
    plain = _is_digit(cells[points - 1]) & _is_digit(cells[points + 1]) & ends
    return len(points) if plain.all() else None


def _is_digit(cells: Bytes) -> Flags:
    return (cells - np.uint8(_ZERO)) < 10


def is_exact(frame: pl.DataFrame, points: int | None) -> Mapping[str, bool]:
    """Whether each number column read from a surveyed file says what its cells say.

    Args:
        frame: All columns of the file.
        points: What `survey_numbers` counted.
    """
    floats = [column for column in frame if column.dtype == pl.Float64]
    # As many points as cells: with none elsewhere, each cell has its own.
    pointed = points == sum(len(column) - column.null_count() for column in floats)
    exact = {}
    for column in frame:
        if column.dtype == pl.Int64:
            exact[column.name] = _within(column, _LARGEST_WHOLE)
        elif column.dtype == pl.Float64:
            exact[column.name] = pointed and _within(column, _LARGEST_DECIMAL)
    return exact


def _within(column: pl.Series, bound: float) -> bool:
    low: Any = column.min()
    high: Any = column.max()
    return low is None or (-bound <= low and high <= bound)
