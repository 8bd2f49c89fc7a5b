"""Plain numbers about a data set and its split, for the terminal, JSON and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.describe_text import describe_lines, remarks
from tastemaker.data.history import Histories
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.tables import Tables
from tastemaker.data.timeline import moment_text, timeline

__all__ = ["describe", "describe_lines", "describe_parts"]

Facts = dict[str, Any]
_PERCENTILES = (10, 25, 50, 75, 90, 99)
_CURVE_POINTS = 60
_RATING_BINS = 20
_TEXTS_MEASURED = 200_000


def describe(tables: Tables, split: Split | None = None) -> Facts:
    """Count what there is; events drawn as negatives are counted apart, as `sampled`.

    Moments are ISO text in UTC, or the steps themselves where the data knows no clock. Shares lie
    between 0 and 1 and are None where there is nothing to count.

    Args:
        tables: The data.
        split: Its split; without one, what is about parts is left out.

    Returns:
        A JSON-able dictionary:

        * `source`, `users`, `items`, `events`, `sampled`, `active_users`, `active_items` (with
          events), `first`, `last`, `density` (distinct pairs over all pairs), `liked_share`,
          `ties_share` (events that share user and second with another), `repeats_share` (pairs of
          user and item that met more than once, over all pairs that met).
        * `history_p10` … `history_p99`, `history_max`: strictly earlier events of the same user,
          over all events; `history_bins`: [lowest, highest, events] of that number.
        * `user_events`, `item_events`: `p10` … `p99`, `max`, `mean` over those with events;
          `popularity`: [rank, events] along the items from the most to the least popular.
        * `ratings`: [lowest, highest, events] in order, where the schema names ratings.
        * `timeline`: [start, events] in order, and `timeline_bin`, what a bin spans.
        * `domains`: name → `events`, `users`, `items`, `liked_share`.
        * `texts`: `TABLE.COLUMN` → `rows`, `filled` (share), `characters`, `words` (percentiles).
        * `clock` (whether moments are dates), `licence`, `notes` (what was dropped, warnings),
          `remarks` (what stands out in the numbers, one sentence each).
        * With a split: `train_rows` … `test_rows` (drawn ones included), `valid_from`, `test_from`
          (only where the parts are cut by time), `test_user_unseen_share`,
          `test_item_unseen_share` (test rows whose user or item train does not hold), and `parts`:
          name → `events`, `sampled`, `users`, `items`, `liked_share`, `first`, `last`,
          and, 0 for train, `cold_user_rows`, `cold_item_rows`, `leaky_rows` (events not later than
          the newest train event of another user).
    """
    events = tables.happened
    clock = tables.schema.is_clock
    facts: Facts = {
        **_sizes(tables, events, clock=clock),
        **_spread(events, _histories(events, split)),
        **_ratings(tables, events),
        **timeline(events["time"], clock=clock),
        "domains": _domains(events),
        "texts": _texts(tables),
        "clock": clock,
        "licence": tables.licence,
        "notes": [*tables.notes, *(split.notes if split else ())],
    }
    if split is not None:
        parts = describe_parts(split)
        facts |= {**_borders(split, parts, clock=clock), "parts": parts}
    return {**facts, "remarks": remarks(facts)}


def _sizes(tables: Tables, events: pl.DataFrame, *, clock: bool) -> Facts:
    pairs, repeated = _pairs(events, n_items=tables.n_items)
    times = events["time"]
    return {
        "source": tables.source,
        "users": tables.n_users,
        "items": tables.n_items,
        "events": events.height,
        "sampled": tables.interactions.height - events.height,
        "active_users": len(_counts(events["user"])),
        "active_items": len(_counts(events["item"])),
        "first": moment_text(times[0], clock=clock) if len(times) else None,
        "last": moment_text(times[-1], clock=clock) if len(times) else None,
        "density": _share(pairs, tables.n_users * tables.n_items),
        "liked_share": _share(int((events["label"] == 1).sum()), events.height),
        "ties_share": _share(_ties(events), events.height),
        "repeats_share": _share(repeated, pairs),
    }


def _pairs(events: pl.DataFrame, *, n_items: int) -> tuple[int, int]:
    """Distinct pairs of user and item, and how many of them met more than once."""
    key = events["user"].cast(pl.Int64) * n_items + events["item"].cast(pl.Int64)
    # Sorting whole numbers takes a fraction of the memory of grouping two columns.
    same = np.diff(key.sort().to_numpy()) == 0
    starts_run = same & ~np.concatenate([[False], same[:-1]]) if len(same) else same
    return len(key) - int(same.sum()), int(starts_run.sum())


def _ties(events: pl.DataFrame) -> int:
    """Events that share user and second with another; they stand side by side."""
    users, times = events["user"].to_numpy(), events["time"].to_numpy()
    same = (np.diff(users) == 0) & (np.diff(times) == 0)
    tied = np.zeros(len(users), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    return int(tied.sum())


def _histories(events: pl.DataFrame, split: Split | None) -> Histories:
    if split is not None and split.tables.interactions.height == events.height:
        return split.histories
    return Histories.from_interactions(events)


def _spread(events: pl.DataFrame, histories: Histories) -> Facts:
    """How events are spread over histories, users and items."""
    lengths = histories.counts(np.arange(events.height))
    history = _percentiles(lengths)
    by_item = _counts(events["item"])
    return {
        **{f"history_{name}": value for name, value in history.items() if name != "mean"},
        "history_bins": _doubling_bins(lengths),
        "user_events": _percentiles(_counts(events["user"])),
        "item_events": _percentiles(by_item),
        "popularity": _popularity(by_item),
    }


def _counts(numbers: pl.Series) -> NDArray[np.int64]:
    """Events of each user or item that has any."""
    found = np.bincount(numbers.to_numpy())
    return found[found > 0]


def _percentiles(values: ArrayLike) -> dict[str, float | int]:
    numbers = np.asarray(values)
    if not numbers.size:
        return {}
    found = np.percentile(numbers, _PERCENTILES)
    named = {f"p{q}": float(value) for q, value in zip(_PERCENTILES, found, strict=True)}
    return {**named, "max": int(numbers.max()), "mean": float(numbers.mean())}


def _doubling_bins(lengths: NDArray[np.int64]) -> list[list[int]]:
    """[lowest, highest, count] for 0, 1, 2–3, 4–7, 8–15 and so on."""
    if not len(lengths):
        return []
    by_length = np.bincount(lengths)
    starts = [0, *(2**power for power in range(len(by_length).bit_length()))]
    starts = [start for start in starts if start < len(by_length)]
    sums = np.add.reduceat(by_length, starts)
    stops = [*starts[1:], max(2 * starts[-1], 1)]
    return [
        [low, high - 1, int(count)] for low, high, count in zip(starts, stops, sums, strict=True)
    ]


def _popularity(by_item: NDArray[np.int64]) -> list[list[int]]:
    """[rank, events] at ranks that grow by equal factors."""
    if not len(by_item):
        return []
    ordered = np.sort(by_item)[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), _CURVE_POINTS).round().astype(np.int64))
    return [[int(rank), int(ordered[rank - 1])] for rank in ranks]


def _ratings(tables: Tables, events: pl.DataFrame) -> Facts:
    """Counts by value, or by equal bins where there are many values."""
    if tables.schema.rating is None or not events.height:
        return {}
    counted = events["rating"].value_counts().sort("rating")
    values, counts = counted["rating"].to_numpy(), counted["count"].to_list()
    if len(values) <= _RATING_BINS:
        rows = [[_tidy(v), _tidy(v), n] for v, n in zip(values, counts, strict=True)]
        return {"ratings": rows}
    sums, edges = np.histogram(values, bins=_RATING_BINS, weights=counts)
    borders = [_tidy(edge) for edge in edges]
    return {
        "ratings": [
            [low, high, int(n)] for low, high, n in zip(borders, borders[1:], sums, strict=False)
        ]
    }


def _domains(events: pl.DataFrame) -> dict[str, Facts]:
    if "domain" not in events.columns:
        return {}
    found = events.group_by("domain").agg(
        pl.len().alias("events"),
        pl.col("user").n_unique().alias("users"),
        pl.col("item").n_unique().alias("items"),
        (pl.col("label") == 1).mean().alias("liked_share"),
    )
    ordered = found.cast({"domain": pl.String}).sort(["events", "domain"], descending=[True, False])
    return {str(row.pop("domain")): row for row in ordered.iter_rows(named=True)}


def _texts(tables: Tables) -> dict[str, Facts]:
    """Lengths of titles and of the schema's text columns, wherever they stand."""
    found: dict[str, Facts] = {}
    if tables.schema.title is not None:
        titles, ids = tables.items["title"], tables.items["item_id"].cast(pl.String)
        # An item without a title is called by its id.
        found["items.title"] = _lengths(titles.zip_with(titles != ids, pl.Series([""])))
    for name in ("items", "users", "interactions"):
        frame = getattr(tables, name)
        for column in tables.schema.text:
            if column in frame.columns and frame.schema[column] == pl.String:
                found[f"{name}.{column}"] = _lengths(frame[column])
    return found


def _lengths(texts: pl.Series) -> Facts:
    """Share of filled cells; lengths of the filled ones, of an even sample where they are many."""
    filled = texts.filter((texts.str.strip_chars() != "").fill_null(False))
    measured = filled.gather_every(max(len(filled) // _TEXTS_MEASURED, 1))
    return {
        "rows": len(texts),
        "filled": _share(len(filled), len(texts)),
        "characters": _percentiles(measured.str.len_chars().to_numpy()),
        "words": _percentiles(measured.str.count_matches(r"\S+").to_numpy()),
    }


def describe_parts(split: Split) -> dict[str, Facts]:
    """What `describe` says about `parts`, without the rest."""
    frame, sampled = split.tables.interactions, split.tables.sampled
    clock = split.tables.schema.is_clock
    columns = {name: frame[name].to_numpy() for name in ("user", "item", "time", "label")}
    parts: dict[str, Facts] = {}
    for name in PARTS:
        rows = split.part(name)
        kept = np.ones(len(rows), dtype=bool) if sampled is None else ~sampled[rows]
        parts[name] = {
            **_part(columns, rows[kept], clock=clock),
            **_unseen(split, name, kept=kept),
            "sampled": int((~kept).sum()),
        }
    return parts


def _borders(split: Split, parts: Mapping[str, Facts], *, clock: bool) -> Facts:
    """Sizes of the parts, where they begin, and how much of test train does not know."""
    test = parts["test"]
    return {
        **{f"{name}_rows": len(split.part(name)) for name in PARTS},
        **{
            f"{name}_from": moment_text(moment, clock=clock)
            for name, moment in split.boundaries.items()
        },
        "test_user_unseen_share": _share(test["cold_user_rows"], test["events"]),
        "test_item_unseen_share": _share(test["cold_item_rows"], test["events"]),
    }


def _part(columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], *, clock: bool) -> Facts:
    facts: Facts = {
        "events": len(rows),
        "users": int(np.count_nonzero(np.bincount(columns["user"][rows]))),
        "items": int(np.count_nonzero(np.bincount(columns["item"][rows]))),
        "liked_share": _share(int((columns["label"][rows] == 1).sum()), len(rows)),
    }
    if len(rows):
        times = columns["time"][rows]
        facts["first"] = moment_text(int(times.min()), clock=clock)
        facts["last"] = moment_text(int(times.max()), clock=clock)
    return facts


def _unseen(split: Split, part: str, *, kept: NDArray[np.bool_]) -> Facts:
    """Events of a part about which train says nothing, or too much; none of train itself."""
    if part == "train":
        return dict.fromkeys(("cold_user_rows", "cold_item_rows", "leaky_rows"), 0)
    return {
        "cold_user_rows": int(split.cold_users(part)[kept].sum()),
        "cold_item_rows": int(split.cold_items(part)[kept].sum()),
        "leaky_rows": int(split.leaky_rows(part)[kept].sum()),
    }


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _tidy(value: float) -> float:
    """A float32 such as 3.7 without the digits that float64 would show."""
    return round(float(value), 4)
