"""What was handed to a batch service and is not collected yet, in the knowledge store's own file.

A part is planned here before anything of it leaves the machine, and its lines stay until every
answer is in the store. So a process killed at any moment leaves enough behind to find its batches
again; answers are understood even when nobody asks their questions any more.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tastemaker.agents.database import Closing, transaction
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.stage import digest

__all__ = ["BatchLedger", "Line", "Part", "State"]

State = Literal["planned", "uploaded", "submitted", "collected", "failed", "forgotten"]

_OPEN = ("planned", "uploaded", "submitted")
_BUSY_SECONDS = 60.0
_LINES_PER_PAGE = 500
# Tables of their own: the version of the store's tables says nothing about them, nor they about it.
_TABLES = (
    """CREATE TABLE IF NOT EXISTS batch_parts (
        part TEXT PRIMARY KEY, content TEXT NOT NULL, scope TEXT NOT NULL, model TEXT NOT NULL,
        state TEXT NOT NULL, file_id TEXT NOT NULL DEFAULT '', batch_id TEXT NOT NULL DEFAULT '',
        lines INTEGER NOT NULL, planned INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS batch_lines (
        part TEXT NOT NULL, key TEXT NOT NULL, attempt INTEGER NOT NULL, text TEXT NOT NULL,
        about TEXT NOT NULL, PRIMARY KEY (part, key)) WITHOUT ROWID""",
)
_COLUMNS = "part, scope, model, state, file_id, batch_id, lines, planned"


@dataclass(frozen=True)
class Line:
    """One request of a part.

    Attributes:
        key: `request_key` of the request, and the line's `custom_id`.
        attempt: Unusable answers received before.
        text: The line of the file, without its end.
        about: What the text does not say of the request: kind, entity, chain, cut and so on.
    """

    key: str
    attempt: int
    text: str
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A file of requests, and how far it came.

    Attributes:
        part: Hash of its lines and of how often the same lines were handed over before; the batch
            carries it, so that it is known again.
        scope: Hash of model, server and parameters.
        model: `provider:model`.
        state: `planned`, `uploaded`, `submitted`, and at the end one of the others.
        file_id: At the service; empty before the upload.
        batch_id: Likewise; empty before the submission.
        lines: How many requests.
        planned: Unix second.
    """

    part: str
    scope: str
    model: str
    state: State
    file_id: str
    batch_id: str
    lines: int
    planned: int


class BatchLedger(Closing):
    """The parts of a knowledge store; a context manager with a connection of its own.

    Args:
        path: File of the store, which is created when missing.

    Raises:
        DataError: the file is no knowledge store.
    """

    def __init__(self, path: Path) -> None:
        KnowledgeStore(path).close()  # what it checks and creates is not repeated here
        self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        # A batch that is forgotten is paid for again: each commit reaches the disk.
        self._connection.execute("PRAGMA synchronous = FULL")
        for table in _TABLES:
            self._connection.execute(table)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def plan(self, scope: str, lines: Sequence[Line], *, model: str, now: int) -> Part:
        """Write down a part before it is uploaded.

        Args:
            scope: Hash of model, server and parameters.
            lines: With different keys.
            model: `provider:model`.
            now: Unix second.
        """
        content = digest(sorted((line.key, line.text) for line in lines))
        with transaction(self._connection):
            query = "SELECT count(*) FROM batch_parts WHERE content = ?"
            earlier = self._connection.execute(query, [content]).fetchone()[0]
            part = Part(
                digest([content, earlier]), scope, model, "planned", "", "", len(lines), now
            )
            self._connection.execute(
                f"INSERT INTO batch_parts ({_COLUMNS}, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [part.part, scope, model, part.state, "", "", len(lines), now, content],
            )
            self._connection.executemany(
                "INSERT INTO batch_lines VALUES (?, ?, ?, ?, ?)",
                [
                    (part.part, line.key, line.attempt, line.text, json.dumps(dict(line.about)))
                    for line in lines
                ],
            )
        return part

    def open_parts(self, scope: str | None = None) -> list[Part]:
        """Parts that are not collected yet, oldest first.

        Args:
            scope: Only those of one model, server and set of parameters.
        """
        query = f"SELECT {_COLUMNS} FROM batch_parts WHERE state IN (?, ?, ?)"
        query += " AND scope = ?" if scope is not None else ""
        values = [*_OPEN, *([scope] if scope is not None else [])]
        found = self._connection.execute(f"{query} ORDER BY planned, part", values)
        return [Part(*row) for row in found]

    def open_keys(self, scope: str) -> set[str]:
        """Keys of the requests in open parts."""
        query = "SELECT key FROM batch_lines JOIN batch_parts USING (part) WHERE scope = ?"
        return {row[0] for row in self._connection.execute(query, [scope])}

    def lines(self, part: str) -> Iterator[Line]:
        """The lines of an open part, in the order of their keys, a page at a time."""
        query = f"{_LINE} AND key > ? ORDER BY key LIMIT {_LINES_PER_PAGE}"
        last = ""
        while rows := self._connection.execute(query, [part, last]).fetchall():
            yield from map(_line, rows)
            last = rows[-1][0]

    def lines_of(self, part: str, keys: Iterable[str]) -> dict[str, Line]:
        """Those of some keys; keys that the part does not have are absent."""
        found: dict[str, Line] = {}
        for key in keys:
            row = self._connection.execute(f"{_LINE} AND key = ?", [part, key]).fetchone()
            if row is not None:
                found[key] = _line(row)
        return found

    def uploaded(self, part: str, file_id: str) -> None:
        """Remember the file of a part."""
        self._set(part, "uploaded", file_id=file_id)

    def submitted(self, part: str, batch_id: str) -> None:
        """Remember the batch of a part."""
        self._set(part, "submitted", batch_id=batch_id)

    def end(self, part: str, state: Literal["collected", "failed", "forgotten"]) -> None:
        """Close a part: all of it is in the store, or nothing will come of it."""
        with transaction(self._connection):
            self._connection.execute("DELETE FROM batch_lines WHERE part = ?", [part])
            self._set(part, state)

    def drop(self, part: str) -> None:
        """Take back a part that was never submitted, as if it had not been planned."""
        with transaction(self._connection):
            self._connection.execute("DELETE FROM batch_lines WHERE part = ?", [part])
            self._connection.execute("DELETE FROM batch_parts WHERE part = ?", [part])

    def _set(self, part: str, state: State, **more: str) -> None:
        columns = ", ".join(f"{name} = ?" for name in ("state", *more))
        query = f"UPDATE batch_parts SET {columns} WHERE part = ?"
        self._connection.execute(query, [state, *more.values(), part])


_LINE = "SELECT key, attempt, text, about FROM batch_lines WHERE part = ?"


def _line(row: Sequence[Any]) -> Line:
    key, attempt, text, about = row
    return Line(key, attempt, text, json.loads(about))
