"""Does an item's number tell who will take it next?

Items numbered in the order in which they first appear in complete sequences carry the future: the
rule "the largest number in the history, plus 1, plus 2, …" finds the target without any learning
(P5's numbering of Amazon Beauty: HR@10 .0576, above P5 itself).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.audit import real_events, values_before
from tastemaker.data.findings import Finding
from tastemaker.data.splits import Split

__all__ = ["IdProbe", "audit_ids", "id_probe", "probe_finding"]

_K = 10
_FACTOR = 2.0  # popularity itself, or items numbered by their first training event, stay below
_DEVIATIONS = 3.0

Numbering = Literal["dense", "external"]


@dataclass(frozen=True)
class IdProbe:
    """What two rules score that know nothing but item numbers, under full ranking.

    Attributes:
        n: Targets: test events whose user has earlier ones.
        hr10: HR@10 of "largest number in the history + 1, + 2, … + 10".
        ndcg10: NDCG@10 of the same.
        last_hr10: HR@10 of "number of the last event + 1, … + 10".
        last_ndcg10: NDCG@10 of the same.
        popularity_hr10: HR@10 of the ten items with most training events.
        chance_hr10: HR@10 of a random order.
    """

    n: int
    hr10: float
    ndcg10: float
    last_hr10: float
    last_ndcg10: float
    popularity_hr10: float
    chance_hr10: float

    @property
    def reveals(self) -> bool:
        """Whether the numbers tell more than honest rules could.

        The better rule must reach twice the HR@10 of popularity or chance, and lie three standard
        errors above that. Neither random numbers nor numbers in the order of the training part come
        near it; the published leaking numberings of Amazon and Yelp exceed it.
        """
        bar = min(_FACTOR * max(self.popularity_hr10, self.chance_hr10), 1.0)
        noise = np.sqrt(bar * (1 - bar) / max(self.n, 1))
        return bool(max(self.hr10, self.last_hr10) > bar + _DEVIATIONS * noise)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {**asdict(self), "reveals": self.reveals}


def id_probe(split: Split, *, numbers: Numbering | pl.Series = "dense") -> IdProbe | None:
    """Rank the items by their number alone, for every test event.

    Args:
        split: Its test part is asked; histories are all strictly earlier events.
        numbers: `dense` or `external` item numbers, or integers [n_items].

    Returns:
        None when external ids are no whole numbers, or no test event has a history.
    """
    tables = split.tables
    ids = numbers
    if isinstance(ids, str):
        ids = tables.items["item" if ids == "dense" else "item_id"]
    if not ids.dtype.is_integer():
        return None
    events = real_events(tables)
    events = events.with_columns(number=ids.cast(pl.Int64).gather(events["item"]))
    asked = events.filter(pl.col("row").is_in(pl.Series(split.test).implode()))
    of_users = events.join(asked.select("user").unique(), on="user", how="semi")
    steps = (
        of_users.sort("row")
        .group_by("user", "time")
        .agg(largest=pl.col("number").max(), last=pl.col("number").last())
        .sort("time")
        .with_columns(pl.col("largest").cum_max().over("user"))
    )
    before = values_before(steps, asked, by=("user",)).select("largest", "last")
    known = pl.concat([asked, before], how="horizontal").filter(pl.col("largest").is_not_null())
    if known.is_empty():
        return None
    largest, last = (
        _scores((known["number"] - known[rule]).to_numpy()) for rule in ("largest", "last")
    )
    counts = np.bincount(
        tables.interactions["item"].to_numpy()[split.train], minlength=tables.n_items
    )
    popular = np.argsort(-counts, kind="stable")[:_K]
    return IdProbe(
        n=known.height,
        hr10=largest[0],
        ndcg10=largest[1],
        last_hr10=last[0],
        last_ndcg10=last[1],
        popularity_hr10=float(np.isin(known["item"].to_numpy(), popular).mean()),
        chance_hr10=min(_K / tables.n_items, 1.0),
    )


def audit_ids(split: Split, *, shown_by: str | None = None) -> list[Finding]:
    """Verdicts on dense numbers and on external ids, where these are whole numbers.

    Args:
        split: Asked.
        shown_by: What shows external ids or numbers as text; None when nothing does. Only then a
            revealing numbering is a failure.
    """
    found = []
    for numbers in ("dense", "external"):
        probe = id_probe(split, numbers=numbers)
        if probe is not None:
            found.append(probe_finding(probe, f"ids: {numbers} item numbers", shown_by=shown_by))
    return found


def probe_finding(probe: IdProbe, check: str, *, shown_by: str | None) -> Finding:
    """The verdict on one numbering.

    Args:
        probe: What the rules score on it.
        check: Name of the check.
        shown_by: What shows the numbers as text; None when nothing does.
    """
    text = (
        f"{probe.n:,} test events: HR@10 {_told(max(probe.hr10, probe.last_hr10))} by number alone "
        f"(popularity {_told(probe.popularity_hr10)}, chance {_told(probe.chance_hr10)})"
    )
    if not probe.reveals:
        return Finding(check, "pass", text, details=probe.to_dict())
    if shown_by is None:
        text += "; as text they would reveal the target, nothing shows them"
        return Finding(check, "warn", text, details=probe.to_dict())
    text += f"; they reveal the target, and {shown_by} shows them as text"
    return Finding(check, "fail", text, details=probe.to_dict())


def _scores(distances: NDArray[np.int64]) -> tuple[float, float]:
    """HR@10 and NDCG@10 when the target stands at rank `distances` (1 is best, below 1 never)."""
    hit = (distances >= 1) & (distances <= _K)
    gains = np.where(hit, 1 / np.log2(np.where(hit, distances, 1) + 1.0), 0.0)
    return float(hit.mean()), float(gains.mean())


def _told(share: float) -> str:
    return f"{share:.4f}".removeprefix("0")
