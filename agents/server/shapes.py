"""Bodies of requests and answers, other than those of OpenAI's API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tastemaker.agents.dialogue.wish import Card
from tastemaker.agents.server.service import ChatService
from tastemaker.errors import UserError
from tastemaker.models.catalogue.conditions import Condition, Operator

__all__ = [
    "CardBody",
    "Cards",
    "ConditionBody",
    "ErrorBody",
    "FacetBody",
    "NewConversation",
    "NewMessage",
    "Problem",
    "RecommendBody",
    "SimilarBody",
    "Text",
    "conditions_of",
    "plain",
]

_MOST_NAMES = 100
_MOST_ITEMS = 100


def _whole(text: str) -> str:
    """JSON can spell halves of characters, which no file and no other program takes."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("holds half of a character") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
_NAME = Annotated[Text, Field(min_length=1, max_length=500)]
_Names = Annotated[list[_NAME], Field(max_length=_MOST_NAMES)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CardBody(_Body):
    """One item, with the evidence for it."""

    item_id: str = Field(description="Its id as in the tables.")
    title: str
    probability: float | None = Field(description="That the visitor likes it, 0 to 1.")
    values: dict[str, Any] = Field(description="What the catalogue says of it.")
    reasons: list[str] = Field(description="Short phrases, each drawn from evidence.")

    @classmethod
    def of(cls, card: Card) -> Self:
        """A card in plain values."""
        return cls(
            item_id=str(card.item_id),
            title=card.title,
            probability=plain(card.probability),
            values=plain(card.values),
            reasons=list(card.reasons),
        )


class Cards(_Body):
    """Items, the best first."""

    items: list[CardBody]

    @classmethod
    def of(cls, cards: tuple[Card, ...]) -> Self:
        """Cards in plain values."""
        return cls(items=[CardBody.of(card) for card in cards])


class ConditionBody(_Body):
    """One demand; several hold together."""

    column: Annotated[Text, Field(max_length=200)] = Field(description="A name of /api/facets.")
    operator: Operator
    values: Annotated[list[Text | float], Field(min_length=1, max_length=_MOST_NAMES)] = Field(
        description="Texts for any_of and none_of, one number for at_least and at_most."
    )


class RecommendBody(_Body):
    """For whom, and what is demanded."""

    user: _NAME | None = Field(None, description="Id of a known user; without one, a new visitor.")
    likes: _Names = Field(default=[], description="Ids or titles of items.")
    dislikes: _Names = Field(default=[], description="Ids or titles of items.")
    conditions: Annotated[list[ConditionBody], Field(max_length=_MOST_NAMES)] = []
    count: Annotated[int, Field(ge=1, le=_MOST_ITEMS)] = 10


class SimilarBody(_Body):
    """To what, and what is demanded."""

    items: Annotated[_Names, Field(min_length=1)] = Field(description="Ids or titles of items.")
    conditions: Annotated[list[ConditionBody], Field(max_length=_MOST_NAMES)] = []
    count: Annotated[int, Field(ge=1, le=_MOST_ITEMS)] = 10


class NewConversation(_Body):
    """Who talks."""

    user: _NAME | None = Field(None, description="Id of a known user; without one, a new visitor.")


class NewMessage(_Body):
    """What is said."""

    text: Annotated[Text, Field(min_length=1)]


class FacetBody(_Body):
    """A column that items can be asked for by."""

    name: str
    kind: str = Field(description="list, category or number")
    values: list[str] = Field(description="The most frequent texts first; empty for a number.")
    low: float | None
    high: float | None


class Problem(_Body):
    """Why a request was refused."""

    message: str
    type: str
    code: str


class ErrorBody(_Body):
    """A refusal, as OpenAI's API has it."""

    error: Problem


def conditions_of(bodies: list[ConditionBody], chat: ChatService) -> tuple[Condition, ...]:
    """What is demanded, checked.

    Raises:
        UserError: a column is no facet, or the values do not fit the operator.
    """
    names = [facet.name for facet in chat.facets]
    for body in bodies:
        if body.column not in names:
            raise UserError(
                f"the catalogue has no facet '{body.column}'.",
                allowed=f"facets: {', '.join(names)}",
            )
    return tuple(
        Condition(body.column, body.operator, tuple(body.values))  # type: ignore[arg-type]
        for body in bodies
    )


def plain(value: Any) -> Any:
    """A value of the catalogue as JSON can say it; a number that is none is null."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numbers and arrays of NumPy, columns of polars
        return plain(value.tolist())
    return str(value)
