"""SQLite files of our own: known by their header, brought up to date, safe against kills."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tastemaker.errors import DataError

__all__ = ["Closing", "open_database", "storable", "transaction"]

_BUSY_SECONDS = 60.0


class Closing(ABC):
    """Closed when a `with` block ends."""

    @abstractmethod
    def close(self) -> None:
        """Give up files; what was kept is safe already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(
    path: Path,
    prepare: Callable[[sqlite3.Connection], None],
    *,
    noun: str,
    application: int,
    version: int,
    any_thread: bool = False,
) -> sqlite3.Connection:
    """Open a file, created with its folder when missing; every commit is synced to disk.

    Args:
        path: The file.
        prepare: Creates what is missing in a new or older file, inside a transaction.
        noun: What the file is, for messages, such as `knowledge store`.
        application: Number in the header that tells this kind of file from all others.
        version: Of the tables, 1 or more.
        any_thread: Whether threads may share the connection; they must take turns.

    Raises:
        DataError: the file is something else, or from a newer version of tastemaker.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=not any_thread
        )
        try:
            present = _version(connection, path, noun=noun, application=application)
            if present > version:
                raise DataError(
                    f"{path}: has schema version {present}.",
                    allowed=f"This tastemaker reads versions up to {version}.",
                    remedy="Use the tastemaker that wrote it, or start a new store.",
                )
            connection.execute("PRAGMA journal_mode = WAL")
            # FULL rather than NORMAL: answers cost money, and one sync per batch costs little.
            connection.execute("PRAGMA synchronous = FULL")
            if present != version:
                with transaction(connection):
                    prepare(connection)
                    connection.execute(f"PRAGMA application_id = {application}")
                    connection.execute(f"PRAGMA user_version = {version}")
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{path}: cannot be used as a {noun} ({error}).",
            remedy="Move the file away, or name another one.",
        ) from None
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is executed inside is committed together, or not at all."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")  # an interrupt came between two lines of ours
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def storable(text: str) -> str:
    """`text` without the halves of characters that a cut answer may end with: UTF-8 has none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _version(connection: sqlite3.Connection, path: Path, *, noun: str, application: int) -> int:
    """Version of the tables; 0 for an empty file."""

    def number(query: str) -> int:
        return int(connection.execute(query).fetchone()[0])

    used = number("SELECT count(*) FROM sqlite_master") > 0
    if used and number("PRAGMA application_id") != application:
        raise DataError(
            f"{path}: is an SQLite file, but not a {noun}.", remedy="Name another file."
        )
    return number("PRAGMA user_version")
