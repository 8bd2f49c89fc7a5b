"""A state and cards as plain values and back; items and users stand in them by external id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tastemaker.agents.dialogue.wish import Card, State
from tastemaker.data.tables import Tables
from tastemaker.models.catalogue.conditions import Condition

__all__ = ["conditions_from_plain", "plain_card", "plain_state", "state_from_plain"]

_ITEMS = ("likes", "dislikes", "similar", "shown", "last")


def plain_state(state: State, tables: Tables) -> dict[str, Any]:
    """JSON-able values; the user is not among them, a conversation knows its own."""
    ids = tables.items["item_id"]
    return {
        **{name: [str(ids[item]) for item in getattr(state, name)] for name in _ITEMS},
        "conditions": [asdict(condition) for condition in state.conditions],
        "topic": state.topic,
        "order": None if state.order is None else list(state.order),
        "count": state.count,
    }


def state_from_plain(values: Mapping[str, Any], tables: Tables, *, user: str | None) -> State:
    """Inverse of `plain_state`; items that are no longer in the catalogue are left out.

    Args:
        values: What `plain_state` made; empty for the beginning of a conversation.
        tables: Know the items and users.
        user: External id; None for a new visitor.

    Raises:
        UserError: an unknown user.
    """
    order = values.get("order")
    return State(
        user=None if user is None else tables.user_index(user),
        conditions=conditions_from_plain(values.get("conditions", ())),
        topic=values.get("topic", ""),
        order=(str(order[0]), bool(order[1])) if order else None,
        count=values.get("count"),
        **{name: _known(values.get(name, ()), tables) for name in _ITEMS},
    )


def conditions_from_plain(values: Sequence[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """Conditions from `column`, `operator` and `values`.

    Raises:
        UserError: an operator or a value that cannot be.
    """
    found = []
    for one in values:
        given = one["values"]
        listed = tuple(given) if isinstance(given, list | tuple) else (given,)
        found.append(Condition(str(one["column"]), one["operator"], listed))
    return tuple(found)


def plain_card(card: Card) -> dict[str, Any]:
    """JSON-able values of a card, its dense number left out."""
    values = asdict(card)
    del values["item"]
    return {**values, "item_id": str(card.item_id), "reasons": list(card.reasons)}


def _known(ids: Sequence[str], tables: Tables) -> tuple[int, ...]:
    found = (tables.item_number(name) for name in ids)
    return tuple(item for item in found if item is not None)
