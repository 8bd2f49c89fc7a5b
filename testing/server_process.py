"""Servers as processes of their own: started, waited for, ended with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import httpx

from tastemaker.errors import StageError

__all__ = ["free_port", "running_server"]

_TAIL_LINES = 20
_SECONDS_TO_END = 5.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_server(
    arguments: Sequence[str],
    *,
    ready: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    limit: float = 60.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program that serves HTTP, from its first answer to the end of the block.

    Args:
        arguments: For the interpreter, such as `["-m", "tastemaker.testing.fault_proxy"]`.
        ready: URL that answers 200 once the server serves.
        log: File for what the server prints.
        environment: Variables beside those of this process.
        limit: Seconds until it must have answered.

    Raises:
        StageError: it ended or did not answer in time; the message holds the end of the log.
    """
    with log.open("ab") as output:
        process = _start(arguments, output=output, environment=environment or {})
    try:
        _wait(process, ready=ready, log=log, limit=limit)
        yield process
    finally:
        _end(process)


def _start(
    arguments: Sequence[str], *, output: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,  # a process group of its own, ended as one
    )


def _wait(process: subprocess.Popen[bytes], *, ready: str, log: Path, limit: float) -> None:
    until = time.monotonic() + limit
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < until:
            if process.poll() is not None:
                raise StageError(f"the server ended with {process.returncode}:\n{_tail(log)}")
            with contextlib.suppress(httpx.TransportError):
                if client.get(ready).status_code == httpx.codes.OK:
                    return
            time.sleep(0.05)
    raise StageError(f"{ready} did not answer within {limit:g} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process group to end, then make it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived it
