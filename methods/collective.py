"""Collective knowledge (REKI): one text per group of users or items, handed to all its members.

item texts ─ encoder ─ groups of items ─────────────────────────┐
└─ means over each user's likes, dislikes ─ groups of users ─┴─ questions ─ chain ─ rows
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.agents.groups import (
    SIDES,
    UserGroups,
    item_group_questions,
    item_groups,
    user_group_questions,
    user_groups,
)
from tastemaker.agents.questions import Question
from tastemaker.agents.reasoning import Asks, Reasoned, Single
from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.errors import RecipeError
from tastemaker.methods.asking import factors_of
from tastemaker.models.encoders import load_encoder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.template import find_template
from tastemaker.recipe import ReasonConfig

__all__ = ["TEMPLATES", "check_collective", "collective_rows"]

TEMPLATES = {
    "item_group": "kar/group_items",
    "disliked": "kar/group_users_disliked",
    "liked": "kar/group_users_liked",
}
_TITLES = {"disliked": "Disliked", "liked": "Liked"}


def check_collective(config: ReasonConfig) -> None:
    """Refuse a cut that differs from user to user: groups mix the events of all.

    Raises:
        RecipeError: `reason.cut` is `oldest_half`.
    """
    if config.chain == "collective" and config.cut == "oldest_half":
        raise RecipeError(
            "reason.cut = oldest_half: a group's text serves only targets later than every event "
            "that formed the group, which leaves hardly any.",
            allowed="train, or a moment such as 1998-01-01 after which texts may be used",
            remedy="Set reason.cut; a moment inside the training part lets training use the texts.",
        )


def collective_rows(
    config: ReasonConfig,
    asker: Asks,
    split: Split,
    *,
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    events: NDArray[np.int64],
    seed: int,
) -> Iterator[tuple[list[Reasoned], list[dict[str, Any]]]]:
    """What was found out about groups, and the rows of their members.

    Args:
        config: Section `reason`.
        asker: Answers.
        split: Whose tables are grouped.
        users: int64 [n], dense ids of those who get a row.
        items: int64 [m], likewise.
        events: int64, interaction rows that may be used.
        seed: Of the clusterings.

    Yields:
        Results of the items' groups and rows of the items, then those of the users.
    """
    wanted, tables = config.collective, split.tables
    vectors = _item_vectors(config, tables)
    if len(items):
        groups = item_groups(vectors, count=wanted.item_groups, seed=seed)
        questions = item_group_questions(
            tables,
            groups,
            vectors,
            factors=factors_of(config, "item"),
            members=wanted.members,
        )
        found = _asked(asker, "item_group", questions)
        yield found, _item_rows(tables, items, groups, found)
    if len(users):
        formed = user_groups(tables, vectors, events=events, count=wanted.user_groups, seed=seed)
        sides: dict[str, list[Reasoned]] = {}
        for side in SIDES:
            questions = user_group_questions(
                tables,
                formed,
                side=side,
                factors=factors_of(config, "user"),
                members=wanted.members,
            )
            sides[side] = _asked(asker, side, questions)
        rows = _user_rows(tables, users, formed, sides)
        yield [one for found in sides.values() for one in found], rows


def _asked(asker: Asks, name: str, questions: Iterator[Question]) -> list[Reasoned]:
    template = find_template(TEMPLATES[name])
    kind = "item_group" if name == "item_group" else "user_group"
    return Single(asker, {kind: template}).batch(list(questions))


def _item_vectors(config: ReasonConfig, tables: Tables) -> NDArray[np.float32]:
    """One vector per item, from its title and columns."""
    columns = Catalogue(tables).attributes
    names, values = (column.series().to_list() for column in columns.columns)
    borders = columns.offsets.tolist()
    texts = [
        "; ".join(f"{names[place]}: {values[place]}" for place in range(start, stop))
        for start, stop in pairwise(borders)
    ]
    return load_encoder(config.collective.encoder).encode(texts)


def _item_rows(
    tables: Tables, items: NDArray[np.int64], groups: NDArray[np.int64], found: Sequence[Reasoned]
) -> list[dict[str, Any]]:
    ids = tables.items["item_id"]
    return [
        _row("item", item, str(ids[item]), [found[groups[item]]], found[groups[item]].text)
        for item in items.tolist()
        if found[groups[item]].text
    ]


def _user_rows(
    tables: Tables,
    users: NDArray[np.int64],
    formed: UserGroups,
    sides: Mapping[str, Sequence[Reasoned]],
) -> list[dict[str, Any]]:
    ids, rows = tables.users["user_id"], []
    for user in users.tolist():
        mine = {
            side: sides[side][group]
            for side, group in zip(SIDES, formed.of[user].tolist(), strict=True)
            if group >= 0 and sides[side][group].text
        }
        if mine:
            text = "\n".join(f"{_TITLES[side]}: {one.text}" for side, one in mine.items())
            rows.append(_row("user", user, str(ids[user]), list(mine.values()), text))
    return rows


def _row(
    kind: str, entity: int, entity_id: str, groups: Sequence[Reasoned], text: str
) -> dict[str, Any]:
    cuts = [one.question.cut_time for one in groups if one.question.cut_time is not None]
    return {
        "kind": kind,
        "entity": entity,
        "entity_id": entity_id,
        "cut_time": max(cuts, default=None),
        "events": [],
        "key": groups[-1].last.key,
        "prompt": "\n".join(one.last.messages[-1]["content"] for one in groups),
        "text": text,
        "encoder_text": " ".join(text.split()),
        "finish_reason": getattr(groups[-1].last, "finish_reason", ""),
        "requests": len(groups),
        "dropped": [],
    }
