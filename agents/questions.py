"""Questions about users and items, and which events each may show.

KAR (Xi et al., RecSys 2024) §2 shows the language model only the oldest part of a history and
recommends from what follows, so no target is ever inside a prompt. Each question remembers the time
of the last event it shows; its answer may be used for later targets alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.history import Histories, Past
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.catalogue import Catalogue, Texts
from tastemaker.prompts.fields import FIELDS
from tastemaker.prompts.render import article_first, plain
from tastemaker.prompts.template import Template

__all__ = ["Cut", "Kind", "Question", "item_questions", "shown_titles", "user_questions"]

Kind = Literal["user", "item", "user_group", "item_group", "scenario"]

_BLOCK = 4096  # users at a time
_USER_FIELDS = ("profile", "history", "rated_history", "judged_history", "reviewed_history")
_ITEM_FIELDS = ("title", "intention", "topics", "category", "feedback")


@dataclass(frozen=True)
class Question:
    """What a chat model is asked about one user, item or group.

    Attributes:
        kind: What it is about.
        entity: Dense id; the number of a group.
        entity_id: External id as text.
        values: Field of a template → plain text, list or tuples (see `prompts.fields`).
        cut_time: Unix second of the last event shown; the answer must serve only targets strictly
            later. None where the text depends on no event.
        events: Interaction rows shown, oldest first.
        items: Dense ids of the items shown.
    """

    kind: Kind
    entity: int
    entity_id: str
    values: Mapping[str, Any] = field(default_factory=dict)
    cut_time: int | None = None
    events: tuple[int, ...] = ()
    items: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cut:
    """Which events of a user a question may show.

    With neither `before` nor `rows`, KAR's rule: of a user's n events the oldest
    min(⌊(n + 1) / 2⌋, cap) (KAR §2). How many those are depends on how many events came later,
    which ones they are does not.

    Attributes:
        cap: Most events shown; KAR: 30 (ML-1M), 15 (Amazon).
        before: Unix second that everything shown is earlier than; the newest `cap` are shown.
        rows: Boolean [n_interactions]: a user's events up to the first one that is not marked, such
            as those of the training part; the newest `cap` are shown.
    """

    cap: int
    before: int | None = None
    rows: NDArray[np.bool_] | None = None

    def of(self, histories: Histories, users: NDArray[np.int64], times: NDArray[np.int64]) -> Past:
        """What may be shown of each user.

        When the cut would part events of one second, all of them are left out, so that every other
        event is strictly later than the last one shown.

        Args:
            histories: Index over all interactions.
            users: int64 [n], dense ids.
            times: int64 [n_interactions].
        """
        whole = histories.oldest(users, counts=np.full(len(users), len(times)))
        if self.before is None and self.rows is None:
            return histories.oldest(users, counts=np.minimum((whole.lengths + 1) // 2, self.cap))
        allowed = np.ones(len(whole.events), dtype=np.bool_)
        if self.before is not None:
            allowed &= times[whole.events] < self.before
        if self.rows is not None:
            allowed &= self.rows[whole.events]
        counts = _leading(allowed, whole.offsets)
        return histories.oldest(users, counts=counts).newest(self.cap)


def user_questions(
    tables: Tables,
    histories: Histories,
    *,
    users: ArrayLike,
    cut: Cut,
    templates: Iterable[Template],
    factors: Sequence[str] = (),
) -> Iterator[Question]:
    """What each user's events up to the cut say about their taste; users without any are left out.

    Args:
        tables: Users, items and interactions.
        histories: Index over the interactions of `tables`.
        users: int [n], dense ids.
        cut: Which events may be shown.
        templates: What will be rendered; only their fields are prepared.
        factors: What to consider; the first template's own list when empty.

    Raises:
        UserError: a template needs other fields.
    """
    named = list(templates)
    asked = _asked(named, (*_USER_FIELDS, *_OF_CHAINS))
    makers = _user_values(tables, asked)
    times = tables.interactions["time"].to_numpy()
    shared = {"factors": _factors(named, factors)} if asked & {"factors", "factor"} else {}
    wanted, ids = np.asarray(users, dtype=np.int64), tables.users["user_id"]
    items = tables.interactions["item"].to_numpy()
    for start in range(0, len(wanted), _BLOCK):
        block = wanted[start : start + _BLOCK]
        past = cut.of(histories, block, times)
        for place, user in enumerate(block.tolist()):
            events = past[place]
            if not len(events):
                continue
            values = {name: make(user, events) for name, make in makers.items()}
            yield Question(
                kind="user",
                entity=user,
                entity_id=str(ids[user]),
                values={**shared, **values},
                cut_time=int(times[events[-1]]),
                events=tuple(events.tolist()),
                items=tuple(items[events].tolist()),
            )


def item_questions(
    tables: Tables,
    *,
    items: ArrayLike,
    templates: Iterable[Template],
    factors: Sequence[str] = (),
    reviewed: NDArray[np.int64] | None = None,
    reviews: int = 10,
) -> Iterator[Question]:
    """What is known about each item, from its columns and, where asked for, reviews.

    Args:
        tables: Gives the titles and columns.
        items: int [n], dense ids.
        templates: What will be rendered; only their fields are prepared.
        factors: Attributes to describe; the first template's own list when empty.
        reviewed: int64, interaction rows whose reviews may be shown, such as the training part's.
        reviews: Most reviews shown of an item, newest first (RLMRec gives no number).

    Raises:
        UserError: a template needs other fields.
    """
    named = list(templates)
    catalogue = Catalogue(tables)
    columns = {
        name: texts.values.to_list()
        for name in sorted(frozenset().union(*(template.asked for template in named)) - set(FIELDS))
        if (texts := catalogue.text(name)) is not None and texts.place == "items"
    }
    optional = frozenset().union(*(template.optional for template in named))
    asked = _asked(named, (*_ITEM_FIELDS, *_OF_CHAINS, *columns, *optional))
    makers: dict[str, Callable[[int], Any]] = {
        name: listed.__getitem__ for name, listed in columns.items()
    }
    makers |= _item_values(tables, catalogue, asked)
    told = _Feedback(tables, reviewed, most=reviews) if "feedback" in asked else None
    shared: dict[str, Any] = {}
    if asked & {"factors", "factor"}:
        shared["factors"] = _factors(named, factors)
    shared |= {name: "" for name in optional & asked - makers.keys()}
    ids = tables.items["item_id"]
    for item in np.asarray(items, dtype=np.int64).tolist():
        values = {name: make(item) for name, make in makers.items()}
        events: tuple[int, ...] = ()
        if told is not None:
            values["feedback"], events = told(item)
        yield Question(
            kind="item",
            entity=item,
            entity_id=str(ids[item]),
            values={**shared, **values},
            cut_time=told.newest(events) if told is not None else None,
            events=events,
            items=(item,),
        )


def shown_titles(tables: Tables) -> list[str]:
    """Title of each item as questions show it, an article in front (KAR §2)."""
    return [article_first(title) for title in Catalogue(tables).titles.to_list()]


# Fields that a chain fills in itself.
_OF_CHAINS = ("factors", "factor", "findings", "corrections")


class _Feedback:
    """Reviews of items among some interactions, newest first; none where the data has none."""

    def __init__(self, tables: Tables, rows: NDArray[np.int64] | None, *, most: int) -> None:
        texts = Catalogue(tables).text("review")
        if texts is None or texts.place != "interactions" or rows is None:
            texts, rows = Texts("interactions", pl.Series([""])), np.empty(0, dtype=np.int64)
        events = tables.interactions
        self._times = events["time"].to_numpy()
        known = rows[(texts.values.gather(rows) != "").to_numpy()]
        order = known[np.lexsort((-self._times[known], events["item"].to_numpy()[known]))]
        items = events["item"].to_numpy()[order]
        self._order, self._texts, self._most = order, texts.values, most
        self._borders = np.searchsorted(items, np.arange(tables.n_items + 1))

    def __call__(self, item: int) -> tuple[list[str], tuple[int, ...]]:
        rows = self._order[self._borders[item] : self._borders[item + 1]][: self._most]
        return self._texts.gather(rows).to_list(), tuple(rows.tolist())

    def newest(self, events: Sequence[int]) -> int | None:
        """Unix second of the newest review shown."""
        return int(self._times[list(events)].max()) if events else None


def _user_values(tables: Tables, asked: frozenset[str]) -> dict[str, Callable[[int, Any], Any]]:
    """Makers of a user's fields, each from the user and the events shown."""
    catalogue, titles = Catalogue(tables), shown_titles(tables)
    items, events = tables.interactions["item"].to_numpy(), tables.interactions

    def column(name: str) -> Callable[[NDArray[np.int64]], list[str]]:
        found = catalogue.text(name)
        if found is None:
            return lambda rows: [""] * len(rows)
        if found.place == "items":
            return lambda rows: found.values.gather(items[rows]).to_list()
        return lambda rows: found.values.gather(rows).to_list()

    def named(rows: NDArray[np.int64]) -> list[str]:
        return [titles[item] for item in items[rows].tolist()]

    def paired(other: Callable[[NDArray[np.int64]], list[str]]) -> Callable[[int, Any], Any]:
        return lambda user, rows: list(zip(named(rows), other(rows), strict=True))

    def ratings(rows: NDArray[np.int64]) -> list[str]:
        return [f"{rating:g}" for rating in events["rating"].gather(rows).to_list()]

    def judged(rows: NDArray[np.int64]) -> list[str]:
        liked = events["label"].gather(rows).to_list()
        return ["liked" if one == 1 else "disliked" for one in liked]

    phrases = catalogue.profiles.to_list() if "profile" in asked else []
    described, reviewed = column("description"), column("review")
    makers: dict[str, Callable[[int, Any], Any]] = {
        "profile": lambda user, rows: phrases[user],
        "history": lambda user, rows: named(rows),
        "rated_history": paired(ratings),
        "judged_history": paired(judged),
        "reviewed_history": lambda user, rows: list(
            zip(named(rows), described(rows), reviewed(rows), strict=True)
        ),
    }
    return {name: make for name, make in makers.items() if name in asked}


def _item_values(
    tables: Tables, catalogue: Catalogue, asked: frozenset[str]
) -> dict[str, Callable[[int], Any]]:
    titles = shown_titles(tables)
    makers: dict[str, Callable[[int], Any]] = {"title": titles.__getitem__}
    if asked & {"intention", "topics", "category"} and catalogue.categories is not None:
        listed = catalogue.categories
        column = listed.columns[0].series().to_list()

        def categories(item: int) -> list[str]:
            return column[int(listed.offsets[item]) : int(listed.offsets[item + 1])]

        makers["intention"] = lambda item: ", ".join(categories(item))
        makers["topics"] = lambda item: categories(item)[1:]
        makers["category"] = lambda item: (categories(item) or [""])[0]
    return {name: make for name, make in makers.items() if name in asked}


def _asked(templates: Sequence[Template], offered: Sequence[str]) -> frozenset[str]:
    for template in templates:
        unknown = sorted(template.asked - set(offered))
        if unknown:
            raise UserError(
                f"template '{template.name}' needs {', '.join(unknown)}, which a question of this "
                "kind has not.",
                allowed=f"fields: {', '.join(dict.fromkeys(offered))}",
            )
    return frozenset().union(*(template.asked for template in templates))


def _factors(templates: Sequence[Template], factors: Sequence[str]) -> list[str]:
    own = next((template.factors for template in templates if template.factors), ())
    # A semicolon would move the place where the encoder's text cuts the question off.
    return [plain(one).replace(";", ",") for one in factors or own]


def _leading(allowed: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of each list's first elements are all true: int64 [n]."""
    refused = np.concatenate([[0], np.cumsum(~allowed)])
    starts, stops = offsets[:-1], offsets[1:]
    # The place where the count of refused ones first exceeds that at the start of the list.
    first = np.searchsorted(refused, refused[starts], side="right") - 1
    return np.minimum(first, stops) - starts
