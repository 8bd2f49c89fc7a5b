"""Parting interactions into train, validation and test without looking ahead."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UnknownNameError, UserError, nearest
from tastemaker.stage import atomic_file

__all__ = ["SPLITTERS", "Split", "global_time", "split_tables"]

PARTS = ("train", "valid", "test")
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Which interactions teach, which select, which judge.

    Attributes:
        tables: What is split.
        train: int64, sorted row indices into `tables.interactions`.
        valid: Likewise.
        test: Likewise.
        boundaries: First moment of `valid` and of `test`, unix seconds.
    """

    tables: Tables
    train: Rows
    valid: Rows
    test: Rows
    boundaries: Mapping[str, int]

    @cached_property
    def histories(self) -> Histories:
        """Index over all interactions; it only ever hands out what is strictly earlier."""
        return Histories.from_interactions(self.tables.interactions)

    def part(self, name: str) -> Rows:
        """Rows of `train`, `valid` or `test`.

        Raises:
            UnknownNameError: another name.
        """
        if name not in PARTS:
            raise UnknownNameError("part of a split", name, PARTS)
        rows: Rows = getattr(self, name)
        return rows

    def save(self, folder: Path) -> None:
        """Write `split.parquet` (row, part) and `split.json` into `folder`."""
        rows = np.concatenate([self.part(name) for name in PARTS])
        parts = np.repeat(PARTS, [len(self.part(name)) for name in PARTS])
        with atomic_file(folder / "split.parquet") as handle:
            pl.DataFrame({"row": rows, "part": parts}).write_parquet(handle)
        about = {
            "boundaries": dict(self.boundaries),
            "interactions": self.tables.interactions.height,
        }
        with atomic_file(folder / "split.json") as handle:
            handle.write(json.dumps(about, indent=1).encode())

    @classmethod
    def load(cls, folder: Path, tables: Tables) -> Self:
        """Inverse of `save`.

        Raises:
            DataError: a file cannot be read, or the split was made for other tables.
        """
        try:
            about = json.loads((folder / "split.json").read_text(encoding="utf-8"))
            frame = pl.read_parquet(folder / "split.parquet")
            made_for, boundaries = about["interactions"], about["boundaries"]
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder}: holds no readable split ({error}).", remedy="Run the data stage again."
            ) from None
        if made_for != tables.interactions.height:
            raise DataError(
                f"{folder}: the split was made for {made_for} interactions, "
                f"the tables have {tables.interactions.height}.",
                remedy="Run the data stage again.",
            )
        parts = {name: frame.filter(pl.col("part") == name)["row"].to_numpy() for name in PARTS}
        return cls(tables, **parts, boundaries=boundaries)


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
        UserError: neither a share nor a date.
    """
    times = tables.interactions["time"].to_numpy()
    cuts = {
        "valid": _moment(times, valid_from, option="valid_from"),
        "test": _moment(times, test_from, option="test_from"),
    }
    edges = np.searchsorted(times, [cuts["valid"], cuts["test"]])
    bounds = [0, *(int(edge) for edge in edges), len(times)]
    for name, start, stop in zip(PARTS, bounds[:-1], bounds[1:], strict=True):
        if start >= stop:
            raise DataError(
                f"the {name} part is empty: valid_from {valid_from} is {_iso(cuts['valid'])}, "
                f"test_from {test_from} is {_iso(cuts['test'])}.",
                allowed=f"interactions lie between {_iso(times[0])} and {_iso(times[-1])}.",
                remedy="Choose valid_from earlier than test_from, both inside that span.",
            )
    train, valid, test = (np.arange(*pair, dtype=np.int64) for pair in pairwise(bounds))
    return Split(tables, train, valid, test, boundaries=cuts)


SPLITTERS: dict[str, Callable[..., Split]] = {"global_time": global_time}


def split_tables(tables: Tables, name: str, **options: float | str) -> Split:
    """Split by the splitter called `name`.

    Raises:
        UnknownNameError: no such splitter.
        UserError: it has no such option, or needs one that is missing.
        DataError: a part would be empty.
    """
    if name not in SPLITTERS:
        raise UnknownNameError("splitter", name, SPLITTERS)
    known = list(inspect.signature(SPLITTERS[name]).parameters)[1:]
    for option in options.keys() ^ set(known):
        close = nearest(option, known) if option in options else None
        state = "has no" if option in options else "needs the"
        raise UserError(
            f"splitter '{name}' {state} option '{option}'"
            + (f"; did you mean '{close}'?" if close else "."),
            allowed=f"options: {', '.join(known)}",
        )
    return SPLITTERS[name](tables, **options)


def _moment(times: Rows, wanted: float | str, *, option: str) -> int:
    """Unix second of a cut given as a share of rows or as a date."""
    if isinstance(wanted, str):
        try:
            moment = datetime.fromisoformat(wanted)
        except ValueError:
            raise _bad_cut(wanted, option) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(-(-moment.timestamp() // 1))
    if not 0 < wanted < 1:
        raise _bad_cut(wanted, option)
    # 0.29 * 100 is a hair below 29.
    return int(times[int(wanted * len(times) + 1e-6)])


def _bad_cut(wanted: float | str, option: str) -> UserError:
    return UserError(
        f"{option} = {wanted!r} is neither a share nor a date.",
        allowed="a number above 0 and below 1, or a date such as 2015-01-31",
    )


def _iso(second: int) -> str:
    return datetime.fromtimestamp(int(second), UTC).strftime("%Y-%m-%d %H:%M:%S")
