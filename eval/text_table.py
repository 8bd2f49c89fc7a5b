"""The comparison as plain text for a terminal (80 columns) and as Markdown for a README."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence

from tastemaker.eval.compare import Comparison, Row
from tastemaker.eval.wording import (
    MINUS,
    basis,
    better,
    clean,
    interval_text,
    listed,
    number,
    title_of,
)

__all__ = ["render_markdown", "render_table", "text_table", "wrapped"]

WIDTH = 80
_GAP = 2
_NARROWEST = 8
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def render_table(comparison: Comparison) -> str:
    """Values and paired differences as two plain ASCII tables of at most 80 columns.

    Long model names wrap. `*` marks the best value, `~` what cannot be told apart from it.
    """
    titles = [title_of(metric) for metric in comparison.metrics]
    others = [model for model in comparison.models if model != comparison.against]
    parts = [
        text_table(["Model", *titles], _cells(comparison, comparison.models, _value_text)),
        *_legend(comparison),
    ]
    if others:
        against = clean(comparison.against)
        parts += [
            "",
            wrapped(f"Paired difference to {against}, with its interval"),
            text_table(["Model", *titles], _cells(comparison, others, _difference_text)),
        ]
    return "\n".join([*parts, "", wrapped(basis(comparison))])


def render_markdown(comparison: Comparison) -> str:
    """Values with intervals and paired differences as one Markdown table."""
    against = _escaped(comparison.against)
    header, alignment = ["Model"], ["---"]
    for metric in comparison.metrics:
        header += [title_of(metric), f"{MINUS} {against}"]
        alignment += ["---:", "---:"]
    lines = [header, alignment]
    for model in comparison.models:
        cells = [_escaped(model)]
        for metric in comparison.metrics:
            row = comparison.row(model, metric)
            value = f"**{number(row.value)}**" if row.best else number(row.value)
            interval = interval_text(row.low, row.high)
            cells += [f"{value} {interval}".strip(), _markdown_difference(row, comparison.against)]
        lines.append(cells)
    directions = "; ".join(f"{title_of(metric)}: {better(metric)}" for metric in comparison.metrics)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{_escaped(basis(comparison))} {directions}.\n"


def _cells(
    comparison: Comparison, models: Sequence[str], render: Callable[[Row], str]
) -> list[list[str]]:
    """A line of cells for each model, its name first."""
    return [
        [clean(model), *(render(comparison.row(model, metric)) for metric in comparison.metrics)]
        for model in models
    ]


def _legend(comparison: Comparison) -> list[str]:
    lines = ["* best value   ~ not told apart from the best"]
    if comparison.trivial:
        lines.append(wrapped(f"trivial baselines: {listed(comparison.trivial)}"))
    return lines


def _value_text(row: Row) -> str:
    mark = "*" if row.best else "~" if row.tied else " "
    interval = _interval(row.low, row.high, signed=False)
    return f"{_short(row.value)} {interval}{mark}"


def _difference_text(row: Row) -> str:
    interval = _interval(row.difference_low, row.difference_high, signed=True)
    return f"{_short(row.difference, signed=True)} {interval}"


def _interval(low: float, high: float, *, signed: bool) -> str:
    if math.isnan(low) or math.isnan(high):
        return "[n/a]"
    return f"[{_short(low, signed=signed)}, {_short(high, signed=signed)}]"


def _short(value: float, *, signed: bool = False) -> str:
    """Three decimals without a leading zero, ASCII only; one decimal from ten upwards."""
    if math.isfinite(value) and abs(value) >= 10:
        return f"{value:+.1f}" if signed else f"{value:.1f}"
    text = number(value, signed=signed).replace(MINUS, "-")
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def text_table(header: list[str], lines: list[list[str]]) -> str:
    """Columns as wide as their content; the first one gets what is left and wraps."""
    table = [header, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(1, len(header))]
    room = WIDTH - sum(widths) - _GAP * len(widths)
    longest = max(len(line[0]) for line in table)
    names = max(_NARROWEST, min(room, longest))
    shown = [_text_line(header, names, widths)]
    shown.append("-" * min(WIDTH, names + sum(widths) + _GAP * len(widths)))
    shown += [_text_line(line, names, widths) for line in lines]
    return "\n".join(shown)


def _text_line(cells: list[str], names: int, widths: list[int]) -> str:
    first, *more = textwrap.wrap(cells[0], names, break_on_hyphens=False) or [""]
    gap = " " * _GAP
    columns = [cell.rjust(width) for cell, width in zip(cells[1:], widths, strict=True)]
    return "\n".join([gap.join([first.ljust(names), *columns]).rstrip(), *more])


def wrapped(text: str) -> str:
    """A paragraph of at most 80 columns with ASCII minus signs."""
    return textwrap.fill(text.replace(MINUS, "-"), WIDTH)


def _markdown_difference(row: Row, against: str) -> str:
    if row.model == against:
        return "reference"
    interval = interval_text(row.difference_low, row.difference_high, signed=True)
    return f"{number(row.difference, signed=True)} {interval}".strip()


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", clean(text))
