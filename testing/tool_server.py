"""An OpenAI-compatible server whose model calls tools by a script, streamed or whole.

A script is a function from the body of a request to what the model does next, so that it can look
at what the tools have answered so far. Streams come in small pieces: the arguments of a call are
cut in the middle of words, as real servers cut them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tastemaker.testing.http_answers import (
    CHAT_PATH,
    Answer,
    HttpServer,
    LineLog,
    Request,
    error_answer,
    json_answer,
    model_list,
    refusal,
)

__all__ = ["Step", "ToolCall", "ToolScript", "ToolServer", "in_turn", "tool_results"]

_MODEL = "scripted"
_PIECE = 7  # characters of arguments in a piece of a stream
_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True)
class ToolCall:
    """One call that the model makes.

    Attributes:
        name: Of a tool, offered or not.
        arguments: Written as JSON; a text is sent as it is.
    """

    name: str
    arguments: Mapping[str, Any] | str

    @property
    def written(self) -> str:
        """The arguments as they are sent."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


Step = str | Sequence[ToolCall] | Answer
"""Text of the answer, calls of tools, or anything else that a server may answer."""
ToolScript = Callable[[Mapping[str, Any]], Step]
"""Body of a request → what the model does next."""


class ToolServer:
    """The server; as a context manager it runs until the block ends.

    Args:
        script: Called once per request, from the thread that serves it.
    """

    def __init__(self, script: ToolScript) -> None:
        self._script = script
        self._log = LineLog()
        self._server = HttpServer(self._respond)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()

    @property
    def base_url(self) -> str:
        """For clients; ends in `/v1`."""
        return f"http://127.0.0.1:{self._server.port}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Bodies of the chat completion requests so far, in order."""
        return [row["body"] for row in self._log.all()]

    def _respond(self, request: Request) -> Answer:
        if request.method == "GET" and request.path == "/v1/models":
            return model_list((_MODEL,))
        refused = refusal(request, key_required=None, models=())
        if refused is not None:
            return refused
        if request.path != CHAT_PATH:
            return error_answer(404, f"Invalid URL ({request.method} {request.path})")
        body = request.json()
        self._log.append({"body": body})
        step = self._script(body)
        if isinstance(step, Answer):
            return step
        number = len(self._log.all())
        return _streamed(body, step, number) if body.get("stream") else _whole(body, step, number)


def in_turn(*steps: Step) -> ToolScript:
    """A script that takes one step after another, and repeats the last one."""
    left = list(steps)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def tool_results(body: Mapping[str, Any]) -> list[str]:
    """What tools have answered in a conversation, in order."""
    return [str(one["content"]) for one in body["messages"] if one.get("role") == "tool"]


def _calls(step: str | Sequence[ToolCall], number: int) -> list[dict[str, Any]]:
    """Calls in OpenAI's shape; ids are different in every answer."""
    calls = [] if isinstance(step, str) else step
    return [
        {
            "id": f"call_{number}_{place}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.written},
        }
        for place, call in enumerate(calls)
    ]


def _head(body: Mapping[str, Any], number: int, *, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": 0, "model": body.get("model")}


def _whole(body: Mapping[str, Any], step: str | Sequence[ToolCall], number: int) -> Answer:
    calls = _calls(step, number)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": step if isinstance(step, str) else None,
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls" if calls else "stop",
        "logprobs": None,
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = _head(body, number, kind="chat.completion")
    return json_answer({**head, "choices": [choice], "usage": usage})


def _streamed(body: Mapping[str, Any], step: str | Sequence[ToolCall], number: int) -> Answer:
    """Server-sent events: a role, pieces of text or of calls, and why it ends."""
    head = _head(body, number, kind="chat.completion.chunk")
    reason = "stop" if isinstance(step, str) else "tool_calls"
    deltas = [{"role": "assistant", "content": ""}, *_deltas(step, number), {}]
    lines = []
    for delta in deltas:
        end = None if delta else reason
        choice = {"index": 0, "delta": delta, "finish_reason": end, "logprobs": None}
        lines.append(f"data: {json.dumps({**head, 'choices': [choice]})}\n\n")
    lines.append("data: [DONE]\n\n")
    return Answer(200, "".join(lines).encode(), {"Content-Type": "text/event-stream"})


def _deltas(step: str | Sequence[ToolCall], number: int) -> Iterator[dict[str, Any]]:
    if isinstance(step, str):
        yield from ({"content": piece} for piece in _WORD.findall(step))
        return
    for place, call in enumerate(_calls(step, number)):
        written = call["function"]["arguments"]
        begun = {**call, "index": place, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [begun]}
        for start in range(0, len(written), _PIECE):
            function = {"arguments": written[start : start + _PIECE]}
            yield {"tool_calls": [{"index": place, "function": function}]}
