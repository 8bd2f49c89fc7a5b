"""From the tables of a recipe to checked `Tables`, reading only the columns that are needed."""

from __future__ import annotations

from pathlib import Path

from tastemaker.data.checks import RawTable
from tastemaker.data.readers.base import TableSource
from tastemaker.data.schema import Policies, Schema
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError

__all__ = ["read_tables"]


def read_tables(
    interactions: TableSource,
    *,
    items: TableSource | None = None,
    users: TableSource | None = None,
    schema: Schema,
    policies: Policies | None = None,
    source: str | None = None,
    licence: str = "",
) -> Tables:
    """Read and check the tables of a data set; messages call them by their files.

    Of the interactions only the columns that the schema names are read; of items and users all.

    Args:
        interactions: One row per event.
        items: One row per item.
        users: One row per user.
        schema: Names of the columns.
        policies: What happens to unknown ids and repeated events.
        source: Name of the data shown to people; that of the interactions' file when None.
        licence: Licence line of the data.

    Raises:
        DataError: unreadable files, all of them in one message; see `build_tables`.
    """
    read: dict[str, RawTable | None] = {}
    errors: list[str] = []
    for name, table in (("interactions", interactions), ("items", items), ("users", users)):
        try:
            read[name] = None if table is None else _read(table, name, schema=schema)
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    events = read["interactions"]
    assert events is not None
    return build_tables(
        events,
        items=read["items"],
        users=read["users"],
        schema=schema,
        policies=policies,
        source=source or Path(interactions.name).stem,
        licence=licence,
    )


def _read(table: TableSource, name: str, *, schema: Schema) -> RawTable:
    if name != "interactions":
        return RawTable(table.name, table.read(), locate=table.places, known=table.columns())
    wanted = [schema.user, schema.item, schema.time, schema.rating, schema.domain]
    wanted += [*schema.label.columns, *schema.features]
    columns = dict.fromkeys(column for column in wanted if column is not None)
    frame = table.read(list(columns), typed=True)
    known = dict.fromkeys([*table.columns(), *frame.columns])
    return RawTable(table.name, frame, locate=table.places, known=list(known))
