"""An answer in words on its way from a worker thread to a client, who may leave any time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tastemaker.agents.dialogue.wish import Card
from tastemaker.agents.server.desk import Desk
from tastemaker.agents.server.lanes import Flow, Stopped
from tastemaker.agents.server.refusals import Refusal, from_error
from tastemaker.agents.server.service import Event
from tastemaker.errors import BusyError

__all__ = ["Answer", "EventStream", "frame", "tokens_of", "while_connected"]

_T = TypeVar("_T")
_SECONDS_OF_SILENCE = 10.0  # after which a comment tells that the connection is alive
_LEFT = "client_left"
_CHARS_PER_TOKEN = 4
_ALIVE = ": still there\n\n"


@dataclass(frozen=True)
class _Silence:
    """In place of an event that has not come yet."""

    kind: str = "notes"
    text: str = ""
    cards: tuple[Card, ...] = ()


_SILENCE = _Silence()  # told apart by identity


class Answer:
    """One answer: what has come of it so far, and the events that are still to come.

    Args:
        desk: Where it is made.

    Attributes:
        text: So far.
        cards: So far.
        notes: So far.
        conversation: Id, known once the first event is there.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._began = desk, time.monotonic()
        self._flow = Flow[Event](seconds=desk.limits.answer_seconds, closing=desk.closing.is_set)
        self._first: Event | None = None
        self._first_text: float | None = None
        self.text, self.conversation = "", ""
        self.cards: tuple[Card, ...] = ()
        self.notes: list[str] = []

    @property
    def expired(self) -> bool:
        """Whether it was stopped because its time was over."""
        return self._flow.expired

    async def begin(self, work: Callable[[Stopped], Iterator[Event]], *, receive: Receive) -> None:
        """Wait for a thread and for the first event, so that an early error has its status.

        Args:
            work: Makes the events.
            receive: Tells when the client leaves.

        Raises:
            Refusal: it cannot be made, or the client left.
        """
        try:
            await while_connected(self._desk.answers.feed(self._flow, work), receive=receive)
            self._first = await while_connected(self._read_first(), receive=receive)
        except BusyError:
            self._end("failed")
            message = "This conversation is being answered; wait for that, or stop it."
            raise Refusal(409, message, code="conversation_busy", retry_after=1) from None
        except BaseException as error:
            self._end("stopped" if _is_leaving(error) else "failed")
            raise

    async def events(self) -> AsyncGenerator[Event | None, None]:
        """All but the last; None when there was nothing for a while."""
        end = "failed"
        try:
            event = self._first
            while event is not None:
                self._note(event)
                if event.kind != "done":
                    yield event
                while (event := await self._read()) is _SILENCE:
                    yield None
            end = "expired" if self.expired else "done"
        except (asyncio.CancelledError, GeneratorExit):
            end = "stopped"
            raise
        finally:
            self._end(end)

    async def complete(self) -> None:
        """Wait for the end."""
        async with contextlib.aclosing(self.events()) as events:
            async for _ in events:
                pass

    async def _read_first(self) -> Event | None:
        while (event := await self._read()) is _SILENCE:
            pass
        return event

    async def _read(self) -> Event | None:
        try:
            return await self._flow.read(seconds=_SECONDS_OF_SILENCE)
        except TimeoutError:
            return _SILENCE

    def _note(self, event: Event) -> None:
        if event.kind == "text":
            self.text += event.text
            if self._first_text is None:
                self._first_text = time.monotonic() - self._began
        elif event.kind == "cards":
            self.cards = event.cards
        elif event.kind == "notes":
            self.notes.append(event.text)

    def _end(self, end: str) -> None:
        self._flow.stop()
        self._desk.metrics.answered(
            end,
            first=self._first_text,
            whole=time.monotonic() - self._began,
            tokens=tokens_of(self.text),
        )


class EventStream(Response):
    """Server-sent events, until the end or until the client leaves.

    Args:
        frames: What is sent, an empty one as a sign of life; an error becomes a last frame.
        failed: Makes that frame.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[str, None], *, failed: Callable[[Refusal], str]
    ) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self._frames, self._failed = frames, failed
        self.init_headers({"X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as ASGI has it."""
        with contextlib.suppress(Refusal):  # nobody is there to read it
            await while_connected(self._send(send), receive=receive)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with contextlib.aclosing(self._guarded()) as frames:
            async for text in frames:
                body = text.encode("utf-8")
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _guarded(self) -> AsyncGenerator[str, None]:
        try:
            async with contextlib.aclosing(self._frames) as frames:
                async for text in frames:
                    yield text or _ALIVE
        except Exception as error:
            yield self._failed(from_error(error))


def frame(value: Any) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(value, allow_nan=False)}\n\n"


def tokens_of(text: str) -> int:
    """About how many tokens a text has; the true number depends on the model.

    >>> tokens_of("Three short words")
    5
    """
    return -(-len(text) // _CHARS_PER_TOKEN)


async def while_connected(work: Awaitable[_T], *, receive: Receive) -> _T:
    """Wait for work unless the client leaves, which cancels it.

    Args:
        work: To be done.
        receive: Of a request whose body has been read.

    Raises:
        Refusal: the client left.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Refusal(499, "The client left.", code=_LEFT)
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_leaving(error: BaseException) -> bool:
    left = isinstance(error, Refusal) and error.code == _LEFT
    return left or isinstance(error, asyncio.CancelledError)
