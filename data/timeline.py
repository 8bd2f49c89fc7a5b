"""Events per hour, month or year: whatever gives at most sixty bins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

__all__ = ["moment_text", "timeline"]

_BINS = 60
_YEAR = 31_556_952
_CALENDAR: dict[str, tuple[int, str]] = {
    "1s": (1, "second"),
    "1m": (60, "minute"),
    "10m": (600, "ten minutes"),
    "1h": (3600, "hour"),
    "6h": (6 * 3600, "six hours"),
    "1d": (86400, "day"),
    "1w": (7 * 86400, "week"),
    "1mo": (_YEAR // 12, "month"),
    "1q": (_YEAR // 4, "quarter"),
    "1y": (_YEAR, "year"),
    "5y": (5 * _YEAR, "five years"),
    "25y": (25 * _YEAR, "25 years"),
    "100y": (100 * _YEAR, "century"),
    "500y": (500 * _YEAR, "five centuries"),
}
_FIRST_SECOND = -62_135_596_800  # of the year 1


def timeline(times: pl.Series, *, clock: bool) -> dict[str, Any]:
    """Count events by equal spans of time, empty ones included.

    Args:
        times: Int64, sorted: unix seconds, or steps.
        clock: Whether they are seconds.

    Returns:
        `timeline`: [start, events], at most about sixty, and `timeline_bin`, what a bin spans.
    """
    if not len(times):
        return {"timeline": [], "timeline_bin": ""}
    first, last = int(times[0]), int(times[-1])
    starts, name = _calendar(first, last) if clock else _steps(first, last)
    places = np.searchsorted(times.to_numpy(), np.asarray(starts, dtype=np.int64))
    counts = np.diff(np.append(places, len(times)))
    texts = [moment_text(start, clock=clock, short=True) for start in starts]
    return {
        "timeline": [[text, int(count)] for text, count in zip(texts, counts, strict=True)],
        "timeline_bin": name,
    }


def moment_text(moment: int, *, clock: bool, short: bool = False) -> str | int:
    """ISO text of a unix second, or the step itself.

    >>> moment_text(86400, clock=True), moment_text(86400, clock=True, short=True)
    ('1970-01-02T00:00:00+00:00', '1970-01-02')
    """
    if not clock:
        return int(moment)
    found = datetime.fromtimestamp(int(moment), UTC)
    if not short:
        return found.isoformat()
    if moment % 86400 == 0:
        return found.date().isoformat()
    return found.replace(tzinfo=None).isoformat()


def _calendar(first: int, last: int) -> tuple[list[int], str]:
    fitting = (one for one, (width, _) in _CALENDAR.items() if (last - first) / width <= _BINS - 1)
    every = next(fitting, "500y")
    ends = pl.from_epoch(pl.Series("at", [first, last]), time_unit="s").cast(pl.Datetime("us"))
    at = ends.dt.truncate(every).to_frame()
    starts = at.select(pl.datetime_range(pl.col("at").first(), pl.col("at").last(), every))
    seconds = (starts.to_series().dt.timestamp("us") // 1_000_000).to_list()
    # Five centuries may begin before the first year that can be written.
    return [max(second, _FIRST_SECOND) for second in seconds], _CALENDAR[every][1]


def _steps(first: int, last: int) -> tuple[list[int], str]:
    width = max(-(-(last - first + 1) // _BINS), 1)
    return list(range(first, last + 1, width)), "step" if width == 1 else f"{width:,} steps"
