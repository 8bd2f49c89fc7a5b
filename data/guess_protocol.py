"""Policies, filters, split and requests with which a guessed recipe runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.cells import as_ids, as_numbers, harmonise
from tastemaker.data.checks import Problems, RawTable
from tastemaker.data.guess_columns import Draft
from tastemaker.data.history import Histories
from tastemaker.data.numbering import dense, distinct, in_order
from tastemaker.data.schema import TimeUnit
from tastemaker.data.times import as_times

__all__ = ["Events", "guess_policies", "guess_protocol", "read_events"]

_DAY = 86400
_FEW = 0.05  # unknown ids of so few events are dropped
_LENGTHS = (10, 5, 3, 2, 1)
_LEAST = (64, 20, 20)  # rows of train, valid and test
_KEPT = 0.5
_REQUESTS = 600  # a language model on two cores answers them in minutes
_PER_USER = 4
_SHARES = (0.8, 0.9)


@dataclass(frozen=True, eq=False)
class Events:
    """The interactions by number, as far as they can be read.

    Attributes:
        frame: `user`, `item` (dense, those of the interactions), `time`, `rating`; null where a
            cell cannot be read.
        users: Ids of the users, as read; likewise `items`.
        items: See above.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series


def read_events(
    frame: pl.DataFrame,
    *,
    user: str,
    item: str,
    time: str | None,
    unit: TimeUnit,
    rating: str | None,
) -> Events:
    """Number users and items, read times and ratings; what cannot be read is null."""
    table, scratch = RawTable("", frame), Problems()
    ids = [harmonise([as_ids(table, name, problems=scratch)])[0] for name in (user, item)]
    numbers = [dense(one, distinct(one)) for one in ids]
    times: pl.Series = pl.int_range(frame.height, dtype=pl.Int64, eager=True)
    if time is not None:
        times, _ = as_times(table, time, unit=unit, problems=scratch)
    ratings = pl.repeat(1.0, frame.height, eager=True)
    if rating is not None:
        ratings = as_numbers(table, rating, problems=scratch)
    columns = zip(("user", "item", "time", "rating"), (*numbers, times, ratings), strict=True)
    return Events(pl.DataFrame([column.alias(name) for name, column in columns]), *ids)


def guess_policies(
    events: Events, *, known: dict[str, pl.DataFrame | None], draft: Draft
) -> pl.DataFrame:
    """Look for unreadable cells, unknown ids and repeated events; returns those that stay.

    Args:
        events: All of them.
        known: The tables of `items` and `users`, where there are any.
        draft: Gets policies and doubts.
    """
    frame = events.frame
    kept = pl.repeat(True, frame.height, eager=True)
    for noun, ids in (("item", events.items), ("user", events.users)):
        table = known[f"{noun}s"]
        if table is not None:
            kept &= _unknown(ids, table, noun=noun, column=draft.columns[noun], draft=draft)
    blank = frame.select(pl.any_horizontal(pl.all().is_null())).to_series()
    if blank.any():
        draft.doubt(
            "",
            f"{int(blank.sum()):,} interactions have an id, time or rating that cannot be read; "
            "tastemaker data validate names each of them.",
        )
    frame = frame.filter(kept & ~blank)
    if not frame.height:
        return frame
    found, _, again = in_order(frame)
    count = int(again.sum())
    if count:
        draft.choose("policies.duplicates", "drop", f"{count:,} rows repeat another")
        draft.doubt(
            "policies.duplicates",
            f"{count:,} interactions repeat user, item, time and rating of another; one of each "
            "stays (drop), choose keep if they are events of their own.",
        )
    return found.filter(pl.Series(~again))


def _unknown(
    ids: pl.Series, table: pl.DataFrame, *, noun: str, column: str, draft: Draft
) -> pl.Series:
    """Treat ids that the own table does not hold; true for events that stay, bool [events]."""
    own = as_ids(RawTable("", table), column, problems=Problems())
    used, own = harmonise([ids, own])
    twice = int((own.is_not_null() & ~own.is_first_distinct()).sum())
    if twice:
        draft.doubt(
            "",
            f"The table of {noun}s has {twice:,} rows whose '{column}' was there before; keep one "
            "row per id, tastemaker data validate names them.",
        )
    unknown = dense(used, distinct(own)).is_null() & used.is_not_null()
    count = int(unknown.sum())
    everything = pl.repeat(True, len(ids), eager=True)
    if not count:
        return everything
    policy = "drop" if noun == "item" and count <= _FEW * len(ids) else "keep"
    what = "left out" if policy == "drop" else "kept, with empty features"
    key = f"policies.unknown_{noun}s"
    draft.choose(key, policy, f"{count:,} interactions")
    draft.doubt(
        key,
        f"{used.filter(unknown).n_unique():,} {noun}s of {count:,} interactions are not in the "
        f"table of {noun}s; these interactions are {what} ({policy}), check whether the table is "
        "complete.",
    )
    return everything if policy == "keep" else ~unknown


def guess_protocol(frame: pl.DataFrame, *, clock: bool, labels: pl.Series, draft: Draft) -> None:
    """Choose split, shortest history and sample of users so that every part has rows.

    Args:
        frame: Events in order of time: `user`, `item`, `time`.
        clock: Whether times are moments.
        labels: 1 for likes, of the same rows; all equal for implicit data.
        draft: Gets the choices.
    """
    users, times = frame["user"].to_numpy(), frame["time"].to_numpy()
    lengths = Histories(users, times).counts(np.arange(len(users)))
    _warn_drawing(frame, draft)
    liked = labels.to_numpy()
    splits = {"leave_one_out": _last_two(users)}
    if clock:
        splits = {"global_time": _by_time(times), **splits}
    for name, parts in splits.items():
        shortest = _shortest(parts, lengths, liked)
        if shortest:
            _choose(name, parts, shortest, users, lengths=lengths, draft=draft)
            return
    name = next(iter(splits))
    _choose(name, splits[name], 0, users, lengths=lengths, draft=draft)
    draft.doubt(
        "split",
        f"Hardly any user comes back in this data ({len(users):,} interactions), so validation "
        "and test may be too small for any verdict; use more data.",
    )


def _warn_drawing(frame: pl.DataFrame, draft: Draft) -> None:
    """Say when a user has met everything, so that no negative is left."""
    if "negatives.per_positive" not in draft.settings or not frame.height:
        return
    most = frame.group_by("user").agg(pl.col("item").n_unique())["item"].max()
    if most == frame["item"].n_unique():
        draft.doubt(
            "negatives.per_positive",
            f"Some user met all {most:,} items of the interactions, so nothing may be left that "
            "was not liked; if drawing fails, remove data.negatives or add items.",
        )


def _by_time(times: NDArray[np.int64]) -> NDArray[np.int8]:
    """0 train, 1 valid, 2 test, by equal moments for everyone; no test where all is one moment."""
    if not len(times):
        return np.zeros(0, dtype=np.int8)
    valid, test = (times[int(share * len(times) + 1e-6)] for share in _SHARES)
    return (times >= valid).astype(np.int8) + (times >= test).astype(np.int8)


def _last_two(users: NDArray[np.int32]) -> NDArray[np.int8]:
    """0 train, 1 the last but one event of a user, 2 the last one; users with three and more."""
    order = np.argsort(users, kind="stable")
    sizes = np.bincount(users)[users[order]]
    ends = np.cumsum(np.bincount(users))[users[order]]
    from_end = ends - np.arange(len(users))
    part = np.where(sizes >= 3, np.select([from_end == 1, from_end == 2], [2, 1], 0), 0)
    found = np.empty(len(users), dtype=np.int8)
    found[order] = part
    return found


def _shortest(
    parts: NDArray[np.int8], lengths: NDArray[np.int64], liked: NDArray[np.int8]
) -> int | None:
    """The longest history that leaves half of the judged rows; 1 when none does, None for too few.

    Args:
        parts: Part of each event, 0 to 2.
        lengths: Earlier events of the same user.
        liked: Labels; every judged part needs both, where there are both.
    """
    both = len(np.unique(liked)) > 1
    judged = parts > 0
    if not judged.any():
        return None
    for length in _LENGTHS:
        enough = lengths >= length
        if length > 1 and enough[judged].mean() < _KEPT:
            continue
        kept = [enough & (parts == part) for part in range(3)]
        mixed = not both or all(len(np.unique(liked[rows])) > 1 for rows in kept[1:])
        if mixed and all(
            int(rows.sum()) >= least for rows, least in zip(kept, _LEAST, strict=True)
        ):
            return length
    return None


def _choose(
    name: str,
    parts: NDArray[np.int8],
    shortest: int,
    users: NDArray[np.int32],
    *,
    lengths: NDArray[np.int64],
    draft: Draft,
) -> None:
    half = int(np.median(lengths)) if len(lengths) else 0
    draft.choose("split", name)
    draft.choose("requests.min_history", shortest, f"half of all events have {half:,} or more")
    draft.choose("build.history", max(shortest, 1))
    if shortest < _LENGTHS[0]:
        draft.doubt(
            "requests.min_history",
            f"Histories are short (half of all events have {half:,} earlier ones or fewer), so "
            f"rows with {shortest} earlier events are judged, too; a longer history tells more, "
            "where there is one.",
        )
    asked = users[(parts == 2) & (lengths >= shortest)]
    per_user = np.minimum(np.bincount(asked), _PER_USER) if len(asked) else np.zeros(1)
    total, people = int(per_user.sum()), len(np.unique(users))
    draft.choose("requests.per_user", _PER_USER)
    if total > 2 * _REQUESTS:
        wanted = _round(people * _REQUESTS / total)
        draft.choose("filters.users", wanted, f"of {people:,}")
        draft.doubt(
            "filters.users",
            f"The first run takes a seeded sample of {wanted:,} of {people:,} users, so that the "
            "language model's part ends in minutes; remove filters.users to take all.",
        )


def _round(number: float) -> int:
    """Two leading digits."""
    size = 10 ** max(len(str(int(number))) - 2, 0)
    return max(int(number) // size * size, 1)
