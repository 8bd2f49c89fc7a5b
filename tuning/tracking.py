"""Experiment trackers by name; none is on unless a recipe asks for it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tastemaker.errors import UserError

__all__ = ["check_tracker", "tracking"]

# tracker: the setting of its own that says where files go
_PLACES = {
    "tensorboard": "TENSORBOARD_LOGGING_DIR",
    "wandb": "WANDB_DIR",
    "trackio": "TRACKIO_DIR",
}


def check_tracker(name: str) -> None:
    """Make sure that the package of a tracker is there.

    Raises:
        UserError: it is not.
    """
    found = importlib.util.find_spec(name) if name in _PLACES else None
    if name in _PLACES and (found is None or found.origin is None):  # a folder is no package
        raise UserError(
            f"tune.tracker is {name}, but the package {name} is not installed.",
            allowed=f"none, {', '.join(_PLACES)}",
            remedy=f"Run: pip install {name}",
        )


@contextmanager
def tracking(name: str, folder: Path | None) -> Iterator[None]:
    """Let a tracker write into `folder`, unless the user's environment names another place."""
    variable = _PLACES.get(name)
    if variable is None or folder is None or variable in os.environ:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[variable] = str(folder)
    try:
        yield
    finally:
        del os.environ[variable]
