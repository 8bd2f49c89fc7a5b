"""Which columns mean what, and which rows count as a like."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from tastemaker.errors import UserError

__all__ = ["LabelRule", "Schema"]

_OPERATORS: dict[str, Callable[[pl.Series, float], pl.Series]] = {
    ">": lambda column, number: column > number,
    ">=": lambda column, number: column >= number,
    "<": lambda column, number: column < number,
    "<=": lambda column, number: column <= number,
    "==": lambda column, number: column == number,
}
_RULE = re.compile(r"\s*(?P<column>[^<>=]+?)\s*(?P<operator>>=|<=|==|>|<)\s*(?P<number>\S+)\s*")


@dataclass(frozen=True)
class LabelRule:
    """When an interaction counts as a like.

    Attributes:
        column: Column of the interactions, by its name in the file.
        operator: One of `>`, `>=`, `<`, `<=`, `==`.
        threshold: Finite number.
    """

    column: str
    operator: str
    threshold: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `COLUMN OPERATOR NUMBER`.

        >>> LabelRule.parse("rating > 3")
        LabelRule(column='rating', operator='>', threshold=3.0)

        Raises:
            UserError: the text has another form.
        """
        match = _RULE.fullmatch(text)
        number = _finite(match["number"]) if match else None
        if match is None or number is None:
            raise UserError(
                f"label rule '{text}' cannot be read.",
                allowed=f"COLUMN OPERATOR NUMBER with one of {' '.join(_OPERATORS)}",
                remedy='Write it like "rating > 3".',
            )
        return cls(match["column"], match["operator"], number)

    def apply(self, frame: pl.DataFrame) -> pl.Series:
        """1 where the rule holds, else 0: int8 [rows], named `label`."""
        values = frame[self.column].cast(pl.Float64)
        return _OPERATORS[self.operator](values, self.threshold).cast(pl.Int8).alias("label")

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.threshold!r}".removesuffix(".0")


@dataclass(frozen=True)
class Schema:
    """Names of the columns as they stand in the files.

    Attributes:
        user: User id, in interactions and in users.
        item: Item id, in interactions and in items.
        time: Moment of the interaction.
        rating: Number given by the user.
        label: When an interaction counts as a like.
        title: What an item is called, in items.
        text: Further columns of items that describe it.
    """

    user: str
    item: str
    time: str
    rating: str
    label: LabelRule
    title: str
    text: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; the label rule is written as text."""
        return {**self.__dict__, "label": str(self.label), "text": list(self.text)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; also takes the `columns` section of a recipe as a dictionary."""
        rest = {key: value for key, value in values.items() if key not in ("label", "text")}
        label = LabelRule.parse(values["label"])
        return cls(**rest, label=label, text=tuple(values.get("text", ())))


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
