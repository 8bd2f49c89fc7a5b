"""What a tool-calling model may do: LangChain tools with typed arguments over one visitor's desk.

No tool takes a user: the visitor is fixed by whoever runs the conversation, so nothing a text says
can open the history of somebody else. The demands the visitor stated are added to every search.
Beside the text for the model, each result carries the dense items it speaks of, as its artifact.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tastemaker.agents.dialogue.desk import Desk
from tastemaker.agents.dialogue.wish import State
from tastemaker.errors import TastemakerError, UserError
from tastemaker.models.catalogue.conditions import Condition, Operator
from tastemaker.prompts.render import plain

__all__ = ["ConditionArgument", "Told", "desk_tools"]

_MOST = 20  # items of one answer of a tool
_MOST_CONDITIONS, _MOST_VALUES = 20, 50
_NAME = 200  # characters of a title or an id that a model may write
_REFUSAL = 600  # characters
_BOUNDS = ("at_least", "at_most")


def _as_text(value: Any) -> Any:
    """Whole numbers as text: models write the ids of many catalogues as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    """A single value as a list of one."""
    return [value] if isinstance(value, str | int | float) else value


_ItemId = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=_NAME)]
_ItemIds = Annotated[list[_ItemId], BeforeValidator(_as_list), Field(min_length=1)]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, told: Any) -> Any:
        """Models write null for what they leave out."""
        if not isinstance(told, dict):
            return told
        return {name: value for name, value in told.items() if value is not None}


class ConditionArgument(_Arguments):
    """A demand on a column of the catalogue."""

    column: str = Field(description="a column named by the catalogue", max_length=_NAME)
    operator: Operator = Field(
        description="any_of, none_of for texts; at_least, at_most for a column of numbers"
    )
    values: Annotated[list[str | int | float], BeforeValidator(_as_list)] = Field(
        min_length=1,
        max_length=_MOST_VALUES,
        description="texts of that column; for a bound, one number",
    )

    def condition(self) -> Condition:
        """The same as the catalogue takes it.

        Raises:
            UserError: a bound that is no finite number.
        """
        if self.operator in _BOUNDS:
            return Condition(self.column, self.operator, tuple(_number(one) for one in self.values))
        return Condition(self.column, self.operator, tuple(str(one) for one in self.values))


_Conditions = Annotated[list[ConditionArgument], Field(max_length=_MOST_CONDITIONS)]


class LookUp(_Arguments):
    """Arguments of `look_up_items`."""

    name: str = Field(min_length=1, max_length=_NAME, description="a title, also misspelt")
    count: int = Field(5, ge=1, le=_MOST)


class Filter(_Arguments):
    """Arguments of `filter_items`."""

    conditions: _Conditions = []
    topic: str = Field("", max_length=500, description="words to search by; may be empty")
    order: str = Field("", description="column of numbers to sort by; empty: by taste")
    highest_first: bool = True
    count: int = Field(10, ge=1, le=_MOST)


class Similar(_Arguments):
    """Arguments of `similar_items`."""

    item_ids: _ItemIds = Field(max_length=_MOST)
    conditions: _Conditions = []
    by: Literal["text", "collaborative", "both"] = Field(
        "both", description="what is said of them, who likes them, or both"
    )
    count: int = Field(10, ge=1, le=_MOST)


class Recommend(_Arguments):
    """Arguments of `recommend_items`."""

    conditions: _Conditions = []
    count: int = Field(10, ge=1, le=_MOST)


class Score(_Arguments):
    """Arguments of `score_items`."""

    item_ids: _ItemIds = Field(max_length=_MOST)


class Past(_Arguments):
    """Arguments of `visitor_history`."""

    count: int = Field(10, ge=1, le=50)


class Explain(_Arguments):
    """Arguments of `explain_item`."""

    item_id: _ItemId


@dataclass(frozen=True)
class Told:
    """What the result of a tool speaks of; the artifact of its message.

    Attributes:
        items: Dense numbers of what it found, to be offered where they satisfy the demands.
        past: Dense numbers of what the visitor chose before.
    """

    items: tuple[int, ...] = ()
    past: tuple[int, ...] = ()


_OFFERS: tuple[tuple[str, str, type[BaseModel], str], ...] = (
    (
        "look_up_items",
        "look_up",
        LookUp,
        "Items of the catalogue by name, also misspelt, best match first.",
    ),
    (
        "filter_items",
        "filter",
        Filter,
        "Items that satisfy conditions, optionally about a topic, best for the visitor first. "
        "Columns: COLUMNS.",
    ),
    (
        "similar_items",
        "similar",
        Similar,
        "Items new to the visitor that resemble the given ones.",
    ),
    (
        "recommend_items",
        "recommend",
        Recommend,
        "What the trained recommender would give this visitor now.",
    ),
    (
        "score_items",
        "score",
        Score,
        "How probably the visitor likes given items, 0 to 1, best first.",
    ),
    (
        "visitor_history",
        "history",
        Past,
        "What this visitor chose before, newest first, and what is known of their taste.",
    ),
    (
        "explain_item",
        "explain",
        Explain,
        "What is known of an item, and which past items and knowledge speak for or against it.",
    ),
)


def desk_tools(desk: Desk, state: State) -> list[BaseTool]:
    """The tools of one conversation.

    Args:
        desk: What they look into.
        state: Who the visitor is, and the demands that every search must satisfy.
    """
    drawer = _Drawer(desk, state)
    return [
        StructuredTool.from_function(
            _answering(getattr(drawer, method)),
            name=name,
            description=about.replace("COLUMNS", desk.columns_told),
            args_schema=arguments,
            handle_tool_error=True,
            handle_validation_error=_refusal,
            response_format="content_and_artifact",
        )
        for name, method, arguments, about in _OFFERS
    ]


_Result = tuple[dict[str, Any], Told]


class _Drawer:
    """What the tools do: plain values for JSON, and the items they speak of."""

    def __init__(self, desk: Desk, state: State) -> None:
        self._desk, self._state = desk, state

    def look_up(self, name: str, count: int) -> _Result:
        found = [hit.item for hit in self._desk.catalogue.lookup(name, count=count)]
        return self._items(found, note="" if found else "the catalogue has nothing of that name")

    def filter(
        self,
        conditions: Sequence[ConditionArgument],
        topic: str,
        order: str,
        highest_first: bool,
        count: int,
    ) -> _Result:
        by = (self._desk.number(order), highest_first) if order else None
        state = self._narrowed(conditions)
        return self._planned(self._desk.asked(state, topic=topic, order=by, count=count))

    def similar(
        self,
        item_ids: Sequence[str],
        conditions: Sequence[ConditionArgument],
        by: Literal["text", "collaborative", "both"],
        count: int,
    ) -> _Result:
        given, state = self._desk.numbers(item_ids), self._narrowed(conditions)
        met = self._desk.recommender.met(self._desk.visitor(state)).tolist()
        hits = self._desk.catalogue.similar(
            given, conditions=state.conditions, count=count, by=by, without=[*given, *met]
        )
        found = [hit.item for hit in hits]
        return self._items(found, note="" if found else "nothing new that fits resembles it")

    def recommend(self, conditions: Sequence[ConditionArgument], count: int) -> _Result:
        state = self._narrowed(conditions)
        return self._planned(self._desk.asked(state, topic="", order=None, count=count))

    def score(self, item_ids: Sequence[str]) -> _Result:
        given = dict.fromkeys(self._desk.numbers(item_ids))
        ranked = self._desk.planner.ranked([*given], self._desk.visitor(self._state))
        items = [item for item, _ in ranked]
        return self._items(items, chances=[chance for _, chance in ranked])

    def history(self, count: int) -> _Result:
        visitor = self._desk.visitor(self._state)
        past = self._desk.recommender.history(visitor, count=count)
        told = Told(past=tuple(one.item for one in past))
        return self._desk.past(self._state, count=count), told

    def explain(self, item_id: str) -> _Result:
        (item,) = self._desk.numbers([item_id])
        drivers = self._desk.influences(item, self._state)
        past = tuple(one.item for one in drivers if one.item is not None)
        return self._desk.explained(item, self._state), Told((item,), past)

    def _narrowed(self, conditions: Sequence[ConditionArgument]) -> State:
        return self._desk.narrowed(self._state, [one.condition() for one in conditions])

    def _planned(self, state: State) -> _Result:
        planner = self._desk.planner
        plan = planner.plan(state)
        if plan.items:
            return self._items(plan.items, chances=plan.probabilities, fitting=plan.allowed)
        seen = planner.plan(replace(state, shown=()))
        if seen.items:
            note = "all that fit have been shown in this conversation already"
            return self._items(seen.items, chances=seen.probabilities, note=note)
        return {"items": [], "note": f"nothing fits; {plain(self._desk.nothing(plan))}"}, Told()

    def _items(
        self,
        items: Sequence[int],
        *,
        chances: Sequence[float] = (),
        fitting: int | None = None,
        note: str = "",
    ) -> _Result:
        """Items as plain values, with how probable a like is where that is known.

        Args:
            items: Dense numbers.
            chances: Probability of a like for each, or nothing.
            fitting: How many items fit altogether.
            note: Said with them.
        """
        told = self._desk.told(items, state=self._state)
        if chances:
            for one, chance in zip(told, chances, strict=True):
                one["probability"] = round(chance, 3)
        result: dict[str, Any] = {"items": told}
        if fitting is not None:
            result["fitting"] = fitting
        if note:
            result["note"] = note
        return result, Told(tuple(items))


def _answering(function: Callable[..., _Result]) -> Callable[..., tuple[str, Told]]:
    """The same function, its result as JSON, its refusals as something the model can read."""

    def call(**arguments: Any) -> tuple[str, Told]:
        try:
            result, told = function(**arguments)
        except TastemakerError as error:
            raise ToolException(_refused(str(error))) from None
        return json.dumps(result, ensure_ascii=False, default=_plain), told

    return call


def _refusal(error: Any) -> str:
    if not isinstance(error, ValidationError):
        return _refused("the arguments cannot be read")
    parts = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return _refused("; ".join(parts))


def _refused(why: str) -> str:
    return f"refused: {plain(why)[:_REFUSAL]}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _number(value: str | float) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise UserError(f"'{str(value)[:_NAME]}' is no number.") from None
