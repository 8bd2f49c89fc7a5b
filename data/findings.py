"""What an audit found: one verdict per check, with the rows that broke it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import polars as pl

from tastemaker.data.tables import Tables

__all__ = ["PROBLEMS", "AuditReport", "Finding", "Severity", "judged"]

Severity = Literal["fail", "warn", "pass"]

PROBLEMS: dict[str, pl.DataType] = {
    "row": pl.Int64(),
    "user": pl.Int64(),
    "item": pl.Int64(),
    "time": pl.Int64(),
    "problem": pl.String(),
}
"""Columns of a frame of problems: interaction row (-1: no event), dense user and item (null where
there is none), moment, and what is wrong."""

_NAMED_ROWS = 10
_WIDTH = 80
_SIGNS: dict[Severity, str] = {"pass": "✓ pass", "warn": "! warn", "fail": "✗ FAIL"}


@dataclass(frozen=True)
class Finding:
    """The verdict of one check.

    Attributes:
        check: `what: which property`, such as `prompts: titles`.
        severity: `fail` when something from the future was used, `warn` when a person should know.
        summary: One sentence, with the number of rows checked.
        rows: The first 10 interaction rows that broke it; -1 is no event.
        details: JSON-able numbers, and under `examples` what is wrong with each of these rows.
    """

    check: str
    severity: Severity
    summary: str
    rows: list[int] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {**self.__dict__, "rows": list(self.rows), "details": dict(self.details)}


@dataclass(frozen=True)
class AuditReport:
    """All verdicts of an audit.

    Attributes:
        findings: In the order of the checks.
        skipped: What could not be checked, and why, one sentence each.
    """

    findings: Sequence[Finding]
    skipped: Sequence[str] = ()

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(finding.severity == "fail" for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """Checks that ended so."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "failed": self.failed,
            "findings": [finding.to_dict() for finding in self.findings],
            "skipped": list(self.skipped),
        }

    def lines(self) -> list[str]:
        """For a terminal of 80 columns: a verdict per check, the rows that broke it, a total."""
        found: list[str] = []
        for finding in self.findings:
            found += _wrapped(f"{_SIGNS[finding.severity]}  {finding.check} – {finding.summary}", 8)
            for example in finding.details.get("examples", ()):
                found += _wrapped(f"        {_told(example)}", 10)
        for reason in self.skipped:
            found += _wrapped(f"- skip  {reason}", 8)
        counts = f"{self.count('fail')} failed, {self.count('warn')} warned"
        return [*found, f"{counts}, {self.count('pass')} passed, {len(self.skipped)} skipped"]


def judged(
    check: str,
    problems: pl.DataFrame,
    *,
    tables: Tables,
    checked: int,
    noun: str,
    passed: str,
    failed: str,
    severity: Literal["fail", "warn"] = "fail",
    **details: Any,
) -> Finding:
    """A verdict from a frame of problems.

    Args:
        check: Name of the check.
        problems: Columns of `PROBLEMS`; empty when all is well.
        tables: Gives the external ids.
        checked: Things looked at.
        noun: What they are called, in the plural.
        passed: Goes on with "n THINGS: …" when there is no problem.
        failed: Goes on with "k of n THINGS …" when there are some.
        severity: Verdict when there are some.
        **details: Further numbers for `Finding.details`.
    """
    about = {"checked": checked, "problems": problems.height, **details}
    if problems.is_empty():
        return Finding(check, "pass", f"{checked:,} {noun}: {passed}", details=about)
    first = problems.head(_NAMED_ROWS)
    summary = f"{problems.height:,} of {checked:,} {noun} {failed}"
    about["examples"] = [_example(record, tables) for record in first.iter_rows(named=True)]
    return Finding(check, severity, summary, rows=first["row"].to_list(), details=about)


def _example(record: Mapping[str, Any], tables: Tables) -> dict[str, Any]:
    user, item, time = record["user"], record["item"], record["time"]
    return {
        "row": record["row"],
        "user_id": tables.users["user_id"][user] if _within(user, tables.n_users) else None,
        "item_id": tables.items["item_id"][item] if _within(item, tables.n_items) else None,
        "time": _moment(time) if tables.schema.is_clock and time is not None else time,
        "problem": record["problem"],
    }


def _within(number: int | None, size: int) -> bool:
    return number is not None and 0 <= number < size


def _moment(second: int) -> str | int:
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return second


def _told(example: Mapping[str, Any]) -> str:
    row = "no event" if example["row"] == -1 else f"row {example['row']}"
    place = ", ".join(
        f"{name} {example[key]}"
        for key, name in (("user_id", "user"), ("item_id", "item"), ("time", "time"))
        if example[key] is not None
    )
    return f"{row} ({place}): {example['problem']}" if place else f"{row}: {example['problem']}"


def _wrapped(text: str, indent: int) -> list[str]:
    body = text.lstrip(" ")
    head = " " * (len(text) - len(body))
    return textwrap.wrap(
        body, _WIDTH, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False
    )
