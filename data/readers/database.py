"""Tables selected by SQL from a SQLite or DuckDB file, which is only ever read."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from tastemaker.data.readers.base import TableSource, check_file, chosen
from tastemaker.data.readers.values import as_series, stack
from tastemaker.errors import DataError, MissingError

__all__ = ["DuckdbQuery", "SqliteQuery", "open_query"]

_CHUNK = 50_000
_MEMORY = ":memory:"


def open_query(database: str, query: str) -> TableSource:
    """The rows a query selects; the kind of database is told by the file's first bytes.

    Args:
        database: A file, or `:memory:` for DuckDB queries that name files themselves.
        query: One SELECT.

    Raises:
        DataError: no such file, or neither kind of database.
        MissingError: a DuckDB file, and the package is not installed.
    """
    if not query.strip():
        raise DataError("query: is empty.", allowed="SQL such as SELECT * FROM ratings")
    if database == _MEMORY:
        return DuckdbQuery(None, query)
    path = Path(database).expanduser()
    check_file(path)
    with path.open("rb") as handle:
        head = handle.read(16)
    if head == b"SQLite format 3\0":
        return SqliteQuery(path, query)
    if head[8:12] == b"DUCK":
        return DuckdbQuery(path, query)
    raise DataError(
        f"{path}: is neither a SQLite nor a DuckDB file.",
        allowed="database: a SQLite or DuckDB file, or ':memory:'",
    )


class SqliteQuery(TableSource):
    """A query of a SQLite file; columns whose cells have several types become text."""

    def __init__(self, path: Path, query: str) -> None:
        self.path, self.query = path, query
        self.name = f"{path.name} (query)"

    @property
    def files(self) -> tuple[Path, ...]:
        """The database."""
        return (self.path,)

    def columns(self) -> list[str]:
        """Names of the columns that the query gives."""
        with self._cursor() as (_, names):
            return names

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        with self._cursor() as (cursor, names):
            wanted = chosen(names, columns)
            places = [names.index(name) for name in wanted]
            frames = []
            while rows := cursor.fetchmany(_CHUNK):
                cells = list(zip(*rows, strict=True))
                frames.append(
                    pl.DataFrame(
                        [as_series(names[place], cells[place]) for place in places],
                    )
                )
        return stack(frames or [pl.DataFrame(schema=dict.fromkeys(wanted, pl.String()))])

    @contextmanager
    def _cursor(self) -> Iterator[tuple[sqlite3.Cursor, list[str]]]:
        try:
            place = f"{self.path.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(place, uri=True)) as connection:
                cursor = connection.execute(self.query)
                names = [column[0] for column in cursor.description or ()]
                yield cursor, _checked(names, name=self.name)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise DataError(f"{self.name}: {error}", remedy="Correct the query.") from None


class DuckdbQuery(TableSource):
    """A query of a DuckDB file, or of files that the query names itself (no `path`)."""

    def __init__(self, path: Path | None, query: str) -> None:
        self.path, self.query = path, query
        self.name = "query" if path is None else f"{path.name} (query)"
        try:
            self._duckdb: Any = importlib.import_module("duckdb")
        except ModuleNotFoundError:
            raise MissingError(
                f"{self.name}: needs the package 'duckdb', which is not installed.",
                remedy="Run: pip install 'tastemaker[duckdb]'",
            ) from None

    @property
    def files(self) -> tuple[Path, ...]:
        """The database."""
        return () if self.path is None else (self.path,)

    def columns(self) -> list[str]:
        """Names of the columns that the query gives."""
        with self._relation() as relation:
            return _checked(list(relation.columns), name=self.name)

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        with self._relation() as relation:
            names = chosen(_checked(list(relation.columns), name=self.name), columns)
            frame = pl.from_arrow(relation.to_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return frame.select(_without_decimals(frame[name]) for name in names)

    @contextmanager
    def _relation(self) -> Iterator[Any]:
        place, read_only = str(self.path or _MEMORY), self.path is not None
        try:
            with closing(self._duckdb.connect(place, read_only=read_only)) as connection:
                relation = connection.sql(self.query)
                if relation is None:
                    raise DataError(f"{self.name}: the query gives no table.")
                yield relation
        except self._duckdb.Error as error:
            raise DataError(f"{self.name}: {error}", remedy="Correct the query.") from None


def _without_decimals(column: pl.Series) -> pl.Series:
    """SUM and COUNT give wide decimals; whole ones become Int64 where they fit, else text."""
    if not isinstance(column.dtype, pl.Decimal) or column.dtype.scale:
        return column
    whole = column.cast(pl.Int64, strict=False)
    return whole if whole.null_count() == column.null_count() else column.cast(pl.String)


def _checked(names: list[str], *, name: str) -> list[str]:
    repeated = sorted({column for column in names if names.count(column) > 1})
    if not names or repeated:
        reason = f"gives the column '{repeated[0]}' twice" if repeated else "gives no table"
        raise DataError(f"{name}: the query {reason}.", allowed="SELECT with distinct names")
    return names
