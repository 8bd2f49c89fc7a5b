"""Generated text with its full provenance, kept in one SQLite file.

A piece of knowledge is addressed by the hash of model, parameters and messages: the same question
is never asked twice, and a changed prompt is a new question. A batch is written in one transaction
and synced to disk at its commit, so a killed process loses only what it had not put.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from tastemaker.errors import DataError
from tastemaker.stage import digest

__all__ = ["Knowledge", "KnowledgeStore", "Message", "request_key", "without_credentials"]

Message = dict[str, str]  # {"role": "user", "content": "…"}

_VERSION = 1
_APPLICATION = 0x7A57E  # in the file's header: a knowledge store and no other SQLite file
_BUSY_SECONDS = 60.0
_KEYS_PER_QUERY = 500
_TABLE = """
CREATE TABLE IF NOT EXISTS knowledge (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    entity TEXT NOT NULL,
    model TEXT NOT NULL,
    params TEXT NOT NULL,
    messages TEXT NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    created TEXT NOT NULL,
    chain TEXT NOT NULL
)
"""


@dataclass(frozen=True)
class Knowledge:
    """What a chat model wrote about a user or an item.

    Attributes:
        key: `request_key` of what was asked.
        kind: What it is about.
        entity: External id as text.
        model: `provider:model`.
        params: Generation parameters; never a key or password.
        messages: What was asked.
        text: The answer.
        finish_reason: `stop`, or `length` when it was cut at the token limit.
        prompt_tokens: Tokens of the question; 0 when the provider does not say.
        completion_tokens: Tokens of the answer, likewise.
        seconds: Wall time of its batch divided by the batch's size.
        created: UTC time in ISO form.
        chain: Name of the template or chain that asked.
    """

    key: str
    kind: Literal["user", "item"]
    entity: str
    model: str
    params: Mapping[str, Any]
    messages: Sequence[Message]
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    created: str
    chain: str


_COLUMNS = tuple(field.name for field in fields(Knowledge))
_AS_JSON = ("params", "messages")
_INSERT = (
    f"INSERT INTO knowledge ({', '.join(_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (key) DO NOTHING"
)


class KnowledgeStore:
    """The file of all knowledge; a context manager.

    Several processes may use one file at a time. Use one store per thread.

    Args:
        path: Created when missing, with its folder.

    Raises:
        DataError: the file is something else, or from a newer version of tastemaker.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._open()
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{path}: cannot be used as a knowledge store ({error}).",
                remedy="Move the file away, or name another one.",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM knowledge").fetchone()[0])

    def close(self) -> None:
        """Close the file; what was put is safe already."""
        self._connection.close()

    def put_many(self, knowledge: Iterable[Knowledge]) -> None:
        """Write all in one transaction: after a crash either all or none are there.

        A key that is present already keeps its first answer.
        """
        rows = [_to_row(one) for one in knowledge]
        with self._transaction():
            self._connection.executemany(_INSERT, rows)

    def get_many(self, keys: Iterable[str]) -> dict[str, Knowledge]:
        """What is known under each of the keys; unknown keys are absent."""
        found: dict[str, Knowledge] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            some = wanted[start : start + _KEYS_PER_QUERY]
            places = ", ".join("?" * len(some))
            query = f"SELECT {', '.join(_COLUMNS)} FROM knowledge WHERE key IN ({places})"
            for row in self._connection.execute(query, some):
                found[row[0]] = _from_row(row)
        return found

    def _open(self) -> None:
        try:
            self._check_version()
            self._connection.execute("PRAGMA journal_mode = WAL")
            # FULL rather than NORMAL: answers cost money, and one sync per batch costs little.
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                self._connection.execute(_TABLE)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _check_version(self) -> None:
        tables = self._number("SELECT count(*) FROM sqlite_master")
        application = self._number("PRAGMA application_id")
        version = self._number("PRAGMA user_version")
        if tables and application != _APPLICATION:
            raise DataError(
                f"{self.path}: is an SQLite file, but not a knowledge store.",
                remedy="Name another file.",
            )
        if tables and version != _VERSION:
            raise DataError(
                f"{self.path}: has schema version {version}.",
                allowed=f"This tastemaker reads version {_VERSION}.",
                remedy="Use the tastemaker that wrote it, or start a new store.",
            )

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


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


def _to_row(knowledge: Knowledge) -> tuple[Any, ...]:
    values = {name: getattr(knowledge, name) for name in _COLUMNS}
    for name in _AS_JSON:
        values[name] = json.dumps(values[name], ensure_ascii=False, sort_keys=True)
    return tuple(values.values())


def _from_row(row: Sequence[Any]) -> Knowledge:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Knowledge(**{**values, **{name: json.loads(values[name]) for name in _AS_JSON}})
