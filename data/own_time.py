"""Parts by each user's own order of events, fair where the order is unknown.

Events of one user at one second have no known order. Where a border between parts falls inside such
a group, a seeded hash of (user, item) decides who comes last: neither the number of the item nor
the order of the input can (sorted files of daily data give the item number away, see S3-Rec's).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.hashing import hashed
from tastemaker.data.history import order_by
from tastemaker.data.tables import Tables

__all__ = ["follow_likes", "newest_events"]

Codes = NDArray[np.int8]
Numbers = NDArray[np.integer[Any]]
Quotas = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]


def newest_events(tables: Tables, quotas: Quotas, *, seed: int) -> Codes:
    """Give the newest events of each user to test, those before them to validation.

    Args:
        tables: Interactions in the order of time.
        quotas: Numbers of events per user, int64 [users] → how many are valid, how many test,
            int64 [users] each: both 0, or both above 0 and at least one event left for train.
        seed: Of the order among ties.

    Returns:
        0 train, 1 valid, 2 test; int8 [rows]. Sampled rows go where their like goes.
    """
    events = tables.interactions
    users, items, times = (events[name].to_numpy() for name in ("user", "item", "time"))
    rows: Numbers | None = None
    if tables.sampled is not None:
        rows = np.flatnonzero(~tables.sampled)
        users, items, times = users[rows], items[rows], times[rows]
    order, starts = order_by(users, times=times)
    codes = _by_position(starts, quotas)
    _settle_ties(order, codes, starts=starts, events=(users, items, times), seed=seed)
    parts = np.zeros(len(order), dtype=np.int8)
    parts[order] = codes
    if rows is None:
        return parts
    whole = np.zeros(events.height, dtype=np.int8)
    whole[rows] = parts
    follow_likes(tables, whole, seed=seed)
    return whole


def follow_likes(tables: Tables, codes: Codes, *, seed: int) -> None:
    """Put sampled rows into the part of the like they were drawn for, in place.

    They share its user and second. Several likes at one second share the sampled rows of that
    second evenly, in the order of a seeded hash.

    Args:
        tables: Interactions; nothing happens where none is sampled.
        codes: int8 [rows], right wherever an event happened.
        seed: Of that order.
    """
    events = tables.interactions
    sampled = tables.sampled
    if sampled is None:
        return
    users, items, times = (events[name].to_numpy() for name in ("user", "item", "time"))
    liked = ~sampled & (events["label"].to_numpy() == 1)
    # Rows of one (time, user) stand side by side.
    group = np.cumsum(_fresh(users) | _fresh(times)) - 1
    own = np.full(int(group[-1]) + 1 if len(group) else 0, -1, dtype=np.int8)
    own[group[liked]] = codes[liked]
    codes[sampled] = own[group[sampled]]

    torn = np.zeros(len(own), dtype=bool)
    torn[group[liked][codes[liked] != own[group[liked]]]] = True
    places = np.flatnonzero(torn[group] & (liked | sampled))
    keys = hashed(users[places], items[places], seed=seed)
    places = places[np.lexsort((keys, sampled[places], group[places]))]  # likes first
    _, starts, inverse, sizes = np.unique(
        group[places], return_index=True, return_inverse=True, return_counts=True
    )
    likes = np.bincount(inverse, weights=liked[places], minlength=len(sizes)).astype(np.int64)
    drawn = np.flatnonzero(sampled[places])
    which = inverse[drawn]
    turn = drawn - starts[which] - likes[which]
    like = starts[which] + turn * likes[which] // (sizes - likes)[which]
    codes[places[drawn]] = codes[places[like]]


def _by_position(starts: NDArray[np.int64], quotas: Quotas) -> Codes:
    """Part of each position when every user's events stand oldest first."""
    valid, test = quotas(np.diff(starts))
    parted = test > 0
    ends = starts[1:][parted]
    steps = np.zeros(int(starts[-1]) + 1, dtype=np.int8)
    steps[ends - test[parted] - valid[parted]] = 1
    steps[ends - test[parted]] = 1
    steps[ends] = -2  # never a place of the lines above: each user keeps a train event
    return np.cumsum(steps[:-1], dtype=np.int8)


def _settle_ties(
    order: Numbers,
    codes: Codes,
    *,
    starts: NDArray[np.int64],
    events: tuple[Numbers, Numbers, Numbers],
    seed: int,
) -> None:
    """Reorder, in place, the groups of equal user and time that hold more than one part."""
    users, items, times = events
    if not len(order):
        return
    fresh = _fresh(times[order])
    fresh[starts[:-1][np.diff(starts) > 0]] = True
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(order)) - 1
    torn = codes[first] != codes[last]
    first, lengths = first[torn], (last - first + 1)[torn]
    ends = np.cumsum(lengths)
    positions = np.arange(int(lengths.sum())) + np.repeat(first - ends + lengths, lengths)
    rows = order[positions]
    keys = hashed(users[rows], items[rows], seed=seed)
    order[positions] = rows[np.lexsort((keys, np.repeat(first, lengths)))]


def _fresh(values: Numbers) -> NDArray[np.bool_]:
    fresh = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    return fresh
