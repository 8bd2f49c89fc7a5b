"""The facts about a data set as lines for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "count_text",
    "describe_lines",
    "moment_label",
    "printable",
    "remarks",
    "share_text",
]

Facts = Mapping[str, Any]
_WIDTH = 80
_INDENT = "  "
_PERCENTILES = ("p10", "p25", "p50", "p75", "p90", "p99", "max")
_BAR = 30
_MOST_ROWS = 30
_MANY = 0.5
_FEW_EVENTS = 5


def describe_lines(facts: Facts) -> list[str]:
    """What `describe` counted, grouped, at most 80 columns wide."""
    blocks = [
        _sizes(facts),
        _spread(facts),
        _ratings(facts),
        _parts(facts),
        _domains(facts),
        _texts(facts),
        _notes(facts),
    ]
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block] if lines else block
    return lines


def remarks(facts: Facts) -> list[str]:
    """What stands out in the numbers, one sentence each."""
    found = []
    liked, ties = facts["liked_share"], facts["ties_share"]
    if liked in (0, 1) and not facts["sampled"]:
        which = "Every event is a like" if liked else "No event is a like"
        found.append(f"{which}: models learn nothing from one kind alone (see data.negatives).")
    if ties is not None and ties > _MANY:
        found.append(
            f"{share_text(ties)} of events share user and time with another: their order is "
            "unknown, so none of them is in the history of another."
        )
    half = facts.get("history_p50")
    if half is not None and half < _FEW_EVENTS:
        found.append(
            f"Half of the events have at most {count_text(half)} earlier events of their user "
            "(see data.requests.min_history)."
        )
    for noun in ("user", "item"):
        unseen = facts.get(f"test_{noun}_unseen_share")
        if unseen is not None and unseen > _MANY:
            found.append(
                f"The {noun} of {share_text(unseen)} of test events has no event in train: what a "
                f"model learns about single {noun}s cannot help there."
            )
    return found


def count_text(value: float | None) -> str:
    """A number with thousands separators; halves stay visible.

    >>> count_text(100004), count_text(12.5), count_text(None)
    ('100,004', '12.5', '–')
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:,.1f}"


def share_text(value: float | None) -> str:
    """A share as per cent, with as many decimals as small ones need.

    >>> share_text(0.609), share_text(0.000164), share_text(None)
    ('60.9 %', '0.016 %', '–')
    """
    if value is None:
        return "–"
    percent = 100 * value
    if percent == 0 or percent >= 0.95:
        return f"{percent:.1f} %"
    return f"{percent:.2g} %" if percent >= 1e-4 else f"{percent:.0e} %"


def moment_label(moment: str | int | None) -> str:
    """An ISO moment as people write it, or the step.

    >>> moment_label("1995-01-09T11:46:49+00:00"), moment_label(12000)
    ('1995-01-09 11:46:49', '12,000')
    """
    if moment is None:
        return "–"
    if isinstance(moment, int):
        return f"{moment:,}"
    return moment.removesuffix("+00:00").replace("T", " ")


def printable(text: str, width: int | None = None) -> str:
    r"""Text in one line without what a terminal would obey, cut to `width` characters.

    >>> printable("Gift\x1b[2J Cards", 8)
    'Gift�[2…'
    """
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def _sizes(facts: Facts) -> list[str]:
    clock = " UTC" if facts["clock"] else ""
    span = f"{moment_label(facts['first'])} to {moment_label(facts['last'])}{clock}"
    rows = [
        ("events", count_text(facts["events"])),
        ("users", _with_events(facts["users"], facts["active_users"])),
        ("items", _with_events(facts["items"], facts["active_items"])),
        ("time" if facts["clock"] else "steps", span),
        ("density", f"{share_text(facts['density'])} of all pairs of user and item"),
        ("liked", share_text(facts["liked_share"])),
        ("ties", f"{share_text(facts['ties_share'])} of events share user and time with another"),
        ("repeats", f"{share_text(facts['repeats_share'])} of pairs met more than once"),
    ]
    if facts["sampled"]:
        rows.insert(1, ("negatives", f"{count_text(facts['sampled'])} drawn, counted nowhere else"))
    return [printable(facts["source"], _WIDTH), *(f"{_INDENT}{a:<11}{b}" for a, b in rows)]


def _with_events(total: int, active: int) -> str:
    return count_text(total) + ("" if total == active else f" ({count_text(active)} with events)")


def _spread(facts: Facts) -> list[str]:
    history = {name: facts.get(f"history_{name}") for name in _PERCENTILES}
    rows = [
        ("earlier events of an event", history),
        ("events of a user", facts["user_events"]),
        ("events of an item", facts["item_events"]),
    ]
    return _table(
        "Spread",
        _PERCENTILES,
        [(name, [count_text(found.get(p)) for p in _PERCENTILES]) for name, found in rows],
        first=26,
    )


def _ratings(facts: Facts) -> list[str]:
    rows = facts.get("ratings", [])
    largest = max((count for *_, count in rows), default=0)
    lines = ["Ratings"] if rows else []
    for low, high, count in rows:
        name = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        bar = "█" * round(_BAR * count / max(largest, 1))
        lines.append(f"{_INDENT}{name:<16}{count:>13,}  {bar}".rstrip())
    return lines


def _parts(facts: Facts) -> list[str]:
    parts = facts.get("parts")
    if not parts:
        return []
    headings = ("events", "users", "items", "liked", "cold user", "cold item", "leaky")
    rows = [(name, _part_cells(part, judged=name != "train")) for name, part in parts.items()]
    lines = _table("Parts", headings, rows, first=7)
    for name in ("valid", "test"):
        if f"{name}_from" in facts:
            lines.append(f"{_INDENT}{name} from {moment_label(facts[f'{name}_from'])}")
    told = [
        "cold: events whose user or item train does not hold;",
        "leaky: events not later than the newest train event of another user.",
    ]
    return [*lines, *(f"{_INDENT}{line}" for line in told)]


def _part_cells(part: Facts, *, judged: bool) -> list[str]:
    total = part["events"]
    cells = [count_text(total), count_text(part["users"]), count_text(part["items"])]
    cells.append(share_text(part["liked_share"]))
    for key in ("cold_user_rows", "cold_item_rows", "leaky_rows"):
        cells.append(share_text(part[key] / total) if judged and total else "–")
    return cells


def _domains(facts: Facts) -> list[str]:
    domains = facts["domains"]
    if not domains:
        return []
    rows = [
        (
            printable(name, 32),
            [
                count_text(one["events"]),
                count_text(one["users"]),
                count_text(one["items"]),
                share_text(one["liked_share"]),
            ],
        )
        for name, one in list(domains.items())[:_MOST_ROWS]
    ]
    lines = _table("Domains", ("events", "users", "items", "liked"), rows, first=34)
    if len(domains) > _MOST_ROWS:
        lines.append(f"{_INDENT}… and {len(domains) - _MOST_ROWS:,} more")
    return lines


def _texts(facts: Facts) -> list[str]:
    shown = ("p50", "p90", "p99", "max")
    rows = []
    for name, one in facts["texts"].items():
        cells = [share_text(one["filled"])]
        cells += [count_text(_rounded(one["words"].get(p))) for p in shown]
        cells.append(count_text(_rounded(one["characters"].get("p99"))))
        rows.append((printable(name, 24), cells))
    headings = ("filled", "words p50", "p90", "p99", "max", "chars p99")
    return _table("Texts", headings, rows, first=26) if rows else []


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value)


def _notes(facts: Facts) -> list[str]:
    notes = [*facts["notes"], *facts["remarks"]]
    lines = ["Notes"] if notes else []
    for note in notes:
        lines += textwrap.wrap(
            printable(note), _WIDTH, initial_indent=f"{_INDENT}· ", subsequent_indent=_INDENT * 2
        )
    return lines


def _table(
    title: str, headings: Iterable[str], rows: Sequence[tuple[str, list[str]]], *, first: int
) -> list[str]:
    """A heading and rows; columns as wide as they need, right-aligned."""
    columns = list(zip(headings, *(cells for _, cells in rows), strict=True))
    widths = [max(map(len, column)) + 2 for column in columns]
    spare = max(_WIDTH - first - len(_INDENT) - sum(widths), 0) // max(len(widths), 1)
    names = [title, *(f"{_INDENT}{name}" for name, _ in rows)]
    lines = []
    for place, name in enumerate(names):
        cells = [
            f"{column[place]:>{w + min(spare, 2)}}"
            for column, w in zip(columns, widths, strict=True)
        ]
        lines.append(f"{name:<{first + len(_INDENT)}}{''.join(cells)}")
    return lines
