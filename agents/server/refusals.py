"""Why a request was not answered, in the form that clients of OpenAI's API understand."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import Send

from tastemaker.errors import (
    BusyError,
    DataError,
    MissingError,
    RecipeError,
    UserError,
)

__all__ = ["Refusal", "from_error", "from_validation", "is_told"]

_LOG = logging.getLogger("tastemaker.server")
# The operator's to mend; their messages name files and packages, which are no client's business.
_OF_THE_OPERATOR = (BusyError, DataError, MissingError, RecipeError)
_MOST_PROBLEMS = 5
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: Of HTTP.
        message: For the person at the other end.
        code: For programs, one word.
        retry_after: Seconds after which to try again.
        headers: Further ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def as_dict(self) -> dict[str, Any]:
        """The error as an object of its own."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, kind)
        return {"message": self.message, "type": kind, "code": self.code}

    async def send(self, send: Send) -> None:
        """Answer a request with it, as ASGI has it."""
        body = json.dumps({"error": self.as_dict()}).encode("ascii")
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        raw = [(a.encode("ascii"), b.encode("ascii")) for a, b in (headers | self.headers).items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def from_error(error: BaseException) -> Refusal:
    """What to tell a client about an error; what is not theirs to know goes to the log."""
    if isinstance(error, Refusal):
        return error
    if is_told(error):
        return Refusal(400, str(error), code="invalid_request")
    _LOG.error("a request failed", exc_info=error)
    return Refusal(
        500, "The server could not answer; its log has the reason.", code="internal_error"
    )


def is_told(error: BaseException) -> bool:
    """Whether an error is the client's, and its message for them."""
    return isinstance(error, UserError) and not isinstance(error, _OF_THE_OPERATOR)


def from_validation(problems: Sequence[Mapping[str, Any]]) -> Refusal:
    """What is wrong with a body, without quoting it.

    Args:
        problems: As pydantic lists them.
    """
    told = [_told(problem) for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        told.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    return Refusal(422, "; ".join(told), code="invalid_body")


def _told(problem: Mapping[str, Any]) -> str:
    place = [part for part in problem.get("loc", ()) if part not in {"body", "query", "path"}]
    # A key that is not allowed is the client's own text, of any length.
    named = ".".join(str(part)[:40] for part in place)
    said = str(problem.get("msg", "cannot be read"))
    return f"{named}: {said}" if named else said
