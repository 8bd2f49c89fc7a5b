"""One self-contained HTML page about a data set: sizes, time, parts, labels, texts, warnings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.data.describe_text import count_text, moment_label, share_text
from tastemaker.eval.data_plots import (
    history_figure,
    popularity_figure,
    rating_figure,
    timeline_figure,
)
from tastemaker.eval.page import page_environment
from tastemaker.stage import atomic_file

__all__ = ["render_data_page", "write_data_page"]

Facts = Mapping[str, Any]
Row = tuple[str, list[str]]
_PERCENTILES = ("p10", "p25", "p50", "p75", "p90", "p99", "max")
_LENGTHS = ("p50", "p90", "p99", "max")
_MOST_DOMAINS = 100


def write_data_page(facts: Facts, path: Path, *, title: str) -> None:
    """Write what `describe` counted as an HTML page, complete or not at all."""
    page = render_data_page(facts, title=title)
    with atomic_file(path) as handle:
        handle.write(page.encode())


def render_data_page(facts: Facts, *, title: str) -> str:
    """Lay out what `describe` counted, to be written as UTF-8; every text is escaped."""
    return (
        page_environment()
        .get_template("data_page.html.j2")
        .render(
            title=title,
            subtitle=_subtitle(facts),
            notes=[*facts["notes"], *facts["remarks"]],
            sizes=_sizes(facts),
            figures=_figures(facts),
            balance=_balance(facts),
            tables=[table for table in _tables(facts) if table["rows"]],
            licence=facts["licence"],
        )
    )


def _subtitle(facts: Facts) -> str:
    if facts["first"] is None:
        return ""
    first, last = moment_label(facts["first"]), moment_label(facts["last"])
    span = f"{first} to {last} UTC" if facts["clock"] else f"steps {first} to {last}"
    return f"{facts['source']}, {span}"


def _sizes(facts: Facts) -> dict[str, str]:
    shown = {
        "events": count_text(facts["events"]),
        "users": count_text(facts["users"]),
        "items": count_text(facts["items"]),
        "users with events": count_text(facts["active_users"]),
        "items with events": count_text(facts["active_items"]),
        "liked": share_text(facts["liked_share"]),
        "density": share_text(facts["density"]),
        "events tied in time": share_text(facts["ties_share"]),
        "pairs that met again": share_text(facts["repeats_share"]),
    }
    if facts["sampled"]:
        shown["drawn negatives"] = count_text(facts["sampled"])
    return shown


def _figures(facts: Facts) -> list[tuple[str, Any]]:
    if not facts["events"]:
        return []
    borders = "valid_from" in facts or "test_from" in facts
    found = [
        (
            "Events over time" + (", borders of the parts dashed" if borders else ""),
            timeline_figure,
        ),
        ("Events by the length of their history", history_figure),
        ("Popularity of items", popularity_figure),
    ]
    if facts.get("ratings"):
        found.append(("Events by rating", rating_figure))
    return [(name, draw(facts)) for name, draw in found]


def _balance(facts: Facts) -> list[tuple[str, float, str]]:
    """Part, per cent of likes, and the same as text."""
    parts = facts.get("parts") or {"all events": facts}
    return [
        (name, 100 * part["liked_share"], share_text(part["liked_share"]))
        for name, part in parts.items()
        if part["liked_share"] is not None
    ]


def _tables(facts: Facts) -> Iterable[dict[str, Any]]:
    yield _table(
        "Parts",
        ("events", "users", "items", "cold user", "cold item", "leaky"),
        [
            (name, _part_cells(part, judged=name != "train"))
            for name, part in facts.get("parts", {}).items()
        ],
        caption="Cold: events whose user or item train does not hold. Leaky: events not later than "
        "the newest train event of another user. " + _borders(facts),
    )
    history = {name: facts.get(f"history_{name}") for name in _PERCENTILES}
    spreads = {
        "Earlier events of an event": history,
        "Events of a user": facts["user_events"],
        "Events of an item": facts["item_events"],
    }
    yield _table(
        "Spread",
        _PERCENTILES,
        [
            (name, [count_text(found.get(p)) for p in _PERCENTILES])
            for name, found in spreads.items()
        ],
    )
    domains = list(facts["domains"].items())
    rest = len(domains) - _MOST_DOMAINS
    yield _table(
        "Domains",
        ("events", "users", "items", "liked"),
        [(name, _domain_cells(one)) for name, one in domains[:_MOST_DOMAINS]],
        caption=f"{rest:,} smaller ones are not shown." if rest > 0 else "",
    )
    yield _table(
        "Texts",
        ("filled", *(f"words {p}" for p in _LENGTHS), "characters p50", "characters p99"),
        [(name, _text_cells(one)) for name, one in facts["texts"].items()],
    )


def _table(
    title: str, headings: Sequence[str], rows: Sequence[Row], *, caption: str = ""
) -> dict[str, Any]:
    return {"title": title, "headings": headings, "rows": rows, "caption": caption}


def _part_cells(part: Facts, *, judged: bool) -> list[str]:
    total = part["events"] if judged else 0
    unseen = ("cold_user_rows", "cold_item_rows", "leaky_rows")
    return [
        count_text(part["events"]),
        count_text(part["users"]),
        count_text(part["items"]),
        *(share_text(part[key] / total) if total else "–" for key in unseen),
    ]


def _borders(facts: Facts) -> str:
    told = [
        f"{name} begins at {moment_label(facts[f'{key}_from'])}."
        for key, name in (("valid", "Validation"), ("test", "Test"))
        if f"{key}_from" in facts
    ]
    return " ".join(told)


def _domain_cells(one: Facts) -> list[str]:
    counts = [count_text(one[key]) for key in ("events", "users", "items")]
    return [*counts, share_text(one["liked_share"])]


def _text_cells(one: Facts) -> list[str]:
    words, characters = one["words"], one["characters"]
    found = [*(words.get(p) for p in _LENGTHS), *(characters.get(p) for p in ("p50", "p99"))]
    lengths = [None if value is None else round(value) for value in found]
    return [share_text(one["filled"]), *map(count_text, lengths)]
