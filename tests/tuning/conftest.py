"""Shared by the tests of tuning: a small model that is real in all but its size."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads mostly wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(llama_folder: Path) -> Path:
    """A model folder: SmolLM2's tokenizer and chat template, two small random layers."""
    return llama_folder
