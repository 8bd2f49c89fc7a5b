"""Whether this machine has what the defaults need."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch

from tastemaker.data.builtin.base import find_builtin
from tastemaker.errors import UserError
from tastemaker.models.encoders import check_encoder
from tastemaker.models.language import (
    best_dtype,
    cache_folder,
    default_device,
    language_model_source,
)

__all__ = ["Finding", "examine"]

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "sentence-transformers",
    "langchain",
    "openai",
    "polars",
)
ROOMY_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        subject: What was looked at.
        detail: What was found, or the command that brings it.
        healthy: Whether it is as it should be.
    """

    subject: str
    detail: str
    healthy: bool = True


def examine() -> list[Finding]:
    """Versions, device, default models and data, free disk."""
    return [
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("tastemaker", metadata.version("tastemaker")),
        *(_library(name) for name in LIBRARIES),
        _device(),
        _place("data movielens-small", lambda: find_builtin("movielens-small").locate()),
        _place("model smollm2", lambda: language_model_source("smollm2")),
        _place("encoder minilm", lambda: check_encoder("minilm")),
        _disk(),
    ]


def _library(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, f"pip install {name}", healthy=False)


def _device() -> Finding:
    device = default_device()
    dtype = str(best_dtype(device)).removeprefix("torch.")
    if device.type == "cuda":
        return Finding("device", f"{torch.cuda.get_device_name(device)}, {dtype}")
    return Finding("device", f"CPU, {os.cpu_count()} cores, {dtype}")


def _place(subject: str, find: Callable[[], object]) -> Finding:
    try:
        return Finding(subject, str(find()))
    except UserError as error:
        return Finding(subject, error.remedy or error.what, healthy=False)


def _disk() -> Finding:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding(
        "free disk", f"{free / 1024**3:.0f} GiB for {cache_folder()}", healthy=free >= ROOMY_BYTES
    )
