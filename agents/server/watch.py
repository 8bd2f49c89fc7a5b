"""What every answer gets: security headers, a line in the log, its place in the metrics."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tastemaker.agents.server.metrics import Metrics
from tastemaker.agents.server.refusals import from_error

__all__ = ["Watch", "route_of"]

_LOG = logging.getLogger("tastemaker.server.access")
_CLIENT_LEFT = 499
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Watch:
    """Wraps an application.

    The log has method, route, status and time; never a path, whose parts may be the id of a
    conversation, and never a text.

    Args:
        app: The application.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = _CLIENT_LEFT

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        began = time.monotonic()
        self._metrics.began()
        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            refusal = from_error(error)
            if status == _CLIENT_LEFT:  # nothing was sent yet
                await refusal.send(watched)
        finally:
            seconds = time.monotonic() - began
            method, route = _method(scope), route_of(scope)
            self._metrics.ended(method, route, status=status, seconds=seconds)
            _LOG.info("%s %s %d %.0f ms", method, route, status, 1000 * seconds)


def route_of(scope: Scope) -> str:
    """The pattern of the route that answered, or `other`."""
    return str(getattr(scope.get("route"), "path", "other"))


def _method(scope: Scope) -> str:
    known = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}
    return scope["method"] if scope["method"] in known else "other"
