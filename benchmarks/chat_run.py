"""The run that benchmarks of conversations talk to: given, or made of packaged data and kept."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tastemaker.commands._recipe import execute
from tastemaker.methods.chatting import CONVERSATIONS
from tastemaker.registry import package_root

__all__ = ["borrowed", "run_of", "run_options"]


def run_options(parser: argparse.ArgumentParser) -> None:
    """Add --run, --encoder, --quick and --json."""
    parser.add_argument("--run", type=Path, help="folder of a run with a catalogue; none: make one")
    parser.add_argument("--encoder", help="of the run that is made [minilm; with --quick hashing]")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")


def run_of(options: argparse.Namespace) -> Path:
    """The folder that was given, or that of `examples/chat.yaml` with scripted knowledge.

    What was made once is found up to date by the next benchmark.
    """
    if options.run is not None:
        return Path(options.run)
    encoder = options.encoder or ("hashing" if options.quick else "minilm")
    epochs = 1 if options.quick else 3
    folder = package_root() / "runs" / f"benchmark-chat-{encoder.replace(':', '-')}-{epochs}"
    execute(
        package_root() / "examples" / "chat.yaml",
        overrides=[
            f"encode.encoder={encoder}",
            f"catalogue.encoder={encoder}",
            f"train.epochs={epochs}",
            "reason.model=scripted:brief",
            "reason.max_users=50",
            "reason.max_items=50",
        ],
        out=folder,
        until="catalogue",
        quiet=True,
    )
    return folder


@contextlib.contextmanager
def borrowed(run: Path) -> Iterator[Path]:
    """The same run in a temporary folder, so that conversations are not kept in the run itself."""
    with tempfile.TemporaryDirectory() as folder:
        for path in run.resolve().iterdir():
            if not path.name.startswith(CONVERSATIONS):
                (Path(folder) / path.name).symlink_to(path)
        yield Path(folder)
