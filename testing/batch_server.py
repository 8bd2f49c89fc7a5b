"""OpenAI's Batch API over real HTTP: files go up, batches run, files of answers come down.

A batch is validated, worked through line by line, and ends as `completed`, `failed`, `expired` or
`cancelled`, with the codes of the true service. State lives in memory and every line that was
worked on is counted, so that a test can tell whether anything was paid for twice.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

from tastemaker.errors import UnknownNameError
from tastemaker.testing.batch_lines import Line, read_lines, usage_of
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

__all__ = ["BatchServer"]

_SECONDS = {"validating": 0.02, "in_progress": 0.05, "finalizing": 0.02, "cancelling": 0.02}
_DAY = 24 * 3600
_UNDER_WAY = ("validating", "in_progress")
_LEFT_OUT = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}
_MOST_METADATA = 16


@dataclass(frozen=True)
class _File:
    name: str
    purpose: str
    content: bytes
    id: str = field(default_factory=lambda: f"file-{uuid.uuid4().hex[:24]}")
    created: int = field(default_factory=lambda: int(time.time()))

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass
class _Batch:
    shown: dict[str, Any]
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str:
        return str(self.shown["id"])

    def enter(self, status: str) -> None:
        """Take a status and note the time."""
        self.shown["status"] = status
        if status != "validating":
            self.shown[f"{status}_at"] = int(time.time())


class BatchServer:
    """An emulator of the Batch API; runs as long as its `with` block.

    Attributes:
        fail_lines: Share of the lines that get an error instead of an answer, drawn anew whenever a
            line comes again. May be changed between batches.
        expire_after: Lines that a batch works on before its time is up; None for all. Likewise.

    Args:
        upstream: Base URL, ending in `/v1`, that answers each line; None to answer by `script`.
        script: Body → text, without an upstream.
        latency: Seconds that the script takes for a line.
        seed: Of the order of the answers and of the lines that fail.
        seconds: Phase (`validating`, `in_progress`, `finalizing`, `cancelling`) → how long it takes
            at least.
        fail_lines: See above, from 0 to 1.
        expire_after: See above.
        workers: Lines worked on at the same time.
        key_required: The only key let in; others are answered 401.
        models: The models that exist; empty for any.
        log: File to which every line worked on is appended as a line of JSON.
        port: 0 for any that is free.

    Raises:
        UnknownNameError: a phase has another name.
    """

    def __init__(
        self,
        upstream: str | None = None,
        *,
        script: Script = echo,
        latency: float = 0.0,
        seed: int = 0,
        seconds: Mapping[str, float] | None = None,
        fail_lines: float = 0.0,
        expire_after: int | None = None,
        workers: int = 4,
        key_required: str | None = None,
        models: Sequence[str] = (),
        log: Path | None = None,
        port: int = 0,
    ) -> None:
        for name in seconds or {}:
            if name not in _SECONDS:
                raise UnknownNameError("phase", name, _SECONDS)
        self.fail_lines, self.expire_after = fail_lines, expire_after
        self._seed, self._workers = seed, workers
        self._seconds = {**_SECONDS, **(seconds or {})}
        self._key_required, self._models = key_required, tuple(models)
        self._backend = Backend(upstream, script=script, latency=latency, models=self._models)
        self._log = LineLog(log)
        self._server = HttpServer(self._respond, port=port)
        self._files: dict[str, _File] = {}
        self._batches: dict[str, _Batch] = {}
        self._threads: list[threading.Thread] = []
        self._times: Counter[str] = Counter()
        self._lock = threading.RLock()

    def __enter__(self) -> BatchServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._backend.close()
        for thread in self._threads:
            thread.join()
        self._log.close()

    @property
    def url(self) -> str:
        """Base URL for clients; ends in `/v1`."""
        return f"http://127.0.0.1:{self._server.port}/v1"

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line worked on: `number`, `batch`, `custom_id`, `key`, `status`, `time`."""
        return self._log.all()

    @property
    def processed(self) -> Counter[str]:
        """`custom_id` → how often a line of that name was worked on, failed ones included."""
        return Counter(line["custom_id"] for line in self.lines)

    @property
    def processed_bodies(self) -> Counter[str]:
        """`request_key` of a line's body → how often it was worked on, failed ones included."""
        return Counter(line["key"] for line in self.lines)

    @property
    def batches(self) -> list[dict[str, Any]]:
        """All batches as the API shows them, oldest first."""
        with self._lock:
            return [dict(batch.shown) for batch in self._batches.values()]

    def _respond(self, request: Request) -> Answer:
        refused = refusal(request, key_required=self._key_required, models=self._models)
        if refused is not None:
            return refused
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                route: Callable[..., Answer] = getattr(self, name)
                return route(request, *found.groups())
        return self._backend.ask(request)

    def _create_file(self, request: Request) -> Answer:
        parts = _form(request)
        if "file" not in parts or "purpose" not in parts:
            return error_answer(400, "Give 'file' and 'purpose' as multipart/form-data.")
        name, content = parts["file"]
        return json_answer(self._keep(name, parts["purpose"][1].decode(), content).shown())

    def _list_files(self, request: Request) -> Answer:
        return _page([file.shown() for file in self._files.values()], request)

    def _show_file(self, _: Request, number: str) -> Answer:
        file = self._files.get(number)
        return _missing("file", number) if file is None else json_answer(file.shown())

    def _content(self, _: Request, number: str) -> Answer:
        file = self._files.get(number)
        if file is None:
            return _missing("file", number)
        return Answer(200, file.content, {"Content-Type": "application/octet-stream"})

    def _delete_file(self, _: Request, number: str) -> Answer:
        if self._files.pop(number, None) is None:
            return _missing("file", number)
        return json_answer({"id": number, "object": "file", "deleted": True})

    def _create_batch(self, request: Request) -> Answer:
        asked = request.json()
        if not isinstance(asked, dict) or "input_file_id" not in asked:
            return error_answer(400, "Missing required parameter.", param="input_file_id")
        if asked.get("endpoint") != CHAT_PATH:
            return error_answer(400, f"Here only {CHAT_PATH} is supported.", param="endpoint")
        if asked.get("completion_window") != "24h":
            return error_answer(400, "The only window is 24h.", param="completion_window")
        if len(asked.get("metadata") or {}) > _MOST_METADATA:
            return error_answer(400, f"At most {_MOST_METADATA} pairs.", param="metadata")
        batch = _Batch(_new_batch(asked))
        shown = dict(batch.shown)
        with self._lock:
            self._batches[batch.id] = batch
            thread = threading.Thread(target=self._run, args=(batch,), daemon=True)
            self._threads.append(thread)
        thread.start()
        return json_answer(shown)

    def _list_batches(self, request: Request) -> Answer:
        return _page(self.batches, request)

    def _show_batch(self, _: Request, number: str) -> Answer:
        with self._lock:
            batch = self._batches.get(number)
            return _missing("batch", number) if batch is None else json_answer(batch.shown)

    def _cancel_batch(self, _: Request, number: str) -> Answer:
        with self._lock:
            batch = self._batches.get(number)
            if batch is None:
                return _missing("batch", number)
            status = batch.shown["status"]
            if status not in _UNDER_WAY:
                return error_answer(409, f"Cannot cancel a batch with status '{status}'.")
            batch.enter("cancelling")
            batch.cancelled.set()
            return json_answer(batch.shown)

    def _run(self, batch: _Batch) -> None:
        """From `validating` to the end."""
        self._stay("validating", batch)
        lines, errors = self._checked(batch)
        if errors:
            with self._lock:
                batch.shown["errors"] = {"object": "list", "data": errors}
            self._pass(batch, "failed")
            return
        with self._lock:
            batch.shown["request_counts"]["total"] = len(lines)
            batch.shown["model"] = lines[0].body.get("model")
        self._pass(batch, "in_progress")
        self._stay("in_progress", batch)
        with ThreadPoolExecutor(self._workers) as pool:
            limit = self.expire_after
            results = list(
                pool.map(lambda pair: self._work(batch, *pair, limit=limit), enumerate(lines))
            )
        if self._pass(batch, "finalizing"):
            late = any(result is None for result in results)
            self._stay("finalizing", batch)
            end = "expired" if late else "completed"
        else:
            self._stay("cancelling", batch)
            end = "cancelled"
        self._publish(batch, lines, results, end=end)

    def _pass(self, batch: _Batch, status: str) -> bool:
        """Enter a phase unless the batch is being cancelled."""
        with self._lock:
            if batch.cancelled.is_set():
                return False
            batch.enter(status)
            return True

    def _stay(self, phase: str, batch: _Batch) -> None:
        """Wait as long as a phase takes; being cancelled ends all but the last wait."""
        until = time.monotonic() + self._seconds[phase]
        while (left := until - time.monotonic()) > 0:
            if phase in _UNDER_WAY and batch.cancelled.is_set():
                return
            if self._server.stopping.wait(min(left, 0.02)):
                return

    def _checked(self, batch: _Batch) -> tuple[list[Line], list[dict[str, Any]]]:
        """The lines of a batch, or what is wrong with its file."""
        number = batch.shown["input_file_id"]
        file = self._files.get(number)
        if file is None or file.purpose != "batch":
            message = f"No file '{number}' with purpose 'batch'."
            return [], [{"code": "invalid_file", "message": message, "line": None, "param": None}]
        return read_lines(file.content, url=batch.shown["endpoint"], models=self._models)

    def _work(
        self, batch: _Batch, place: int, line: Line, *, limit: int | None
    ) -> dict[str, Any] | None:
        """Ask for one line; None where the batch is over before."""
        over = limit is not None and place >= limit
        if over or batch.cancelled.is_set() or self._server.stopping.is_set():
            return None
        key = request_key(line.body)
        with self._lock:
            times = self._times[key]
            self._times[key] += 1
        if random.Random(f"{self._seed}/{key}/{times}").random() < self.fail_lines:
            answer = error_answer(500, "The server had an error.", kind="server_error")
        else:
            answer = self._ask(line)
        row = {"batch": batch.id, "custom_id": line.custom_id, "key": key}
        self._log.append({**row, "status": answer.status, "time": time.time()})
        with self._lock:
            done = "completed" if answer.status == 200 else "failed"
            batch.shown["request_counts"][done] += 1
        body = json.loads(answer.body)
        return {"status_code": answer.status, "request_id": uuid.uuid4().hex, "body": body}

    def _ask(self, line: Line) -> Answer:
        headers = Message()
        headers["Content-Type"] = "application/json"
        request = Request("POST", CHAT_PATH, {}, headers, json.dumps(line.body).encode())
        return refusal(request, models=self._models) or self._backend.ask(request)

    def _publish(
        self,
        batch: _Batch,
        lines: Sequence[Line],
        results: Sequence[dict[str, Any] | None],
        *,
        end: str,
    ) -> None:
        """Write the two files and enter the last status, in one moment for whoever looks."""
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        for line, response in zip(lines, results, strict=True):
            row: dict[str, Any] = {"id": f"batch_req_{uuid.uuid4().hex}"}
            row |= {"custom_id": line.custom_id, "response": response, "error": None}
            if response is None:
                code, message = _LEFT_OUT.get(end, _LEFT_OUT["cancelled"])
                row["error"] = {"code": code, "message": message}
            is_good = response is not None and response["status_code"] == 200
            (good if is_good else bad).append(row)
        random.Random(f"{self._seed}/{len(good)}").shuffle(good)
        with self._lock:
            for kind, rows in (("output", good), ("error", bad)):
                if rows:
                    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
                    file = self._keep(f"{batch.id}_{kind}.jsonl", "batch_output", content)
                    batch.shown[f"{kind}_file_id"] = file.id
            left_out = sum(result is None for result in results)
            batch.shown["request_counts"]["failed"] += left_out
            batch.shown["usage"] = usage_of(row["response"]["body"] for row in good)
            batch.enter(end)

    def _keep(self, name: str, purpose: str, content: bytes) -> _File:
        file = _File(name, purpose, content)
        with self._lock:
            self._files[file.id] = file
        return file


_ROUTES = (
    ("POST", "/v1/files", "_create_file"),
    ("GET", "/v1/files", "_list_files"),
    ("GET", "/v1/files/([^/]+)", "_show_file"),
    ("GET", "/v1/files/([^/]+)/content", "_content"),
    ("DELETE", "/v1/files/([^/]+)", "_delete_file"),
    ("POST", "/v1/batches", "_create_batch"),
    ("GET", "/v1/batches", "_list_batches"),
    ("GET", "/v1/batches/([^/]+)", "_show_batch"),
    ("POST", "/v1/batches/([^/]+)/cancel", "_cancel_batch"),
)


def _new_batch(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the API shows of a batch that was just created."""
    moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling")
    now = int(time.time())
    return {
        "id": f"batch_{uuid.uuid4().hex}",
        "object": "batch",
        "endpoint": asked["endpoint"],
        "errors": None,
        "input_file_id": asked["input_file_id"],
        "completion_window": asked["completion_window"],
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "expires_at": now + _DAY,
        **{f"{moment}_at": None for moment in (*moments, "cancelled")},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": asked.get("metadata"),
    }


def _missing(kind: str, number: str) -> Answer:
    return error_answer(404, f"No {kind} found with id '{number}'.", param="id")


def _page(rows: list[dict[str, Any]], request: Request) -> Answer:
    """Newest first, `limit` of them, behind the one named by `after`."""
    rows = rows[::-1]
    after = request.query.get("after")
    places = [place for place, row in enumerate(rows) if row["id"] == after]
    rows = rows[places[0] + 1 :] if places else rows
    shown = rows[: int(request.query.get("limit", 20))]
    return json_answer(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(rows) > len(shown),
        }
    )


def _form(request: Request) -> dict[str, tuple[str, bytes]]:
    """The parts of a multipart/form-data body: name → file name and content."""
    boundary = request.headers.get_boundary()
    if boundary is None:
        return {}
    found = {}
    for part in request.body.split(b"--" + boundary.encode())[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        message = message_from_bytes(head + b"\r\n\r\n")
        name = str(message.get_param("name", header="Content-Disposition"))
        found[name] = (message.get_filename() or "", content.removesuffix(b"\r\n"))
    return found
