"""One self-contained HTML page for a run: no script, no outside asset, nothing left unescaped.

`ReportData` carries plain values; `page.html.j2` beside this file lays them out. Sections without
content are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from markupsafe import Markup

from tastemaker.eval.answers import Result
from tastemaker.eval.answers_table import (
    ORACLE_NOTE,
    ORACLE_TITLE,
    answer_tables,
    figure,
    measure_title,
)
from tastemaker.eval.compare import SMALLER_IS_BETTER, Comparison, Row
from tastemaker.eval.page import page_environment
from tastemaker.eval.plots import Curve, curves_figure, forest_figure
from tastemaker.eval.text_table import render_markdown, render_table
from tastemaker.eval.wording import (
    basis,
    better,
    difference_text,
    interval_text,
    number,
    summary,
    title_of,
    verdict_lines,
)

__all__ = [
    "Curve",
    "KnowledgeSample",
    "PromptSample",
    "ReportData",
    "render_markdown",
    "render_report",
    "render_table",
]

_FOREST = ("auc", "within_user_auc")


@dataclass(frozen=True)
class PromptSample:
    """A rendered instruction.

    Attributes:
        title: What it is, such as "tallrec/movie, test row 99,120".
        messages: (role, content) in order, the answer as the last one with role "assistant".
        note: One line below, or "".
    """

    title: str
    messages: Sequence[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True)
class KnowledgeSample:
    """A text that a chat model wrote.

    Attributes:
        kind: `"user"` or `"item"`.
        entity: Who or what it is about, in words.
        text: The knowledge.
        note: Where it comes from, such as model, tokens and finish reason; or "".
    """

    kind: str
    entity: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """What a report shows; only title and comparison are needed.

    Attributes:
        title: Of the page.
        comparison: Result of `compare`, or one sentence on why there is none.
        subtitle: What ran, in one line.
        created: When, as text.
        models: Model → one line on what it is, shown below its name.
        results: How good generated answers are.
        slices: What `eval.slices` found, as plain values; None where a slice defines no number.
        facts: Data facts, label → value.
        curves: Training curves; those with equal `panel` share a figure.
        timings: Stage → seconds, in order.
        coverage: Knowledge coverage, label → share from 0 to 1.
        knowledge: Sample texts.
        prompts: Sample prompts.
        notes: Caveats, one sentence each.
        recipe: The resolved recipe as YAML.
        versions: Package → version.
    """

    title: str
    comparison: Comparison | str
    subtitle: str = ""
    created: str = ""
    models: Mapping[str, str] | None = None
    results: Sequence[Result] = ()
    slices: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, str | int | float] | None = None
    curves: Sequence[Curve] = ()
    timings: Mapping[str, float] | None = None
    coverage: Mapping[str, float] | None = None
    knowledge: Sequence[KnowledgeSample] = ()
    prompts: Sequence[PromptSample] = ()
    notes: Sequence[str] = ()
    recipe: str = ""
    versions: Mapping[str, str] | None = None


def render_report(data: ReportData) -> str:
    """Lay out a run as one HTML page, to be written as UTF-8.

    Every text is escaped, titles and model answers included; a content security policy in the page
    forbids loading anything.
    """
    environment = page_environment()
    environment.filters.update(
        fact=_fact, duration=_duration, figure=figure, measure_title=measure_title
    )
    comparison, tables = data.comparison, answer_tables(data.results)
    compared = (
        {"comparison": None, "summary": comparison, "basis": "", "verdict_lines": []}
        if isinstance(comparison, str)
        else _compared(data, comparison)
    )
    return environment.get_template("page.html.j2").render(
        data=data,
        **compared,
        recommended=[table for table in tables if not table.oracle],
        oracles=[table for table in tables if table.oracle],
        oracle_title=ORACLE_TITLE,
        oracle_note=ORACLE_NOTE,
        panels=_panels(data.curves),
        timings=_shares(data.timings or {}),
        total_seconds=sum((data.timings or {}).values()),
    )


def _compared(data: ReportData, comparison: Comparison) -> dict[str, Any]:
    """What the page shows of a comparison."""
    return {
        "comparison": comparison,
        "summary": summary(comparison),
        "basis": basis(comparison),
        "verdict_lines": verdict_lines(comparison),
        "headings": [(title_of(metric), better(metric)) for metric in comparison.metrics],
        "table": [_line(data, comparison, model) for model in comparison.models],
        "forests": [
            forest_figure(comparison, name) for name in _FOREST if name in comparison.metrics
        ],
    }


def _line(data: ReportData, comparison: Comparison, model: str) -> dict[str, Any]:
    """A line of the comparison table."""
    return {
        "model": model,
        "about": (data.models or {}).get(model, ""),
        "trivial": model in comparison.trivial,
        "reference": model == comparison.against,
        "cells": [
            _cell(comparison.row(model, metric), comparison) for metric in comparison.metrics
        ],
    }


def _cell(row: Row, comparison: Comparison) -> dict[str, Any]:
    """Value, interval and paired difference of one model under one metric."""
    reference = row.model == comparison.against
    return {
        "title": title_of(row.metric),
        "value": number(row.value),
        "interval": interval_text(row.low, row.high),
        "difference": "" if reference else difference_text(row),
        "tone": "same" if reference else _tone(row),
        "best": row.best,
        "tied": row.tied,
    }


def _tone(row: Row) -> str:
    """Whether the paired interval lies on one side of 0: better, worse or same."""
    sign = -1 if row.metric in SMALLER_IS_BETTER else 1
    ends = sign * row.difference_low, sign * row.difference_high
    return "better" if min(ends) > 0 else "worse" if max(ends) < 0 else "same"


def _panels(curves: Iterable[Curve]) -> list[tuple[str, Markup]]:
    """Title and figure of each panel, in order of first appearance."""
    drawn = [curve for curve in curves if len(curve.x)]
    order = {title: place for place, title in enumerate(dict.fromkeys(c.panel for c in drawn))}
    panel = attrgetter("panel")
    grouped = groupby(sorted(drawn, key=lambda curve: order[curve.panel]), key=panel)
    return [
        (title, curves_figure(list(members), name=f"curves-{place}"))
        for place, (title, members) in enumerate(grouped)
    ]


def _shares(timings: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Stage, seconds, and per cent of the longest stage."""
    longest = max(timings.values(), default=0) or 1
    return [(name, seconds, 100 * seconds / longest) for name, seconds in timings.items()]


def _fact(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def _duration(seconds: float) -> str:
    """Time in the two largest units.

    >>> _duration(4.26), _duration(75), _duration(3720)
    ('4.3 s', '1 min 15 s', '1 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"
