"""What the test servers share: answers over HTTP, OpenAI's shapes, a log that others can read.

One thread per connection and keep-alive, as with a real server. An `Answer` may be late, cut short
or never come; after the last byte the server hears whether it was written whole.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from tastemaker.stage import digest

__all__ = [
    "CHAT_PATH",
    "Answer",
    "Backend",
    "HttpServer",
    "LineLog",
    "Request",
    "Script",
    "chat_completion",
    "echo",
    "error_answer",
    "json_answer",
    "model_list",
    "refusal",
    "request_key",
    "scripted_answer",
]

CHAT_PATH = "/v1/chat/completions"
Script = Callable[[Mapping[str, Any]], str]
"""Body of a chat completion request → text of the answer."""
_MOST_SECONDS_TO_STOP = 10.0
_MOST_SECONDS_OF_UPSTREAM = 300.0
_FORWARDED = ("Authorization", "Content-Type")
_RETURNED = ("Content-Type", "Retry-After")


@dataclass(frozen=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes

    def json(self) -> Any:
        """The body, parsed; None where it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass
class Answer:
    """What goes back, and how much of it.

    Attributes:
        status: HTTP status; None closes the connection without a byte.
        body: All of it; its length is always announced.
        headers: Beside length and type.
        pause: Seconds to wait before the first byte; ends early when the client leaves.
        keep: Bytes of the body to write before the connection is closed; None for all.
        done: Called with whether everything was written; the client may not know yet.
    """

    status: int | None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    keep: int | None = None
    done: Callable[[bool], None] | None = None


class HttpServer:
    """A threaded HTTP server on 127.0.0.1; as a context manager it runs until the block ends.

    Args:
        respond: Request → answer; called from many threads. An exception becomes a 500.
        port: 0 for any that is free.
    """

    def __init__(self, respond: Callable[[Request], Answer], *, port: int = 0) -> None:
        self.stopping = threading.Event()
        self.port = port
        self._respond = respond
        self._server: _Sockets | None = None
        self._busy = 0  # requests read and not yet answered
        self._writing = 0  # those of them that are being answered just now
        self._quiet = threading.Condition()

    def start(self) -> None:
        """Listen; `port` is known afterwards."""
        self._server = _Sockets(("127.0.0.1", self.port), _Handler)
        self._server.owner = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and wait for the threads that served them."""
        self.stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.close_connections()
            self._server.server_close()
            self._thread.join(_MOST_SECONDS_TO_STOP)
            self._server = None

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def settle(self) -> None:
        """Wait until nothing is being written: who has an answer finds it in the log."""
        with self._quiet:
            self._quiet.wait_for(lambda: self._writing == 0, timeout=_MOST_SECONDS_TO_STOP)

    def idle(self, *, limit: float = 60.0) -> bool:
        """Wait until no request is in flight, those of clients that left included; False if late.

        Args:
            limit: Seconds to wait at most.
        """
        with self._quiet:
            return self._quiet.wait_for(lambda: self._busy == 0, timeout=limit)

    def answer(self, request: Request) -> Answer:
        """The answer to a request."""
        try:
            return self._respond(request)
        except Exception as error:
            # A test server has no better place for its own mistakes than the client's traceback.
            return error_answer(500, f"{type(error).__name__}: {error}", kind="server_error")

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Mark a part of the program that `idle` waits for."""
        with self._quiet:
            self._busy += 1
        try:
            yield
        finally:
            with self._quiet:
                self._busy -= 1
                self._quiet.notify_all()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Mark a part of the program that `settle` waits for."""
        with self._quiet:
            self._writing += 1
        try:
            yield
        finally:
            with self._quiet:
                self._writing -= 1
                self._quiet.notify_all()


class _Sockets(ThreadingHTTPServer):
    """Knows its connections, so that closing leaves neither sockets nor threads behind."""

    daemon_threads = True
    request_queue_size = 512
    owner: HttpServer

    def __init__(self, *arguments: Any) -> None:
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is nothing to print."""

    def close_connections(self) -> None:
        with self._lock:
            open_now = list(self._open.items())
        for connection, _ in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for _, thread in open_now:
            thread.join(_MOST_SECONDS_TO_STOP)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Sockets

    def handle_any(self) -> None:
        if "Transfer-Encoding" in self.headers:
            self._write(Answer(411, keep=0))  # only bodies whose length is announced are read
            return
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(parse_qsl(parts.query))
        owner = self.server.owner
        with owner.handling():
            answer = owner.answer(Request(self.command, parts.path, query, self.headers, body))
            self._wait(answer.pause)
            with owner.writing():
                whole = self._write(answer)
                if answer.done is not None:
                    answer.done(whole)

    do_GET = do_POST = do_DELETE = handle_any

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        stopping = self.server.owner.stopping
        while (left := until - time.monotonic()) > 0 and not self._client_has_left():
            if stopping.wait(min(left, 0.02)):
                return

    def _client_has_left(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _write(self, answer: Answer) -> bool:
        whole = answer.status is not None and answer.keep is None
        self.close_connection |= not whole
        if answer.status is None or self._client_has_left():
            self.close_connection = True
            return False
        body = answer.body if answer.keep is None else answer.body[: answer.keep]
        try:
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
            return False
        return whole

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


class Backend:
    """Where answers come from: another server, or a script where there is none.

    Args:
        upstream: Base URL that ends in `/v1`; None for the script.
        script: Body of a request → text of the answer.
        latency: Seconds that the script takes.
        models: What `/v1/models` lists where there is only a script.
    """

    def __init__(
        self,
        upstream: str | None,
        *,
        script: Script,
        latency: float = 0.0,
        models: tuple[str, ...] = (),
    ) -> None:
        self._upstream = None if upstream is None else upstream.rstrip("/")
        self._script, self._latency, self._models = script, latency, models
        self._closing = threading.Event()
        self._client = httpx.Client(
            trust_env=False,
            timeout=httpx.Timeout(_MOST_SECONDS_OF_UPSTREAM, connect=5.0),
            # Shorter than servers keep idle connections, so that none breaks when used again.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=2.0),
        )

    def ask(self, request: Request) -> Answer:
        """The upstream's answer, whole and with its status; 502 where it cannot be reached."""
        if self._upstream is None:
            return self._scripted(request)
        headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        try:
            found = self._client.request(
                request.method,
                self._upstream + request.path.removeprefix("/v1"),
                params=request.query,
                headers={**headers, "Accept-Encoding": "identity"},
                content=request.body,
            )
        except httpx.TransportError as error:
            return error_answer(502, f"The upstream failed: {error}", kind="server_error")
        back = {name: found.headers[name] for name in _RETURNED if name in found.headers}
        return Answer(found.status_code, found.content, back)

    def close(self) -> None:
        """End what is going on and close the connections."""
        self._closing.set()
        self._client.close()

    def _scripted(self, request: Request) -> Answer:
        if request.method == "GET" and request.path == "/v1/models":
            return model_list(self._models)
        if request.method != "POST" or request.path != CHAT_PATH:
            return error_answer(404, f"Invalid URL ({request.method} {request.path})")
        self._closing.wait(self._latency)
        return scripted_answer(request, self._script)


class LineLog:
    """Records in memory and, one JSON object a line, in a file; safe among threads.

    Args:
        path: Appended to at every record; what stood there stays. None for memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._records: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._file = None if path is None else path.open("a", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one; it gets its `number`, counted from 0."""
        with self._lock:
            row = {"number": len(self._records), **record}
            self._records.append(row)
            if self._file is not None:
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()

    def all(self) -> list[dict[str, Any]]:
        """A copy, in order."""
        with self._lock:
            return list(self._records)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def request_key(body: bytes | Mapping[str, Any]) -> str:
    """Hash of a request's body: equal for equal JSON, whatever the order of its keys."""
    if isinstance(body, bytes):
        try:
            return digest(json.loads(body))
        except ValueError:
            return digest(body.hex())
    return digest(body)


def json_answer(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    """An answer that holds JSON."""
    return Answer(status, json.dumps(value).encode(), dict(headers or {}))


def error_answer(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """An error in OpenAI's form."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json_answer({"error": error}, status=status, headers=headers)


def refusal(
    request: Request, *, key_required: str | None = None, models: tuple[str, ...] = ()
) -> Answer | None:
    """Why a request is turned away before anything else: its key or its model; None if it is not.

    Args:
        request: What came.
        key_required: The only key let in; None lets in all.
        models: The models that exist; empty for any.
    """
    if (
        key_required is not None
        and request.headers.get("Authorization") != f"Bearer {key_required}"
    ):
        return error_answer(401, "Incorrect API key provided.", code="invalid_api_key")
    if request.method != "POST" or request.path != CHAT_PATH:
        return None
    body = request.json()
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        return error_answer(400, "The body is not a chat completion request.")
    if models and body.get("model") not in models:
        message = f"The model `{body.get('model')}` does not exist or you do not have access to it."
        return error_answer(404, message, code="model_not_found", param="model")
    return None


def model_list(models: tuple[str, ...]) -> Answer:
    """What `/v1/models` answers."""
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in models]
    return json_answer({"object": "list", "data": rows})


def echo(body: Mapping[str, Any]) -> str:
    """Eight digits that depend on the whole conversation, then its last message."""
    messages = body["messages"]
    seen = digest([(message.get("role"), _text(message)) for message in messages])
    return f"{seen[:8]} {_text(messages[-1])}"


def scripted_answer(request: Request, script: Script) -> Answer:
    """A script's chat completion; streams are not spoken."""
    body = request.json()
    if body.get("stream"):
        return error_answer(400, "This server does not stream.", param="stream")
    return json_answer(chat_completion(body, script))


def chat_completion(body: Mapping[str, Any], script: Script) -> dict[str, Any]:
    """A script's answer in OpenAI's shape; words stand for tokens.

    Longer answers than `max_completion_tokens` or `max_tokens` are cut and finish with `length`.
    """
    words = script(body).split(" ")
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(words)
    given = min(len(words), limit)
    asked = sum(len(_text(message).split()) for message in body["messages"])
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " ".join(words[:given]), "refusal": None},
        "finish_reason": "stop" if given == len(words) else "length",
        "logprobs": None,
    }
    return {
        "id": f"chatcmpl-{digest([request_key(body), time.time_ns()])[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model"),
        "choices": [choice],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": given,
            "total_tokens": asked + given,
        },
    }


def _text(message: Mapping[str, Any]) -> str:
    """Text of a message, whether it stands there as such or in parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
