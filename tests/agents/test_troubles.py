from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.agents.troubles import diagnose, retry_after, without_keys
from tastemaker.errors import MissingError

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = 86_400
REQUEST = httpx.Request("POST", "http://host/v1/chat/completions")
SECRET = "sk-proj-Abc123Def456Ghi789"


def status_error(
    status: int, message: str = "no", headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    response = httpx.Response(status, headers=headers, request=REQUEST)
    return openai.APIStatusError(message, response=response, body=None)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def lost(cause: Exception) -> Exception:
    return caused(openai.APIConnectionError(request=REQUEST), cause)


@pytest.mark.parametrize(
    ("status", "scope", "reason"),
    [
        (408, "passing", "server"),
        (409, "passing", "server"),
        (429, "passing", "busy"),
        (500, "passing", "server"),
        (502, "passing", "server"),
        (503, "passing", "busy"),
        (504, "passing", "server"),
        (529, "passing", "busy"),
        (400, "request", "rejected"),
        (413, "request", "rejected"),
        (422, "request", "rejected"),
        (401, "job", "refused"),
        (402, "job", "refused"),
        (403, "job", "refused"),
        (404, "job", "refused"),
    ],
)
def test_a_status_says_whether_to_try_again(status: int, scope: str, reason: str) -> None:
    found = diagnose(status_error(status))
    assert (found.scope, found.reason, found.wait, found.billed) == (scope, reason, None, False)


@pytest.mark.parametrize(
    ("error", "scope", "reason", "billed"),
    [
        (openai.APITimeoutError(request=REQUEST), "passing", "timeout", True),
        (lost(httpx.ReadTimeout("slow")), "passing", "timeout", True),
        (lost(httpx.ConnectTimeout("slow")), "passing", "timeout", False),
        (lost(httpx.RemoteProtocolError("peer closed")), "passing", "connection", True),
        (lost(httpx.ReadError("reset")), "passing", "connection", True),
        (lost(httpx.ConnectError("refused")), "passing", "connection", False),
        (ConnectionResetError("reset"), "passing", "connection", True),
        (ConnectionRefusedError("refused"), "passing", "connection", False),
        (json.JSONDecodeError("half", "{", 1), "passing", "malformed", True),
        (IndexError("list index out of range"), "passing", "malformed", True),
        (
            TypeError("Received response with null value for `choices`."),
            "passing",
            "malformed",
            True,
        ),
        (
            ValueError({"code": 502, "message": "Provider returned error"}),
            "passing",
            "malformed",
            True,
        ),
        (TypeError("create() got an unexpected keyword argument 'seed'"), "job", "unknown", False),
        (RuntimeError("a mistake of ours"), "job", "unknown", False),
        (MissingError("no key found", remedy="Set one."), "job", "refused", False),
        (status_error(429, "code: insufficient_quota"), "job", "refused", False),
    ],
)
def test_an_error_without_a_status_is_told_by_its_kind(
    error: Exception, scope: str, reason: str, billed: bool
) -> None:
    found = diagnose(error)
    assert (found.scope, found.reason, found.billed) == (scope, reason, billed)


def test_the_status_of_a_cause_counts() -> None:
    error = caused(RuntimeError("wrapped"), status_error(503, headers={"Retry-After": "7"}))
    assert diagnose(error)[:2] == ("passing", "busy")
    assert diagnose(error).wait == 7


def test_an_error_that_was_hidden_does_not_count() -> None:
    def hide() -> None:
        try:
            raise status_error(503)
        except openai.APIStatusError:
            raise RuntimeError("of its own") from None

    with pytest.raises(RuntimeError) as caught:
        hide()
    assert diagnose(caught.value).scope == "job"


@pytest.mark.parametrize(
    "more",
    [
        {"status": 429},
        {"code": 429},
        {"http_status": 429},
        {
            "response": {
                "ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "3"}}
            }
        },
    ],
)
def test_other_providers_ways_of_telling_a_status(more: dict[str, Any]) -> None:
    error = Exception("slow down")
    error.__dict__.update(more)
    found = diagnose(error)
    assert found[:2] == ("passing", "busy")
    assert found.wait == (3 if "response" in more else None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2),
        ({"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30),
        ({"Retry-After": "Thu, 01 Jan 2026 12:00:30"}, 30),
        ({"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "1e99"}, DAY),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=NOW) == seconds


@given(st.integers(0, DAY))
def test_seconds_milliseconds_and_dates_mean_the_same(seconds: int) -> None:
    moment = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    for headers in (
        {"Retry-After": str(seconds)},
        {"retry-after-ms": str(seconds * 1000)},
        {"RETRY-AFTER": moment},
    ):
        assert retry_after(headers, now=NOW) == pytest.approx(seconds)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_breaks_it(seconds: str, milliseconds: str) -> None:
    found = retry_after({"Retry-After": seconds, "Retry-After-Ms": milliseconds})
    assert found is None or 0 <= found <= DAY


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {SECRET}.",
        f"Authorization: Bearer {SECRET}",
        "Incorrect API key provided: sk-abcd********wxyz.",
        "sk-ant-api03-abcdef-123456",
        "gsk_abcdefghijkl1234567890",
        "https://host/v1?key=AIzaSyA1234567890abcdef",
        "https://host/v1?api_key=hunter2hunter2",
        "http://me:hunter2@host/v1",
        "key-0123456789abcdef",
        "hf_abcdefGHIJKL12345",
        "token 0123456789abcdef0123456789abcdef",
    ],
)
def test_keys_are_masked(text: str) -> None:
    masked = without_keys(text)
    assert "***" in masked
    for secret in (SECRET, "abcd", "hunter2", "AIzaSy", "0123456789", "123456"):
        assert secret not in masked


@pytest.mark.parametrize(
    "text",
    [
        "This key was refused; set another one in the environment.",
        "The model `claude-3-5-sonnet-20241022` does not exist.",
        "The model SmolLM2-135M-Instruct has a context of 2048 tokens.",
        "Rate limit reached for gpt-4o-mini in organization org on requests per min.",
        "req id 7f9c24e8-3b1a-4f0e-9d2c-1234567890ab",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert without_keys(text) == text


def test_keys_of_the_environment_are_masked_whatever_they_look_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOMEONES_API_KEY", "correct horse battery")
    monkeypatch.setenv("EMPTY_API_KEY", "")
    found = diagnose(status_error(400, "bad header: correct horse battery"))
    assert found.detail == "APIStatusError: bad header: ***"


def test_no_way_of_failing_tells_a_key() -> None:
    for error in (
        status_error(401, f"Incorrect API key provided: {SECRET}"),
        status_error(500, f"{'x' * 290} {SECRET}"),
        MissingError(f"bad key {SECRET}"),
        RuntimeError(SECRET),
        lost(httpx.ReadError(f"Authorization: Bearer {SECRET}")),
    ):
        assert SECRET[:10] not in diagnose(error).detail


def test_odd_responses_are_no_trouble() -> None:
    for response in (None, SimpleNamespace(headers=None), SimpleNamespace(headers=7), {}, "text"):
        error = Exception("odd")
        error.__dict__["response"] = response
        assert diagnose(error).scope == "job"
