"""A wish as a JSON object of InstructRec's three aspects, for models to write and to learn from.

    {"form": "recommend",
     "preference": {"like": ["Heat (1995)"], "named": {"Casino": "similar"}},
     "intention": {"wanted": [["Comedy", "Drama"]], "bounds": {"year": [1990, null]}}}

Entries that are empty are left out. What the words of a message settle is fixed text; questions
that they leave open are the only places where a model chooses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.reading import Question, Reading
from tastemaker.agents.dialogue.wish import Act, Step, Wish
from tastemaker.errors import UserError
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.prompts.render import plain, quotable

__all__ = ["Options", "json_of", "parts_of", "wish_from_json"]

Options = tuple[str, ...]
Find = Callable[[str], Sequence[int]]


def parts_of(reading: Reading, *, titles: Sequence[str]) -> list[str | Options]:
    """The object as fixed texts and the options of open places, these in the order of questions.

    Args:
        reading: With what it leaves open.
        titles: By dense number.
    """
    asked = {question.kind: question for question in reading.open}
    parts: list[str | Options] = ['{"form": ']
    act = asked.get("act")
    parts.append(_quoted(act.options) if act else _json(reading.settled.act))
    parts.append(', "preference": {')
    named = [question for question in reading.open if question.kind == "title"]
    parts += _listed([_entry(*one) for one in _preference(reading.settled, titles)], named)
    parts.append('}, "intention": {')
    intention = ", ".join(_entry(*one) for one in _intention(reading.settled))
    topic = asked.get("topic")
    parts.append(intention + (", " if intention and topic else ""))
    if topic:
        parts += ['"topic": ', _topics(topic)]
    return [*parts, "}}"]


def json_of(wish: Wish, *, titles: Sequence[str]) -> str:
    """The object of a wish with nothing left open."""
    preference = ", ".join(_entry(*one) for one in _preference(wish, titles))
    pairs = [*_intention(wish), *([("topic", wish.topic)] if wish.topic else [])]
    intention = ", ".join(_entry(*one) for one in pairs)
    form = _json(wish.act)
    return f'{{"form": {form}, "preference": {{{preference}}}, "intention": {{{intention}}}}}'


def wish_from_json(text: str, *, lexicon: Lexicon, find: Find) -> Wish:
    """Inverse of `json_of`; what the catalogue does not have is left out.

    Args:
        text: The object.
        lexicon: Knows the column of each value.
        find: Items of a title.

    Raises:
        UserError: it is no such object.
    """
    try:
        found = json.loads(text)
        preference, intention = found["preference"], found["intention"]
        conditions = tuple(_conditions(intention, lexicon))
        order = next(iter(intention.get("order", {}).items()), None)
        wish = Wish(
            act=found["form"],
            conditions=conditions,
            withdrawn=tuple(intention.get("withdrawn", ())),
            lifted=tuple(_pairs(intention.get("lifted", ()), lexicon)),
            additional=bool(intention.get("additional", False)),
            steps=tuple(Step(*one) for one in intention.get("steps", {}).items()),
            order=None if order is None else (order[0], order[1] == "highest first"),
            count=intention.get("count"),
            places=tuple(intention.get("places", ())),
            unchecked=tuple(intention.get("unchecked", ())),
            topic=intention.get("topic", ""),
            unknown=tuple(preference.get("unknown", ())),
            likes=_items(preference.get("like", ()), find),
            dislikes=_items(preference.get("dislike", ()), find),
            similar=_items(preference.get("similar", ()), find),
            mentioned=_items(preference.get("about", ()), find),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"this is no wish: {text[:200]!r} ({error}).") from None
    if wish.act not in get_args(Act):
        raise UserError(f"form '{wish.act}' is unknown.", allowed=", ".join(get_args(Act)))
    return wish


def _preference(wish: Wish, titles: Sequence[str]) -> Iterator[tuple[str, Any]]:
    lists = {
        "like": wish.likes,
        "dislike": wish.dislikes,
        "similar": wish.similar,
        "about": wish.mentioned,
    }
    for key, items in lists.items():
        if items:
            yield key, [quotable(titles[item]) for item in items]
    if wish.unknown:
        yield "unknown", [quotable(text) for text in wish.unknown]


def _intention(wish: Wish) -> Iterator[tuple[str, Any]]:
    """Everything wanted now but the topic, which may be open and so stands last."""
    refused = [one for one in wish.conditions if one.operator == "none_of"]
    entries: dict[str, Any] = {
        "wanted": [_values(one) for one in wish.conditions if one.operator == "any_of"],
        "refused": [value for one in refused for value in _values(one)],
        "bounds": _bounds(wish.conditions),
        "withdrawn": list(wish.withdrawn),
        "lifted": [plain(value) for _, value in wish.lifted],
        "additional": wish.additional,
        "steps": {step.column: step.direction for step in wish.steps},
        "order": _order(wish),
        "count": wish.count,
        "places": list(wish.places),
        "unchecked": [quotable(text) for text in wish.unchecked],
    }
    yield from ((key, value) for key, value in entries.items() if value)


def _values(condition: Condition) -> list[str]:
    return [plain(str(value)) for value in condition.values]


def _order(wish: Wish) -> dict[str, str]:
    if wish.order is None:
        return {}
    return {wish.order[0]: "highest first" if wish.order[1] else "lowest first"}


def _bounds(conditions: Sequence[Condition]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for one in conditions:
        if one.operator in ("at_least", "at_most"):
            ends = found.setdefault(one.column, [None, None])
            number = float(one.values[0])
            ends[one.operator == "at_most"] = int(number) if number.is_integer() else number
    return found


def _conditions(intention: Mapping[str, Any], lexicon: Lexicon) -> Iterator[Condition]:
    for alternatives in intention.get("wanted", ()):
        yield from _grouped(alternatives, "any_of", lexicon)
    yield from _grouped(intention.get("refused", ()), "none_of", lexicon)
    for column, (low, high) in intention.get("bounds", {}).items():
        if column in lexicon.families:
            if low is not None:
                yield Condition(column, "at_least", (float(low),))
            if high is not None:
                yield Condition(column, "at_most", (float(high),))


def _grouped(values: Sequence[str], operator: Any, lexicon: Lexicon) -> Iterator[Condition]:
    """One condition for each column among the values."""
    columns: dict[str, list[str]] = {}
    for column, value in _pairs(values, lexicon):
        columns.setdefault(column, []).append(value)
    for column, known in columns.items():
        yield Condition(column, operator, tuple(known))


def _pairs(values: Sequence[str], lexicon: Lexicon) -> Iterator[tuple[str, str]]:
    for value in values:
        for name, facet in lexicon.facets.items():
            known = next((one for one in facet.values if plain(one) == value), None)
            if known is not None:
                yield name, known
                break


def _items(names: Sequence[str], find: Find) -> tuple[int, ...]:
    return tuple(dict.fromkeys(item for name in names for item in find(name)))


def _listed(entries: list[str], named: Sequence[Question]) -> list[str | Options]:
    """Entries of an object, then the open titles as an object of their own."""
    parts: list[str | Options] = [", ".join(entries)]
    if not named:
        return parts
    parts.append((", " if entries else "") + '"named": {')
    for question, after in pairwise([*named, None]):
        assert question is not None
        parts += [f"{_json(quotable(question.text))}: ", _quoted(question.options)]
        parts.append(", " if after is not None else "}")
    return parts


def _topics(question: Question) -> Options:
    return _json(quotable(question.text)), '""'


def _quoted(options: Options) -> Options:
    return tuple(map(_json, options))


def _entry(key: str, value: Any) -> str:
    return f"{_json(key)}: {_json(value)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
