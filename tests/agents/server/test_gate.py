"""Who may ask, from where, how often and how much."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tastemaker.agents.server.limits import Limits

TOKEN = "a token of sixteen or more"
PROTECTED = ["/metrics", "/openapi.json", "/v1/models", "/api/facets", "/api/users", "/nothing"]


@pytest.fixture(scope="module")
def client(scripted: Callable[..., Any], serve: Callable[..., Any]) -> Iterator[httpx.Client]:
    limits = Limits(body_bytes=2000)
    with (
        serve(scripted(), limits=limits) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def locked(scripted: Callable[..., Any], serve: Callable[..., Any]) -> Iterator[httpx.Client]:
    with (
        serve(scripted(), token=TOKEN) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


def code(found: httpx.Response) -> tuple[int, str]:
    error = found.json()["error"]
    assert set(error) == {"message", "type", "code"}
    return found.status_code, error["code"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_somebody_else_gave_this_machine_is_not_answered(
    client: httpx.Client, host: str
) -> None:
    for path in ("/", "/health", "/api/users"):
        assert code(client.get(path, headers={"Host": host})) == (403, "wrong_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:80", "[::1]:8000"])
def test_names_of_this_machine_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).json() == {"status": "ok"}


def test_other_origins_may_not_ask(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    for origin in ("http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"):
        found = client.post("/v1/recommend", json={}, headers={"Origin": origin})
        assert code(found) == (403, "wrong_origin")
    assert client.post("/v1/recommend", json={}, headers={"Origin": own}).status_code == 200


def test_bodies_are_json_and_small(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        found = client.post("/v1/recommend", content="{}", headers={"Content-Type": kind})
        assert code(found) == (415, "wrong_content_type")
    wide = {"user": "x" * 3000}
    assert code(client.post("/v1/recommend", json=wide)) == (413, "body_too_large")

    def pieces() -> Iterator[bytes]:
        yield from [b"x" * 500] * 10

    found = client.post(
        "/v1/recommend", content=pieces(), headers={"Content-Type": "application/json"}
    )
    assert code(found) == (413, "body_too_large")
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post("/v1/recommend", content="{}", headers=kind).status_code == 200


@pytest.mark.parametrize("text", ["[" * 1900, "{", "", "NaN", '{"count": 1e999}', "\x00"])
def test_what_is_no_json_is_refused(client: httpx.Client, text: str) -> None:
    kind = {"Content-Type": "application/json"}
    found = client.post("/v1/recommend", content=text, headers=kind)
    assert 400 <= code(found)[0] < 500


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    found = [client.get(path) for path in ("/", "/docs", "/health", "/nothing", "/api/facets")]
    found.append(client.get("/health", headers={"Host": "evil.example"}))
    found.append(client.post("/v1/recommend", json={"count": 0}))
    for answer in found:
        headers = answer.headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers
    preflight = client.options("/v1/recommend", headers={"Origin": "http://evil.example"})
    assert preflight.status_code == 403


@pytest.mark.parametrize("path", PROTECTED)
def test_with_a_token_nothing_but_shells_and_health_is_open(
    locked: httpx.Client, path: str
) -> None:
    found = locked.get(path)
    assert code(found) == (401, "invalid_token")
    assert found.headers["WWW-Authenticate"] == "Bearer"
    for wrong in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer \xff"):
        headers = {"Authorization": wrong.encode("latin-1")}
        assert code(locked.get(path, headers=headers)) == (401, "invalid_token")
    right = locked.get(path, headers={"Authorization": f"bearer {TOKEN}"})
    assert right.status_code == (404 if path == "/nothing" else 200)


def test_open_paths_hold_no_data(locked: httpx.Client) -> None:
    for path in ("/", "/docs", "/health"):
        found = locked.get(path)
        assert found.status_code == 200
        assert "Cold Harbour" not in found.text
        assert "u01" not in found.text
    assert code(locked.post("/v1/recommend", json={})) == (401, "invalid_token")


def test_too_many_requests_are_told_when_to_come_back(
    scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    limits = Limits(recommend_per_minute=3, chat_per_minute=2)
    with (
        serve(scripted(), limits=limits) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        body = {"messages": [{"role": "user", "content": "A novel"}]}
        chat = [client.post("/v1/chat/completions", json=body) for _ in range(3)]
        items = [client.post("/v1/recommend", json={}) for _ in range(4)]
        for found, most in ((chat, 2), (items, 3)):
            assert [one.status_code for one in found] == [200] * most + [429]
            assert code(found[-1]) == (429, "rate_limited")
            assert 1 <= int(found[-1].headers["Retry-After"]) <= 60
        messages = client.post("/api/conversations/x/messages", json={"text": "A novel"})
        assert messages.status_code == 429
        assert client.get("/health").status_code == 200
        refused = 'tastemaker_refused_total{reason="rate_limited"} 3.0'
        assert refused in client.get("/metrics").text


def test_a_request_that_is_no_http_breaks_nothing(client: httpx.Client) -> None:
    for text in (
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost:x[\r\n\r\n",
        b"\x16\x03\x01\r\n",
    ):
        with socket.create_connection((client.base_url.host, client.base_url.port), 5) as raw:
            raw.sendall(text)
            assert b"HTTP/1.1 4" in raw.recv(200)
    assert client.get("/health").status_code == 200


def test_log_and_metrics_have_no_texts(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="tastemaker.server"):
        name = client.post("/api/conversations", json={}).json()["id"]
        said = {"text": "my secret wish"}
        client.post(f"/api/conversations/{name}/messages", json=said)
        client.get("/api/users", params={"query": "hidden"})
        client.get("/some/path")
    shown = caplog.text + client.get("/metrics").text
    for secret in (name, "secret", "hidden", "/some/path", json.dumps(said)):
        assert secret not in shown
    assert "POST /api/conversations/{conversation}/messages 200" in caplog.text
    assert 'route="/api/users",status="200"' in shown
    assert 'route="other",status="404"' in shown
