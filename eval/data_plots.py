"""Figures of the page about a data set, in the style of the report."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from tastemaker.eval.plots import ACCENT, MUTED, STYLE, WIDTH, svg

__all__ = ["history_figure", "popularity_figure", "rating_figure", "timeline_figure"]

_HEIGHT = 2.6
_TICKS = 5
_DATE = len("2015-01-31")


def timeline_figure(facts: Mapping[str, Any]) -> Markup:
    """Events over time, with a line where validation and test begin."""
    starts = [start for start, _ in facts["timeline"]]
    counts = [count for _, count in facts["timeline"]]
    with matplotlib.rc_context(STYLE):
        figure, axes = _bars(counts)
        step = max(-(-len(starts) // _TICKS), 1)
        places = range(0, len(starts), step)
        axes.set_xticks([*places], [_moment(starts[place]) for place in places])
        for part in ("valid", "test"):
            border = facts.get(f"{part}_from")
            if border is not None and starts:
                place = _place(border, starts)
                axes.axvline(place, color=MUTED, linewidth=1.2, linestyle=(0, (3, 3)))
                top = axes.get_xaxis_transform()
                axes.text(place, 1.02, part, ha="center", va="bottom", transform=top)
        axes.set_xlabel(f"one bar: {facts['timeline_bin']}")
        return svg(figure, name="timeline", label="Events over time")


def history_figure(facts: Mapping[str, Any]) -> Markup:
    """How many events have how many earlier events of their user."""
    bins = facts["history_bins"]
    with matplotlib.rc_context(STYLE):
        figure, axes = _bars([count for *_, count in bins])
        axes.set_xticks(range(len(bins)), [_short(low) for low, *_ in bins])
        axes.set_xlabel("earlier events of the same user, from")
        return svg(figure, name="history", label="Lengths of histories")


def rating_figure(facts: Mapping[str, Any]) -> Markup:
    """Events by rating."""
    rows = facts["ratings"]
    with matplotlib.rc_context(STYLE):
        figure, axes = _bars([count for *_, count in rows])
        step = max(-(-len(rows) // 12), 1)
        places = range(0, len(rows), step)
        axes.set_xticks([*places], [f"{rows[place][0]:g}" for place in places])
        axes.set_xlabel("rating" if rows[0][0] == rows[0][1] else "rating, from")
        return svg(figure, name="ratings", label="Events by rating")


def popularity_figure(facts: Mapping[str, Any]) -> Markup:
    """Events of an item by its rank, both on logarithmic axes."""
    ranks = [rank for rank, _ in facts["popularity"]]
    counts = [count for _, count in facts["popularity"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        marker = "o" if len(ranks) == 1 else ""
        axes.plot(ranks, counts, marker=marker, color=ACCENT, linewidth=1.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.set_ylim(bottom=0.8)
        axes.set_xlabel("rank of the item, most popular first")
        axes.set_ylabel("events")
        return svg(figure, name="popularity", label="Events of an item by its rank")


def _bars(counts: Sequence[int]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False, axis="x")
    axes.bar(range(len(counts)), counts, width=0.86, color=ACCENT)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_ylabel("events")
    return figure, axes


def _place(border: str | int, starts: Sequence[Any]) -> float:
    """Where a part begins: the left edge of its bar, or the middle when it begins inside."""
    if isinstance(border, str):
        border = border.removesuffix("+00:00").removesuffix("T00:00:00")
    # ISO texts order as their moments do.
    bar = bisect_right(starts, border) - 1
    return bar - 0.5 if border in starts else bar


def _moment(start: str | int) -> str:
    """A start without what is the same in every bar of its size.

    >>> _moment("2015-01-01"), _moment("2015-03-01"), _moment(12000)
    ('2015', '2015-03', '12k')
    """
    if isinstance(start, int):
        return _short(start)
    if len(start) > _DATE:
        return start[5:16].replace("T", " ")
    return start.removesuffix("-01").removesuffix("-01") if start.endswith("-01") else start


def _short(value: float) -> str:
    """A count in few characters.

    >>> _short(950), _short(2048), _short(1500000)
    ('950', '2k', '1.5M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            digits = 0 if value >= 10 * size or value % size < size / 20 else 1
            return f"{value / size:.{digits}f}{letter}"
    return f"{value:g}"
