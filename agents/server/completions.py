"""OpenAI's API: chat completions and models.

What clients may expect to differ: instructions of system and developer messages are read over,
parameters of sampling are ignored, token counts are estimates, and the answer holds one field
more, `tastemaker`, with the conversation and its items.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from tastemaker.agents.server.answering import (
    Answer,
    EventStream,
    frame,
    tokens_of,
    while_connected,
)
from tastemaker.agents.server.desk import Desk, TheDesk
from tastemaker.agents.server.lanes import Stopped
from tastemaker.agents.server.refusals import Refusal
from tastemaker.agents.server.service import ChatService, Event
from tastemaker.agents.server.shapes import CardBody, Text

__all__ = ["ROUTER"]

ROUTER = APIRouter(prefix="/v1", tags=["OpenAI"])
_HEARD = ("user", "assistant")


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Part(_Lenient):
    type: Text
    text: Text | None = None


class ClientMessage(_Lenient):
    """One message of a conversation, as the client remembers it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[_Part] | None = None

    def as_text(self) -> str:
        """Its words.

        Raises:
            Refusal: it holds something else.
        """
        if isinstance(self.content, str):
            return self.content
        for part in self.content or ():
            if part.text is None:
                raise _unsupported(f"content of type '{part.type[:40]}'", "text")
        return "\n".join(part.text or "" for part in self.content or ())


class _StreamOptions(_Lenient):
    include_usage: bool = False


class CompletionBody(_Lenient):
    """A conversation whose last message is to be answered.

    System and developer messages are accepted and not obeyed. Other parameters of OpenAI's API
    are ignored, but for `n`, `tools` and `functions`, which are refused.
    """

    messages: Annotated[list[ClientMessage], Field(min_length=1)]
    model: Text | None = None
    user: Text | None = Field(None, description="Id of a known user, whose history then counts.")
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None

    def checked(self, desk: Desk) -> tuple[list[tuple[str, str]], str]:
        """What was said before, and the message to answer.

        Raises:
            Refusal: something of it cannot be done.
        """
        if self.n not in {None, 1}:
            raise _unsupported(f"n={self.n}", "1")
        if self.tools or self.functions:
            raise _unsupported("tools of the client", "none; the server has its own")
        said: list[tuple[str, str]] = [(one.role, one.as_text()) for one in self.messages]
        if {role for role, _ in said} & {"tool", "function"}:
            raise _unsupported("messages of tools", "roles system, developer, user, assistant")
        heard = [(role, text) for role, text in said if role in _HEARD]
        if not heard or heard[-1][0] != "user" or not heard[-1][1].strip():
            raise Refusal(400, "The last message must be the user's.", code="no_user_message")
        _check_size(heard, desk)
        return heard[:-1], heard[-1][1]


@ROUTER.post("/chat/completions")
async def complete(body: CompletionBody, request: Request, desk: TheDesk) -> Response:
    """Answer the last message of a conversation, at once or streamed."""
    earlier, message = body.checked(desk)
    model = _known_model(body.model, desk.chat)
    answer = Answer(desk)

    def work(stopped: Stopped) -> Iterator[Event]:
        answer.conversation = desk.chat.continued(earlier, user=body.user)
        yield from desk.chat.reply(answer.conversation, message, stopped=stopped)

    await answer.begin(work, receive=request.receive)
    told = _Told(answer, model=model, asked=sum(tokens_of(text) for _, text in earlier))
    told.asked += tokens_of(message)
    if body.stream:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        return EventStream(told.chunks(with_usage=with_usage), failed=_failed)
    await while_connected(answer.complete(), receive=request.receive)
    return JSONResponse(told.whole())


@ROUTER.get("/models")
async def models(desk: TheDesk) -> dict[str, Any]:
    """Names to ask for; the first is the default."""
    return {"object": "list", "data": [_model(name) for name in desk.chat.models]}


@ROUTER.get("/models/{name:path}")
async def model(name: str, desk: TheDesk) -> dict[str, Any]:
    """One model, where there is one of that name."""
    return _model(_known_model(name, desk.chat))


class _Told:
    """An answer as OpenAI's API tells it."""

    def __init__(self, answer: Answer, *, model: str, asked: int) -> None:
        self._answer, self.asked = answer, asked
        self._same = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}
        self._same["model"] = model

    def whole(self) -> dict[str, Any]:
        """In one piece."""
        message = {"role": "assistant", "content": self._answer.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self._finish(),
        }
        return {
            **self._same,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(),
            "tastemaker": self._own(),
        }

    async def chunks(self, *, with_usage: bool) -> AsyncGenerator[str, None]:
        """Streamed; the last chunk with a choice has the field `tastemaker`."""
        yield self._chunk({"role": "assistant", "content": ""})
        async with contextlib.aclosing(self._answer.events()) as events:
            async for event in events:
                if event is None:
                    yield ""
                elif event.kind == "text" and event.text:
                    yield self._chunk({"content": event.text})
        yield self._chunk({}, finish=self._finish(), tastemaker=self._own())
        if with_usage:
            usage = {"object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
            yield frame({**self._same, **usage})
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], *, finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return frame({**self._same, "object": "chat.completion.chunk", "choices": [choice], **more})

    def _finish(self) -> str:
        return "length" if self._answer.expired else "stop"

    def _usage(self) -> dict[str, int]:
        answered = tokens_of(self._answer.text)
        return {
            "prompt_tokens": self.asked,
            "completion_tokens": answered,
            "total_tokens": self.asked + answered,
        }

    def _own(self) -> dict[str, Any]:
        cards = [CardBody.of(card).model_dump() for card in self._answer.cards]
        return {
            "conversation": self._answer.conversation,
            "items": cards,
            "notes": self._answer.notes,
        }


def _check_size(heard: list[tuple[str, str]], desk: Desk) -> None:
    limits = desk.limits
    if len(heard) > limits.messages:
        message = f"A request may have {limits.messages:,} messages."
        raise Refusal(400, message, code="too_many_messages")
    if any(len(text) > limits.message_chars for role, text in heard if role == "user"):
        message = f"A message may have {limits.message_chars:,} characters."
        raise Refusal(400, message, code="message_too_long")


def _known_model(name: str | None, chat: ChatService) -> str:
    if name is None:
        return chat.models[0]
    if name not in chat.models:
        known = ", ".join(chat.models)
        message = f"There is no model '{name[:80]}'; models: {known}."
        raise Refusal(404, message, code="model_not_found")
    return name


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tastemaker"}


def _unsupported(what: str, allowed: str) -> Refusal:
    message = f"This server does not take {what}; allowed: {allowed}."
    return Refusal(400, message, code="unsupported")


def _failed(refusal: Refusal) -> str:
    return frame({"error": refusal.as_dict()})
