"""Plain numbers about a data set and its split, for the terminal and the report."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl

from tastemaker.data.history import Histories
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.tables import Tables

__all__ = ["describe"]

_PERCENTILES = (10, 50, 90)


def describe(tables: Tables, split: Split | None = None) -> dict[str, int | float | str]:
    """Count what there is.

    Args:
        tables: The data.
        split: Its split; without one, the keys about parts are left out.

    Returns:
        `users`, `items`, `events` (counts); `active_users`, `active_items` (with events);
        `first`, `last` (UTC times in ISO form); `density` (distinct pairs over all pairs);
        `liked_share`; `history_p10`, `history_p50`, `history_p90`, `history_max` (strictly earlier
        events of the same user, over all events). With a split also `train_rows`, `valid_rows`,
        `test_rows`, `valid_from`, `test_from` (ISO), `test_user_unseen_share` and
        `test_item_unseen_share` (share of test rows whose user or item train does not hold).
    """
    events = tables.interactions
    histories = split.histories if split else Histories.from_interactions(events)
    lengths = histories.counts(np.arange(events.height))
    times = events["time"]
    pairs = events.select(pl.struct("user", "item").n_unique()).item()
    facts: dict[str, int | float | str] = {
        "users": tables.n_users,
        "items": tables.n_items,
        "events": events.height,
        "active_users": events["user"].n_unique(),
        "active_items": events["item"].n_unique(),
        "first": _iso(times[0]),
        "last": _iso(times[-1]),
        "density": pairs / (tables.n_users * tables.n_items),
        "liked_share": float(events["label"].cast(pl.Float64).to_numpy().mean()),
    }
    for percentile in _PERCENTILES:
        facts[f"history_p{percentile}"] = float(np.percentile(lengths, percentile))
    facts["history_max"] = int(lengths.max())
    return facts if split is None else facts | _parts(split)


def _parts(split: Split) -> dict[str, int | float | str]:
    facts: dict[str, int | float | str] = {f"{name}_rows": len(split.part(name)) for name in PARTS}
    for name, moment in split.boundaries.items():
        facts[f"{name}_from"] = _iso(moment)
    for column in ("user", "item"):
        values = split.tables.interactions[column].to_numpy()
        unseen = ~np.isin(values[split.test], values[split.train])
        facts[f"test_{column}_unseen_share"] = float(unseen.mean())
    return facts


def _iso(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()
