"""Parting interactions into train, validation and test.

`global_time` and `rolling` part everyone at the same moments, as a deployed system meets its data.
The others are what published comparisons use; where they let train know the future of a test row,
the notes of the split say for how many rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.moments import parse_moment, show_moment
from tastemaker.data.own_time import follow_likes, newest_events
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UnknownNameError, UserError, nearest

__all__ = [
    "SPLITTERS",
    "given",
    "global_time",
    "leave_one_out",
    "rolling",
    "rolling_splits",
    "split_tables",
    "user_holdout",
    "user_time_ratio",
]

_UNUSED, _TRAIN, _VALID, _TEST = -1, 0, 1, 2
_WORDS = {
    "train": _TRAIN,
    "training": _TRAIN,
    "valid": _VALID,
    "validation": _VALID,
    "val": _VALID,
    "dev": _VALID,
    "test": _TEST,
}
_SHOWN = 8
_LEAST = 3  # a user with fewer events cannot be in every part
# 0.29 * 100 is a hair below 29.
_HAIR = 1e-6
Codes = NDArray[np.int8]


def global_time(tables: Tables, *, valid_from: float | str, test_from: float | str) -> Split:
    """Cut at the same two moments for everyone, as a deployed system meets its data.

    Interactions of one second never straddle a cut: the second in which the wanted share is reached
    belongs to the later part.

    Args:
        tables: What to split.
        valid_from: Share of rows before validation (above 0, below 1), or an ISO date (UTC).
        test_from: Likewise for the test part; later than `valid_from`.

    Raises:
        DataError: a part would be empty.
        UserError: neither a share nor a date, or a date where times are steps.
    """
    cuts = {
        "valid": _moment(tables, valid_from, option="valid_from"),
        "test": _moment(tables, test_from, option="test_from"),
    }
    shown = {name: _show(tables, cut) for name, cut in cuts.items()}
    return _at_moments(
        tables,
        cuts,
        end=None,
        name="global_time",
        options={"valid_from": valid_from, "test_from": test_from},
        told=f"valid_from {valid_from} is {shown['valid']}, test_from {test_from} is "
        f"{shown['test']}.",
        remedy="Choose valid_from earlier than test_from, both inside that span.",
    )


def leave_one_out(tables: Tables, *, min_events: int, seed: int) -> Split:
    """Keep each user's last event for test and the one before it for validation.

    Where several events share the last second, a seeded hash of (user, item) decides which of them
    is the last. Sampled rows are never chosen; they go where their like goes.

    Args:
        tables: What to split.
        min_events: Users with fewer events (3 or more) are train only.
        seed: Of the order among ties.

    Raises:
        DataError: no user has that many events.
        UserError: `min_events` is below 3.
    """
    if min_events < _LEAST:
        raise UserError(f"min_events = {min_events} is too small.", allowed="3 or more")

    def quotas(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        one = (counts >= min_events).astype(np.int64)
        return one, one

    return _finished(
        tables,
        newest_events(tables, quotas, seed=seed),
        name="leave_one_out",
        options={"min_events": min_events, "seed": seed},
        notes=_short_users(tables, min_events),
        remedy="Lower data.split.min_events, or choose global_time.",
    )


def user_time_ratio(tables: Tables, *, valid: float, test: float, seed: int) -> Split:
    """Keep the newest share of each user's own events for test, the share before it for validation.

    Shares are rounded down, but every part gets an event of each user with at least three; users
    with fewer are train only. Ties are broken as in `leave_one_out`.

    Args:
        tables: What to split.
        valid: Share of a user's events, above 0.
        test: Likewise; both together below 1.
        seed: Of the order among ties.

    Raises:
        DataError: no user has three events.
        UserError: the shares leave no train events.
    """
    _check_shares(valid, test)

    def quotas(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        enough = counts >= _LEAST
        tested = np.clip((counts * test + _HAIR).astype(np.int64), 1, np.maximum(counts - 2, 1))
        most = np.maximum(counts - tested - 1, 1)
        selected = np.clip((counts * valid + _HAIR).astype(np.int64), 1, most)
        return np.where(enough, selected, 0), np.where(enough, tested, 0)

    return _finished(
        tables,
        newest_events(tables, quotas, seed=seed),
        name="user_time_ratio",
        options={"valid": valid, "test": test, "seed": seed},
        notes=_short_users(tables, _LEAST),
        remedy="Choose global_time, which needs no user with many events.",
    )


def user_holdout(tables: Tables, *, valid: float, test: float, seed: int) -> Split:
    """Keep all events of some users for validation, and of others for test.

    Args:
        tables: What to split.
        valid: Share of the users with events, above 0; at least one user.
        test: Likewise; both together below 1.
        seed: Of the choice of users.

    Raises:
        DataError: there are fewer than three users.
        UserError: the shares leave no train users.
    """
    _check_shares(valid, test)
    users = tables.interactions["user"].to_numpy()
    active = np.flatnonzero(np.bincount(users, minlength=tables.n_users))
    tested = max(int(len(active) * test + _HAIR), 1)
    selected = max(int(len(active) * valid + _HAIR), 1)
    drawn = np.random.default_rng(seed).permutation(active)
    part = np.full(tables.n_users, _TRAIN, dtype=np.int8)
    part[drawn[:tested]] = _TEST
    part[drawn[tested : tested + selected]] = _VALID
    return _finished(
        tables,
        part[users],
        name="user_holdout",
        options={"valid": valid, "test": test, "seed": seed},
        remedy="Lower data.split.valid and data.split.test, or bring more users.",
    )


def rolling(tables: Tables, *, folds: int, fold: int, window: float) -> Split:
    """Cut by global time into one of several folds, each one window later than the one before.

    The test window of the newest fold ends at the last event. The validation window stands before
    the test window, and what is later than the test window is not used. Seconds are never parted.

    Args:
        tables: What to split.
        folds: How many there are, 1 or more.
        fold: Which one, 0 is the oldest; -1 is the newest.
        window: Share of rows in each window; all windows leave rows for train.

    Raises:
        DataError: a part would be empty.
        UserError: no such fold, or windows that leave nothing to train on.
    """
    _check_folds(folds, fold, window)
    times = tables.interactions["time"].to_numpy()
    later = folds - 1 - (fold % folds)
    moments = [_share(times, 1 - windows * window) for windows in (later + 2, later + 1, later)]
    end = None if later == 0 else moments[2]
    cuts = {"valid": moments[0], "test": moments[1]}
    shown = {name: _show(tables, cut) for name, cut in cuts.items()}
    return _at_moments(
        tables,
        cuts,
        end=end,
        name="rolling",
        options={"folds": folds, "fold": fold, "window": window},
        told=f"in fold {fold % folds} of {folds} validation starts at {shown['valid']}, test at "
        f"{shown['test']}.",
        remedy="Choose a larger data.split.window or fewer data.split.folds.",
    )


def rolling_splits(tables: Tables, *, folds: int, window: float) -> list[Split]:
    """All folds of `rolling`, the oldest first."""
    return [rolling(tables, folds=folds, fold=fold, window=window) for fold in range(folds)]


def given(tables: Tables, *, column: str) -> Split:
    """Take the parts from a column of the interactions.

    Args:
        tables: What to split.
        column: Holds train (or training), valid (or validation, val, dev) and test, in whatever
            case; rows with an empty cell are in no part, but in histories.

    Raises:
        DataError: other words, or a part without rows.
        UserError: no such column.
    """
    events = tables.interactions
    if column not in events.columns:
        close = nearest(column, events.columns)
        raise UserError(
            f"the interactions have no column '{column}'"
            + (f"; did you mean '{close}'?" if close else "."),
            allowed=f"columns: {', '.join(events.columns)}",
            remedy=f"Name it in the recipe: data.columns.categorical: [{column}]",
        )
    words = events[column].cast(pl.String).str.strip_chars().str.to_lowercase()
    happened = ~events["sampled"] if "sampled" in events.columns else None
    words = words.replace("", None)
    known = words.is_null() | words.is_in(list(_WORDS))
    wrong = events[column].filter(~known if happened is None else ~known & happened)
    if len(wrong):
        found = [str(word) for word in wrong.unique().sort().head(_SHOWN)]
        raise DataError(
            f"column '{column}' holds in {len(wrong):,} rows what names no part: "
            f"{', '.join(found)}.",
            allowed=", ".join(_WORDS),
            remedy="Correct the column, or choose another data.split.name.",
        )
    parts = words.replace_strict(_WORDS, default=_UNUSED, return_dtype=pl.Int8)
    codes = parts.to_numpy(writable=True)
    follow_likes(tables, codes, seed=0)
    unused = int((codes == _UNUSED).sum())
    note = f"{unused:,} rows have nothing in column '{column}': they are in no part."
    return _finished(
        tables,
        codes,
        name="given",
        options={"column": column},
        notes=(note,) if unused else (),
        remedy=f"Mark rows of every part in column '{column}'.",
    )


SPLITTERS: dict[str, Callable[..., Split]] = {
    "given": given,
    "global_time": global_time,
    "leave_one_out": leave_one_out,
    "rolling": rolling,
    "user_holdout": user_holdout,
    "user_time_ratio": user_time_ratio,
}


def split_tables(tables: Tables, name: str, *, seed: int = 0, **options: float | str) -> Split:
    """Split by the splitter called `name`.

    Args:
        tables: What to split.
        name: One of `SPLITTERS`.
        seed: Goes to splitters that draw.
        options: Everything else the splitter takes.

    Raises:
        UnknownNameError: no such splitter.
        UserError: it has no such option, or needs one that is missing.
        DataError: a part would be empty.
    """
    if name not in SPLITTERS:
        raise UnknownNameError("splitter", name, SPLITTERS)
    known = list(inspect.signature(SPLITTERS[name]).parameters)[1:]
    seeded = {"seed": seed} if "seed" in known else {}
    known = [option for option in known if option != "seed"]
    for option in sorted(options.keys() ^ set(known)):
        close = nearest(option, known) if option in options else None
        state = "has no" if option in options else "needs the"
        raise UserError(
            f"splitter '{name}' {state} option '{option}'"
            + (f"; did you mean '{close}'?" if close else "."),
            allowed=f"options: {', '.join(known)}",
        )
    return SPLITTERS[name](tables, **options, **seeded)


def _at_moments(
    tables: Tables,
    cuts: Mapping[str, int],
    *,
    end: int | None,
    name: str,
    options: Mapping[str, Any],
    told: str,
    remedy: str,
) -> Split:
    """Part rows at two moments, and leave out what happened at `end` or later."""
    times = tables.interactions["time"].to_numpy()
    edges = [int(edge) for edge in np.searchsorted(times, [cuts["valid"], cuts["test"]])]
    stop = len(times) if end is None else int(np.searchsorted(times, end))
    bounds = [0, *edges, stop]
    for place, part in enumerate(PARTS):
        if bounds[place] >= bounds[place + 1]:
            first, last = (_show(tables, int(times[row])) for row in (0, -1))
            raise DataError(
                f"the {part} part is empty: {told}",
                allowed=f"interactions lie between {first} and {last}.",
                remedy=remedy,
            )
    train, valid, test = (
        np.arange(bounds[place], bounds[place + 1], dtype=np.int64) for place in range(len(PARTS))
    )
    notes = []
    if end is not None:
        notes.append(
            f"{len(times) - stop:,} of {len(times):,} rows are later than the test window (from "
            f"{_show(tables, end)}) and are not used."
        )
    return Split(
        tables,
        train,
        valid,
        test,
        boundaries=cuts,
        name=name,
        options=options,
        notes=tuple(notes),
    )


def _finished(
    tables: Tables,
    codes: Codes,
    *,
    name: str,
    options: Mapping[str, Any],
    remedy: str,
    notes: tuple[str, ...] = (),
) -> Split:
    """Make the split of one code per row, and note what train knows of the future."""
    parts = {part: np.flatnonzero(codes == code) for code, part in enumerate(PARTS)}
    for part, rows in parts.items():
        if not len(rows):
            raise DataError(
                f"the {part} part is empty: {name} with "
                + ", ".join(f"{option} {value}" for option, value in options.items())
                + " leaves no row for it.",
                allowed=f"there are {len(codes):,} rows of {tables.n_users:,} users.",
                remedy=remedy,
            )
    train, valid, test = parts.values()
    split = Split(tables, train, valid, test, boundaries={}, name=name, options=options)
    leaks = [_leak(split, part) for part in ("valid", "test")]
    return replace(split, notes=(*notes, *(leak for leak in leaks if leak)))


def _leak(split: Split, part: str) -> str:
    leaky = split.leaky_rows(part)
    count = int(leaky.sum())
    if not count:
        return ""
    note = f"{count:,} of {len(leaky):,} {part} rows are not later than the newest training event "
    if not split.tables.schema.is_clock:
        return (
            f"{note}of other users by their steps: training may know their future (steps of two "
            "users need not be the same moments)."
        )
    return f"{note}of other users: training knows their future (compare with global_time)."


def _short_users(tables: Tables, least: int) -> tuple[str, ...]:
    counts = np.bincount(tables.happened["user"].to_numpy())
    short, active = int(((counts > 0) & (counts < least)).sum()), int((counts > 0).sum())
    if not short:
        return ()
    return (f"{short:,} of {active:,} users have fewer than {least} events: they are train only.",)


def _check_shares(valid: float, test: float) -> None:
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise UserError(
            f"valid = {valid!r} and test = {test!r} are no two shares with a rest for train.",
            allowed="both above 0, together below 1",
        )


def _check_folds(folds: int, fold: int, window: float) -> None:
    if folds < 1 or not -folds <= fold < folds:
        raise UserError(
            f"there is no fold {fold} of {folds}.",
            allowed=f"folds 0 (oldest) to {folds - 1}; -1 is the newest"
            if folds > 0
            else "folds: 1 or more",
        )
    if not (window > 0 and (folds + 1) * window < 1):
        raise UserError(
            f"window = {window!r} with {folds} folds leaves nothing to train on.",
            allowed=f"above 0 and below {1 / (folds + 1):.4g}, since there are {folds + 1} windows",
            remedy="Choose a smaller data.split.window or fewer data.split.folds.",
        )


def _moment(tables: Tables, wanted: float | str, *, option: str) -> int:
    """Moment of a cut given as a share of rows or as a date."""
    is_clock = tables.schema.is_clock
    if isinstance(wanted, str):
        moment = parse_moment(wanted, is_clock=is_clock)
        if moment is None:
            raise _bad_cut(wanted, option, is_clock=is_clock)
        return moment
    if not 0 < wanted < 1:
        raise _bad_cut(wanted, option, is_clock=is_clock)
    return _share(tables.interactions["time"].to_numpy(), wanted)


def _bad_cut(wanted: float | str, option: str, *, is_clock: bool) -> UserError:
    if not is_clock:
        return UserError(
            f"{option} = {wanted!r} is neither a share nor a step; the data has no clock.",
            allowed="a number above 0 and below 1, or the number of a step in quotation marks",
        )
    return UserError(
        f"{option} = {wanted!r} is neither a share nor a date.",
        allowed="a number above 0 and below 1, or a date such as 2015-01-31",
    )


def _share(times: NDArray[np.int64], share: float) -> int:
    """The moment in which this share of the rows is reached."""
    return int(times[min(int(share * len(times) + _HAIR), len(times) - 1)])


def _show(tables: Tables, moment: int) -> str:
    return show_moment(moment, is_clock=tables.schema.is_clock)
