"""Which users or items there are: those of the events, and those of their own table."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tastemaker.data.cells import as_ids, harmonise
from tastemaker.data.checks import Problems, RawTable
from tastemaker.data.numbering import dense, distinct

__all__ = ["EntityIds"]


class EntityIds:
    """Ids of users or of items: those of the events, and those of their own table.

    Args:
        noun: `user` or `item`.
        events: The interactions.
        table: The users or items; None when there is no such table.
        column: Name of the id in both.
        problems: Gets what is wrong with ids.
    """

    def __init__(
        self,
        noun: str,
        events: RawTable,
        table: RawTable | None,
        *,
        column: str,
        problems: Problems,
    ) -> None:
        self._noun, self._events, self._table, self._column = noun, events, table, column
        self.notes: list[str] = []
        used = as_ids(events, column, problems=problems)
        if table is None:
            (self.used,) = harmonise([used])
            self._own: pl.Series | None = None
            self._known = distinct(self.used)
        else:
            own = as_ids(table, column, problems=problems)
            self.used, self._own = harmonise([used, own])
            repeated = self._own.is_not_null() & ~self._own.is_first_distinct()
            problems.add_cells(
                table,
                column,
                bad=repeated,
                complaint="is there twice",
                remedy="Keep one row per id.",
            )
            self._known = distinct(self._own)
        self.numbers = dense(self.used, self._known)

    def settle(self, policy: str, problems: Problems) -> pl.Series:
        """Treat ids that the own table does not hold; true for events that stay, bool [events]."""
        everything = pl.repeat(True, len(self.used), eager=True)
        table = self._table
        if table is None or not table.has(self._column):
            return everything
        unknown = self.numbers.is_null() & self.used.is_not_null()
        count = int(unknown.sum())
        if not count:
            return everything
        which = f"{count:,} interactions whose {self._column} is not in {table.name}"
        if policy == "keep":
            self._known = distinct(pl.concat([self._known, self.used.filter(unknown)]))
            self.numbers = dense(self.used, self._known)
            self.notes.append(f"{which} are kept; the unknown ids have empty features.")
            return everything
        if policy == "drop":
            self.notes.append(f"{which} are dropped.")
            return ~unknown
        first = unknown & self.used.is_first_distinct()
        problems.add_cells(
            self._events,
            self._column,
            bad=first,
            complaint=f"is not in {table.name}",
            remedy=f"Add it there, or choose drop or keep for data.policies.unknown_{self._noun}s.",
        )
        return everything

    @property
    def column(self) -> pl.Series:
        """Number of the user or item of each event, int32 [events]; null where unknown."""
        return self.numbers.alias(self._noun)

    def spread(self, values: pl.Series) -> pl.Series:
        """A column of the own table as one of the interactions; null for unknown ids."""
        if self._own is None:
            return pl.Series([None] * len(self.used), dtype=values.dtype)
        rows = dense(self._own, self._known)
        sorted_values = values.gather(rows.arg_sort(nulls_last=True).head(len(self._known)))
        return sorted_values.gather(self.numbers)

    def frame(self, features: Sequence[pl.Series]) -> pl.DataFrame:
        """One row per entity, sorted by external id; its number is the row."""
        noun, name = self._noun, f"{self._noun}_id"
        known = self._known.alias(name).to_frame()
        if self._own is not None and features:
            own = pl.DataFrame([self._own.alias(name), *features])
            known = known.join(own, on=name, how="left", maintain_order="left")
        if noun == "item" and "title" not in known.columns:
            known = known.with_columns(title=pl.lit(None, dtype=pl.String))
        first = [noun, name, "title"] if noun == "item" else [noun, name]
        numbered = known.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias(noun))
        return numbered.select(*first, pl.exclude(first))
