"""Writing a catalogue: only rows that have changed, and readers see the old one or the new one.

The tag `current` names the version that readers open. It is moved last, when rows and indexes are
complete, so a process killed on the way leaves the old version to readers and the rest to the next
update.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from tastemaker.errors import BusyError, DataError, MissingError
from tastemaker.models.catalogue.documents import COLLABORATIVE, TEXT, Layout
from tastemaker.stage import locked

__all__ = ["CURRENT", "TABLE", "Written", "lancedb_module", "write_catalogue"]

TABLE, CURRENT = "items", "current"
INDEXED_FROM = 50_000  # rows from which vectors get an index; below, exact search is quick
_SUFFIX = ".lance"
_LOCK = ".lock"
_DELETED_AT_ONCE = 1000
_ROUNDS = 5  # of tidying, until there is nothing left to do
_BLOCK = 10_000  # rows written at a time


@dataclass(frozen=True)
class Written:
    """What an update did.

    Attributes:
        rows: Items in the catalogue now.
        changed: Rows written.
        removed: Rows deleted.
    """

    rows: int
    changed: int
    removed: int


def lancedb_module(name: str = "lancedb") -> Any:
    """LanceDB, or one of its modules.

    Raises:
        MissingError: it is not installed.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings are for its own developers
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingError(
            "a catalogue needs LanceDB, which is not installed.",
            remedy='Run pip install "tastemaker[serve]".',
        ) from None


def write_catalogue(
    folder: Path, rows: pa.Table, *, keep: timedelta = timedelta(hours=1)
) -> Written:
    """Create a catalogue, or bring it up to date; after a kill, call it again.

    Args:
        folder: Created when missing.
        rows: As `Documents.rows` makes them, all that the catalogue is to hold.
        keep: Versions older than this are deleted; who has one open must have finished by then.

    Raises:
        MissingError: LanceDB is not installed.
        BusyError: another process updates the folder.
        DataError: there are no rows, or two of them have the same id.
    """
    lancedb = lancedb_module()
    ids = rows["item_id"].to_pylist()
    if not ids or len(set(ids)) != len(ids):
        raise DataError("a catalogue needs rows, each with an id of its own.")
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        database = lancedb.connect(str(folder))
        table, written = _filled(database, folder, rows)
        _index(table)
        _tidy(table)
        _publish(table)
        with contextlib.suppress(RuntimeError):  # of no matter for what readers find
            table.optimize(cleanup_older_than=keep, delete_unverified=True)
    return written


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        with locked(folder / _LOCK, remedy="Wait for it."):
            yield
    except BusyError:
        raise BusyError(
            f"{folder}: another process writes this catalogue.", remedy="Wait for it."
        ) from None


def _filled(database: Any, folder: Path, rows: pa.Table) -> tuple[Any, Written]:
    """The table with these rows and no others; not published yet."""
    table = _opened(database)
    if table is None:
        shutil.rmtree(folder / f"{TABLE}{_SUFFIX}", ignore_errors=True)
        table = database.create_table(TABLE, _blocks(rows), on_bad_vectors="null")
        return table, Written(len(rows), changed=len(rows), removed=0)
    if not _same_columns(table.schema, rows.schema):
        table = database.create_table(TABLE, _blocks(rows), mode="overwrite", on_bad_vectors="null")
        return table, Written(len(rows), changed=len(rows), removed=0)
    found = table.search(None).select(["item_id", "digest"]).to_arrow()
    digests = dict(zip(found["item_id"].to_pylist(), found["digest"].to_pylist(), strict=True))
    ids = rows["item_id"].to_pylist()
    pairs = zip(ids, rows["digest"].to_pylist(), strict=True)
    changed = rows.filter(pa.array(digests.get(key) != mark for key, mark in pairs))
    if len(changed):
        merge = table.merge_insert("item_id")
        merge = merge.when_matched_update_all().when_not_matched_insert_all()
        merge.execute(_blocks(changed), on_bad_vectors="null")
    gone = sorted(digests.keys() - set(ids))
    _delete(table, gone)
    return table, Written(len(rows), changed=len(changed), removed=len(gone))


def _opened(database: Any) -> Any:
    """The newest version, whole or not published; None where there is none."""
    try:
        table = database.open_table(TABLE)
        Layout.of(table.schema)
    except (ValueError, RuntimeError, OSError, TypeError, KeyError):
        return None
    return table


def _blocks(rows: pa.Table) -> pa.RecordBatchReader:
    return rows.to_reader(max_chunksize=_BLOCK)


def _same_columns(held: pa.Schema, wanted: pa.Schema) -> bool:
    return (
        held.names == wanted.names
        and [str(field.type) for field in held] == [str(field.type) for field in wanted]
        and Layout.of(held) == Layout.of(wanted)
    )


def _delete(table: Any, ids: Sequence[str]) -> None:
    for at in range(0, len(ids), _DELETED_AT_ONCE):
        quoted = ("'" + key.replace("'", "''") + "'" for key in ids[at : at + _DELETED_AT_ONCE])
        table.delete(f"item_id IN ({', '.join(quoted)})")


def _index(table: Any) -> None:
    """Make the indexes that are not there."""
    index = lancedb_module("lancedb.index")
    there = {column for one in table.list_indices() for column in one.columns}
    if "document" not in there:
        table.create_index("document", config=index.FTS(with_position=False))
    if table.count_rows() < INDEXED_FROM:
        return
    for column in (TEXT, COLLABORATIVE):
        if column in table.schema.names and column not in there:
            table.create_index(column, config=index.IvfFlat(distance_type="cosine"))


def _tidy(table: Any) -> None:
    """Bring new rows into the indexes and join small files, until nothing is left to do."""
    for _ in range(_ROUNDS):
        version = table.version
        table.optimize()
        if table.version == version:
            return


def _publish(table: Any) -> None:
    if CURRENT not in table.tags.list():
        table.tags.create(CURRENT, table.version)
    else:
        table.tags.update(CURRENT, table.version)
