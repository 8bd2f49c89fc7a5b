"""The command, and a server as a process of its own."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from tastemaker.commands.serve import command
from tastemaker.errors import UserError

PROGRAM = """
import contextlib, runpy, sys
from tastemaker.agents.server.app import create_app
from tastemaker.agents.server.limits import Limits
from tastemaker.agents.server.serving import listening, serve
chat = runpy.run_path(sys.argv[1])["ScriptedChat"]()
with contextlib.suppress(KeyboardInterrupt), listening("127.0.0.1", 0) as listener:
    serve(create_app(chat, limits=Limits()), listener, ready=lambda url: print(url, flush=True))
"""


@contextlib.contextmanager
def started() -> Iterator[tuple[subprocess.Popen[str], str]]:
    arguments = [sys.executable, "-c", PROGRAM, str(Path(__file__).with_name("conftest.py"))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 60)[0]
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_it_tells_its_address_logs_no_texts_and_ends_when_interrupted() -> None:
    with started() as (process, url):
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.get("/health").status_code == 200
            said = {"messages": [{"role": "user", "content": "slow secret"}], "stream": True}
            with client.stream("POST", "/v1/chat/completions", json=said) as told:
                pieces = told.iter_bytes()
                next(pieces)
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                assert b"[DONE]" in b"".join(pieces)
        _, log = process.communicate(timeout=20)
        assert time.monotonic() - began < 15
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "GET /health 200" in log
    assert "POST /v1/chat/completions" in log
    assert "secret" not in log


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--token-file"),
        (["--host", "0.0.0.0", "--token-file", "missing"], "missing cannot be read"),
        (["--limit", "mesages=3"], "did you mean 'messages'"),
        (["--host", "192.0.2.1", "--token-file", "token"], "cannot be used"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_loaded(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TASTEMAKER_TOKEN", raising=False)
    (tmp_path / "token").write_text("sixteen-signs-or-more")
    before = set(os.listdir(tmp_path))
    found = CliRunner().invoke(command, arguments)
    assert isinstance(found.exception, UserError)
    assert found.exception.exit_code == 2
    assert words in str(found.exception)
    assert set(os.listdir(tmp_path)) == before
