"""Filters of our own for one text: the same row by row, in the sandbox and by the column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal

__all__ = ["TEXT_FILTERS", "amount", "as_json"]

# More digits are no price, and "1e+16" is how a column prints them.
_AMOUNT = re.compile(r"\s*\$? ?([0-9]{1,9}(?:\.[0-9]{1,15})?)\s*")


def amount(value: object) -> str:
    """A plain amount with two decimals, without its dollar sign; empty for anything else.

    Plain is what looks like `$12.34`, or a number (Uni-CTR §4.1, as released). A range, an amount
    with a word or with thousands set off, and leftovers of a web page are not.

    Raises:
        TypeError: neither a text nor a number.

    >>> amount("$5.9"), amount("12"), amount("$5.99 - $12.00")
    ('5.90', '12.00', '')
    """
    # Of a list, text could be made without end; of what is undefined, an amount in silence.
    if not isinstance(value, str | int | float):
        raise TypeError(f"amount is for a text or a number, not {type(value).__name__}")
    found = _AMOUNT.fullmatch(str(value))
    return f"{Decimal(found[1]):.2f}" if found else ""


def as_json(value: object) -> str:
    """JSON, with letters of all scripts as they are."""
    return json.dumps(value, ensure_ascii=False)


TEXT_FILTERS: Mapping[str, Callable[[str], str]] = {"amount": amount, "json": as_json}
