"""The calls to a Batch API: upload, submit, find again, look, fetch answers.

Everything but the submission is harmless when repeated and is left to the client's own retries. A
submission whose answer got lost may have been received: it is looked for before it is repeated.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeVar

from openai import OpenAI, OpenAIError
from openai.types import Batch

from tastemaker.agents.sending import Patience
from tastemaker.agents.troubles import Trouble, diagnose, without_keys
from tastemaker.errors import MissingError, StageError, UserError

__all__ = ["ENDPOINT", "Answered", "BatchService"]

ENDPOINT: Final = "/v1/chat/completions"
_LABEL = "tastemaker_part"  # in a batch's metadata
_DAY = 24 * 3600
_LATE = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
_GONE = (
    "Use the key of the project that submitted it. If it is gone for good, let go of it, and its "
    "questions will be asked and paid for again: tastemaker knowledge prune RUN --batches"
)

_Found = TypeVar("_Found")


class Answered(NamedTuple):
    """What came back for one line.

    Attributes:
        key: Its `custom_id`.
        text: The answer; empty where there is none.
        finish_reason: As the service names it.
        prompt_tokens: 0 where it does not say.
        completion_tokens: Likewise.
        trouble: Why there is no answer; None where there is one.
    """

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    trouble: Trouble | None


class LineError(Exception):
    """The error of one line, in the shape `diagnose` reads."""

    def __init__(self, message: str, *, status_code: int | None) -> None:
        super().__init__(message)
        self.status_code = status_code


class BatchService:
    """A server that speaks OpenAI's Batch API; its key comes from OPENAI_API_KEY.

    Args:
        base_url: Server, when it is not OpenAI's own; it may need no key.
        max_retries: Of every harmless call, by the client itself.
        timeout: Seconds for one call.
        patience: How a submission and a download are repeated, and how many looks in a row may
            fail.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        max_retries: int = 5,
        timeout: float = 120.0,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base_url, self._max_retries, self._timeout = base_url, max_retries, timeout
        self._patience, self._sleep = patience or Patience(), sleep
        self._chance = random.Random()
        self._failed_looks = 0

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def upload(self, name: str, lines: Iterable[str]) -> str:
        """Upload a file of requests; returns its id.

        Args:
            name: Of the file.
            lines: Without their ends.
        """
        with tempfile.TemporaryFile() as handle:
            for line in lines:
                handle.write(line.encode() + b"\n")
            handle.seek(0)
            send: Callable[[], Any] = lambda: self._client.files.create(  # noqa: E731
                file=(name, handle), purpose="batch"
            )
            return str(self._tried(send).id)

    def submit(self, file_id: str, part: str, *, planned: int) -> str:
        """Start a batch once, however often the connection breaks; returns its id.

        Args:
            file_id: Of the requests.
            part: What the batch is known by.
            planned: Unix second before which it cannot have been submitted.
        """
        once = self._client.with_options(max_retries=0)
        trouble = Trouble("passing", "connection", "not tried")
        for failed in range(self._patience.tries):
            if failed:
                self._rest(trouble, failed)
                known = self.find({part: planned})
                if known:
                    return known[part]
            try:
                batch = once.batches.create(
                    input_file_id=file_id,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    metadata={_LABEL: part},
                )
                return batch.id
            except OpenAIError as error:
                trouble = diagnose(error)
                if trouble.scope != "passing":
                    break
        raise _raised(trouble)

    def find(self, parts: Mapping[str, int]) -> dict[str, str]:
        """Part → id of its batch, of those that were submitted.

        Args:
            parts: Part → Unix second when it was planned.
        """
        if not parts:
            return {}
        earliest = min(parts.values()) - _DAY  # clocks differ
        found: dict[str, str] = {}

        def look() -> None:
            for batch in self._client.batches.list(limit=100):
                label = (batch.metadata or {}).get(_LABEL, "")
                if label in parts:
                    found.setdefault(label, batch.id)
                if batch.created_at < earliest or len(found) == len(parts):
                    return

        self._tried(look)
        return found

    def look(self, batch_id: str) -> Batch | None:
        """How far a batch is; None while the server cannot say.

        Raises:
            UserError: the server does not know it, or refuses the key.
            StageError: too many looks in a row failed.
        """
        try:
            batch = self._client.batches.retrieve(batch_id)
        except OpenAIError as error:
            trouble = diagnose(error)
            if getattr(error, "status_code", None) == 404:
                raise UserError(
                    f"batch {batch_id} is not known to the server ({trouble.detail}).", remedy=_GONE
                ) from None
            self._failed_looks += 1
            if trouble.scope != "passing" or self._failed_looks >= self._patience.in_a_row:
                raise _raised(trouble) from None
            return None
        self._failed_looks = 0
        return batch

    def answers(self, batch: Batch) -> Iterator[Answered]:
        """What a batch that is over has to say, line by line, in any order.

        Raises:
            UserError: its files are gone.
            StageError: they could not be fetched.
        """
        for file_id in (batch.output_file_id, batch.error_file_id):
            if not file_id:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "answers.jsonl"
                self._fetch(file_id, path, of=batch.id)
                with path.open("rb") as handle:
                    yield from _read(handle)

    def _fetch(self, file_id: str, path: Path, *, of: str) -> None:
        trouble = Trouble("passing", "connection", "not tried")
        for failed in range(self._patience.tries):
            if failed:
                self._rest(trouble, failed)
            try:
                with self._client.files.with_streaming_response.content(file_id) as response:
                    response.stream_to_file(path)
                return
            except Exception as error:
                # A connection that breaks half-way shows the transport's own errors.
                trouble = diagnose(error)
                if getattr(error, "status_code", None) == 404:
                    raise UserError(
                        f"the answers of batch {of} are gone from the server ({trouble.detail}).",
                        remedy=_GONE,
                    ) from None
                if trouble.scope != "passing":
                    break
        raise _raised(trouble)

    def _rest(self, trouble: Trouble, failed: int) -> None:
        pause = self._patience.pause(failed, chance=self._chance)
        self._sleep(max(pause, trouble.wait or 0.0))

    def _tried(self, call: Callable[[], _Found]) -> _Found:
        try:
            return call()
        except OpenAIError as error:
            raise _raised(diagnose(error)) from None

    @cached_property
    def _client(self) -> OpenAI:
        key = os.environ.get("OPENAI_API_KEY") or ("none" if self._base_url else None)
        if key is None:
            raise MissingError(
                "provider 'openai' found no key.",
                remedy="Set it in the environment: export OPENAI_API_KEY=...",
            )
        return OpenAI(
            api_key=key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=self._timeout,
        )


def _raised(trouble: Trouble) -> Exception:
    if trouble.scope == "passing":
        return StageError(
            f"the batch service cannot be used now: {trouble.detail}\n"
            "Nothing is lost; run the command again to go on."
        )
    return UserError(f"the batch service refused: {trouble.detail}")


def _read(lines: IO[bytes]) -> Iterator[Answered]:
    for text in lines:
        try:
            row = json.loads(text)
            key = str(row["custom_id"])
        except (ValueError, KeyError, TypeError):
            continue  # belongs to nobody; who gets no answer is asked again
        yield _answered(key, row)


def _answered(key: str, row: Mapping[str, Any]) -> Answered:
    response, error = row.get("response") or {}, row.get("error") or {}
    body, status = response.get("body") or {}, response.get("status_code")
    if error or status != 200:
        return Answered(key, "", "", 0, 0, _trouble(error or body.get("error") or {}, status))
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        finish = "refusal" if message.get("refusal") else str(choice.get("finish_reason") or "")
        usage = body.get("usage") or {}
        asked = int(usage.get("prompt_tokens") or 0)
        given = int(usage.get("completion_tokens") or 0)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        trouble = Trouble("passing", "malformed", f"no chat completion: {type(error).__name__}")
        return Answered(key, "", "", 0, 0, trouble)
    return Answered(key, str(text), finish, asked, given, None)


def _trouble(error: Any, status: int | None) -> Trouble:
    found: Mapping[str, Any] = error if isinstance(error, Mapping) else {"message": str(error)}
    code, message = str(found.get("code") or ""), str(found.get("message") or "no answer")
    if code in _LATE:
        return Trouble("passing", _LATE[code], without_keys(message))
    if status is None or status < 400:
        return Trouble("passing", "server", without_keys(f"{code} {message}".strip()))
    return diagnose(LineError(f"{code} {message}".strip(), status_code=status))
