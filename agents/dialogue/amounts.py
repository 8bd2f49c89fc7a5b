"""Numbers in words and figures: amounts, years, decades, places.

1994 · '94 · the 1990s · nineties · early 90s · 20 dollars · two hours · second · #2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tastemaker.agents.dialogue.lexicon import Family

__all__ = ["Amount", "amount_at", "cardinal", "ordinal"]

Kind = Literal["number", "year", "span"]

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"
_CARDINALS = {word: number for number, word in enumerate(_SMALL.split())} | {
    word: 10 * number for number, word in enumerate(_TENS.split(), start=2)
}
_ORDERLY = "first second third fourth fifth sixth seventh eighth ninth tenth"
_ORDINALS = {word: number for number, word in enumerate(_ORDERLY.split(), start=1)}
_DECADES = {
    "twenties": 20, "thirties": 30, "forties": 40, "fifties": 50, "sixties": 60,
    "seventies": 70, "eighties": 80, "nineties": 90, "noughties": 0,
}  # fmt: skip
# Word → which years of a decade it means.
_PARTS = {"early": (0, 3), "mid": (4, 6), "middle": (4, 6), "late": (7, 9)}
_UNITS: dict[str, tuple[Family, float]] = {
    **dict.fromkeys(("minutes", "minute", "mins", "min", "pages", "page"), ("length", 1.0)),
    **dict.fromkeys(("hours", "hour", "hrs", "hr", "h"), ("length", 60.0)),
    **dict.fromkeys(("dollars", "dollar", "bucks", "usd", "$"), ("price", 1.0)),
    **dict.fromkeys(("euros", "euro", "eur", "€", "pounds", "pound", "gbp", "£"), ("price", 1.0)),
    **dict.fromkeys(("stars", "star", "points", "point"), ("other", 1.0)),
}
_SIGNS = frozenset("$€£")
_MOST_DIGITS = 12


@dataclass(frozen=True)
class Amount:
    """A number, or a span of years, in a message.

    Attributes:
        stop: Index of the word after it.
        low: Smallest number meant.
        high: Largest.
        kind: `year` for four figures that may be one, `span` for decades and the like.
        family: What its unit says it measures; None without a unit.
    """

    stop: int
    low: float
    high: float
    kind: Kind = "number"
    family: Family | None = None


def amount_at(
    forms: Sequence[str], place: int, *, years: tuple[float, float] | None = None
) -> Amount | None:
    """The amount that begins at a place.

    Args:
        forms: Of the message.
        place: Where.
        years: First and last year of the catalogue, which tell what "the 20s" are.
    """
    if place >= len(forms):
        return None
    if forms[place] in _PARTS and (span := _decade(forms, place + 1, years=years)):
        first, last = _PARTS[forms[place]]
        if span.high - span.low == 9:
            return Amount(span.stop, span.low + first, span.low + last, "span", "time")
    if span := _decade(forms, place, years=years):
        return span
    sign = forms[place] in _SIGNS
    number = cardinal(forms[place + sign]) if place + sign < len(forms) else None
    if number is None:
        return _short_year(forms[place], place)
    stop = place + sign + 1
    unit = _UNITS.get(forms[stop]) if stop < len(forms) else None
    if sign or unit:
        family, scale = unit or ("price", 1.0)
        return Amount(stop + bool(unit), number * scale, number * scale, "number", family)
    form = forms[place]
    is_year = len(form) == 4 and form.isdigit() and 1000 <= number <= 2200
    return Amount(stop, number, number, "year" if is_year else "number")


def cardinal(form: str) -> float | None:
    """The number that a form says; None for anything else.

    >>> cardinal("1,200"), cardinal("twelve")
    (1200.0, 12.0)
    """
    if form in _CARDINALS:
        return float(_CARDINALS[form])
    if len(form) > _MOST_DIGITS or not form[:1].isdigit() or not form.isascii():
        return None
    thousands = form.split(".")[0].split(",")
    plain = form.replace(",", "") if all(len(one) == 3 for one in thousands[1:]) else ""
    try:
        number = float(plain or form.replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def ordinal(form: str) -> int | None:
    """The place that a form says, such as `second` or `2nd`; None for anything else."""
    if form in _ORDINALS:
        return _ORDINALS[form]
    digits = form[:-2]
    if form.endswith(("st", "nd", "rd", "th")) and digits.isascii() and digits.isdigit():
        return int(digits) if len(digits) <= 3 else None
    return None


def _decade(
    forms: Sequence[str], place: int, *, years: tuple[float, float] | None
) -> Amount | None:
    if place >= len(forms):
        return None
    form, stop, century = forms[place], place + 1, None
    if form in ("nineteen", "eighteen") and stop < len(forms) and forms[stop] in _DECADES:
        century, form, stop = {"nineteen": 1900, "eighteen": 1800}[form], forms[stop], stop + 1
    if form in _DECADES:
        short = _DECADES[form]
        if century is None and form == "noughties":
            century = 2000
    else:
        bare = form.strip("'")
        digits = bare.removesuffix("s").removesuffix("'")
        if not bare.endswith("s") or not digits.isascii() or not digits.isdigit():
            return None
        return _named_decade(int(digits), len(digits), stop, years=years)
    start = _century(short, years) if century is None else century
    return Amount(stop, start + short, start + short + 9.0, "span", "time")


def _named_decade(
    number: int, digits: int, stop: int, *, years: tuple[float, float] | None
) -> Amount | None:
    """The 1990s, the 90s; the 1800s are a century, the 2000s a decade."""
    if digits == 2 and number % 10 == 0:
        start = float(_century(number, years) + number)
        return Amount(stop, start, start + 9, "span", "time")
    if digits != 4 or number % 10 or not 1000 <= number <= 2200:
        return None
    length = 99.0 if number % 100 == 0 and number < 2000 else 9.0
    return Amount(stop, float(number), number + length, "span", "time")


def _century(decade: int, years: tuple[float, float] | None) -> int:
    """Of "the 20s": the earlier century of those the catalogue has items from."""
    low, high = years or (1930.0, 2029.0)
    for start in (1900, 2000):
        if low <= start + decade + 9 and start + decade <= high and decade >= 10:
            return start
    return 2000 if decade < 20 else 1900


def _short_year(form: str, place: int) -> Amount | None:
    """'94 or '07."""
    digits = form[1:]
    if form[:1] != "'" or len(digits) != 2 or not (digits.isascii() and digits.isdigit()):
        return None
    year = float(digits) + (1900 if int(digits) > 30 else 2000)
    return Amount(place + 1, year, year, "year")
