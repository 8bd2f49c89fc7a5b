"""What one message asks for, what a conversation has come to ask for, and what an answer holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tastemaker.models.catalogue.conditions import Condition

__all__ = ["ACTS", "Act", "Card", "Event", "State", "Step", "Wish"]

Act = Literal[
    "recommend", "more", "why", "like", "dislike", "about", "history", "reset", "small_talk"
]
ACTS: tuple[Act, ...] = get_args(Act)


@dataclass(frozen=True)
class Step:
    """A bound relative to what was shown last: "older ones", "something shorter".

    Attributes:
        column: A number of the catalogue.
        direction: `lower` than all items shown last, or `higher`.
    """

    column: str
    direction: Literal["lower", "higher"]


@dataclass(frozen=True)
class Wish:
    """One message, understood. Items are dense numbers of the catalogue.

    Attributes:
        act: `recommend` asks for items, also by refining what was asked before; `more` for others
            like those; `why` for reasons; `like` and `dislike` judge items; `about` asks what an
            item is; `history` what the visitor chose before; `reset` begins anew; `small_talk`
            asks for nothing.
        conditions: Demands of this message.
        withdrawn: Columns whose earlier conditions no longer hold ("any year will do").
        likes: Items the visitor says to like.
        dislikes: Items the visitor says to dislike.
        similar: Items that the recommended ones should resemble.
        mentioned: Items named otherwise, such as those asked about.
        unknown: Titles named that the catalogue does not have, as they were written.
        topic: Words to search by that are no condition; may be empty.
        steps: Bounds relative to the last answer.
        order: Column of numbers to sort by, and whether the highest come first; None: by taste.
        count: How many items; None: as usual.
        places: Places in the last answer that are meant ("the second"), from 1.
        lifted: (column, value) pairs that are neither demanded nor refused any longer ("horror is
            fine again", "forget the comedy part").
        additional: Whether demanded values come on top of earlier ones of their column ("also
            romantic") instead of replacing them.
        unchecked: Demands, as they were said, that no column of the catalogue can check ("gore"
            of "no gore"); an answer must not claim them.
    """

    act: Act = "recommend"
    conditions: tuple[Condition, ...] = ()
    withdrawn: tuple[str, ...] = ()
    likes: tuple[int, ...] = ()
    dislikes: tuple[int, ...] = ()
    similar: tuple[int, ...] = ()
    mentioned: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()
    topic: str = ""
    steps: tuple[Step, ...] = ()
    order: tuple[str, bool] | None = None
    count: int | None = None
    places: tuple[int, ...] = ()
    lifted: tuple[tuple[str, str], ...] = ()
    additional: bool = False
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What a conversation has come to. Items are dense numbers.

    Attributes:
        user: Dense number of a known user whose history counts; None: a new visitor.
        conditions: Demands that hold now.
        likes: Judged so in this conversation, in that order, each once.
        dislikes: Likewise.
        similar: Items that the recommended ones should resemble.
        topic: Words to search by.
        order: As in `Wish`.
        count: Items per answer; None: as usual.
        shown: Every item shown since the demands last changed.
        last: Items of the last answer, in their order.
    """

    user: int | None = None
    conditions: tuple[Condition, ...] = ()
    likes: tuple[int, ...] = ()
    dislikes: tuple[int, ...] = ()
    similar: tuple[int, ...] = ()
    topic: str = ""
    order: tuple[str, bool] | None = None
    count: int | None = None
    shown: tuple[int, ...] = ()
    last: tuple[int, ...] = ()


@dataclass(frozen=True)
class Card:
    """One item of an answer, with the evidence for it.

    Attributes:
        item: Dense number.
        item_id: External id.
        title: As in the catalogue.
        probability: That the visitor likes it, 0 to 1; None without a recommender.
        values: What the catalogue says: column → value, for people.
        reasons: Short phrases, each drawn from evidence: met demands, history, knowledge.
    """

    item: int
    item_id: Any
    title: str
    probability: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """A piece of an answer.

    Attributes:
        kind: `cards`: the items; `text`: the next words; `done`: the answer is whole and kept.
        text: Of `text`; of `done`, the whole answer.
        cards: Of `cards` and `done`.
    """

    kind: Literal["text", "cards", "done"]
    text: str = ""
    cards: tuple[Card, ...] = ()
