"""Which weights are trained, and what this machine cannot do."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tastemaker.errors import UserError
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.tuning.settings import AdapterShape
from tastemaker.tuning.weights import check_kind, quantisation, trainable

SHAPE = AdapterShape(rank=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))


@pytest.fixture
def base(folder: Path) -> LanguageModel:
    return load_language_model(str(folder), dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(
    ("cuda", "package", "told"),
    [
        (False, False, "needs a CUDA device and the package bitsandbytes"),
        (False, True, "needs a CUDA device."),
        (True, False, "needs the package bitsandbytes"),
        (True, True, None),
    ],
)
def test_what_qlora_needs(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, package: bool, told: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if package else None)
    check_kind("lora")
    check_kind("full")
    if told is None:
        check_kind("qlora")
        return
    with pytest.raises(UserError) as caught:
        check_kind("qlora")
    assert told in str(caught.value)
    assert "on this machine: lora or full" in str(caught.value)
    assert "Set tune.kind to lora." in str(caught.value)


def test_only_a_qlora_base_is_packed() -> None:
    assert quantisation("lora", torch.float32) is None
    assert quantisation("full", torch.float32) is None
    packed = quantisation("qlora", torch.bfloat16)
    assert (packed.load_in_4bit, packed.bnb_4bit_quant_type) == (True, "nf4")
    assert packed.bnb_4bit_compute_dtype == torch.bfloat16


def test_an_adapter_is_trained_and_nothing_else(base: LanguageModel) -> None:
    generator = torch.get_rng_state()
    model = trainable(base, kind="lora", shape=SHAPE, adapter=None, seed=1)
    assert torch.equal(torch.get_rng_state(), generator)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers, modules, two matrices each
    assert all("lora_" in name for name in trained)


def test_the_seed_makes_the_adapter(folder: Path) -> None:
    first, same, other = (
        trainable(
            load_language_model(str(folder), dtype=torch.float32, device="cpu"),
            kind="lora",
            shape=SHAPE,
            adapter=None,
            seed=seed,
        )
        for seed in (1, 1, 2)
    )
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    one, two, three = (model.get_parameter(name) for model in (first, same, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_all_weights_or_an_adapter(base: LanguageModel, tmp_path: Path) -> None:
    model = trainable(base, kind="full", shape=SHAPE, adapter=None, seed=1)
    assert model is base.model
    assert all(weight.requires_grad for weight in model.parameters())
    with pytest.raises(UserError, match=r"full trains the whole model[^\0]*tastemaker merge"):
        trainable(base, kind="full", shape=SHAPE, adapter=tmp_path, seed=1)


def test_layers_the_base_lacks(base: LanguageModel) -> None:
    shape = replace(SHAPE, target_modules=("c_attn",))
    with pytest.raises(UserError, match=r"no layer c_attn.\n.*q_proj"):
        trainable(base, kind="lora", shape=shape, adapter=None, seed=1)
