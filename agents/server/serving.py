"""Running the server: where it listens, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from tastemaker.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["listening", "serve"]

_SECONDS_TO_END = 3
_MOST_CONNECTIONS = 1_000


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address; 0 takes any free port.

    Raises:
        UserError: the address cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(found[0], socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[4])
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"port {port} of {host} cannot be used: {reason}.",
                remedy="Choose another one with --port, or end what listens there.",
            ) from error
        stack.pop_all()
        return listener


def serve(app: FastAPI, listener: socket.socket, *, ready: Callable[[str], None]) -> None:
    """Serve until the process is interrupted or asked to end.

    The access log goes to standard error, through the logger `tastemaker.server`.

    Args:
        app: The application.
        listener: As of `listening`.
        ready: Told the address once requests are answered.

    Raises:
        KeyboardInterrupt: it was interrupted; connections have been closed.
    """
    import uvicorn

    _log_to_stderr()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(address)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.desk.closing.set()
            super().handle_exit(sig, frame)

    Announced(config).run(sockets=[listener])


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    log = logging.getLogger("tastemaker.server")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
