"""The stream of a model that may fail or never end, read so that nobody waits for it forever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["Reply"]

_POLL = 0.1  # seconds between looks at whether somebody has stopped the answer
_LATE = "(The model did not answer in time; what it left out is worded by rule.)"
_FAILED = "(The model could not be asked; what it left out is worded by rule.)"


class Reply:
    """Text that a thread of its own reads.

    Args:
        source: Makes the stream; called in that thread.
        timeout: Seconds for the whole of it.
        stopped: Asked between pieces.

    Attributes:
        trouble: A sentence about what went wrong; empty where nothing did.
    """

    def __init__(
        self,
        source: Callable[[], Iterator[str]],
        *,
        timeout: float,
        stopped: Callable[[], bool],
    ) -> None:
        self.trouble = ""
        self._source, self._timeout, self._stopped = source, timeout, stopped
        self._given_up = threading.Event()
        self._queue: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()

    def pieces(self) -> Iterator[str]:
        """Text as it comes, until its end, trouble, or somebody stops it."""
        until = time.monotonic() + self._timeout
        threading.Thread(target=self._read, daemon=True, name="reply").start()
        try:
            while not self._stopped():
                try:
                    piece = self._queue.get(timeout=_POLL)
                except queue.Empty:
                    piece = ""
                if piece is None:
                    return
                if isinstance(piece, Exception):
                    self.trouble = _FAILED
                    return
                if piece:
                    yield piece
                if time.monotonic() > until:
                    self.trouble = _LATE
                    return
        finally:
            self._given_up.set()

    def _read(self) -> None:
        try:
            for piece in self._source():
                if self._given_up.is_set():
                    return
                self._queue.put(piece)
            self._queue.put(None)
        except Exception as error:  # of whatever kind: the answer goes on without the model
            self._queue.put(error)
