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

import polars as pl

from tastemaker.data.checks import Problems, RawTable, as_ids, as_numbers, as_times, harmonise
from tastemaker.data.schema import Schema
from tastemaker.errors import DataError, UserError, nearest
from tastemaker.stage import atomic_file

__all__ = ["Tables", "build_tables"]

_FRAMES = ("users", "items", "interactions")
_ORDER = ["time", "user", "item", "rating", "label"]


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything known about users, items and what happened between them.

    Attributes:
        users: `user` int32 (row i has user i), `user_id` (Int64 or String), other columns as read.
        items: `item` int32 (row i has item i), `item_id`, `title` (never null, never empty), other
            columns as read.
        interactions: `user` int32, `item` int32, `time` int64 (unix seconds), `rating` float32,
            `label` int8 (1 = like); sorted by (time, user, item).
        schema: Names of the columns in the files.
        source: Name of the data shown to people.
        licence: Licence line of the data; may be empty.
    """

    users: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    schema: Schema
    source: str
    licence: str = ""

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
        about = {"schema": self.schema.to_dict(), "source": self.source, "licence": self.licence}
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
            frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in _FRAMES}
            schema = Schema.from_dict(about["schema"])
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder}: holds no readable tables ({error}).",
                remedy="Run the data stage again.",
            ) from None
        return cls(**frames, schema=schema, source=about["source"], licence=about["licence"])


def build_tables(
    interactions: pl.DataFrame,
    *,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    schema: Schema,
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
        names: What messages call the tables: `{"interactions": "ratings.csv", …}`.
        source: Name of the data shown to people.
        licence: Licence line of the data.

    Raises:
        DataError: missing column, empty id, bad number or time, repeated id, unknown id, no rows.
    """
    called = {name: name for name in _FRAMES} | dict(names or {})
    problems = Problems()
    events = RawTable(called["interactions"], interactions)
    catalogue = None if items is None else RawTable(called["items"], items)
    people = None if users is None else RawTable(called["users"], users)

    _check_columns(events, catalogue, people, schema=schema, problems=problems)
    event_items, item_ids = _read_ids(events, catalogue, column=schema.item, problems=problems)
    event_users, user_ids = _read_ids(events, people, column=schema.user, problems=problems)
    values = _read_values(events, schema=schema, problems=problems)
    problems.check()

    item_frame = _numbered(item_ids, catalogue, noun="item", schema=schema)
    user_frame = _numbered(user_ids, people, noun="user", schema=schema)
    numbers = [
        _dense(event_users, user_frame["user_id"]).alias("user"),
        _dense(event_items, item_frame["item_id"]).alias("item"),
    ]
    rows = pl.DataFrame([*numbers, *values]).sort(_ORDER)
    return Tables(user_frame, item_frame, rows, schema=schema, source=source, licence=licence)


def _check_columns(
    events: RawTable,
    catalogue: RawTable | None,
    people: RawTable | None,
    *,
    schema: Schema,
    problems: Problems,
) -> None:
    needed = (schema.user, schema.item, schema.time, schema.rating, schema.label.column)
    problems.need(events, needed)
    if catalogue is not None:
        problems.need(catalogue, (schema.item, schema.title, *schema.text))
        taken = {"item", "item_id", "title"} - {schema.item, schema.title}
        problems.avoid(catalogue, taken)
    elif schema.text:
        problems.add(f"text columns {', '.join(schema.text)} are named, but no table of items is.")
    if people is not None:
        problems.need(people, (schema.user,))
        problems.avoid(people, {"user", "user_id"} - {schema.user})


def _read_ids(
    events: RawTable, table: RawTable | None, *, column: str, problems: Problems
) -> tuple[pl.Series, pl.Series]:
    """Ids of the events, and ids of the entities in the order of their table."""
    used = as_ids(events, column, problems=problems)
    if table is None:
        (used,) = harmonise([used])
        return used, used.drop_nulls().unique()
    known = as_ids(table, column, problems=problems)
    used, known = harmonise([used, known])
    repeated = known.is_not_null() & ~known.is_first_distinct()
    problems.add_cells(table, column, bad=repeated, complaint="is there twice")
    if table.has(column):
        unknown = used.is_not_null() & used.is_first_distinct() & ~used.is_in(known.implode())
        problems.add_cells(events, column, bad=unknown, complaint=f"is not in {table.name}")
    return used, known


def _read_values(events: RawTable, *, schema: Schema, problems: Problems) -> list[pl.Series]:
    """Columns time, rating and label of the interactions."""
    times = as_times(events, schema.time, problems=problems).alias("time")
    ratings = as_numbers(events, schema.rating, problems=problems)
    judged = ratings
    if schema.label.column != schema.rating:
        judged = as_numbers(events, schema.label.column, problems=problems)
    labels = schema.label.apply(judged.alias(schema.label.column).to_frame())
    return [times, ratings.cast(pl.Float32).alias("rating"), labels]


def _numbered(ids: pl.Series, table: RawTable | None, *, noun: str, schema: Schema) -> pl.DataFrame:
    """Entities sorted by external id; their number is the row."""
    columns = [ids.alias(f"{noun}_id")]
    if noun == "item":
        columns.append(_titles(ids, table, column=schema.title))
    if table is not None:
        own = {schema.item, schema.title} if noun == "item" else {schema.user}
        columns += [column for column in table.frame if column.name not in own]
    numbers = pl.int_range(pl.len(), dtype=pl.Int32).alias(noun)
    return pl.DataFrame(columns).sort(f"{noun}_id").select(numbers, pl.all())


def _titles(ids: pl.Series, table: RawTable | None, *, column: str) -> pl.Series:
    names = ids.cast(pl.String)
    if table is not None:
        given = table.cells(column).cast(pl.String)
        named = (given.str.strip_chars() != "").fill_null(False)
        names = given.zip_with(named, names)
    return names.alias("title")


def _dense(ids: pl.Series, known: pl.Series) -> pl.Series:
    """Position of each id in `known`, int32."""
    places = pl.DataFrame({"id": known}).with_row_index("place")
    found = ids.alias("id").to_frame().join(places, on="id", how="left", maintain_order="left")
    return found["place"].cast(pl.Int32)


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
