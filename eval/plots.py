"""The report's figures as inline SVG that follows the page's colours, light or dark.

Text stays text (the browser draws it in the page's font), colours are the page's variables, and
ids carry the figure's name, so that several figures can live in one page.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tastemaker.eval.compare import Comparison
from tastemaker.eval.wording import better, clean, title_of

__all__ = [
    "ACCENT",
    "MUTED",
    "STYLE",
    "WIDTH",
    "Curve",
    "curves_figure",
    "forest_figure",
    "svg",
]

# Colours that nothing else uses, exchanged for CSS variables after drawing.
_INK, MUTED, _GRID, ACCENT = "#010001", "#010002", "#010003", "#010004"
_SERIES = ("#010011", "#010012", "#010013", "#010014", "#010015", "#010016")
_VARIABLES = {
    _INK: "var(--ink)",
    MUTED: "var(--muted)",
    _GRID: "var(--line)",
    ACCENT: "var(--accent)",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(_SERIES, start=1)},
}
WIDTH = 4.7  # inches; two figures stand side by side on a wide page
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": _GRID,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": _GRID,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
}
_TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True)
class Curve:
    """One line of a training curve.

    Attributes:
        panel: Title of the figure it belongs to; curves with equal panels share one.
        name: Of the model.
        x: Epochs, steps or the like, [k].
        y: Values, [k]; NaN leaves a gap.
        x_label: What `x` counts.
        best: Place in `x` of the point that was kept, or None.
    """

    panel: str
    name: str
    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    best: int | None = None


def forest_figure(comparison: Comparison, metric: str) -> Markup:
    """Each model's value and interval, and a line at the best trivial baseline."""
    models = comparison.models
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.42 * len(models)), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False, axis="y")
        for place, model in enumerate(models):
            row = comparison.row(model, metric)
            trivial = model in comparison.trivial
            colour = MUTED if trivial else ACCENT
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
            face = "none" if trivial else colour
            axes.plot([row.value], [place], "o", color=colour, markerfacecolor=face, markersize=6)
            _write_name(axes, model, place)
        baseline = _baseline(comparison, metric)
        if baseline is not None:
            axes.axvline(baseline, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        axes.set_yticks([])
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.set_xlabel(f"{title_of(metric)} ({better(metric)})")
        axes.spines["left"].set_visible(False)
        return svg(figure, name=metric, label=f"{title_of(metric)} of each model with interval")


def curves_figure(curves: Sequence[Curve], *, name: str) -> Markup:
    """The curves of one panel; a dot marks the point that was kept.

    Args:
        curves: Of equal `panel`, at least one.
        name: Unique in the page; letters, digits and hyphens.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.subplots()
        handles = []
        for place, curve in enumerate(curves):
            colour = _SERIES[place % len(_SERIES)]
            marker = "." if len(curve.x) == 1 else ""
            handles += axes.plot(curve.x, curve.y, marker=marker, color=colour, linewidth=1.8)
            if curve.best is not None:
                kept = curve.x[curve.best], curve.y[curve.best]
                axes.plot(*kept, "o", color=colour, markersize=6)
        axes.set_xlabel(clean(curves[0].x_label))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        # A leading underscore would hide the entry.
        names = [" ".join(_name_lines(curve.name)).lstrip("_") for curve in curves]
        axes.legend(handles, names, loc="best", fontsize=9)
        return svg(figure, name=name, label=curves[0].panel)


def _baseline(comparison: Comparison, metric: str) -> float | None:
    values = [verdict.baseline_value for verdict in comparison.verdicts if verdict.metric == metric]
    return values[0] if values else None


def _write_name(axes: Axes, name: str, place: int) -> None:
    """A name left of the axis, line by line so that each ends there in any font."""
    lines = _name_lines(name)
    for line, text in enumerate(lines):
        shift = (line - (len(lines) - 1) / 2) * 0.34
        where = axes.get_yaxis_transform()
        axes.text(-0.03, place + shift, text, ha="right", va="center", transform=where)


def _name_lines(name: str) -> list[str]:
    """At most two lines of 24 characters."""
    return textwrap.wrap(clean(name), 24, max_lines=2, placeholder="…", break_on_hyphens=False)


def svg(figure: Figure, *, name: str, label: str) -> Markup:
    """An inline SVG without document header, metadata, fixed size or colours.

    Args:
        figure: Drawn in `STYLE`, with the colours of this module.
        name: Unique in the page; letters, digits and hyphens.
        label: What a screen reader says.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings(), matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        # Only widths are measured with matplotlib's font; the browser draws the glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    root = text.index("<svg")
    opening = text.index(">", root) + 1
    box = re.search(r'viewBox="[0-9. ]+"', text[root:opening])
    # A style element would reach the whole page.
    body = re.sub(r"<style.*?</style>", "", text[opening:], count=1, flags=re.DOTALL)
    body = _TAG.sub(lambda tag: _adapted(tag.group(), name), body)
    head = f'<svg {box.group() if box else ""} role="img" aria-label="{escape(clean(label))}">'
    return Markup(head + body)


def _adapted(tag: str, name: str) -> str:
    """A tag with the page's colours and font, and ids of its own."""
    tag = re.sub(r"font-family: [^;\"]*", "font-family: inherit", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, variable)
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    return tag.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
