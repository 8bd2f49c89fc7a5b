"""Collective knowledge: users and items in groups, so that one text serves all members.

REKI, the follow-up of KAR, clusters items, and users once by what they liked and once by what they
disliked, and lets a language model write one text per group. Vectors of users are means over events
that the caller names; a group's text may serve only targets later than the newest of these events,
since all of them shaped the group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import MiniBatchKMeans

from tastemaker.agents.questions import Question, shown_titles
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.render import quotable

__all__ = [
    "SIDES",
    "Side",
    "UserGroups",
    "item_group_questions",
    "item_groups",
    "user_group_questions",
    "user_groups",
    "user_vectors",
]

Whole = NDArray[np.int64]
Vectors = NDArray[np.float32]
Side = Literal["disliked", "liked"]
SIDES: tuple[Side, Side] = ("disliked", "liked")
# REKI on ML-1M: 107 groups of 3,706 items, 135 groups a side of 6,040 users.
_ITEMS_PER_GROUP, _USERS_PER_GROUP = 3706 / 107, 6040 / 135
_BLOCK = 65_536  # rows at a time
_LEARNT = 100_000  # rows that centres are found on


class UserGroups(NamedTuple):
    """Groups of users on both sides.

    Attributes:
        of: int64 [n_users, 2], the group by dislikes and the group by likes, as in REKI's files;
            -1 without events on that side.
        counts: How many groups each side has.
        events: int64, interaction rows that formed them.
    """

    of: Whole
    counts: tuple[int, int]
    events: Whole


def item_groups(vectors: ArrayLike, *, count: int | None = None, seed: int) -> Whole:
    """Group of each item by its vector, from 0, larger groups first: int64 [n].

    Args:
        vectors: Floats [n, dim]; may be a memory map.
        count: Of groups, at most one per distinct row; REKI's ratio when None.
        seed: Of the clustering.

    Rows count by their direction, not their length.

    Raises:
        UserError: no rows, a count below 1, or numbers that are not finite.
    """
    matrix = np.asanyarray(vectors)
    rows = np.arange(len(matrix))
    return _clustered(matrix, rows, count=count, ratio=_ITEMS_PER_GROUP, seed=seed)


def user_vectors(
    tables: Tables, vectors: ArrayLike, *, events: ArrayLike, side: Side
) -> tuple[Vectors, NDArray[np.bool_]]:
    """Mean vector of the items each user liked, or disliked: float32 [n_users, dim].

    Args:
        tables: Whose interactions `events` are rows of.
        vectors: Floats [n_items, dim].
        events: Integers, the interaction rows that may be used.
        side: Which label counts.

    Returns:
        The means, zero for users without such events, and who has any: bool [n_users].
    """
    matrix, rows = np.asanyarray(vectors), _of_side(tables, events, side)
    users = tables.interactions["user"].to_numpy()[rows].astype(np.int64)
    items = tables.interactions["item"].to_numpy()[rows].astype(np.int64)
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    sums = np.zeros((tables.n_users, matrix.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        found, firsts = np.unique(users[part], return_index=True)
        sums[found] += np.add.reduceat(matrix[items[part]].astype(np.float32), firsts, axis=0)
    counts = np.bincount(users, minlength=tables.n_users)
    sums /= np.maximum(counts, 1).astype(np.float32)[:, None]
    return sums, counts > 0


def user_groups(
    tables: Tables, vectors: ArrayLike, *, events: ArrayLike, count: int | None = None, seed: int
) -> UserGroups:
    """Group users by what they disliked and by what they liked.

    Args:
        tables: Users, items and interactions.
        vectors: Floats [n_items, dim].
        events: Integers, the interaction rows that may be used, such as the training part's.
        count: Of groups on each side; REKI's ratio when None.
        seed: Of the clusterings.

    Raises:
        UserError: neither likes nor dislikes among the events, or a count below 1.
    """
    rows = np.unique(np.asarray(events, dtype=np.int64))
    found = np.full((tables.n_users, 2), -1, dtype=np.int64)
    counts = [0, 0]
    for place, side in enumerate(SIDES):
        means, known = user_vectors(tables, vectors, events=rows, side=side)
        if known.any():
            groups = _clustered(
                means, np.flatnonzero(known), count=count, ratio=_USERS_PER_GROUP, seed=seed
            )
            found[known, place] = groups
            counts[place] = int(groups.max()) + 1
    if not any(counts):
        raise UserError("no user has an event to be grouped by.", remedy="Look at reason.cut.")
    return UserGroups(found, (counts[0], counts[1]), _kept(tables, rows))


def item_group_questions(
    tables: Tables,
    groups: ArrayLike,
    vectors: ArrayLike,
    *,
    factors: Sequence[str],
    members: int = 20,
) -> Iterator[Question]:
    """One question per group of items, for `kar/group_items`; depends on no event.

    Args:
        tables: Gives the titles.
        groups: int64 [n_items], see `item_groups`.
        vectors: Floats [n_items, dim].
        factors: What to consider.
        members: Most titles shown: the nearest to the centre first, then spread outwards.
    """
    titles, matrix = shown_titles(tables), np.asanyarray(vectors)
    for number, items in enumerate(_members(np.asarray(groups, dtype=np.int64))):
        shown = _central(items, matrix, most=members)
        yield Question(
            kind="item_group",
            entity=number,
            entity_id=str(number),
            values={"members": _distinct(titles, shown), "factors": _factors(factors)},
            items=tuple(shown),
        )


def user_group_questions(
    tables: Tables,
    groups: UserGroups,
    *,
    side: Side,
    factors: Sequence[str],
    members: int = 20,
) -> Iterator[Question]:
    """One question per group of users on one side, for `kar/group_users_liked` or `_disliked`.

    The titles are those most often liked (or disliked) in the group. `events` are the rows that
    show them; `cut_time` is the newest event that formed any group of this side, for one event can
    move the borders of all. The entity's id begins with the side: `liked-3`.

    Args:
        tables: Users, items and interactions.
        groups: See `user_groups`.
        side: Of the users.
        factors: What to consider.
        members: Most titles shown.
    """
    titles, frame = shown_titles(tables), tables.interactions
    rows = _of_side(tables, groups.events, side)
    place = SIDES.index(side)
    owners = groups.of[frame["user"].to_numpy()[rows], place]
    order = np.argsort(owners, kind="stable")
    rows, borders = rows[order], np.searchsorted(owners[order], np.arange(groups.counts[place] + 1))
    items = frame["item"].to_numpy()[rows].astype(np.int64)
    cut_time = int(frame["time"].to_numpy()[rows].max(initial=0))
    for number in range(groups.counts[place]):
        part = slice(int(borders[number]), int(borders[number + 1]))
        found, first, counted = np.unique(items[part], return_index=True, return_counts=True)
        shown = found[np.lexsort((first, -counted))][:members]
        events = rows[part][np.isin(items[part], shown)]
        yield Question(
            kind="user_group",
            entity=number,
            entity_id=f"{side}-{number}",
            values={"members": _distinct(titles, shown.tolist()), "factors": _factors(factors)},
            cut_time=cut_time,
            events=tuple(np.sort(events).tolist()),
            items=tuple(shown.tolist()),
        )


def _clustered(
    matrix: NDArray[np.floating], rows: Whole, *, count: int | None, ratio: float, seed: int
) -> Whole:
    """Cluster rows; groups are numbered by size, then by first member, and none is empty."""
    wanted = max(1, round(len(rows) / ratio)) if count is None else count
    if wanted < 1:
        raise UserError(f"{wanted} groups cannot be made.", allowed="1 or more")
    if not len(rows):
        raise UserError("there is nothing to group.")
    generator = np.random.default_rng(seed)
    sample = _rows(matrix, rows[np.sort(generator.permutation(len(rows))[:_LEARNT])])
    model = MiniBatchKMeans(
        min(wanted, len({row.tobytes() for row in sample})),
        random_state=seed,
        n_init=3,
        batch_size=4096,
        max_iter=100,
        reassignment_ratio=0.0,
    ).fit(sample)
    found = [
        model.predict(_rows(matrix, rows[start : start + _BLOCK]))
        for start in range(0, len(rows), _BLOCK)
    ]
    return _renumbered(np.concatenate(found).astype(np.int64))


def _rows(matrix: NDArray[np.floating], rows: Whole) -> Vectors:
    """Some rows at unit length, so that distance is direction; rows of zeros stay."""
    part = np.asarray(matrix[rows], dtype=np.float32)
    lengths = np.linalg.norm(part, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise UserError(
            "vectors to be grouped hold numbers that are not finite.",
            remedy="Encode the texts again; half precision may be too narrow for the encoder.",
        )
    return (part / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _renumbered(groups: Whole) -> Whole:
    """Numbers from 0 without gaps: larger groups first, then by their first member."""
    _, first, places, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    ranks = np.empty(len(sizes), dtype=np.int64)
    ranks[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return ranks[places]


def _members(groups: Whole) -> Iterator[Whole]:
    order = np.argsort(groups, kind="stable")
    borders = np.searchsorted(groups[order], np.arange(int(groups.max(initial=-1)) + 2))
    for start, stop in pairwise(borders.tolist()):
        yield order[start:stop]


def _central(items: Whole, matrix: NDArray[np.floating], *, most: int) -> list[int]:
    """Half of them the nearest to the centre, the others evenly from near to far."""
    part = _rows(matrix, items)
    centre = part.mean(axis=0)
    near = items[np.argsort(((part - centre) ** 2).sum(axis=1), kind="stable")]
    if len(near) <= most:
        return [int(one) for one in near]
    half = (most + 1) // 2
    rest = np.linspace(half, len(near) - 1, most - half).round().astype(np.int64)
    return [int(one) for one in np.concatenate([near[:half], near[rest]])]


def _of_side(tables: Tables, events: ArrayLike, side: Side) -> Whole:
    """Rows of one label that happened, each once, oldest first."""
    rows = _kept(tables, np.unique(np.asarray(events, dtype=np.int64)))
    labels = tables.interactions["label"].to_numpy()[rows]
    return rows[(labels == 1) == (side == "liked")]


def _kept(tables: Tables, rows: Whole) -> Whole:
    """Without events that were drawn and never happened."""
    return rows if tables.sampled is None else rows[~tables.sampled[rows]]


def _distinct(titles: Sequence[str], items: Iterable[int]) -> list[str]:
    return list(dict.fromkeys(titles[item] for item in items))


def _factors(factors: Sequence[str]) -> list[str]:
    return [quotable(one).replace(";", ",") for one in factors]
