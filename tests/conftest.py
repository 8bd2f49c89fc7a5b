"""Shared by all rooms: nothing is fetched, and models are unpacked once for the whole suite."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from tastemaker.cli import main

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"
# Two shared cores make single examples slow now and then; a deadline would only add noise.
settings.register_profile("tastemaker", deadline=None)
settings.load_profile("tastemaker")


def pytest_collection_finish() -> None:
    """Thousands of collected tests need not be looked at by every garbage collection."""
    gc.collect()
    gc.freeze()


class Found(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Found]


@pytest.fixture
def tastemaker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Found]:
    """Run the entry point in this process: what a shell would run, without seconds of imports."""

    def call(*arguments: str, cwd: Path) -> Found:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["tastemaker", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return Found(int(stop.value.code or 0), printed.out, printed.err)

    return call
