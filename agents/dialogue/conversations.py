"""Conversations in one SQLite file: what was said, what was shown, what the demands had become.

A message of the visitor is on disk, with the demands it led to, before anything is answered; the
answer follows when it is whole. A killed process loses at most the answer it was writing. Items are
kept by their external id, so that a catalogue may be rebuilt under a conversation.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tastemaker.agents.database import Closing, open_database, storable, transaction
from tastemaker.errors import UserError
from tastemaker.stage import digest

__all__ = ["Conversations", "Said", "history_key"]

Role = Literal["user", "assistant"]
_APPLICATION = 0x7A57C
_VERSION = 1
_RESUMED = "resumed"  # role of the row that a resumed conversation begins with
_INSERT = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_ID_BYTES = 16  # nobody guesses the conversation of somebody else
_TABLES = (
    "CREATE TABLE IF NOT EXISTS conversations ("
    "id TEXT PRIMARY KEY, user TEXT, listed INTEGER NOT NULL, created TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS messages ("
    "conversation TEXT NOT NULL REFERENCES conversations (id), number INTEGER NOT NULL, "
    "role TEXT NOT NULL, text TEXT NOT NULL, cards TEXT NOT NULL, state TEXT NOT NULL, "
    "history TEXT NOT NULL, created TEXT NOT NULL, PRIMARY KEY (conversation, number))",
    "CREATE INDEX IF NOT EXISTS by_history ON messages (history)",
)


@dataclass(frozen=True)
class Said:
    """One message.

    Attributes:
        role: Who said it.
        text: What was said.
        cards: Items shown with it, as plain values.
        state: What the conversation had come to, as plain values.
        created: UTC time in ISO form.
    """

    role: Role
    text: str
    cards: Sequence[Mapping[str, Any]] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""


class Conversations(Closing):
    """The file of all conversations; threads may share one object.

    Args:
        path: Created when missing, with its folder.

    Raises:
        DataError: the file is something else, or from a newer version of tastemaker.
    """

    def __init__(self, path: Path) -> None:
        self._turn = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # what people say is nobody else's business
        self._connection = open_database(
            path,
            _prepare,
            noun="file of conversations",
            application=_APPLICATION,
            version=_VERSION,
            any_thread=True,
        )

    def close(self) -> None:
        """Close the file; what was added is safe already."""
        with self._turn:
            self._connection.close()

    def start(self, user: str | None, *, listed: bool = True) -> str:
        """Begin a conversation and return its id, which cannot be guessed.

        Args:
            user: External id of a known user; None for a new visitor.
            listed: Whether `newest` tells of it.
        """
        name = secrets.token_urlsafe(_ID_BYTES)
        with self._turn, transaction(self._connection):
            self._connection.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?)", [name, user, listed, _now()]
            )
        return name

    def user(self, conversation: str) -> str | None:
        """External id of its user; None for a new visitor.

        Raises:
            UserError: no such conversation.
        """
        row = self._one("SELECT user FROM conversations WHERE id = ?", conversation)
        if row is None:
            raise UserError(
                "unknown conversation.",
                allowed="the id that its beginning was answered with",
                remedy="Begin a new one.",
            )
        return None if row[0] is None else str(row[0])

    def attach(self, conversation: str, user: str | None) -> None:
        """Say who the visitor is from now on; what was said stays."""
        with self._turn, transaction(self._connection):
            self._connection.execute(
                "UPDATE conversations SET user = ? WHERE id = ?", [user, conversation]
            )

    def add(self, conversation: str, said: Said) -> int:
        """Append a message, on disk when this returns; its number in the conversation, from 0."""
        with self._turn, transaction(self._connection):
            last = self._one(
                "SELECT number, history FROM messages WHERE conversation = ? "
                "ORDER BY number DESC LIMIT 1",
                conversation,
            )
            number, before = (last[0] + 1, last[1]) if last else (0, self._beginning(conversation))
            self._connection.execute(
                _INSERT,
                [
                    conversation,
                    number,
                    said.role,
                    storable(said.text),
                    _to_json(said.cards),
                    _to_json(said.state),
                    _extended(before, said.role, said.text),
                    said.created or _now(),
                ],
            )
        return int(number)

    def messages(self, conversation: str, *, newest: int | None = None) -> list[Said]:
        """Messages, in order.

        Args:
            conversation: Its id.
            newest: Only so many of the last ones; all when None.

        Raises:
            UserError: no such conversation.
        """
        self.user(conversation)
        rows = self._all(
            f"SELECT role, text, cards, state, created FROM messages WHERE conversation = ? "
            f"AND role != '{_RESUMED}' ORDER BY number DESC LIMIT ?",
            conversation,
            -1 if newest is None else newest,  # SQLite: no limit
        )
        return [
            Said(role, text, json.loads(cards), json.loads(state), created)
            for role, text, cards, state, created in reversed(rows)
        ]

    def state(self, conversation: str) -> Mapping[str, Any]:
        """What the conversation has come to, as plain values; empty at its beginning.

        Raises:
            UserError: no such conversation.
        """
        self.user(conversation)
        row = self._one(
            "SELECT state FROM messages WHERE conversation = ? ORDER BY number DESC LIMIT 1",
            conversation,
        )
        found: Mapping[str, Any] = json.loads(row[0]) if row else {}
        return found

    def resume(self, history: str) -> str | None:
        """A new conversation that goes on where messages behind a key had led.

        Clients that keep the messages themselves send all of them each time; several may go on
        from the same ones, and neither may see what the other adds.

        Args:
            history: From `history_key`.

        Returns:
            Its id; None where nothing like it was ever said.
        """
        with self._turn:
            row = self._one(
                "SELECT conversation, state FROM messages WHERE history = ? LIMIT 1", history
            )
            if row is None:
                return None
            name = self.start(self.user(str(row[0])), listed=False)
            with transaction(self._connection):
                self._connection.execute(
                    _INSERT, [name, 0, _RESUMED, "", "[]", row[1], history, _now()]
                )
        return name

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Conversations by their last message, newest first: `id`, `user`, `first`, `changed`."""
        rows = self._all(
            "SELECT c.id, c.user, coalesce((SELECT text FROM messages m WHERE m.conversation = "
            "c.id ORDER BY number LIMIT 1), ''), coalesce(max(m.created), c.created) AS changed "
            "FROM conversations c LEFT JOIN messages m ON m.conversation = c.id "
            "WHERE c.listed GROUP BY c.id ORDER BY changed DESC, c.id LIMIT ?",
            limit,
        )
        return [dict(zip(("id", "user", "first", "changed"), row, strict=True)) for row in rows]

    def _beginning(self, conversation: str) -> str:
        return history_key((), user=self.user(conversation))

    def _one(self, query: str, value: Any) -> tuple[Any, ...] | None:
        with self._turn:
            found: tuple[Any, ...] | None = self._connection.execute(query, [value]).fetchone()
        return found

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._turn:
            return self._connection.execute(query, values).fetchall()


def history_key(messages: Sequence[tuple[str, str]], *, user: str | None) -> str:
    """Hash of everything said so far, and of who said it.

    Args:
        messages: Role and text, in order.
        user: External id of a known user; None for a new visitor.
    """
    key = digest(["user", user])
    for role, text in messages:
        key = _extended(key, role, text)
    return key


def _extended(key: str, role: str, text: str) -> str:
    return digest([key, role, text.strip()])


def _prepare(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)


def _to_json(value: Any) -> str:
    # Half characters, as a cut text may end with, have no UTF-8; JSON's escapes can hold them.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
