"""Which interactions teach, which select and which judge; made by `tastemaker.data.splitters`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UnknownNameError
from tastemaker.stage import atomic_file

__all__ = ["PARTS", "Split"]

PARTS = ("train", "valid", "test")
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Which interactions teach, which select, which judge.

    No row is in two parts. A row is in none only where the splitter says so in `notes`.

    Attributes:
        tables: What is split.
        train: int64, sorted row indices into `tables.interactions`.
        valid: Likewise.
        test: Likewise.
        boundaries: First moment of `valid` and of `test`, unix seconds (or steps); empty where
            every user has their own.
        name: The splitter that made it.
        options: What the splitter was told, its seed included where it uses one.
        notes: What to know about it, one sentence each.
    """

    tables: Tables
    train: Rows
    valid: Rows
    test: Rows
    boundaries: Mapping[str, int]
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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

    @property
    def train_events(self) -> Rows:
        """Rows of `train` that happened: without the negatives that were drawn, int64."""
        sampled = self.tables.sampled
        return self.train if sampled is None else self.train[~sampled[self.train]]

    def cold_users(self, part: str) -> NDArray[np.bool_]:
        """Whether the user of each row of the part has no train event, bool [n]."""
        return self._cold(part, "user", count=self.tables.n_users)

    def cold_items(self, part: str) -> NDArray[np.bool_]:
        """Whether the item of each row of the part has no train event, bool [n]."""
        return self._cold(part, "item", count=self.tables.n_items)

    def leaky_rows(self, part: str) -> NDArray[np.bool_]:
        """Whether train holds events of other users at or after the moment of each row, bool [n].

        Whoever trains on them knows, at that moment, what others did later: which films will be
        watched, say. Splits by global time have no such rows.
        """
        rows = self.part(part)
        users, times = self._column("user"), self._column("time")
        if not len(self.train):
            return np.zeros(len(rows), dtype=bool)
        train_times = times[self.train]
        newest = int(train_times.max())
        owner = users[self.train[int(train_times.argmax())]]
        others = train_times[users[self.train] != owner]
        leaky = times[rows] <= newest
        own = users[rows] == owner
        leaky[own] = times[rows[own]] <= others.max() if len(others) else False
        return leaky

    def save(self, folder: Path) -> None:
        """Write `split.parquet` (row, part, cold_user, cold_item) and `split.json`."""
        codes = np.repeat(np.arange(len(PARTS), dtype=np.uint8), [len(self.part(p)) for p in PARTS])
        frame = pl.DataFrame(
            {
                "row": np.concatenate([self.part(part) for part in PARTS]),
                "part": pl.Series(PARTS, dtype=pl.Enum(PARTS)).gather(codes),
                "cold_user": np.concatenate([self.cold_users(part) for part in PARTS]),
                "cold_item": np.concatenate([self.cold_items(part) for part in PARTS]),
            }
        )
        with atomic_file(folder / "split.parquet") as handle:
            frame.write_parquet(handle)
        about = {
            "name": self.name,
            "options": dict(self.options),
            "boundaries": dict(self.boundaries),
            "interactions": self.tables.interactions.height,
            "notes": list(self.notes),
        }
        with atomic_file(folder / "split.json") as handle:
            handle.write(json.dumps(about, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path, tables: Tables) -> Self:
        """Inverse of `save`.

        Raises:
            DataError: a file cannot be read, or the split was made for other tables.
        """
        try:
            about = json.loads((folder / "split.json").read_text(encoding="utf-8"))
            frame = pl.read_parquet(folder / "split.parquet", columns=["row", "part"])
            told = {key: about[key] for key in ("name", "options", "boundaries")}
            made_for, notes = about["interactions"], tuple(about["notes"])
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder}: holds no readable split ({error}).", remedy="Run the data stage again."
            ) from None
        if made_for != tables.interactions.height:
            raise DataError(
                f"{folder}: the split was made for {made_for} interactions, "
                f"the tables have {tables.interactions.height}.",
                remedy="Run the data stage again.",
            )
        train, valid, test = (
            frame.filter(pl.col("part") == name)["row"].to_numpy() for name in PARTS
        )
        return cls(tables, train, valid, test, **told, notes=notes)

    def _column(self, name: str) -> NDArray[Any]:
        return self.tables.interactions[name].to_numpy()

    def _cold(self, part: str, column: str, *, count: int) -> NDArray[np.bool_]:
        values = self._column(column)
        warm = np.zeros(count, dtype=bool)
        warm[values[self.train_events]] = True
        return ~warm[values[self.part(part)]]
