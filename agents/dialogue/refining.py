"""The demands of a conversation after one more message.

New values of a column replace earlier ones, since people restate what they want, unless they come
"also"; refusals gather; a bound replaces the bound at its own end. Whatever contradicts an earlier
demand lifts it. What was shown is forgotten when the demands change, and kept when more is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tastemaker.agents.dialogue.wish import State, Step, Wish
from tastemaker.models.catalogue.conditions import Condition

__all__ = ["ValuesOf", "refined"]

ValuesOf = Callable[[Sequence[int]], Sequence[Mapping[str, Any]]]

_BOUNDS = ("at_least", "at_most")
_WHAT_IS_WANTED = ("conditions", "similar", "topic", "order")
_MOST = 50  # judged or resembled items that are kept


def refined(state: State, wish: Wish, *, values_of: ValuesOf) -> State:
    """The state once a wish has been heard; what the answer will show is not in it yet.

    Args:
        state: Before the message.
        wish: The message, understood.
        values_of: Facet values of items, against which steps such as "older" are bounds.
    """
    if wish.act == "reset":
        return State(user=state.user)
    likes, dislikes = _judged(state, wish)
    anew = _starts_anew(wish)
    kept = not (anew or wish.similar) or wish.additional
    similar = state.similar if kept else ()
    found = replace(
        state,
        conditions=_conditions(state, wish, values_of=values_of),
        likes=likes,
        dislikes=dislikes,
        similar=_newest(similar, wish.similar, without=dislikes),
        topic=wish.topic or ("" if anew else state.topic),
        order=wish.order or (None if anew else state.order),
        count=wish.count or state.count,
    )
    changed = any(getattr(found, name) != getattr(state, name) for name in _WHAT_IS_WANTED)
    return replace(found, shown=()) if changed and wish.act != "more" else found


def _starts_anew(wish: Wish) -> bool:
    """Whether a wish replaces what was searched by: it names other values to be had."""
    wanted = [one for one in wish.conditions if one.operator == "any_of"]
    return bool(wanted and not wish.additional)


def _judged(state: State, wish: Wish) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Likes and dislikes, newest last; the newer judgement of an item counts."""
    disliked_now = set(wish.dislikes)
    liked_now = set(wish.likes) - disliked_now
    likes = _newest(state.likes, [one for one in wish.likes if one in liked_now])
    dislikes = _newest(state.dislikes, wish.dislikes)
    return (
        tuple(item for item in likes if item not in disliked_now),
        tuple(item for item in dislikes if item not in liked_now),
    )


def _newest(
    before: Sequence[int], now: Sequence[int], *, without: Iterable[int] = ()
) -> tuple[int, ...]:
    """Items in the order they were last named, each once."""
    refused, again = set(without), set(now)
    kept = [item for item in before if item not in again]
    items = [*kept, *dict.fromkeys(now)]
    return tuple(item for item in items if item not in refused)[-_MOST:]


def _conditions(state: State, wish: Wish, *, values_of: ValuesOf) -> tuple[Condition, ...]:
    dropped = set(wish.withdrawn)
    kept = [one for one in state.conditions if one.column not in dropped]
    kept = _without_values(kept, wish.lifted, operators=("any_of", "none_of"))
    if not wish.additional:
        replaced = {one.column for one in wish.conditions if one.operator == "any_of"}
        kept = [one for one in kept if one.operator != "any_of" or one.column not in replaced]
    for new in wish.conditions:
        kept = _added(kept, new)
    for step in wish.steps:
        for new in _stepped(step, values_of(state.last) if state.last else ()):
            # "Older ones" leaves the decade that was asked for before.
            kept = [one for one in kept if one.column != step.column or one.operator not in _BOUNDS]
            kept = _added(kept, new)
    return tuple(dict.fromkeys(kept))


def _added(kept: list[Condition], new: Condition) -> list[Condition]:
    """The conditions with one more, those left out that it replaces or contradicts."""
    if new.operator in _BOUNDS:
        return [*(one for one in kept if not _replaces(new, one)), new]
    pairs = [(new.column, str(value)) for value in new.values]
    if new.operator == "any_of":
        return [*_without_values(kept, pairs, operators=("none_of",)), new]
    kept = _without_values(kept, pairs, operators=("any_of",))
    earlier = [one for one in kept if one.operator == "none_of" and one.column == new.column]
    values = dict.fromkeys(
        [*(str(v) for one in earlier for v in one.values), *map(str, new.values)]
    )
    merged = Condition(new.column, "none_of", tuple(values))
    return [*(one for one in kept if one not in earlier), merged]


def _replaces(new: Condition, old: Condition) -> bool:
    """Whether a bound takes the place of another: the same end, or one it cannot hold with."""
    if old.column != new.column or old.operator not in _BOUNDS:
        return False
    if old.operator == new.operator:
        return True
    at_least, at_most = sorted((new, old), key=lambda one: one.operator)
    return float(at_least.values[0]) > float(at_most.values[0])


def _without_values(
    conditions: Sequence[Condition],
    pairs: Iterable[tuple[str, str]],
    *,
    operators: tuple[str, ...],
) -> list[Condition]:
    """Conditions with (column, value) pairs taken out; those without a value left are gone."""
    gone = set(pairs)
    found = []
    for one in conditions:
        if one.operator in operators:
            values = tuple(str(v) for v in one.values if (one.column, str(v)) not in gone)
            if not values:
                continue
            one = Condition(one.column, one.operator, values)
        found.append(one)
    return found


def _stepped(step: Step, shown: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """The bound that a step is, against what was shown last; none where that says nothing."""
    known = [
        value
        for one in shown
        if isinstance(value := one.get(step.column), int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    ]
    if not known:
        return []
    lower = step.direction == "lower"
    edge = float(min(known) if lower else max(known))
    if all(float(value).is_integer() for value in known):
        bound = edge - 1 if lower else edge + 1
    else:
        bound = math.nextafter(edge, -math.inf if lower else math.inf)
    return [Condition(step.column, "at_most" if lower else "at_least", (bound,))]
