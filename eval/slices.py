"""Where a model is right: cold users, cold items, the long tail and each domain by every metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.domains import domains_of
from tastemaker.data.splits import Split
from tastemaker.eval.metrics import METRICS, Scores
from tastemaker.eval.protocol import Requests

__all__ = ["TAIL", "Slice", "judge_slices", "slice_masks"]

TAIL = 0.2  # share of the training events that the least popular items have together


@dataclass(frozen=True)
class Slice:
    """One part of the requests.

    Attributes:
        name: Shown to people.
        rows: Requests in it.
        users: Users among them.
        positive_rate: Share of likes, 0 to 1; NaN without rows.
        values: Model → metric → value; NaN where the slice does not define it.
    """

    name: str
    rows: int
    users: int
    positive_rate: float
    values: Mapping[str, Mapping[str, float]]


def slice_masks(
    split: Split, requests: Requests, *, tail: float = TAIL
) -> dict[str, NDArray[np.bool_]]:
    """Which requests lie in which slice, bool [n] each; slices may overlap.

    * `cold users`: users without a training event.
    * `cold items`: items without a training event.
    * `long tail`: items that have training events, but are among the least popular ones that have
      the share `tail` of them together.
    * `popular items`: all other items with training events.
    * `domain: NAME`: for each domain, in the order of the categories, where the tables have them.

    Args:
        split: What the models were trained on.
        requests: Rows to part.
        tail: Share of training events, 0 to 1.
    """
    events = split.tables.interactions[split.train_events]
    users = np.bincount(events["user"].to_numpy(), minlength=split.tables.n_users)
    items = np.bincount(events["item"].to_numpy(), minlength=split.tables.n_items)
    order = np.argsort(items, kind="stable")
    rare = np.zeros(len(items), dtype=bool)
    rare[order] = np.cumsum(items[order]) <= tail * items.sum()
    cold = items == 0
    wanted = requests.items
    return {
        "cold users": users[requests.users] == 0,
        "cold items": cold[wanted],
        "long tail": (rare & ~cold)[wanted],
        "popular items": ~(rare | cold)[wanted],
        **_by_domain(split, requests),
    }


def _by_domain(split: Split, requests: Requests) -> dict[str, NDArray[np.bool_]]:
    if "domain" not in split.tables.interactions.columns:
        return {}
    domains = domains_of(split.tables, requests.items, rows=requests.rows)
    kind = domains.dtype
    assert isinstance(kind, pl.Enum)
    codes = domains.to_physical().fill_null(len(kind.categories)).to_numpy()
    return {f"domain: {name}": codes == code for code, name in enumerate(kind.categories)}


def judge_slices(scores: Mapping[str, Scores], requests: Requests, split: Split) -> list[Slice]:
    """Every metric of every model on every slice, on rows that all models scored.

    Args:
        scores: Model → log-odds [n].
        requests: The rows.
        split: What the models were trained on.
    """
    scored = np.all([np.isfinite(values) for values in scores.values()], axis=0)
    found = []
    for name, mask in slice_masks(split, requests).items():
        kept = mask & scored
        part = requests.select(kept)
        found.append(
            Slice(
                name=name,
                rows=len(part),
                users=len(np.unique(part.users)),
                positive_rate=float(part.labels.mean()) if len(part) else float("nan"),
                values={
                    model: _judged(np.asarray(values, np.float64)[kept], part)
                    for model, values in scores.items()
                },
            )
        )
    return found


def _judged(scores: NDArray[np.float64], part: Requests) -> dict[str, float]:
    if not len(part):
        return dict.fromkeys(METRICS, float("nan"))
    return {name: metric(scores, part.labels, part.groups) for name, metric in METRICS.items()}
