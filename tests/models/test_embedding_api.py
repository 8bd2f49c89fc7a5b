from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tastemaker.errors import MissingError, StageError, UserError
from tastemaker.models.embedding_api import public_address
from tastemaker.models.encoders import HashingEncoder, check_encoder, load_encoder
from tastemaker.models.vectors import Vectors

TEXTS = ["A quiet war film.", "", "Two friends", "A quiet war film.", "été ☂"]
KEY = "sk-very-secret"


class Service(BaseHTTPRequestHandler):
    """Speaks `/v1/embeddings` with hashed words; fails as it is told to."""

    seen: list[dict[str, Any]]
    failures: list[tuple[int, dict[str, str]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        about = {"time": time.monotonic(), "key": self.headers["Authorization"], "path": self.path}
        self.seen.append({**about, **body})
        if self.failures:
            status, headers = self.failures.pop(0)
            self.answer(status, {"error": {"message": f"no, {about['key']}"}}, headers)
            return
        dim = 16 if body["model"] == "small" else 16 + len(self.seen)
        vectors = HashingEncoder(dim).encode(body["input"])
        data = [
            {"object": "embedding", "index": place, "embedding": vector.tolist()}
            for place, vector in enumerate(vectors)
        ]
        if body["model"] == "lossy":
            data.pop()
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        reply = {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}
        self.answer(200, reply, {})

    def answer(self, status: int, reply: dict[str, Any], headers: dict[str, str]) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Service]]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    handler: type[Service] = type("Seen", (Service,), {"seen": [], "failures": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", handler
        server.shutdown()
        thread.join()


def test_each_text_is_sent_once_and_comes_back_in_its_place(
    service: tuple[str, type[Service]],
) -> None:
    url, handler = service
    encoder = load_encoder("openai:small", base_url=url)
    assert handler.seen == []
    told: list[int] = []
    found = encoder.encode(TEXTS, batch_size=2, on_progress=told.append)
    np.testing.assert_allclose(found, HashingEncoder(16).encode(TEXTS), atol=1e-6)
    assert found.dtype == np.float32
    assert (encoder.dim, encoder.name) == (16, f"openai:small@{url}")
    assert sum(told) == len(TEXTS)
    assert [one["input"] for one in handler.seen] == [[TEXTS[0], TEXTS[2]], [TEXTS[4]]]
    assert {(one["path"], one["key"], one["encoding_format"]) for one in handler.seen} == {
        ("/v1/embeddings", f"Bearer {KEY}", "float")
    }
    assert encoder.encode([]).shape == (0, 16)
    assert load_encoder("openai:small", base_url=url).encode([""]).tolist() == [[0.0] * 16]


def test_refused_requests_are_repeated_when_the_server_says(
    service: tuple[str, type[Service]],
) -> None:
    url, handler = service
    handler.failures += [(429, {"Retry-After": "1"}), (503, {"Retry-After-Ms": "10"})]
    found = load_encoder("openai:small", base_url=url).encode(TEXTS)
    np.testing.assert_allclose(found, HashingEncoder(16).encode(TEXTS), atol=1e-6)
    first, second, third = (one["time"] for one in handler.seen)
    assert second - first >= 1
    assert third - second < 5


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, UserError, r"refuses the key \(401\)"),
        (404, UserError, r"refuses the request \(404\)"),
        (500, StageError, "status 500"),
    ],
)
def test_errors_never_quote_the_key(
    service: tuple[str, type[Service]], status: int, kind: type[Exception], message: str
) -> None:
    url, handler = service
    handler.failures += [(status, {"X-Should-Retry": "false"})]
    with pytest.raises(kind, match=message) as caught:
        load_encoder("openai:small", base_url=url).encode(["a"])
    assert KEY not in str(caught.getrepr(chain=True))
    assert len(handler.seen) == 1


def test_answers_that_do_not_fit_are_refused(service: tuple[str, type[Service]]) -> None:
    url, _ = service
    with pytest.raises(StageError, match="2 texts were sent, 1 came back"):
        load_encoder("openai:lossy", base_url=url).encode(["a", "b"])
    with pytest.raises(StageError, match="the size of vectors changed from 18 to 19"):
        load_encoder("openai:growing", base_url=url).encode(["a", "b"], batch_size=1)


def test_a_server_of_ones_own_needs_no_key(
    monkeypatch: pytest.MonkeyPatch, service: tuple[str, type[Service]]
) -> None:
    url, handler = service
    monkeypatch.delenv("OPENAI_API_KEY")
    assert check_encoder("openai:small", base_url=url) == f"small at {url}"
    load_encoder("openai:small", base_url=url).encode(["a"])
    assert handler.seen[0]["key"] == "Bearer none"
    with pytest.raises(MissingError, match="export OPENAI_API_KEY"):
        load_encoder("openai:small")


def test_nothing_on_disk_tells_a_secret(service: tuple[str, type[Service]], tmp_path: Path) -> None:
    url, handler = service
    secret = url.replace("http://", "http://me:hidden@") + "/?token=hidden"
    assert public_address(secret) == url
    encoder = load_encoder("openai:small", base_url=url)
    found = Vectors.update(tmp_path, map(str, range(5)), TEXTS, encoder=encoder)
    assert found.encoder == f"openai:small@{url}"
    asked = len(handler.seen)
    Vectors.update(tmp_path, map(str, range(5)), TEXTS, encoder=encoder)
    assert len(handler.seen) == asked
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes()
