"""The checkerboard world: even users like even items, odd users odd ones, and the texts say so.

Every recommender has a known right answer here. What a user liked before tells their parity, and an
item's number, title and genre tell its own; the mean of an item or a user tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import Split
from tastemaker.data.splitters import global_time
from tastemaker.data.tables import Tables, build_tables

__all__ = ["SCHEMA", "checkerboard", "checkerboard_split", "tied_world"]

SCHEMA = Schema(
    user="user_id",
    item="item_id",
    time="timestamp",
    rating="rating",
    label=LabelRule("rating", ">", 3.0),
    title="title",
    text=("genres",),
)
_TIED = [
    (7, 1, 10, 5.0),
    (7, 2, 20, 1.0),
    (7, 3, 30, 4.0),
    (7, 4, 30, 2.0),
    (7, 5, 40, 3.5),
    (8, 2, 15, 4.0),
]
_FIRST_SECOND = 1_500_000_000
_STEP = 3600
_PARITY = ("Even", "Odd")


def checkerboard(
    n_users: int = 40, n_items: int = 40, *, events: int = 20, seed: int = 0
) -> Tables:
    """Build the world.

    Every user rates `events` random items, 5 for their own parity and 1 for the other, at random
    hours; an hour holds about three events of the whole world, so some of a user's events share
    their second.

    Args:
        n_users: Users `0` … `n_users - 1`; the dense number is the external id.
        n_items: Items, likewise.
        events: Events of each user, at most `n_items`.
        seed: Of the random generator.
    """
    random = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), events)
    items = np.concatenate([random.permutation(n_items)[:events] for _ in range(n_users)])
    hours = random.integers(max(n_users * events // 3, 3), size=len(users))
    interactions = pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": _FIRST_SECOND + _STEP * hours,
            "rating": np.where(users % 2 == items % 2, 5.0, 1.0),
        }
    )
    catalogue = pl.DataFrame(
        {
            "item_id": np.arange(n_items),
            "title": [f"{_PARITY[item % 2]} film {item}" for item in range(n_items)],
            "genres": [_PARITY[item % 2] for item in range(n_items)],
        }
    )
    people = pl.DataFrame({"user_id": np.arange(n_users)})
    return build_tables(
        interactions,
        items=catalogue,
        users=people,
        schema=SCHEMA,
        source="checkerboard",
        licence="CC0-1.0",
    )


def checkerboard_split(
    n_users: int = 40,
    n_items: int = 40,
    *,
    events: int = 20,
    seed: int = 0,
    valid_from: float = 0.7,
    test_from: float = 0.85,
) -> Split:
    """The world cut by global time; every part holds both parities."""
    tables = checkerboard(n_users, n_items, events=events, seed=seed)
    return global_time(tables, valid_from=valid_from, test_from=test_from)


def tied_world(titles: Mapping[int, str] | None = None) -> Tables:
    """Six events for checks by eye: user 7 has two at time 30, users 7 and 8 both met film 2.

    Args:
        titles: Item id (1 to 5) → title, where it is not to be `Film N`.
    """
    named = {number: f"Film {number}" for number in range(1, 6)} | dict(titles or {})
    columns = ["user_id", "item_id", "timestamp", "rating"]
    items = {"item_id": list(named), "title": list(named.values()), "genres": ["x"] * len(named)}
    return build_tables(
        pl.DataFrame(_TIED, schema=columns, orient="row"), items=pl.DataFrame(items), schema=SCHEMA
    )
