"""What went wrong with a request: whether it will pass, when to come back, what to tell.

Providers' packages raise errors of their own; nearly all carry an HTTP status and the response. No
message is passed on that could quote a key.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from tastemaker.errors import UserError

__all__ = ["Trouble", "diagnose", "retry_after", "without_keys"]

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_OF_THE_JOB = {
    401: "the key was refused",
    402: "the account has no credit left",
    403: "the key may not use this model",
    404: "there is no such model or address",
}
_SPENT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_LOST = re.compile(
    r"timeout|connect|transport|network|protocol|remotedisconnected|incompleteread", re.IGNORECASE
)
_NOT_SENT = re.compile(r"connecterror|connecttimeout|connectionrefused|gaierror|pooltimeout", re.I)
_BROKEN = (ValueError, LookupError, TypeError, AttributeError)  # of what should have been an answer
_WRONG_CALL = ("unexpected keyword argument", "positional argument")
_KEY = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|pplx|hf|r8|ghp|tgp|key|nvapi|AIza|AKIA)[-_](?=\S*[\d*])[\w\-*.]{6,}"
    r"|\b(?:AIza|AKIA)[\w-]{10,}"
    r"|(?<=Bearer )\S+|(?<=Authorization: Basic )\S+"
    r"|(?<=[?&]key=)[^&\s]+|(?<=[?&]token=)[^&\s]+|(?<=[?&]api_key=)[^&\s]+"
    r"|(?<=://)[^/\s@]+(?=@)"
    r"|\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{24,}\b",
)
_SECRET = re.compile(r"(?:_KEY|_TOKEN|_SECRET|_PASSWORD)\Z")
_SHORTEST_SECRET = 8
_LONGEST = 300
_LONGEST_WAIT = 86_400.0

Scope = Literal["passing", "request", "job"]


class Trouble(NamedTuple):
    """One failed request.

    Attributes:
        scope: `passing`: try again; `request`: this one is hopeless, others are not; `job`: no
            request can succeed until somebody changes something.
        reason: One word: `busy` (429 and 503), `server`, `timeout`, `connection`, `malformed`,
            `rejected`, `refused` or `unknown`.
        detail: A sentence without keys.
        wait: Seconds the server asked for; None when it did not say.
        billed: Whether it may have been answered, and paid for, all the same.
    """

    scope: Scope
    reason: str
    detail: str
    wait: float | None = None
    billed: bool = False


def diagnose(error: BaseException) -> Trouble:
    """What an error of a chat model means."""
    if isinstance(error, UserError):
        return Trouble("job", "refused", without_keys(str(error)))
    status = _status(error)
    detail = f"{type(error).__name__}: {_short(error)}"
    if status is not None:
        return _of_status(status, error, detail)
    names = " ".join(type(one).__name__ for one in _causes(error))
    sent = not _NOT_SENT.search(names)
    if "timeout" in names.lower():
        return Trouble("passing", "timeout", detail, billed=sent)
    if _LOST.search(names) or isinstance(error, OSError):
        return Trouble("passing", "connection", detail, billed=sent)
    wrong_call = isinstance(error, TypeError) and any(word in str(error) for word in _WRONG_CALL)
    if (isinstance(error, _BROKEN) and not wrong_call) or "validation" in names.lower():
        return Trouble("passing", "malformed", detail, billed=True)
    return Trouble("job", "unknown", detail)


def _of_status(status: int, error: BaseException, detail: str) -> Trouble:
    if any(word in str(error) for word in _SPENT):
        return Trouble("job", "refused", f"{_OF_THE_JOB[402]} ({detail})")
    if status in _PASSING:
        reason = "busy" if status in (429, 503, 529) else "server"
        return Trouble("passing", reason, detail, retry_after(_headers(error)))
    if status in _OF_THE_JOB:
        return Trouble("job", "refused", f"{_OF_THE_JOB[status]} ({detail})")
    return Trouble("request", "rejected", detail)


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds to wait that a response asks for (RFC 9110 §10.2.3); None without.

    Args:
        headers: Of the response, in any case.
        now: Moment a date is measured from; the present when None.

    Returns:
        From 0 to a day; what is no number of seconds and no date counts as nothing asked for.
    """
    found = {name.lower(): str(value).strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(found.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return min(max(0.0, seconds), _LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(found.get("retry-after", ""))
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    left = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(0.0, left), _LONGEST_WAIT)


def without_keys(text: str) -> str:
    """`text` with everything masked that looks like a key, and every key of the environment.

    >>> without_keys("Incorrect API key provided: sk-abcdef123")
    'Incorrect API key provided: ***'
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET.search(name):
            text = text.replace(value, "***")
    return _KEY.sub("***", text)


def _status(error: BaseException) -> int | None:
    for one in _causes(error):
        response = getattr(one, "response", None)
        for holder in (one, response):
            for name in ("status_code", "http_status", "code", "status"):
                value = getattr(holder, name, None)
                if isinstance(value, int) and 400 <= value < 600:
                    return int(value)
        if isinstance(response, Mapping):  # Amazon's
            value = _metadata(response).get("HTTPStatusCode")
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _headers(error: BaseException) -> Mapping[str, str]:
    for one in _causes(error):
        response: Any = getattr(one, "response", None)
        if isinstance(response, Mapping):
            return dict(_metadata(response).get("HTTPHeaders") or {})
        headers = getattr(response, "headers", None) or getattr(one, "headers", None)
        if isinstance(headers, Mapping):
            return dict(headers)
    return {}


def _metadata(response: Mapping[str, Any]) -> Mapping[str, Any]:
    return response.get("ResponseMetadata") or {}


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)


def _short(error: BaseException) -> str:
    line = " ".join(without_keys(str(error)).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
