"""Uploads go to a real server on this machine that speaks the hub's few words."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

from tastemaker.errors import StageError, UserError
from tastemaker.methods.publishing import check_login, push_to_hub
from tastemaker.stage import Run, Stage, Workspace

TOKEN = "hf_" + "x" * 34


class Hub(BaseHTTPRequestHandler):
    """Takes a repository and one commit; refuses whoever shows another token."""

    received: ClassVar[dict[str, bytes]]
    private: ClassVar[list[bool]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {"error": "Invalid username or password."})
        if self.path.endswith("/repos/create"):
            self.private.append(json.loads(body).get("visibility") == "private")
            return self.reply(200, {"url": f"{self.address}/datasets/me/films", "id": "1"})
        if "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.received[value["path"]] = base64.b64decode(value["content"])
            return self.reply(
                200,
                {
                    "success": True,
                    "commitOid": "0" * 40,
                    "commitUrl": f"{self.address}/datasets/me/films/commit/0",
                    "hookOutput": "",
                },
            )
        return self.reply(200, {"errors": [], "warnings": []})

    @property
    def address(self) -> str:
        host, port = self.server.server_address[:2]
        return f"http://{host}:{port}"

    def reply(self, status: int, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.received, Hub.private = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished build stage of a few small files."""

    def write(space: Workspace) -> dict[str, Any]:
        (space.out / "data").mkdir()
        (space.out / "README.md").write_text("---\nlicense: other\n---\n# Films\n")
        (space.out / "data" / "train-00000-of-00001.jsonl").write_text('{"prompt": "p"}\n')
        return {}

    run = Run(tmp_path / "run")
    run.execute(Stage("build", (), write, {}))
    return run


def test_the_data_set_is_uploaded_without_the_manifest(hub: type[Hub], run: Run) -> None:
    before = constants.HF_HUB_OFFLINE
    assert push_to_hub(run, "me/films").endswith("/datasets/me/films")
    folder = run.artefact("build")
    assert hub.received == {
        name: (folder / name).read_bytes()
        for name in ("README.md", "data/train-00000-of-00001.jsonl")
    }
    assert hub.private == [True]
    assert constants.HF_HUB_OFFLINE is before


def test_a_refusal_keeps_the_data_set(
    hub: type[Hub], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    with pytest.raises(StageError, match="run the command again to upload it"):
        push_to_hub(run, "me/films")
    assert hub.received == {}
    assert run.manifest("build") is not None


def test_a_name_that_the_hub_does_not_allow(hub: type[Hub], run: Run) -> None:
    with pytest.raises(UserError, match="OWNER/NAME"):
        push_to_hub(run, "me/my films/again")
    assert hub.private == []


def test_no_token_is_found_out_before_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="hf auth login"):
        check_login()


def test_a_hub_that_is_not_there(hub: type[Hub], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StageError, match="did not take me/films"):
        push_to_hub(run, "me/films")
