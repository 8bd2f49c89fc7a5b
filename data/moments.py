"""Moments as people write them: dates in UTC, or steps where times are no clock."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["parse_iso", "parse_moment", "show_moment"]


def parse_iso(text: str) -> datetime | None:
    """An ISO date or time, UTC unless it says otherwise; None where the text is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_moment(text: str, *, is_clock: bool) -> int | None:
    """Unix second of an ISO date or time (UTC unless it says otherwise), or the number of a step.

    A moment between two seconds becomes the later one.

    >>> parse_moment("1970-01-02", is_clock=True)
    86400

    Returns:
        None where the text is neither.
    """
    if not is_clock:
        try:
            return int(text)
        except ValueError:
            return None
    moment = parse_iso(text)
    return None if moment is None else int(-(-moment.timestamp() // 1))


def show_moment(moment: int, *, is_clock: bool) -> str:
    """A moment for people.

    >>> show_moment(86400, is_clock=True)
    '1970-01-02 00:00:00'
    """
    if not is_clock:
        return f"step {int(moment)}"
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%d %H:%M:%S")
