"""Who may ask, from where, how often and how much: settled before any route is looked at.

A page of another site can make a browser send requests to this machine, even under a name of its
own that leads here. So a server without a token knows itself by loopback names only, and what
comes from another origin is refused everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tastemaker.agents.server.exposure import is_local
from tastemaker.agents.server.limits import Buckets, Limits, client_key
from tastemaker.agents.server.refusals import Refusal

__all__ = ["OPEN_PATHS", "Gate"]

# They hold no data: the page and the list of operations ask for the token themselves.
OPEN_PATHS = frozenset({"/", "/docs", "/health"})
_UNCOUNTED = OPEN_PATHS | {"/metrics", "/openapi.json"}
_SECONDS_TO_SEND = 10.0
_JSON = "application/json"


class Gate:
    """Lets requests through to an application, or refuses them.

    Args:
        app: The application.
        limits: How often and how much.
        token: That clients must know; None: anybody on this machine may ask.
        local: Whether the server listens on this machine only.
        refused: Told the code of every refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        token: str | None,
        local: bool,
        refused: Callable[[str], None],
    ) -> None:
        self._app, self._limits, self._local, self._refused = app, limits, local, refused
        self._token = None if token is None else _digest(token)
        self._chat = Buckets(limits.chat_per_minute, clients=limits.clients)
        self._other = Buckets(limits.recommend_per_minute, clients=limits.clients)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_place(headers)
            self._check_token(headers, scope["path"])
            self._check_rate(scope)
            if scope["method"] == "POST":
                receive = await self._whole_body(headers, receive)
        except Refusal as refusal:
            self._refused(refusal.code)
            await refusal.send(send)
            return
        await self._app(scope, receive, send)

    def _check_place(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._local and not is_local(_hostname(host)):
            message = "This server answers on this machine's own address only."
            raise Refusal(403, message, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise Refusal(403, "Pages of other origins may not ask.", code="wrong_origin")

    def _check_token(self, headers: Headers, path: str) -> None:
        if self._token is None or path in OPEN_PATHS:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._token):
            return
        message = "This server needs a token: Authorization: Bearer TOKEN."
        raise Refusal(401, message, code="invalid_token", headers={"WWW-Authenticate": "Bearer"})

    def _check_rate(self, scope: Scope) -> None:
        path = scope["path"]
        if path in _UNCOUNTED:
            return
        buckets = self._chat if _is_message(path, scope["method"]) else self._other
        address = scope["client"][0] if scope.get("client") else ""
        seconds = buckets.take(client_key(address))
        if seconds:
            message = f"Too many requests in a minute; try again in {seconds} s."
            raise Refusal(429, message, code="rate_limited", retry_after=seconds)

    async def _whole_body(self, headers: Headers, receive: Receive) -> Receive:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
            raise Refusal(415, f"The body must be {_JSON}.", code="wrong_content_type")
        told = headers.get("content-length", "")
        if told.isdecimal() and int(told[:20]) > self._limits.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(_SECONDS_TO_SEND):
                body = await self._read(receive)
        except TimeoutError:
            raise Refusal(408, "The body came too slowly.", code="slow_body") from None
        return _replayed(body, receive)

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "The client left.", code="client_left")
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> Refusal:
        message = f"A body may have {self._limits.body_bytes:,} bytes."
        return Refusal(413, message, code="body_too_large")


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_message(path: str, method: str) -> bool:
    in_words = path.startswith("/api/conversations/") and path.endswith("/messages")
    return method == "POST" and (path == "/v1/chat/completions" or in_words)


def _digest(token: str) -> bytes:
    """Of equal length for all tokens, so that comparing tells nothing about theirs."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _replayed(body: bytes, receive: Receive) -> Receive:
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay
