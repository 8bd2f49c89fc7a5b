"""Why an item is offered, in short phrases that each rest on evidence.

Demands are checked against the item before they count as met; history, texts and counts are named
by what they did to the score. Nothing is invented, and the same evidence gives the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tastemaker.agents.dialogue.guard import cleaned
from tastemaker.agents.dialogue.wish import Card, State
from tastemaker.models.catalogue.conditions import Condition, holds
from tastemaker.models.live import Influence, Past

__all__ = ["Evidence", "amount", "demands", "explanation", "is_year", "reasons", "value_told"]

_MOST_WORDS = 12
_TITLE_WORDS = 5
_LEAST = 0.05  # log-odds; below it, an influence is not worth a phrase
_STRENGTHS = ((1.0, "a lot"), (0.3, "clearly"), (_LEAST, "a little"))
_MOST_DRIVERS = 3  # either way, in an explanation
_STATISTICS = {
    "item_mean": ("well liked by others", "less liked by others"),
    "item_count": ("often chosen by others", "seldom chosen by others"),
    "liked_share": ("how often you like what you choose", "how rarely you like what you choose"),
    "user_count": ("how much you have chosen so far", "how little you have chosen so far"),
}
_OF_ITEMS = ("item_mean", "item_count")
_YEARS = re.compile(r"year|date|released", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")


@dataclass(frozen=True)
class Evidence:
    """What phrases may rest on.

    Attributes:
        titles: Of the catalogue, by dense number.
        influences: What drove the score of the item, strongest first.
        past: Dense item → what the visitor did with it.
        texts: Name of an influence of the kind `knowledge` → the text that the model read.
        named: Items that the visitor wants others to resemble, where they were searched by.
        safe: Whether a quoted sentence may be shown, such as one that names no other title.
    """

    titles: Sequence[str]
    influences: Sequence[Influence] = ()
    past: Mapping[int, Past] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    named: Sequence[int] = ()
    safe: Callable[[str], bool] = bool


def reasons(card: Card, *, state: State, evidence: Evidence, count: int = 3) -> tuple[str, ...]:
    """Short phrases for an item, what was asked for first.

    Args:
        card: With the item's values.
        state: What the conversation has come to ask for.
        evidence: What they rest on.
        count: Phrases at most.

    Returns:
        Phrases of at most 12 words, without a full stop.
    """
    found = [_met(card, state.conditions), _resemblance(evidence)]
    found += [_of_history(one, evidence) for one in evidence.influences][:_MOST_DRIVERS]
    found += [_quoted(one, evidence) for one in evidence.influences]
    found += [_popular(one) for one in evidence.influences]
    kept = list(dict.fromkeys(phrase for phrase in found if phrase))
    return tuple(_within(phrase) for phrase in _one_of_history(kept))[:count]


def explanation(card: Card, *, state: State, evidence: Evidence) -> str:
    """Everything that speaks for and against an item, several lines.

    Args:
        card: With the item's values and probability.
        state: What the conversation has come to ask for.
        evidence: What drove its score.
    """
    lines = [f"**{cleaned(card.title)}**", *_demand_lines(card, state.conditions)]
    if resemblance := _resemblance(evidence):
        lines.append(f"- It was searched for as {resemblance}.")
    for sign, verb in ((1, "Raised"), (-1, "Lowered")):
        drivers = [one for one in evidence.influences if one.effect * sign >= _LEAST]
        told = [f"{_driver(one, evidence)} ({_strength(one)})" for one in drivers[:_MOST_DRIVERS]]
        if told:
            lines.append(f"- {verb} by: {'; '.join(told)}.")
    if not any(abs(one.effect) >= _LEAST for one in evidence.influences):
        lines.append("- No single piece of evidence stands out.")
    for one in evidence.influences:
        if one.kind == "knowledge" and (text := _sentence(evidence, one.name, words=40)):
            lines.append(f'- The model read about {_owner(one.name)}: "{text}"')
    if card.probability is not None:
        lines.append(f"- Estimated chance that you like it: {round(100 * card.probability)} %.")
    return "\n".join(lines)


def demands(conditions: Sequence[Condition]) -> str:
    """What is asked for, in words: `Comedy or Drama, no Horror, from 1990 to 1994`."""
    parts = [
        f"{'no ' if one.operator == 'none_of' else ''}{_joined(one.values)}"
        for operator in ("any_of", "none_of")
        for one in conditions
        if one.operator == operator
    ]
    bounds: dict[str, dict[str, float]] = {}
    for one in conditions:
        if one.operator in ("at_least", "at_most"):
            bounds.setdefault(one.column, {})[one.operator] = float(one.values[0])
    parts += [_bounds_told(column, both) for column, both in bounds.items()]
    return ", ".join(parts)


def value_told(value: Any) -> str:
    """A value of the catalogue for people; empty where there is none."""
    if value is None or value == "":
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(cleaned(str(one)) for one in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return amount(float(value))
    return cleaned(str(value))


def amount(value: float) -> str:
    """A number as people write it: `1994`, `12.5`."""
    return str(int(value)) if value.is_integer() else f"{value:.6g}"


def is_year(column: str) -> bool:
    """Whether a column's numbers are years, which people say without its name."""
    return bool(_YEARS.search(column))


def _bounds_told(column: str, bounds: Mapping[str, float]) -> str:
    low, high = bounds.get("at_least"), bounds.get("at_most")
    name = "" if is_year(column) else f"{_column(column)} "
    if low is not None and low == high:
        return f"{name or 'from '}{amount(low)}"
    if low is not None and high is not None:
        return f"{name}from {amount(low)} to {amount(high)}"
    if low is not None:
        return f"{name}from {amount(low)} on" if not name else f"{name}at least {amount(low)}"
    return f"{name}{'up to' if not name else 'at most'} {amount(high or 0.0)}"


def _met(card: Card, conditions: Sequence[Condition]) -> str:
    """The demands that the item satisfies, by its own values."""
    met = [one for one in conditions if holds([one], card.values)]
    values, refused, numbers = [], [], {}
    for one in met:
        value = card.values.get(one.column)
        if one.operator == "any_of":
            own = [value] if isinstance(value, str) else list(value or ())
            values += [text for text in own if text in one.values]
        elif one.operator == "none_of":
            refused.append(f"no {_joined(one.values)}")
        else:
            year = "from " if is_year(one.column) else f"{_column(one.column)} "
            numbers[one.column] = year + value_told(value)
    shown = ", ".join(dict.fromkeys(map(cleaned, values)))
    told = " ".join(part for part in (shown, ", ".join(numbers.values())) if part)
    told = ", ".join(part for part in (told, *refused) if part)
    return _within(told, words=_MOST_WORDS - 2) + ", as asked" if told else ""


def _demand_lines(card: Card, conditions: Sequence[Condition]) -> Iterator[str]:
    for one in conditions:
        own = value_told(card.values.get(one.column)) or "unknown"
        verdict = "meets" if holds([one], card.values) else "does not meet"
        yield f"- It {verdict} '{cleaned(demands([one]))}' ({_column(one.column)}: {own})."


def _resemblance(evidence: Evidence) -> str:
    names = [_short(evidence.titles[item]) for item in evidence.named[-1:]]
    return f"similar to {names[0]}" if names else ""


def _of_history(one: Influence, evidence: Evidence) -> str:
    """A like of the past that raised the score."""
    if one.kind != "history" or one.item is None or one.effect < _LEAST or one.name != "liked":
        return ""
    return f"suggested by {_short(evidence.titles[one.item])}, {_did(one, evidence)}"


def _did(one: Influence, evidence: Evidence) -> str:
    """What the visitor did with the item of an event."""
    past = evidence.past.get(-1 if one.item is None else one.item)
    if past is not None and past.rating is not None:
        return f"which you rated {amount(past.rating)}"
    return "which you liked" if one.name == "liked" else "which you did not like"


def _quoted(one: Influence, evidence: Evidence) -> str:
    """The beginning of a text that raised the score."""
    if one.kind != "knowledge" or one.effect < _LEAST:
        return ""
    text = _sentence(evidence, one.name, words=_MOST_WORDS - 3)
    return f'about {_owner(one.name)}: "{text}"' if text else ""


def _sentence(evidence: Evidence, name: str, *, words: int) -> str:
    """First sentence of a text, if it may be shown."""
    match = _SENTENCE.search(evidence.texts.get(name, "").strip())
    whole = cleaned(match[0]).replace('"', "'").rstrip(".") if match else ""
    if not whole or not evidence.safe(whole):
        return ""
    return _within(whole, words=words)


def _popular(one: Influence) -> str:
    known = one.kind == "statistic" and one.name in _OF_ITEMS and one.effect >= _LEAST
    return _STATISTICS[one.name][0] if known else ""


def _driver(one: Influence, evidence: Evidence) -> str:
    if one.kind == "history" and one.item is not None:
        return f"{cleaned(evidence.titles[one.item])}, {_did(one, evidence)}"
    if one.kind == "knowledge":
        return f"the text about {_owner(one.name)}"
    higher, lower = _STATISTICS.get(one.name, (_column(one.name), _column(one.name)))
    return higher if one.effect > 0 else lower


def _strength(one: Influence) -> str:
    return next((word for least, word in _STRENGTHS if abs(one.effect) >= least), "hardly")


def _owner(name: str) -> str:
    return "your taste" if name.startswith("user") else "it"


def _one_of_history(phrases: Sequence[str]) -> Iterator[str]:
    """The phrases with only the strongest of those that name a past item."""
    seen = False
    for phrase in phrases:
        past = phrase.startswith("suggested by ")
        if not (past and seen):
            yield phrase
        seen = seen or past


def _column(name: str) -> str:
    return cleaned(name.replace("_", " "))


def _joined(values: Sequence[Any]) -> str:
    return " or ".join(cleaned(str(value)) for value in values)


def _short(title: str) -> str:
    return _within(cleaned(title), words=_TITLE_WORDS)


def _within(text: str, *, words: int = _MOST_WORDS) -> str:
    parts = text.split()
    return text if len(parts) <= words else " ".join(parts[:words]).rstrip(",;:") + " …"
