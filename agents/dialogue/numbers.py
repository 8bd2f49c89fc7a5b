"""Bounds, steps and orders in a message, each against a column of numbers.

    before 1970 · the 90s · between 1980 and 1989 · under 20 · shorter than 100 minutes    Bound
    older · cheaper ones                                                                   step
    newest first · the cheapest                                                            order

"Before 1970" leaves 1970 out and "until 1970" does not: bounds are what the words say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from tastemaker.agents.dialogue.amounts import Amount, amount_at
from tastemaker.agents.dialogue.lexicon import Family, Lexicon

__all__ = ["Bound", "Comparison", "comparison_at", "negated", "order_at"]

_Meaning = TypeVar("_Meaning")
Sign = Literal["<", "<=", "=", ">=", ">"]
Operators = Mapping[tuple[str, ...], tuple[Sign, str]]


def _operators(table: Mapping[tuple[Sign, str], str]) -> Operators:
    found = {}
    for meaning, phrases in table.items():
        for phrase in phrases.split("|"):
            found[tuple(phrase.split())] = meaning
    return found


# `when` only goes with years, `any` with any number.
_BEFORE = _operators(
    {
        ("<", "when"): "before|prior to|pre|previous to|up until before",
        ("<", "time"): "older than|earlier than|less recent than",
        ("<=", "when"): "until|till|til|through|by|as late as|not after|nothing after|up till",
        ("<=", "time"): "no later than|not later than|no newer than|not newer than|not more recent "
        "than|nothing newer than|nothing later than|nothing more recent than|at the latest",
        (">", "when"): "after|past|post",
        (">", "time"): "newer than|later than|more recent than|more modern than",
        (">=", "when"): "since|from|starting from|starting in|starting with|as of|not before|"
        "nothing before|nothing from before|as early as|none before",
        (">=", "time"): "no earlier than|not earlier than|no older than|not older than|"
        "nothing older than|nothing earlier than",
        ("=", "when"): "in|of|during|dated|dating from|exactly from",
        ("<", "any"): "under|below|less than|fewer than|lower than|smaller than|<",
        ("<", "price"): "cheaper than|less expensive than",
        ("<", "length"): "shorter than",
        ("<=", "any"): "at most|up to|no more than|not more than|maximum|max|maximum of|max of|"
        "not over|not above|no higher than|not exceeding|not higher than|a maximum of|<=|≤",
        ("<=", "length"): "no longer than|not longer than|within|nothing longer than",
        ("<=", "price"): "not more expensive than|no more expensive than",
        (">", "any"): "over|above|more than|greater than|higher than|exceeding|bigger than|>",
        (">", "price"): "pricier than|more expensive than",
        (">", "length"): "longer than",
        (">=", "any"): "at least|no less than|not less than|minimum|minimum of|min of|not below|"
        "not under|a minimum of|no lower than|not lower than|>=|≥",
        (">=", "length"): "no shorter than|not shorter than|nothing shorter than",
        ("=", "any"): "exactly|equal to|=",
    }
)
_BEHIND = _operators(
    {
        (">=", "when"): "on|onwards|onward|and onwards|and onward|and later|or later|and after|"
        "or newer|and newer|and up|+|to today|to now|to the present|until today|until now|"
        "and beyond|or more recent|and more recent|- present|to present|or after|till now",
        ("<=", "when"): "or earlier|and earlier|or older|and older|and before|or before|"
        "at the latest",
        (">=", "any"): "or more|or higher|or above|and above|and up|and more|or over|or longer|"
        "and higher|or better|and over|at least|minimum|and longer|+",
        ("<=", "any"): "or less|or lower|or below|and below|or under|at most|maximum|max|"
        "and under|or fewer|or shorter|or cheaper|and less|tops|and lower|and shorter",
    }
)
_STEP_PHRASES: tuple[tuple[Family, str, str], ...] = (
    ("time", "lower", "older|earlier|less recent|less modern|too new|too recent|too modern"),
    ("time", "higher", "newer|more recent|more modern|later|less old|more current|too old"),
    ("price", "lower", "cheaper|less expensive|less pricey|more affordable|too expensive"),
    ("price", "higher", "pricier|more expensive|too cheap"),
    ("length", "lower", "shorter|less long|too long"),
    ("length", "higher", "longer|less short|too short"),
    ("other", "higher", "better rated|higher rated|higher rating"),
    ("other", "lower", "worse rated|lower rated|lower rating"),
)
_ORDER_PHRASES: tuple[tuple[Family, bool, str], ...] = (
    ("time", True, "newest|latest|most recent|newest first|latest first|most recent first|"
     "newest to oldest|from newest to oldest|most modern"),
    ("time", False, "oldest|earliest|oldest first|earliest first|oldest to newest|"
     "from oldest to newest|least recent|chronologically|in chronological order"),
    ("price", False, "cheapest|least expensive|cheapest first|lowest price|most affordable"),
    ("price", True, "most expensive|priciest|most expensive first|highest price"),
    ("length", False, "shortest|shortest first"),
    ("length", True, "longest|longest first"),
    ("other", True, "highest rated|best rated|top rated|highest rated first|highest rating|"
     "best rated first"),
    ("other", False, "lowest rated|worst rated"),
)  # fmt: skip
_STEPS: Mapping[tuple[str, ...], tuple[Family, str]] = {
    tuple(phrase.split()): (family, direction)
    for family, direction, phrases in _STEP_PHRASES
    for phrase in phrases.split("|")
}
_ORDERS: Mapping[tuple[str, ...], tuple[Family, bool]] = {
    tuple(phrase.split()): (family, highest)
    for family, highest, phrases in _ORDER_PHRASES
    for phrase in phrases.split("|")
}
_LONGEST = 4
_JOINTS = frozenset(["to", "-", "–", "—", "through", "until", "till", "and"])
_LEADS = frozenset(["the", "year", "years", "of", "about", "around", "just", "early", "circa", "a"])
# What is counted, not measured.
_COUNTED = frozenset(
    [
        "films",
        "movies",
        "books",
        "items",
        "people",
        "ones",
        "things",
        "titles",
        "options",
        "players",
    ]
)
_AGAIN = frozenset(["from", "in", "of", "made", "released", "during"])


@dataclass(frozen=True)
class Bound:
    """Numbers allowed of a column, both ends included; None is no end."""

    column: str
    low: float | None = None
    high: float | None = None

    @property
    def is_span(self) -> bool:
        """Whether it has both ends."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Comparison:
    """What a comparison in a message says.

    Attributes:
        stop: Index of the word after it.
        bound: Against a number.
        column: Against something else, or against what was shown: the column compared.
        direction: Of such a comparison.
        against: Whether "than" is behind it, so that what it is compared with follows.
        unknown: Whether the catalogue has no column for it.
    """

    stop: int
    bound: Bound | None = None
    column: str = ""
    direction: Literal["lower", "higher"] = "lower"
    against: bool = False
    unknown: bool = False


def comparison_at(forms: Sequence[str], place: int, *, lexicon: Lexicon) -> Comparison | None:
    """The comparison that begins at a place."""
    return _Reader(forms, lexicon).at(place)


def order_at(
    forms: Sequence[str], place: int, *, lexicon: Lexicon
) -> tuple[int, tuple[str, bool] | None]:
    """Where an order that begins here stops, and what it says; the place itself for none.

    None in the second place is an order by a column that the catalogue does not have.
    """
    if forms[place] in ("sorted", "ordered", "sort", "order", "ranked") and _next(
        forms, place + 1
    ) in ("by", "it", "them"):
        skip = 2 if forms[place + 1] == "by" else 3
        length, column = (
            lexicon.column_at(forms, place + skip) if place + skip < len(forms) else (0, "")
        )
        if length and column in lexicon.families:
            stop = place + skip + length
            rising = _next(forms, stop) in ("ascending", "rising", "upwards")
            falling = _next(forms, stop) in ("descending", "falling", "downwards")
            return stop + rising + falling, (column, falling)
    found, length = _longest(_ORDERS, forms, place)
    if found is None:
        return place, None
    family, highest = found
    column_of = _column(lexicon, family)
    return place + length, (column_of, highest) if column_of else None


def negated(bound: Bound, *, whole: bool) -> Bound | None:
    """What is allowed when a bound must not hold; None when that is no single bound.

    Args:
        bound: With one end.
        whole: Whether the column holds whole numbers, such as years.
    """
    if bound.is_span:
        return None
    if bound.high is not None:
        return Bound(bound.column, low=_beyond(bound.high, up=True, whole=whole))
    assert bound.low is not None
    return Bound(bound.column, high=_beyond(bound.low, up=False, whole=whole))


class _Reader:
    """Looks for comparisons in one message."""

    def __init__(self, forms: Sequence[str], lexicon: Lexicon) -> None:
        self._forms, self._lexicon = forms, lexicon
        time = lexicon.column_of("time")
        facet = lexicon.facets.get(time) if time else None
        self._years = None
        if facet is not None and facet.low is not None and facet.high is not None:
            self._years = (facet.low, facet.high)

    def at(self, place: int) -> Comparison | None:
        column, start = self._named(place)
        return self._range(start, column) or self._operated(start, column) or self._bare(place)

    def _named(self, place: int) -> tuple[str | None, int]:
        """A column of numbers named at the place, and where the comparison itself begins."""
        length, column = self._lexicon.column_at(self._forms, place)
        if not length or column not in self._lexicon.families:
            return None, place
        start = place + length
        while _next(self._forms, start) in (":", "of", "is", "should", "be", "must", "rated"):
            start += 1
        return column, start

    def _range(self, place: int, column: str | None) -> Comparison | None:
        """Between A and B, from A to B, A to B, A - B."""
        start = place
        opened = _next(self._forms, start) in ("between", "from")
        closed = _next(self._forms, start) == "between"
        first = self._amount(start + opened)
        if first is None or _next(self._forms, first.stop) not in _JOINTS:
            return None
        joint = self._forms[first.stop]
        second = self._amount(first.stop + 1)
        if second is None or (joint == "and") != closed:
            return None
        if second.kind == "number" and first.kind != "number" and second.family is None:
            return None
        family = second.family or first.family or ("time" if first.kind == "year" else None)
        known = opened or family or column is not None or _is_temporal(second)
        column = self._resolved(column, family, second) if known else None
        if column is None:
            return Comparison(second.stop, unknown=True) if opened else None
        low, high = min(first.low, second.low), max(first.high, second.high)
        scaled = second.high / max(second.low, 1) if second.family == "length" else 1.0
        return Comparison(second.stop, Bound(column, low * scaled, high))

    def _operated(self, place: int, column: str | None) -> Comparison | None:
        """An operator before its amount, or a relative comparison without one."""
        found, length = _longest(_BEFORE, self._forms, place)
        if found is None:
            return self._stepped(place)
        (sign, scope), start = found, place + length
        if length == 1 and self._again(start):
            return self._operated(start, column)
        amount = self._amount(start)
        if amount is None:
            return self._stepped(place)
        if not self._fits(scope, column, amount):
            return None
        stop = amount.stop
        if sign == "=" or self._forms[place] == "from":
            sign, more = self._behind(stop, amount)
            stop += more
        family: Family | None = amount.family
        if scope in ("time", "price", "length") and family is None:
            family = scope  # type: ignore[assignment]
        if scope == "when" and column is None:
            family = "time"
        column, stop = self._trailing(column, stop)
        column = self._resolved(column, family, amount)
        if column is None:
            return Comparison(stop, unknown=True)
        return Comparison(stop, self._bound(column, sign, amount))

    def _again(self, start: int) -> bool:
        """Whether the word before is an operator only in name: "from before 1990"."""
        inner, _ = _longest(_BEFORE, self._forms, start)
        again = self._forms[start - 1] in _AGAIN
        return again and inner is not None and inner[1] in ("when", "time") and inner[0] != "="

    def _fits(self, scope: str, column: str | None, amount: Amount) -> bool:
        """Whether an operator may go with an amount."""
        if scope == "any":
            return _next(self._forms, amount.stop) not in _COUNTED
        return scope != "when" or column is not None or _is_temporal(amount)

    def _bare(self, place: int) -> Comparison | None:
        """An amount with an operator behind it, or one that is a year or a span itself."""
        column, start = self._named(place)
        amount = self._amount(start, leads=False)
        if amount is None:
            return None
        stop = amount.stop
        sign, more = self._behind(stop, amount)
        column, after = self._trailing(column, stop)
        if not more and after > stop:
            sign, more = self._behind(after, amount)
            stop = after
        if more:
            family = amount.family or ("time" if _is_temporal(amount) else None)
            column = self._resolved(column, family, amount)
            if column is None:
                return Comparison(stop + more, unknown=family is not None)
            return Comparison(stop + more, self._bound(column, sign, amount))
        if column is None and not _is_temporal(amount):
            return None
        column = column or self._lexicon.column_of("time")
        if column is None:
            return Comparison(stop, unknown=True) if amount.kind == "span" else None
        return Comparison(stop, self._bound(column, "=", amount))

    def _stepped(self, place: int) -> Comparison | None:
        """Older, cheaper than: against what was shown, or what follows."""
        found, length = _longest(_STEPS, self._forms, place)
        if found is None:
            return None
        family, direction = found
        stop = place + length
        against = _next(self._forms, stop) == "than"
        column = _column(self._lexicon, family)
        if column is None:
            return Comparison(stop + against, unknown=True)
        return Comparison(
            stop + against,
            column=column,
            direction="lower" if direction == "lower" else "higher",
            against=against,
        )

    def _amount(self, place: int, *, leads: bool = True) -> Amount | None:
        found = amount_at(self._forms, place, years=self._years)
        skipped = 0
        while found is None and leads and skipped < 3 and _next(self._forms, place) in _LEADS:
            place, skipped = place + 1, skipped + 1
            found = amount_at(self._forms, place, years=self._years)
        return found

    def _behind(self, stop: int, amount: Amount) -> tuple[Sign, int]:
        """The operator behind an amount, and its length."""
        found, length = _longest(_BEHIND, self._forms, stop)
        if found is None:
            return "=", 0
        sign, scope = found
        fits = scope == "any" or _is_temporal(amount)
        return (sign, length) if fits else ("=", 0)

    def _trailing(self, column: str | None, stop: int) -> tuple[str | None, int]:
        """A column named right behind an amount: "at least 4 points"."""
        if column is not None or stop >= len(self._forms):
            return column, stop
        length, named = self._lexicon.column_at(self._forms, stop)
        numeric = named in self._lexicon.families and self._lexicon.families[named] != "time"
        return (named, stop + length) if length and numeric else (None, stop)

    def _resolved(self, column: str | None, family: Family | None, amount: Amount) -> str | None:
        """The column that is meant."""
        if column is not None:
            return column
        if family is not None:
            return _column(self._lexicon, family)
        if amount.kind == "year" and self._lexicon.column_of("price") is None:
            return self._lexicon.column_of("time")
        return self._lexicon.column_of("price")

    def _bound(self, column: str, sign: Sign, amount: Amount) -> Bound:
        whole = self._lexicon.families[column] == "time"
        if sign == "<":
            return Bound(column, high=_beyond(amount.low, up=False, whole=whole))
        if sign == ">":
            return Bound(column, low=_beyond(amount.high, up=True, whole=whole))
        low = amount.low if sign in ("=", ">=") else None
        return Bound(column, low, amount.high if sign in ("=", "<=") else None)


def _is_temporal(amount: Amount) -> bool:
    return amount.kind in ("year", "span") and amount.family in (None, "time")


def _column(lexicon: Lexicon, family: Family) -> str | None:
    return lexicon.rating() if family == "other" else lexicon.column_of(family)


def _beyond(number: float, *, up: bool, whole: bool) -> float:
    """The next number that a column can hold."""
    if whole and number == int(number):
        return number + 1 if up else number - 1
    return math.nextafter(number, math.inf if up else -math.inf)


def _next(forms: Sequence[str], place: int) -> str:
    return forms[place] if place < len(forms) else ""


def _longest(
    table: Mapping[tuple[str, ...], _Meaning], forms: Sequence[str], place: int
) -> tuple[_Meaning | None, int]:
    for length in range(min(_LONGEST, len(forms) - place), 0, -1):
        found = table.get(tuple(forms[place : place + length]))
        if found is not None:
            return found, length
    return None, 0
