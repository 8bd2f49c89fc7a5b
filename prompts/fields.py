"""The fields a template may use: what each means, what form it has, and what it gives away.

Any other name is a column of the data: of the items (the target's), the users or the interactions,
shown as text. All values are plain texts, lists of them, or lists of tuples of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FIELDS", "INDEX_FIELDS", "Field", "Kind", "field_named"]

Kind = Literal["text", "texts", "tuples"]
Role = Literal["user", "item", "past", "choice", "outcome", "constant", "chain", "column"]


@dataclass(frozen=True)
class Field:
    """One value of a prompt.

    Attributes:
        name: As templates write it.
        meaning: What it is.
        kind: A text, a list of texts, or a list of tuples of texts.
        role: Whether it is about the user, the target item, the past before the target, the
            candidates, the outcome (known only after the target), the data as a whole, or made by
            a reasoning chain, so that only the chain can ask it.
        reveals: What is given away by showing it: fields that share it must not stand in both
            prompt and answer. Empty: nothing.
        parts: Names of the places of a tuple.
    """

    name: str
    meaning: str
    kind: Kind = "text"
    role: Role = "column"
    reveals: str = ""
    parts: tuple[str, ...] = ()


def _user(name: str, meaning: str) -> Field:
    return Field(name, meaning, role="user")


def _item(name: str, meaning: str) -> Field:
    return Field(name, meaning, role="item", reveals="item")


def _past(name: str, meaning: str) -> Field:
    return Field(name, meaning, kind="texts", role="past")


def _outcome(name: str, meaning: str) -> Field:
    return Field(name, meaning, role="outcome", reveals=name)


def _constant(name: str, meaning: str) -> Field:
    return Field(name, meaning, role="constant")


def _chain(name: str, meaning: str, *, kind: Kind = "text", parts: tuple[str, ...] = ()) -> Field:
    return Field(name, meaning, kind=kind, role="chain", parts=parts)


_ALL = (
    _user("user_id", "id of the user, as in the tables"),
    _user("user_index", "number of the user, from 1"),
    _user(
        "user_name", "name of the user (column user_name or name), or the id where there is none"
    ),
    _user("profile", "phrase from the columns of the users table, or nothing"),
    Field(
        "user_attributes",
        "(name, value) of each column of the users table",
        kind="tuples",
        role="user",
        parts=("name", "value"),
    ),
    _item("title", "title of the target item"),
    _item("item_id", "id of the target item, as in the tables"),
    _item("item_index", "what the target item is called under the recipe's item indexing"),
    Field(
        "attributes",
        "(name, value) of each column of the target item, its title first",
        kind="tuples",
        role="item",
        reveals="item",
        parts=("name", "value"),
    ),
    Field("category", "first category of the target item", role="item", reveals="category"),
    Field(
        "topics",
        "categories of the target item after its first",
        kind="texts",
        role="item",
        reveals="topics",
    ),
    Field("topic_count", "number of topics", role="item"),
    Field("intention", "categories of the target item, joined by commas", role="item"),
    Field(
        "vague_intention",
        "a need in the first person, from one category of the target item",
        role="item",
    ),
    _past("history", "titles of the newest events before the target, oldest first"),
    _past("history_index", "the same items under the recipe's item indexing"),
    _past("liked", "titles of those events of the history that were liked, oldest first"),
    _past("disliked", "titles of the other events of the history, oldest first"),
    _past("liked_before", "titles of the newest likes before the target in all domains"),
    _past("liked_before_index", "the same items under the recipe's item indexing"),
    Field(
        "rated_history",
        "(title, rating) of the history, oldest first",
        kind="tuples",
        role="past",
        parts=("title", "rating"),
    ),
    Field(
        "judged_history",
        "(title, liked or disliked) of the history, oldest first",
        kind="tuples",
        role="past",
        parts=("title", "judgement"),
    ),
    Field(
        "reviewed_history",
        "(title, description, review) of the history, oldest first",
        kind="tuples",
        role="past",
        parts=("title", "description", "review"),
    ),
    *(
        Field(
            f"{side}_works",
            f"(title, author) of the history's {side} events, oldest first",
            kind="tuples",
            role="past",
            parts=("title", "author"),
        )
        for side in ("liked", "disliked")
    ),
    Field(
        "preference", "taste in a phrase, from the categories of the history's likes", role="past"
    ),
    _past("feedback", "reviews of the item from the training part, newest first"),
    Field(
        "candidates", "titles to choose from, the target among them", kind="texts", role="choice"
    ),
    Field(
        "candidates_index",
        "the same items under the recipe's item indexing",
        kind="texts",
        role="choice",
    ),
    _outcome("rating", "rating of the target"),
    _outcome("review", "text the user wrote about the target"),
    _outcome("headline", "headline of that text"),
    _outcome("explanation", "sentence that says why the user chose the target"),
    Field("feature", "word that the explanation is about", role="outcome"),
    Field("asked_rating", "the rating half of the time, else another", role="outcome"),
    _constant("lowest", "lowest rating"),
    _constant("highest", "highest rating"),
    _constant("source", "name of the data"),
    _constant("separator", "' , ' or ' -> ', half of the time each (P5)"),
    Field("factors", "what to consider, from the front matter", kind="texts", role="constant"),
    Field("domain", "domain of the target", role="item"),
    _chain("factor", "the one factor that a sub-question is about"),
    _chain(
        "findings",
        "(factor, text) of the sub-questions answered",
        kind="tuples",
        parts=("factor", "text"),
    ),
    _chain("members", "titles that a group is known by", kind="texts"),
    _chain("things", "what is recommended, in the plural, such as movies"),
    _chain("examples", "a few titles of the catalogue", kind="texts"),
    _chain(
        "corrections",
        "(claim, fact): sentences of an answer, and what the catalogue says",
        kind="tuples",
        parts=("claim", "fact"),
    ),
)
# Those that call items by number.
INDEX_FIELDS = frozenset({"item_index", "history_index", "liked_before_index", "candidates_index"})
FIELDS: dict[str, Field] = {field.name: field for field in _ALL}


def field_named(name: str) -> Field:
    """The field of this name; a column of the data where the catalogue has none.

    >>> field_named("brand").role
    'column'
    """
    return FIELDS.get(name) or Field(name, f"column {name} of the data")
