"""What a wish demands of items, typed; as SQL for the store and as a check of one item.

Both say the same of every item, and a missing value satisfies nothing but `none_of`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tastemaker.errors import UserError

__all__ = ["OPERATORS", "Condition", "Operator", "holds", "to_sql"]

Operator = Literal["any_of", "none_of", "at_least", "at_most"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
_BOUNDS = ("at_least", "at_most")


@dataclass(frozen=True)
class Condition:
    """One demand; several hold together.

    Attributes:
        column: A facet of the catalogue.
        operator: `any_of` and `none_of` compare with the values of a category or a list;
            `at_least` and `at_most` are bounds, included, of a number.
        values: Texts as they stand in the catalogue, one or more; for a bound, one number.

    Raises:
        UserError: the values do not fit the operator.
    """

    column: str
    operator: Operator
    values: tuple[str, ...] | tuple[float, ...]

    def __post_init__(self) -> None:
        if self.operator in _BOUNDS:
            fits = len(self.values) == 1 and _is_finite(self.values[0])
            wanted = "one finite number"
        else:
            fits = bool(self.values) and all(isinstance(value, str) for value in self.values)
            wanted = "one or more texts"
        if self.operator not in OPERATORS or not fits:
            raise UserError(
                f"condition '{self.column} {self.operator} {self.values!r}' cannot be used.",
                allowed=f"operators {', '.join(OPERATORS)}; {self.operator} takes {wanted}",
            )

    def __str__(self) -> str:
        """In words, such as `genres: Comedy or Drama`, `year: at most 1994`."""
        if self.operator in _BOUNDS:
            return f"{self.column}: {self.operator.replace('_', ' ')} {self.values[0]:g}"
        joined = " or ".join(map(str, self.values))
        return f"{self.column}: {'not ' if self.operator == 'none_of' else ''}{joined}"


def holds(conditions: Iterable[Condition], values: Mapping[str, Any]) -> bool:
    """Whether an item satisfies all conditions.

    Args:
        conditions: What is demanded.
        values: Column → the item's value: a list of texts, a text, a number, or None.
    """
    return all(_holds(condition, values.get(condition.column)) for condition in conditions)


def to_sql(conditions: Sequence[Condition], *, lists: Iterable[str]) -> str:
    """The conditions as a filter of the store, empty when there are none.

    Names and texts are quoted, so that nothing in them is read as SQL.

    Args:
        conditions: What is demanded.
        lists: Columns that hold several texts a row.
    """
    several = frozenset(lists)
    return " AND ".join(_to_sql(one, is_list=one.column in several) for one in conditions)


def _holds(condition: Condition, value: Any) -> bool:
    if condition.operator in _BOUNDS:
        if not _is_finite(value):
            return False
        bound = float(condition.values[0])
        return bool(value >= bound if condition.operator == "at_least" else value <= bound)
    present = {value} if isinstance(value, str) else set(value or ())
    found = not present.isdisjoint(condition.values)
    return found == (condition.operator == "any_of")


def _to_sql(condition: Condition, *, is_list: bool) -> str:
    column = f"`{condition.column.replace('`', '``')}`"
    if condition.operator in _BOUNDS:
        sign = ">=" if condition.operator == "at_least" else "<="
        return f"({column} {sign} {float(condition.values[0])!r})"
    texts = ", ".join(_quoted(str(value)) for value in condition.values)
    inside = f"array_has_any({column}, [{texts}])" if is_list else f"{column} IN ({texts})"
    if condition.operator == "any_of":
        return f"({column} IS NOT NULL AND {inside})"
    return f"({column} IS NULL OR NOT {inside})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
