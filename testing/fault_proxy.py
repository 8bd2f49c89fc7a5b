"""A proxy that breaks some of what passes through it, the same way every time.

Whether a request is answered or broken depends on the seed, on its body and on how often that body
came before, never on the order in which threads arrive. Without an upstream the proxy answers by a
script. Run it as a process of its own, and it outlives clients that are killed:

```
python -m tastemaker.testing.fault_proxy --seed 1 --port 8000 --log FILE --faults '{"close": 0.1}'
```
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.testing.http_answers import (
    CHAT_PATH,
    Answer,
    Backend,
    HttpServer,
    LineLog,
    Request,
    Script,
    echo,
    error_answer,
    json_answer,
    refusal,
    request_key,
)
from tastemaker.testing.server_process import free_port, running_server

__all__ = ["FAULTS", "PASSED", "REFUSED", "FaultProxy", "Record", "read_log", "running_proxy"]

FAULTS = {
    "rate_limit": "429 with Retry-After; the upstream is not asked",
    "server_error": "500; the upstream is not asked",
    "unavailable": "503 with Retry-After; the upstream is not asked",
    "drop": "closed without an answer; the upstream is not asked",
    "close": "the upstream answered; closed in the middle of the body",
    "delay": "the upstream answered; passed on late, if the client is still there",
    "truncated_json": "the upstream answered; half of the body as if it were all",
    "empty_choice": "the upstream answered; without a choice",
    "empty_text": "the upstream answered; with an empty text",
}
PASSED = "passed"
REFUSED = "refused"
_NOT_ASKED = ("rate_limit", "server_error", "unavailable", "drop")
_UNHARMED = (PASSED, "delay")


@dataclass(frozen=True)
class Record:
    """What became of one request.

    Attributes:
        number: Counted from 0 in the order in which requests were done with.
        time: Unix time at which it had been read.
        finished: Unix time at which the answer had been written or given up.
        duration: Seconds between the two.
        key: `request_key` of the body.
        attempt: How many requests with this body came before.
        fault: A name from `FAULTS`, `passed` or `refused` (wrong key, unknown model, no JSON).
        status: HTTP status; None where none was sent.
        asked: Whether the upstream or the script worked on it, as a provider would bill.
        delivered: Whether the whole answer was written without an error.
    """

    number: int
    time: float
    finished: float
    duration: float
    key: str
    attempt: int
    fault: str
    status: int | None
    asked: bool
    delivered: bool

    @property
    def good(self) -> bool:
        """Whether the client was given the upstream's own answer, whole."""
        return self.delivered and self.status == 200 and self.fault in _UNHARMED


class FaultProxy:
    """A proxy for OpenAI-compatible servers; runs as long as its `with` block.

    GET requests pass unharmed and are not recorded. Keys are passed on and never recorded.

    Args:
        upstream: Base URL that ends in `/v1`; None to answer by `script`.
        seed: Of all decisions.
        faults: Fault → probability, each from 0 to 1 and together at most 1.
        retry_after: Seconds that `rate_limit` and `unavailable` ask for.
        retry_after_date: Whether they ask by an HTTP date, which knows whole seconds only.
        delay: Seconds that `delay` waits.
        first_only: Whether only the first request of each body may be broken.
        script: Body → text, without an upstream.
        latency: Seconds that the script takes.
        key_required: The only key let in; others are answered 401.
        models: The models that exist, others are answered 404; empty for any.
        log: File to which every record is appended as a line of JSON.
        port: 0 for any that is free.

    Raises:
        UnknownNameError: a fault has another name.
        UserError: probabilities that are none.
    """

    def __init__(
        self,
        upstream: str | None = None,
        *,
        seed: int,
        faults: Mapping[str, float],
        retry_after: float = 0.05,
        retry_after_date: bool = False,
        delay: float = 2.0,
        first_only: bool = False,
        script: Script = echo,
        latency: float = 0.0,
        key_required: str | None = None,
        models: Sequence[str] = (),
        log: Path | None = None,
        port: int = 0,
    ) -> None:
        _check(faults)
        self._seed, self._faults, self._first_only = seed, dict(faults), first_only
        self._retry_after, self._retry_after_date = retry_after, retry_after_date
        self._delay = delay
        self._key_required, self._models = key_required, tuple(models)
        self._backend = Backend(upstream, script=script, latency=latency, models=self._models)
        self._log = LineLog(log)
        self._server = HttpServer(self._respond, port=port)
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> FaultProxy:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._backend.close()
        self._log.close()

    @property
    def url(self) -> str:
        """Base URL for clients; ends in `/v1`."""
        return f"http://127.0.0.1:{self._server.port}/v1"

    @property
    def records(self) -> list[Record]:
        """All requests done with; whoever has an answer finds it here."""
        self._server.settle()
        return [Record(**row) for row in self._log.all()]

    @property
    def faults_injected(self) -> dict[str, int]:
        """Fault → how often."""
        found = Counter(record.fault for record in self.records)
        return {name: count for name, count in found.items() if name in FAULTS}

    def delivered(self, key: str) -> int:
        """How many whole, unharmed answers were delivered for a body.

        Args:
            key: `request_key` of the body.
        """
        return sum(record.good for record in self.records if record.key == key)

    def asked(self, key: str) -> int:
        """How often the upstream or the script worked on a body.

        Args:
            key: `request_key` of the body.
        """
        return sum(record.asked for record in self.records if record.key == key)

    def idle(self, *, limit: float = 60.0) -> bool:
        """Wait until no request is in flight, those of clients that left included; False if late.

        Args:
            limit: Seconds to wait at most.
        """
        return self._server.idle(limit=limit)

    def _respond(self, request: Request) -> Answer:
        if request.path == "/health":
            return json_answer({"status": "ok"})
        refused = refusal(request, key_required=self._key_required, models=self._models)
        if request.method != "POST":
            return refused or self._backend.ask(request)
        started = time.time()
        key = request_key(request.body)
        if refused is not None:
            answer, attempt, fault, asked = refused, 0, REFUSED, False
        else:
            with self._lock:
                attempt = self._attempts[key]
                self._attempts[key] += 1
            fault = self._draw(key, attempt)
            asked = fault not in _NOT_ASKED
            answer, fault = (
                self._spoiled(request, fault) if asked else (self._refused(fault), fault)
            )
        row = {"time": started, "key": key, "attempt": attempt, "fault": fault, "asked": asked}
        answer.done = partial(self._record, row, answer.status)
        return answer

    def _draw(self, key: str, attempt: int) -> str:
        """The fault of a body's n-th request."""
        if self._first_only and attempt:
            return PASSED
        left = random.Random(f"{self._seed}/{key}/{attempt}").random()
        for name in FAULTS:  # in this order, whatever the caller's
            left -= self._faults.get(name, 0.0)
            if left < 0:
                return name
        return PASSED

    def _refused(self, fault: str) -> Answer:
        """What comes without asking the upstream."""
        if fault == "drop":
            return Answer(None)
        if fault == "server_error":
            return error_answer(500, "The server had an error.", kind="server_error")
        form = f"{self._retry_after:g}"
        if self._retry_after_date:
            form = formatdate(time.time() + self._retry_after, usegmt=True)
        if fault == "unavailable":
            message, status, kind, code = "Overloaded.", 503, "server_error", None
        else:
            message, status, kind = "Rate limit reached for requests.", 429, "requests"
            code = "rate_limit_exceeded"
        return error_answer(status, message, kind=kind, code=code, headers={"Retry-After": form})

    def _spoiled(self, request: Request, fault: str) -> tuple[Answer, str]:
        """The upstream's answer with a fault; a failure of the upstream's own passes as it is."""
        answer = self._backend.ask(request)
        needs_chat = fault.startswith("empty_") and request.path != CHAT_PATH
        if fault == PASSED or answer.status != 200 or needs_chat:
            return answer, PASSED
        if fault == "delay":
            return replace(answer, pause=self._delay), fault
        if fault == "close":
            return replace(answer, keep=len(answer.body) // 2), fault
        if fault == "truncated_json":
            return replace(answer, body=answer.body[: len(answer.body) // 2]), fault
        return replace(answer, body=_emptied(answer.body, fault)), fault

    def _record(self, row: Mapping[str, Any], status: int | None, whole: bool) -> None:
        finished = time.time()
        self._log.append(
            {
                **row,
                "finished": finished,
                "duration": finished - row["time"],
                "status": status,
                "delivered": whole,
            }
        )


def read_log(path: Path) -> list[Record]:
    """The records of a log, also while another process appends to it.

    Args:
        path: The file given as `log`; a line that is not whole yet is left out.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [Record(**json.loads(line)) for line in lines if line.endswith("\n")]


@contextlib.contextmanager
def running_proxy(
    upstream: str | None = None,
    *,
    log: Path,
    seed: int,
    faults: Mapping[str, float],
    options: Sequence[str] = (),
) -> Iterator[str]:
    """A proxy as a process of its own, alive for as long as the block lasts.

    Args:
        upstream: Base URL that ends in `/v1`; None to answer by the echo script.
        log: File for its records, see `read_log`; what it prints goes beside it, to `.err`.
        seed: Of all decisions.
        faults: Fault → probability.
        options: Further ones of the command line, such as `["--first-only"]`.

    Yields:
        The base URL for clients, which ends in `/v1`.

    Raises:
        StageError: it did not start.
    """
    port = free_port()
    arguments = ["-m", "tastemaker.testing.fault_proxy", "--port", str(port), "--log", str(log)]
    arguments += ["--seed", str(seed), "--faults", json.dumps(dict(faults)), *options]
    if upstream is not None:
        arguments += ["--upstream", upstream]
    base = f"http://127.0.0.1:{port}"
    with running_server(arguments, ready=f"{base}/health", log=log.with_suffix(".err")):
        yield f"{base}/v1"


def _check(faults: Mapping[str, float]) -> None:
    for name, chance in faults.items():
        if name not in FAULTS:
            raise UnknownNameError("fault", name, FAULTS)
        if not 0 <= chance <= 1:
            raise UserError(f"fault '{name}' has probability {chance}.", allowed="from 0 to 1")
    if sum(faults.values()) > 1 + 1e-9:
        raise UserError(f"the faults' probabilities add up to {sum(faults.values()):g}, not to 1.")


def _emptied(body: bytes, fault: str) -> bytes:
    """A chat completion without a choice or without text."""
    completion = json.loads(body)
    if fault == "empty_choice":
        completion["choices"] = []
    for choice in completion["choices"]:
        choice["message"]["content"] = ""
    return json.dumps(completion).encode()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fault_proxy", description="Break some of what passes.")
    parser.add_argument("--upstream", help="base URL that ends in /v1; a script without")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--faults", type=json.loads, default={}, help="JSON: fault to probability")
    parser.add_argument("--log", type=Path, help="file to append records to")
    parser.add_argument("--retry-after", type=float, default=0.05)
    parser.add_argument("--retry-after-date", action="store_true")
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--first-only", action="store_true")
    parser.add_argument("--key-required")
    parser.add_argument("--models", nargs="*", default=())
    return parser.parse_args()


def main() -> None:
    """Run until SIGTERM or SIGINT; prints the URL."""
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    options = vars(_arguments())
    with FaultProxy(options.pop("upstream"), **options) as proxy:
        sys.stdout.write(proxy.url + "\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
