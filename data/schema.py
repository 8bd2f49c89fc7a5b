"""Which columns mean what, and which rows count as a like."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import polars as pl

from tastemaker.errors import UserError

__all__ = [
    "TIME_UNITS",
    "DomainRules",
    "Implicit",
    "Label",
    "LabelRule",
    "Policies",
    "Schema",
    "TimeUnit",
    "parse_label",
]

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso", "step"]
TIME_UNITS: tuple[TimeUnit, ...] = ("auto", "s", "ms", "us", "ns", "iso", "step")

_OPERATORS: dict[str, Callable[[pl.Series, float], pl.Series]] = {
    ">": lambda column, number: column > number,
    ">=": lambda column, number: column >= number,
    "<": lambda column, number: column < number,
    "<=": lambda column, number: column <= number,
    "==": lambda column, number: column == number,
}
_RULE = re.compile(r"\s*(?P<column>[^<>=]+?)\s*(?P<operator>>=|<=|==|>|<)\s*(?P<number>\S+)\s*")
_IMPLICIT = "implicit"
_OTHER = "other"


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
                allowed=f"COLUMN OPERATOR NUMBER ({' '.join(_OPERATORS)}), or {_IMPLICIT}",
                remedy='Write it like "rating > 3".',
            )
        return cls(match["column"], match["operator"], number)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of numbers that it reads."""
        return (self.column,)

    def apply(self, frame: pl.DataFrame, domains: pl.Series | None = None) -> pl.Series:
        """1 where the rule holds, else 0: int8 [rows], named `label`; domains do not matter."""
        values = frame[self.column].cast(pl.Float64)
        return _OPERATORS[self.operator](values, self.threshold).cast(pl.Int8).alias("label")

    def to_value(self) -> str:
        """The rule as it stands in a recipe."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.threshold!r}".removesuffix(".0")


@dataclass(frozen=True)
class Implicit:
    """Every interaction counts as a like: purchases, clicks, visits."""

    @property
    def columns(self) -> tuple[str, ...]:
        """No column is read."""
        return ()

    def apply(self, frame: pl.DataFrame, domains: pl.Series | None = None) -> pl.Series:
        """1 everywhere: int8 [rows], named `label`."""
        return pl.repeat(1, frame.height, dtype=pl.Int8, eager=True).alias("label")

    def to_value(self) -> str:
        """The rule as it stands in a recipe."""
        return _IMPLICIT

    def __str__(self) -> str:
        return _IMPLICIT


@dataclass(frozen=True)
class DomainRules:
    """One rule per domain, since five stars mean less in one shop than in another.

    Attributes:
        rules: Domain → its rule.
        other: Rule of every other domain; None means that there must be none.
    """

    rules: Mapping[str, LabelRule]
    other: LabelRule | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of numbers that the rules read."""
        rules = [*self.rules.values(), *([self.other] if self.other else [])]
        return tuple(dict.fromkeys(rule.column for rule in rules))

    def apply(self, frame: pl.DataFrame, domains: pl.Series | None = None) -> pl.Series:
        """1 where the rule of the row's domain holds, else 0: int8 [rows], named `label`.

        Raises:
            ValueError: no domains are given.
        """
        if domains is None:
            raise ValueError("rules by domain need the domain of each row")
        names = domains.cast(pl.String)
        start = self.other.apply(frame) if self.other else pl.repeat(0, frame.height, eager=True)
        label = start.cast(pl.Int8)
        for name, rule in self.rules.items():
            label = rule.apply(frame).zip_with((names == name).fill_null(False), label)
        return label.alias("label")

    def unruled(self, domains: pl.Series) -> pl.Series:
        """True where no rule speaks for the domain: bool [rows]."""
        names = domains.cast(pl.String)
        if self.other is not None:
            return pl.repeat(False, len(names), eager=True)
        return names.is_not_null() & ~names.is_in(list(self.rules))

    def to_value(self) -> dict[str, str]:
        """The rules as they stand in a recipe."""
        written = {name: str(rule) for name, rule in self.rules.items()}
        return {**written, **({_OTHER: str(self.other)} if self.other else {})}

    def __str__(self) -> str:
        return ", ".join(f"{name}: {rule}" for name, rule in self.to_value().items())


Label = LabelRule | Implicit | DomainRules


def parse_label(value: str | Mapping[str, str]) -> Label:
    """Read what a recipe says about likes.

    Args:
        value: `COLUMN OPERATOR NUMBER`, `implicit`, or domain → rule, where `other` speaks for
            every domain that is not named.

    Raises:
        UserError: it has another form.
    """
    if isinstance(value, str):
        return Implicit() if value.strip() == _IMPLICIT else LabelRule.parse(value)
    rules = {str(name): LabelRule.parse(str(rule)) for name, rule in value.items()}
    if not rules:
        raise UserError("rules by domain need at least one domain.", remedy="Name a domain.")
    other = rules.pop(_OTHER, None)
    return DomainRules(rules, other)


@dataclass(frozen=True)
class Policies:
    """What to do with rows that are wrong in a way people may live with.

    Attributes:
        unknown_users: Interactions whose user is not in the table of users: `error` stops, `drop`
            leaves the rows out, `keep` adds the user with empty features.
        unknown_items: Likewise for items.
        duplicates: Rows that repeat user, item, time and rating of another: `error`, `drop` (one
            stays) or `keep`.
    """

    unknown_users: Literal["error", "drop", "keep"] = "error"
    unknown_items: Literal["error", "drop", "keep"] = "error"
    duplicates: Literal["error", "drop", "keep"] = "error"


@dataclass(frozen=True)
class Schema:
    """Names of the columns as they stand in the files.

    Attributes:
        user: User id, in interactions and in users.
        item: Item id, in interactions and in items.
        time: Moment of the interaction; None when there is none, then the order of the rows counts.
        rating: Number given by the user; None when there is none, then every rating is 1.
        label: When an interaction counts as a like.
        title: What an item is called, in items; None calls items by their id.
        text: Further columns of words.
        domain: Shop, market or category of an interaction, in interactions or in items.
        lists: Column → what parts its values, such as `|` between genres.
        categorical: Columns of which only equality matters.
        numeric: Columns of numbers.
        rating_range: Lowest and highest rating that may occur.
        time_unit: Of the time column. `auto` finds out; `iso` is text; `step` counts and is no
            clock.
    """

    user: str
    item: str
    time: str | None
    rating: str | None
    label: Label
    title: str | None
    text: tuple[str, ...] = ()
    domain: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    rating_range: tuple[float, float] | None = None
    time_unit: TimeUnit = "auto"

    @property
    def features(self) -> tuple[str, ...]:
        """Declared columns beside ids, time, rating, label, domain and title."""
        return tuple(dict.fromkeys([*self.text, *self.lists, *self.categorical, *self.numeric]))

    @property
    def is_clock(self) -> bool:
        """Whether times are moments of a calendar, not mere steps."""
        return self.time is not None and self.time_unit != "step"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; the label is written as in a recipe."""
        listed = ("text", "categorical", "numeric")
        values = {**self.__dict__, **{name: list(getattr(self, name)) for name in listed}}
        span = None if self.rating_range is None else list(self.rating_range)
        label = self.label.to_value()
        return {**values, "label": label, "lists": dict(self.lists), "rating_range": span}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; also takes the `columns` section of a recipe as a dictionary."""
        listed = {name: tuple(values.get(name, ())) for name in ("text", "categorical", "numeric")}
        span = values.get("rating_range")
        changed = {
            "label": parse_label(values["label"]),
            "lists": dict(values.get("lists", {})),
            "rating_range": None if span is None else (float(span[0]), float(span[1])),
        }
        return cls(**{**values, **listed, **changed})


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
