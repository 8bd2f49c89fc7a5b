"""Values and bounds that a message names, put together as conditions.

romantic comedy           Romance and Comedy
comedy or drama           one of the two
romantic comedy or drama  (Romance or Drama) and (Comedy or Drama)
no horror or war          neither
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from tastemaker.agents.dialogue.lexicon import Lexicon, Value
from tastemaker.agents.dialogue.numbers import Bound
from tastemaker.models.catalogue.conditions import Condition

__all__ = ["Demands", "Joint", "Phrase", "bounds_of", "conditions_of"]

Joint = Literal["", ",", "and", "or"]
_MOST_CLAUSES = 32  # of one list; nobody means more


@dataclass
class Phrase:
    """Values named in one breath, such as "romantic comedy".

    Attributes:
        joint: What joins it to the phrase before.
        values: All of them must hold.
    """

    joint: Joint
    values: list[Value]


@dataclass
class Demands:
    """What is gathered while a message is read.

    Attributes:
        chains: Lists of phrases that must hold.
        refused: Values that must not.
        bounds: Of numbers, with what joins each to the one before.
    """

    chains: list[list[Phrase]] = field(default_factory=list)
    refused: list[Value] = field(default_factory=list)
    bounds: list[tuple[Joint, Bound, str]] = field(default_factory=list)


def conditions_of(demands: Demands, *, lexicon: Lexicon) -> tuple[Condition, ...]:
    """The conditions that values make: demanded ones in order, then what is refused."""
    clauses = [clause for chain in demands.chains for clause in _clauses(chain)]
    kinds = {name: facet.kind for name, facet in lexicon.facets.items()}
    found = [
        Condition(column, "any_of", tuple(values)) for column, values in _by_column(clauses, kinds)
    ]
    wanted = {(one.column, value) for one in found for value in one.values}
    refused: dict[str, list[str]] = {}
    for column, value in dict.fromkeys(demands.refused):
        if (column, value) not in wanted:  # "comedies, but no romantic comedies"
            refused.setdefault(column, []).append(value)
    found += [Condition(column, "none_of", tuple(values)) for column, values in refused.items()]
    return tuple(dict.fromkeys(found))


def bounds_of(demands: Demands) -> tuple[tuple[Condition, ...], tuple[str, ...]]:
    """The conditions that bounds make, and the words of those that make none.

    Neighbouring spans joined by "or" or "and" become one; others that cannot hold together, such
    as "before 1970 or after 2000", are no single bound and are given back in words.
    """
    merged: dict[str, tuple[Bound, list[str]]] = {}
    failed: list[str] = []
    for joint, bound, words in demands.bounds:
        before = merged.get(bound.column)
        if before is None:
            merged[bound.column] = (bound, [words])
            continue
        union = _united(before[0], bound) if joint or bound.is_span else None
        either = joint == "or" and not (before[0].is_span and bound.is_span and union)
        both = union or (None if either else _met(before[0], bound))
        if both is None:
            failed += [*before[1], words]
            del merged[bound.column]
        else:
            merged[bound.column] = (both, [*before[1], words])
    return tuple(one for bound, _ in merged.values() for one in _ends(bound)), tuple(failed)


def _ends(bound: Bound) -> Iterator[Condition]:
    if bound.low is not None:
        yield Condition(bound.column, "at_least", (float(bound.low),))
    if bound.high is not None:
        yield Condition(bound.column, "at_most", (float(bound.high),))


def _united(first: Bound, second: Bound) -> Bound | None:
    """Two spans that touch, as one."""
    if not (first.is_span and second.is_span):
        return None
    (low, high), (other_low, other_high) = sorted([_span(first), _span(second)])
    return Bound(first.column, low, max(high, other_high)) if other_low <= high + 1 else None


def _met(first: Bound, second: Bound) -> Bound | None:
    """What both allow; None when that is nothing."""
    (low, high), (other_low, other_high) = _span(first), _span(second)
    least, most = max(low, other_low), min(high, other_high)
    if least > most:
        return None
    return Bound(
        first.column,
        least if math.isfinite(least) else None,
        most if math.isfinite(most) else None,
    )


def _span(bound: Bound) -> tuple[float, float]:
    low = -math.inf if bound.low is None else bound.low
    return low, math.inf if bound.high is None else bound.high


def _clauses(chain: Sequence[Phrase]) -> Iterator[tuple[Value, ...]]:
    """Alternatives of which one must hold, for a list of phrases."""
    groups: list[list[Phrase]] = []
    for phrase, joint in zip(chain, _joints(chain), strict=True):
        if joint == "or" and groups:
            groups[-1].append(phrase)
        else:
            groups.append([phrase])
    for group in groups:
        size = math.prod(len(phrase.values) for phrase in group)
        if size > _MOST_CLAUSES:
            yield tuple(dict.fromkeys(value for phrase in group for value in phrase.values))
            continue
        for picked in product(*(dict.fromkeys(phrase.values) for phrase in group)):
            yield tuple(dict.fromkeys(picked))


def _joints(chain: Sequence[Phrase]) -> list[Joint]:
    """What joins each phrase to the one before; a comma means what the next word of joining says.

    "A, B or C" is a choice among three, "A, B" asks for both.
    """
    found: list[Joint] = []
    later: Joint = "and"
    for phrase in reversed(chain):
        if phrase.joint in ("or", "and", ""):
            later = "or" if phrase.joint == "or" else "and"
        found.append(later)
    return found[::-1]


def _by_column(
    clauses: Iterable[tuple[Value, ...]], kinds: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Clauses as one column and its values each, those left out that others imply.

    An item has one value of a category, so that several of them are alternatives.
    """
    found: list[tuple[str, list[str]]] = []
    single: dict[str, list[str]] = {}
    for clause in clauses:
        columns: dict[str, list[str]] = {}
        for column, value in clause:
            columns.setdefault(column, []).append(value)
        for column, values in columns.items():
            if kinds.get(column) != "category":
                found.append((column, values))
            elif column in single:
                single[column] += [value for value in values if value not in single[column]]
            else:
                single[column] = values
                found.append((column, values))
    return [one for one in found if not any(_implies(other, one) for other in found)]


def _implies(first: tuple[str, list[str]], second: tuple[str, list[str]]) -> bool:
    return first[0] == second[0] and set(first[1]) < set(second[1])
