"""How much one client, one request and one answer may take."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Self

from tastemaker.errors import UnknownNameError, UserError

__all__ = ["Buckets", "Limits", "client_key"]

_MINUTE = 60.0
_HOME_BITS = 64  # one household or machine of IPv6 has them all


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; all are whole numbers above 0.

    Attributes:
        body_bytes: Of a request.
        message_chars: Of one message.
        messages: Of one request.
        recommend_per_minute: Requests of one client that need no answer in words.
        chat_per_minute: Messages of one client.
        answer_seconds: After which an answer is stopped.
        answers_at_once: Answers that are made at the same time, more than one only where the chat
            model takes it.
        answers_waiting: Messages that may wait for their turn.
        wait_seconds: Longest wait for a turn.
        workers: Threads for everything but answers.
        requests_waiting: Requests that may wait for one of those threads.
        clients: Clients whose speed is remembered.
    """

    body_bytes: int = 64 * 1024
    message_chars: int = 4_000
    messages: int = 200
    recommend_per_minute: int = 600
    chat_per_minute: int = 60
    answer_seconds: int = 60
    answers_at_once: int = 1
    answers_waiting: int = 16
    wait_seconds: int = 30
    workers: int = 4
    requests_waiting: int = 256
    clients: int = 10_000

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise UserError(
                    f"limit {one.name} of {getattr(self, one.name)} cannot be kept.",
                    allowed="a whole number above 0",
                )

    def changed(self, assignments: Iterable[str]) -> Self:
        """The same limits but for some.

        Args:
            assignments: Such as `chat_per_minute=10`.

        Raises:
            UserError: there is no such limit, or its value is no whole number above 0.
        """
        names = [one.name for one in fields(self)]
        changes: dict[str, int] = {}
        for assignment in assignments:
            name, _, value = assignment.partition("=")
            if name not in names:
                raise UnknownNameError("limit", name, names)
            if not value.isdecimal():
                raise UserError(
                    f"limit '{assignment}' cannot be kept.", allowed="a whole number above 0"
                )
            changes[name] = int(value)
        return replace(self, **changes)


class Buckets:
    """Lets every client make so many requests a minute, all at once if they like.

    Only clients that were seen lately are remembered, so that memory is bounded; one that was
    forgotten begins with a full minute again.

    Args:
        per_minute: Requests of one client.
        clients: How many are remembered.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, per_minute: int, *, clients: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size, self._speed = float(per_minute), per_minute / _MINUTE
        self._most, self._clock = clients, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Clients remembered."""
        return len(self._left)

    def take(self, client: str) -> int:
        """Count one request.

        Args:
            client: Who asks.

        Returns:
            0 when it may be made, else the seconds after which the next one may.
        """
        now = self._clock()
        left, then = self._left.pop(client, (self._size, now))
        left = min(self._size, left + (now - then) * self._speed)
        allowed = left >= 1.0
        self._left[client] = (left - allowed, now)
        while len(self._left) > self._most:
            self._left.popitem(last=False)
        return 0 if allowed else math.ceil((1.0 - left) / self._speed)


def client_key(address: str) -> str:
    """Whom requests from an address are counted for; one IPv6 network is one client.

    The token does not tell clients apart: they all have the same.

    >>> client_key("2001:db8::1:2:3:4")
    '2001:db8::/64'
    """
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(ipaddress.ip_network((known, _HOME_BITS), strict=False))
