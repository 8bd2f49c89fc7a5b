"""A real language model behind a real OpenAI-compatible server: `transformers serve`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tastemaker.testing.server_process import free_port, running_server

__all__ = ["chat_server"]


@contextlib.contextmanager
def chat_server(
    folder: Path, *, log: Path, dtype: str = "float32", threads: int = 1, limit: float = 120.0
) -> Iterator[str]:
    """Serve a model folder on the CPU of this machine for as long as the block lasts.

    Requests are answered one after another, without a key. The server knows the model as
    `str(folder)`; a request for any other name is answered 400.

    Args:
        folder: Model, tokenizer and chat template.
        log: File for what the server prints.
        dtype: Of the weights.
        threads: Of the computation.
        limit: Seconds until the server must answer; with cold disks the start takes most of them.

    Yields:
        The base URL, which ends in `/v1`.

    Raises:
        StageError: the server did not start; the message holds the end of its log.
    """
    port = free_port()
    options = ["--device", "cpu", "--dtype", dtype, "--no-continuous-batching"]
    options += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    with tempfile.TemporaryDirectory() as cache:
        # /v1/models lists this folder and fails where it does not exist.
        (Path(cache) / "hub").mkdir()
        environment = {
            "HF_HOME": cache,
            "HF_HUB_CACHE": str(Path(cache) / "hub"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        # The command itself would look for a newer version of the package first.
        program = "from transformers.cli.transformers import app; app()"
        with running_server(
            ["-c", program, "serve", str(folder), *options],
            ready=f"http://127.0.0.1:{port}/health",
            log=log,
            environment=environment,
            limit=limit,
        ):
            yield f"http://127.0.0.1:{port}/v1"
