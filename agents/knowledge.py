"""Generated text with its full provenance, kept in one SQLite file.

A request is addressed by the hash of model, server, parameters and messages: the same question is
never asked twice, and a changed prompt is a new question. Under each address stands either an
answer (`Knowledge`) or a `Failure` with its reason, never both. What is written together is one
transaction, synced to disk at its commit, so a killed process loses only what it had not put.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tastemaker.agents.database import Closing, open_database, storable, transaction
from tastemaker.errors import UnknownNameError
from tastemaker.stage import digest

__all__ = [
    "Failure",
    "Knowledge",
    "KnowledgeStore",
    "Message",
    "Spent",
    "request_key",
    "without_credentials",
]

Message = dict[str, str]  # {"role": "user", "content": "…"}

_VERSION = 2
_APPLICATION = 0x7A57E  # in the file's header: a knowledge store and no other SQLite file
_KEYS_PER_QUERY = 500
_ROWS_PER_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What an answer and a failure have in common.

    Attributes:
        key: `request_key` of what was asked.
        kind: What it is about: `user`, `item`, `user_group`, `item_group` or `scenario`.
        entity: External id as text.
        model: `provider:model`.
        params: Generation parameters and server; never a key or password.
        messages: What was asked.
        chain: Name of the template or chain that asked.
        step: Which of the chain's questions; empty when it has one.
        version: Digest of the chain's templates.
        cut_time: Unix second of the last event shown; None when no event was.
        attempts: Answers received until this one, invalid ones included.
        prompt_tokens: Of all attempts together; 0 when the provider does not say.
        completion_tokens: Likewise.
        cost: Likewise, in the currency of the recipe's prices; None when a price is unknown.
        seconds: From the request to the answer; in a batch, its wall time divided by its size.
        created: UTC time in ISO form.
    """

    key: str
    kind: str
    entity: str
    model: str
    params: Mapping[str, Any]
    messages: Sequence[Message]
    chain: str
    step: str = ""
    version: str = ""
    cut_time: int | None = None
    attempts: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    created: str = ""


@dataclass(frozen=True, kw_only=True)
class Knowledge(_Asked):
    """What a chat model wrote about a user, an item or a group.

    Attributes:
        text: The answer.
        finish_reason: `stop`, or `length` when it was cut at the token limit.
    """

    text: str
    finish_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure(_Asked):
    """A request that has no usable answer.

    Attributes:
        reason: What was wrong, in one word; see `agents.answers` and `agents.troubles`.
        detail: The same in a sentence; for an invalid answer, its beginning.
        final: Whether nothing more will be tried; else a later run goes on with the attempts.
    """

    reason: str
    detail: str = ""
    final: bool = True


class Spent(NamedTuple):
    """What was paid for, answers and failures together."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


_Row = TypeVar("_Row", bound=_Asked)
_TABLES: dict[str, type[_Asked]] = {"knowledge": Knowledge, "failures": Failure}
_COLUMNS = {name: tuple(field.name for field in fields(kind)) for name, kind in _TABLES.items()}
_TYPES = {
    "cut_time": "INTEGER",
    "attempts": "INTEGER NOT NULL DEFAULT 1",
    "prompt_tokens": "INTEGER NOT NULL DEFAULT 0",
    "completion_tokens": "INTEGER NOT NULL DEFAULT 0",
    "cost": "REAL",
    "seconds": "REAL NOT NULL DEFAULT 0",
    "final": "INTEGER NOT NULL",
    "key": "TEXT PRIMARY KEY",
}
_AS_JSON = ("params", "messages")
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


class KnowledgeStore(Closing):
    """The file of all knowledge; a context manager.

    Several processes may use one file at a time. Use one store per thread. A file of an earlier
    version is brought up to date when it is opened.

    Args:
        path: Created when missing, with its folder.

    Raises:
        DataError: the file is something else, or from a newer version of tastemaker.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_database(
            path, _prepare, noun="knowledge store", application=_APPLICATION, version=_VERSION
        )

    def __len__(self) -> int:
        return self._number("SELECT count(*) FROM knowledge")

    def close(self) -> None:
        """Close the file; what was put is safe already."""
        self._connection.close()

    def put_many(self, found: Iterable[Knowledge | Failure]) -> None:
        """Write all in one transaction: after a crash either all or none are there.

        A key that is present already keeps its first answer. An answer removes the failure of its
        key; a failure replaces an earlier one and gives way to an answer.
        """
        answers, failures = list[Knowledge](), list[Failure]()
        for one in found:
            if isinstance(one, Knowledge):
                answers.append(one)
            else:
                failures.append(one)
        if not answers and not failures:
            return
        with transaction(self._connection):
            if answers:
                self._connection.executemany(_insert("knowledge"), map(_to_row, answers))
                self._delete("failures", [one.key for one in answers])
            if failures:
                known = self._present([one.key for one in failures])
                rows = [_to_row(one) for one in failures if one.key not in known]
                self._connection.executemany(_insert("failures"), rows)

    def get_many(self, keys: Iterable[str]) -> dict[str, Knowledge]:
        """The answer under each of the keys; unknown keys are absent."""
        return self._select(Knowledge, keys)

    def failures(self, keys: Iterable[str]) -> dict[str, Failure]:
        """The failure under each of the keys; keys that have none are absent."""
        return self._select(Failure, keys)

    def each(self, kind: type[_Row], *, where: Mapping[str, Any] | None = None) -> Iterator[_Row]:
        """All answers (`Knowledge`) or failures (`Failure`) in the order of their keys.

        Reads a page at a time, so that the store may be larger than memory and may be written to
        meanwhile.

        Args:
            kind: Which of the two.
            where: Column → value that it must have.

        Raises:
            UnknownNameError: there is no such column.
        """
        for name in where or {}:
            if name not in _COLUMNS[_table(kind)]:
                raise UnknownNameError("column", name, _COLUMNS[_table(kind)])
        tests = "".join(f" AND {name} IS ?" for name in where or {})
        values, last = list((where or {}).values()), ""
        query = f"SELECT {_listed(kind)} FROM {_table(kind)} WHERE key > ?{tests} "
        query += f"ORDER BY key LIMIT {_ROWS_PER_PAGE}"
        while rows := self._connection.execute(query, [last, *values]).fetchall():
            yield from (_from_row(kind, row) for row in rows)
            last = rows[-1][0]

    def remove(self, keys: Iterable[str]) -> None:
        """Forget answers and failures, in one transaction."""
        wanted = list(keys)
        with transaction(self._connection):
            for table in _TABLES:
                self._delete(table, wanted)

    def spent(self) -> Spent:
        """Sum over all answers and failures; a cost that is unknown counts as nothing."""
        sums = "sum(attempts), sum(prompt_tokens), sum(completion_tokens), sum(cost)"
        rows = [
            self._connection.execute(f"SELECT {sums} FROM {table}").fetchone() for table in _TABLES
        ]
        requests, asked, given, cost = (
            sum(value or 0 for value in column) for column in zip(*rows, strict=True)
        )
        return Spent(int(requests), int(asked), int(given), float(cost))

    def counts(self) -> list[tuple[str, str, str, str, int]]:
        """(model, chain, kind, outcome, how many); outcome is `answered` or a failure's reason."""
        group = "model, chain, kind"
        return [
            *self._connection.execute(
                f"SELECT {group}, 'answered', count(*) FROM knowledge GROUP BY {group} "
                f"UNION ALL SELECT {group}, reason, count(*) FROM failures "
                f"GROUP BY {group}, reason ORDER BY 1, 2, 3, 4"
            )
        ]

    def _select(self, kind: type[_Row], keys: Iterable[str]) -> dict[str, _Row]:
        found: dict[str, _Row] = {}
        query = f"SELECT {_listed(kind)} FROM {_table(kind)} WHERE key IN "
        for some in _pages(keys):
            for row in self._connection.execute(query + _places(some), some):
                found[row[0]] = _from_row(kind, row)
        return found

    def _present(self, keys: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in _pages(keys):
            query = f"SELECT key FROM knowledge WHERE key IN {_places(some)}"
            found.update(row[0] for row in self._connection.execute(query, some))
        return found

    def _delete(self, table: str, keys: Iterable[str]) -> None:
        for some in _pages(keys):
            self._connection.execute(f"DELETE FROM {table} WHERE key IN {_places(some)}", some)

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


def _prepare(connection: sqlite3.Connection) -> None:
    """Create or complete the tables of a new or older file."""
    for table, columns in _COLUMNS.items():
        listed = ", ".join(f"{name} {_type(name)}" for name in columns)
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({listed})")
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for name in columns:
            if name not in present:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {_type(name)}")


def request_key(
    model: str, base_url: str | None, params: Mapping[str, Any], messages: Sequence[Message]
) -> str:
    """Hash of everything an answer depends on: 32 hexadecimal digits.

    Args:
        model: `provider:model`.
        base_url: Server, when not the provider's own; user name and password in it do not count.
        params: Generation parameters.
        messages: What is asked.
    """
    server = without_credentials(base_url) if base_url else ""
    return digest([model, server, dict(params), [dict(message) for message in messages]])


def without_credentials(url: str) -> str:
    """`url` without user name, password, query and fragment, where secrets may stand.

    >>> without_credentials("http://me:secret@localhost:8000/v1?key=1")
    'http://localhost:8000/v1'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _table(kind: type[_Asked]) -> str:
    return "knowledge" if issubclass(kind, Knowledge) else "failures"


def _listed(kind: type[_Asked]) -> str:
    return ", ".join(_COLUMNS[_table(kind)])


def _type(column: str) -> str:
    return _TYPES.get(column, "TEXT NOT NULL DEFAULT ''" if column != "text" else "TEXT NOT NULL")


def _insert(table: str) -> str:
    columns = _COLUMNS[table]
    end = "ON CONFLICT (key) DO NOTHING" if table == "knowledge" else ""
    verb = "INSERT INTO" if table == "knowledge" else "INSERT OR REPLACE INTO"
    return f"{verb} {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) {end}"


def _pages(keys: Iterable[str]) -> Iterator[list[str]]:
    wanted = list(dict.fromkeys(keys))
    for start in range(0, len(wanted), _KEYS_PER_QUERY):
        yield wanted[start : start + _KEYS_PER_QUERY]


def _places(values: Sequence[str]) -> str:
    return f"({', '.join('?' * len(values))})"


def _to_row(one: _Asked) -> list[Any]:
    values = {name: getattr(one, name) for name in _COLUMNS[_table(type(one))]}
    for name in _AS_JSON:
        values[name] = _encode(values[name])
    return [storable(value) if isinstance(value, str) else value for value in values.values()]


def _from_row(kind: type[_Row], row: Sequence[Any]) -> _Row:
    values = dict(zip(_COLUMNS[_table(kind)], row, strict=True))
    for name in _AS_JSON:
        values[name] = json.loads(values[name])
    if "final" in values:
        values["final"] = bool(values["final"])
    return kind(**values)
