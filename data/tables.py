"""Users, items and interactions: validated, densely numbered, external ids kept.

Dense numbers are ranks of the sorted external ids, and interactions are sorted by (time, user,
item), so the order of the input rows changes nothing. A row index into `Tables.interactions` names
an event everywhere in tastemaker.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.checks import Problems, RawTable
from tastemaker.data.columns import (
    RawTables,
    check_columns,
    entity_features,
    event_features,
    event_values,
)
from tastemaker.data.entities import EntityIds
from tastemaker.data.numbering import in_order
from tastemaker.data.schema import Policies, Schema
from tastemaker.errors import DataError, UserError, nearest
from tastemaker.stage import atomic_file

__all__ = ["Tables", "build_tables"]

_FRAMES = ("users", "items", "interactions")


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything known about users, items and what happened between them.

    Attributes:
        users: `user` int32 (row i has user i), `user_id` (Int64 or String), other columns as read.
        items: `item` int32 (row i has item i), `item_id`, `title` (never null, never empty), other
            columns as read.
        interactions: `user` int32, `item` int32, `time` int64 (unix seconds, or steps when
            `schema.is_clock` is false), `rating` float32, `label` int8 (1 = like), `domain` Enum
            (where the schema names one), `sampled` bool (where negatives were drawn: true for
            events that never happened), declared features; sorted by (time, user, item).
        schema: Names of the columns in the files.
        source: Name of the data shown to people.
        licence: Licence line of the data; may be empty.
        notes: What was dropped, kept or odd, one sentence each.
    """

    users: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    schema: Schema
    source: str
    licence: str = ""
    notes: tuple[str, ...] = ()

    @property
    def n_users(self) -> int:
        """Number of users, those without interactions included."""
        return self.users.height

    @property
    def n_items(self) -> int:
        """Number of items, those without interactions included."""
        return self.items.height

    @cached_property
    def titles(self) -> list[str]:
        """Title of item i at position i."""
        return self.items["title"].to_list()

    @property
    def sampled(self) -> NDArray[np.bool_] | None:
        """Which interactions were drawn as negatives, bool [events]; None where none were."""
        if "sampled" not in self.interactions.columns:
            return None
        return self.interactions["sampled"].to_numpy()

    @property
    def happened(self) -> pl.DataFrame:
        """The interactions without those that were drawn; rows are then not those of events."""
        if "sampled" not in self.interactions.columns:
            return self.interactions
        return self.interactions.filter(~pl.col("sampled"))

    def user_index(self, user_id: str) -> int:
        """Dense number of the user with this external id, given as text.

        Raises:
            UserError: no such user; offers the nearest id and the range.
        """
        return _index(self._user_numbers, user_id, ids=self.users["user_id"], noun="user")

    def item_index(self, item_id: str) -> int:
        """Dense number of the item with this external id, given as text.

        Raises:
            UserError: no such item; offers the nearest id and the range.
        """
        return _index(self._item_numbers, item_id, ids=self.items["item_id"], noun="item")

    def item_number(self, item_id: str) -> int | None:
        """Dense number of the item with this external id, given as text; None without one."""
        return self._item_numbers.get(item_id)

    @cached_property
    def _user_numbers(self) -> dict[str, int]:
        return _numbers_by_text(self.users["user_id"])

    @cached_property
    def _item_numbers(self) -> dict[str, int]:
        return _numbers_by_text(self.items["item_id"])

    def save(self, folder: Path) -> None:
        """Write three Parquet files and `schema.json` into `folder`."""
        for name in _FRAMES:
            with atomic_file(folder / f"{name}.parquet") as handle:
                getattr(self, name).write_parquet(handle)
        about = {
            "schema": self.schema.to_dict(),
            "source": self.source,
            "licence": self.licence,
            "notes": list(self.notes),
        }
        with atomic_file(folder / "schema.json") as handle:
            handle.write(json.dumps(about, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`.

        Raises:
            DataError: a file is missing or cannot be read.
        """
        try:
            about = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
            frames = {name: _whole_columns(folder / f"{name}.parquet") for name in _FRAMES}
            schema = Schema.from_dict(about["schema"])
            notes = tuple(about["notes"])
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder}: holds no readable tables ({error}).",
                remedy="Run the data stage again.",
            ) from None
        return cls(
            users=frames["users"],
            items=frames["items"],
            interactions=frames["interactions"],
            schema=schema,
            source=about["source"],
            licence=about["licence"],
            notes=notes,
        )


def build_tables(
    interactions: pl.DataFrame | RawTable,
    *,
    items: pl.DataFrame | RawTable | None = None,
    users: pl.DataFrame | RawTable | None = None,
    schema: Schema,
    policies: Policies | None = None,
    names: Mapping[str, str] | None = None,
    source: str = "tables",
    licence: str = "",
) -> Tables:
    """Check foreign tables, report all their problems at once, and number users and items.

    Cells may be text (as read from CSV) or typed. Without `items` the items are those of the
    interactions, titled by their id; likewise for `users`. An item whose title is empty is called
    by its id, too.

    Args:
        interactions: One row per event, columns named by `schema`.
        items: One row per item.
        users: One row per user.
        schema: Names of the columns.
        policies: What happens to unknown ids and repeated events; an error when None.
        names: What messages call the tables: `{"interactions": "ratings.csv", …}`.
        source: Name of the data shown to people.
        licence: Licence line of the data.

    Raises:
        TablesError: missing column, empty id, bad number or time, repeated id, unknown id, repeated
            event, broken text, no rows; all of them in one message.
    """
    raw = _named(interactions, items, users, names=names or {})
    policies = policies or Policies()
    problems = Problems()
    check_columns(raw, schema=schema, problems=problems)
    complete = all(problem.table != raw.interactions.name for problem in problems.found)

    item_ids = EntityIds("item", raw.interactions, raw.items, column=schema.item, problems=problems)
    user_ids = EntityIds("user", raw.interactions, raw.users, column=schema.user, problems=problems)
    values, resolved = event_values(raw, schema=schema, spread=item_ids.spread, problems=problems)
    values += event_features(raw, schema=schema, problems=problems)
    kept = item_ids.settle(policies.unknown_items, problems)
    kept &= user_ids.settle(policies.unknown_users, problems)
    item_features = entity_features(raw.items, "item", schema=schema, problems=problems)
    user_features = entity_features(raw.users, "user", schema=schema, problems=problems)
    events = pl.DataFrame([user_ids.column, item_ids.column, *values])
    if complete:
        events = _ordered(events, kept=kept, raw=raw, policy=policies.duplicates, problems=problems)
    problems.check()

    titled = pl.col("title").fill_null(pl.col("item_id").cast(pl.String))
    return Tables(
        users=user_ids.frame(user_features),
        items=item_ids.frame(item_features).with_columns(titled),
        interactions=events,
        schema=resolved,
        source=source,
        licence=licence,
        notes=(*item_ids.notes, *user_ids.notes, *problems.notes, *problems.warnings),
    )


def _whole_columns(file: Path) -> pl.DataFrame:
    """A frame whose columns are one piece each, so that NumPy sees them without a copy."""
    names = pl.read_parquet_schema(file)
    # One column at a time: the pieces and the whole of all of them would take twice the memory.
    return pl.DataFrame(
        [pl.read_parquet(file, columns=[name]).to_series().rechunk() for name in names]
    )


def _named(
    interactions: pl.DataFrame | RawTable,
    items: pl.DataFrame | RawTable | None,
    users: pl.DataFrame | RawTable | None,
    *,
    names: Mapping[str, str],
) -> RawTables:
    """Tables with the names that messages call them by."""

    def named(table: pl.DataFrame | RawTable, name: str) -> RawTable:
        return table if isinstance(table, RawTable) else RawTable(names.get(name, name), table)

    return RawTables(
        named(interactions, "interactions"),
        None if items is None else named(items, "items"),
        None if users is None else named(users, "users"),
    )


def _ordered(
    events: pl.DataFrame, *, kept: pl.Series, raw: RawTables, policy: str, problems: Problems
) -> pl.DataFrame:
    """Events that stay, in their one order, repeated ones treated."""
    if not kept.any() and len(kept):
        problems.add("no interaction is left.", remedy="Look at data.policies and the ids.")
    rows = None
    whole = events.select(~pl.any_horizontal(pl.col("time", "user", "item").is_null())).to_series()
    if not (kept := kept & whole).all():  # cells without a value have been noted before
        rows = kept.arg_true().to_numpy()
        events = events.filter(kept)
    if not events.height:
        return events
    events, order, again = in_order(events)
    if again.any() and policy == "error":
        repeated = np.zeros(raw.interactions.frame.height, dtype=bool)
        places = order.filter(pl.Series(again)).to_numpy()
        repeated[places if rows is None else rows[places]] = True
        problems.add_cells(
            raw.interactions,
            raw.interactions.columns[0],
            bad=pl.Series(repeated),
            complaint="begins a row that repeats user, item, time and rating of another",
            remedy="Remove it, or choose drop or keep for data.policies.duplicates.",
        )
    if again.any() and policy == "drop":
        events = events.filter(pl.Series(~again))
        problems.notes.append(f"{int(again.sum()):,} repeated interactions are dropped.")
    return events


def _numbers_by_text(ids: pl.Series) -> dict[str, int]:
    return {text: number for number, text in enumerate(ids.cast(pl.String).to_list())}


def _index(numbers: Mapping[str, int], name: str, *, ids: pl.Series, noun: str) -> int:
    number = numbers.get(name.strip())
    if number is not None:
        return number
    close = nearest(name, _neighbours(sorted(numbers), name))
    raise UserError(
        f"unknown {noun} '{name}'" + (f"; did you mean '{close}'?" if close else "."),
        allowed=f"{len(ids)} {noun}s are known, from '{ids[0]}' to '{ids[-1]}'.",
    )


def _neighbours(names: Sequence[str], name: str, *, reach: int = 500) -> Sequence[str]:
    """The part of sorted `names` around `name`: comparing with all of them would take seconds."""
    place = bisect_left(names, name)
    return names[max(place - reach, 0) : place + reach]
