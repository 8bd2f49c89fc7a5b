"""Reading moments: unix seconds, milliseconds and finer, ISO text, dates, or mere steps."""

from __future__ import annotations

import polars as pl

from tastemaker.data.checks import Problems, RawTable
from tastemaker.data.moments import parse_iso
from tastemaker.data.schema import TimeUnit

__all__ = ["as_times"]

_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # years 1 and 9999
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DIVISORS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Seconds stay below 1e11 until the year 5138; later numbers are finer units of days since 1973.
_LIMITS: dict[TimeUnit, int] = {"s": 10**11, "ms": 10**14, "us": 10**17}
_COMPLAINT = "is not a time"
_REMEDY = "Give unix seconds or ISO text (2015-01-31 12:00:00), all in one form."
_RECENT = 10**8  # seconds; a clock that counts from 1970 has passed it in 1973
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d")


def as_times(
    table: RawTable, column: str, *, unit: TimeUnit, problems: Problems
) -> tuple[pl.Series, TimeUnit]:
    """Int64 unix seconds, rounded down, and the unit found; bad cells are noted.

    Text without an offset is UTC. With `auto` the form of most cells decides, and the others are
    noted: seconds, milliseconds and ISO text in one column cannot all be right.

    Args:
        table: Holds the column.
        column: Its name.
        unit: What the recipe says.
        problems: Gets what is wrong.
    """
    cells = table.cells(column)
    if cells.dtype in (pl.Date, pl.Datetime):
        seconds = cells.dt.timestamp("us") // 1_000_000
        _note(table, column, bad=~_possible(seconds), problems=problems)
        return seconds, "iso"
    texts = cells.dtype == pl.String
    numbers = _numbers(cells.str.strip_chars() if texts else cells)
    words = pl.repeat(False, len(cells), eager=True)
    if texts and unit in ("auto", "iso"):
        words = numbers.is_null() & cells.is_not_null()
        if unit == "iso" or int(words.sum()) * 2 > len(cells) - cells.null_count():
            return _iso(table, column, cells=cells, numbers=numbers, problems=problems), "iso"
    found: TimeUnit = _unit(numbers) if unit in ("auto", "iso") else unit
    return _clock(table, column, numbers=numbers, unit=found, problems=problems), found


def _numbers(cells: pl.Series) -> pl.Series:
    """Int64 where cells are whole or nearly, rounded down; null elsewhere."""
    if cells.dtype == pl.String:
        whole = cells.cast(pl.Int64, strict=False)
        if whole.null_count() == cells.null_count():
            return whole
        return whole.zip_with(whole.is_not_null(), _floor(cells.cast(pl.Float64, strict=False)))
    if cells.dtype.is_float():
        return _floor(cells)
    if cells.dtype.is_integer():
        return cells.cast(pl.Int64, strict=False)
    return pl.Series(cells.name, [None] * len(cells), dtype=pl.Int64)


def _unit(numbers: pl.Series) -> TimeUnit:
    """The unit whose range holds the median size of the numbers."""
    middle = _middle(numbers)
    for unit, limit in _LIMITS.items():
        if middle < limit:
            return unit
    return "ns"


def _middle(numbers: pl.Series) -> float:
    """Median size of at most ten thousand evenly spaced numbers; 0 when there are none."""
    middle = numbers.gather_every(max(len(numbers) // 10_000, 1)).abs().median()
    return float(middle) if isinstance(middle, int | float) else 0.0


def _clock(
    table: RawTable, column: str, *, numbers: pl.Series, unit: TimeUnit, problems: Problems
) -> pl.Series:
    if unit == "step":
        _note(table, column, bad=numbers.is_null(), problems=problems, complaint="is not a step")
        return numbers
    if unit == "s" and _plain_seconds(numbers):
        return numbers
    size = numbers.abs()
    low = {"s": 0, "ms": _LIMITS["s"], "us": _LIMITS["ms"], "ns": _LIMITS["us"]}[unit]
    high = _LIMITS.get(unit)
    finer = size >= high if high else pl.repeat(False, len(numbers), eager=True)
    # Moments close to 1970 are small in every unit.
    coarser = (size < low // 10) & (size != 0) if low else pl.repeat(False, len(size), eager=True)
    for bad, word in ((finer, "finer than"), (coarser, "coarser than")):
        complaint = f"is {word} {_NAMES[unit]}, the unit of the other times"
        _note(table, column, bad=bad, problems=problems, complaint=complaint)
    seconds = numbers if unit == "s" else numbers // _DIVISORS[unit]
    impossible = ~_possible(seconds) & ~finer.fill_null(False) & ~coarser.fill_null(False)
    _note(table, column, bad=impossible, problems=problems)
    if _middle(seconds) > _RECENT:
        problems.add_cells(
            table,
            column,
            bad=seconds == 0,
            complaint="is the first second of 1970, which often stands for a missing time",
            severity="warning",
        )
    return seconds


def _plain_seconds(numbers: pl.Series) -> bool:
    """Whether all are seconds after the first one of 1970 and none is missing."""
    low, high = numbers.min(), numbers.max()
    if numbers.null_count() or not isinstance(low, int) or not isinstance(high, int):
        return False
    return low > 0 and high < _LIMITS["s"]


def _iso(
    table: RawTable, column: str, *, cells: pl.Series, numbers: pl.Series, problems: Problems
) -> pl.Series:
    complaint = "is a number, the other times are ISO text"
    _note(table, column, bad=numbers.is_not_null(), problems=problems, complaint=complaint)
    seconds = _text_seconds(cells.str.strip_chars())
    bad = ~_possible(seconds) & numbers.is_null()
    _note(table, column, bad=bad, problems=problems)
    return seconds


def _text_seconds(cells: pl.Series) -> pl.Series:
    """Common forms at once by polars, what remains one by one."""
    seconds = pl.Series(cells.name, [None] * len(cells), dtype=pl.Int64)
    for form in _FORMATS:
        moments = cells.str.to_datetime(form, strict=False, time_unit="us")
        seconds = seconds.zip_with(seconds.is_not_null(), moments.dt.timestamp("us") // 1_000_000)
        if seconds.null_count() == cells.null_count():
            return seconds
    unread = cells.filter(seconds.is_null()).drop_nulls().unique()
    moments = pl.Series("seconds", [_iso_seconds(text) for text in unread], dtype=pl.Int64)
    known = pl.DataFrame({"text": unread, "seconds": moments})
    found = pl.DataFrame({"text": cells}).join(known, on="text", how="left", maintain_order="left")
    return seconds.zip_with(seconds.is_not_null(), found["seconds"])


def _iso_seconds(text: str) -> int | None:
    moment = parse_iso(text)
    return None if moment is None else int(moment.timestamp() // 1)


def _note(
    table: RawTable,
    column: str,
    *,
    bad: pl.Series,
    problems: Problems,
    complaint: str = _COMPLAINT,
) -> None:
    problems.add_cells(table, column, bad=bad.fill_null(False), complaint=complaint, remedy=_REMEDY)


def _possible(seconds: pl.Series) -> pl.Series:
    return seconds.is_between(_FIRST_SECOND, _LAST_SECOND).fill_null(False)


def _floor(numbers: pl.Series) -> pl.Series:
    return numbers.floor().cast(pl.Int64, strict=False)
