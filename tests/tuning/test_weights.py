"""Which weights are trained, and what this machine cannot do."""

from __future__ import annotations

import copy
import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.errors import UserError
from tastemaker.models.adapters import with_adapter
from tastemaker.models.language import LanguageModel, load_language_model, quiet_loading
from tastemaker.testing.prompt_models import tiny_model
from tastemaker.tuning.settings import AdapterShape
from tastemaker.tuning.weights import check_kind, quantisation, top_layers, trainable

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


def test_frozen_trains_nothing() -> None:
    bare = LanguageModel(tiny_model("llama").requires_grad_(True), None, "llama", Path())
    model = trainable(bare, kind="frozen", shape=SHAPE, adapter=None, seed=1)
    assert model is bare.model
    assert not any(weight.requires_grad for weight in model.parameters())
    check_kind("frozen")
    assert quantisation("frozen", torch.float32) is None


def layers_of(model: Any) -> set[tuple[str, str]]:
    """Number of the layer and last name of every module with an adapter."""
    found = set()
    for name, weight in model.named_parameters():
        if "lora_" in name:
            assert weight.requires_grad
            module = name.partition(".lora_")[0]
            number = re.search(r"\.(\d+)\.", module)
            assert number is not None
            found.add((number[1], module.rpartition(".")[2]))
    return found


def test_an_adapter_on_the_top_layers_only(base: LanguageModel, tmp_path: Path) -> None:
    fresh = replace(base, model=copy.deepcopy(base.model))
    model = trainable(base, kind="lora", shape=replace(SHAPE, layers=1), adapter=None, seed=1)
    assert layers_of(model) == {("1", "q_proj"), ("1", "v_proj")}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    with quiet_loading():
        model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    ids = torch.tensor([[1, 2, 3]])
    expected = model.eval()(ids).logits
    assert torch.equal(with_adapter(fresh, tmp_path).model(ids).logits, expected)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ("q_proj", "v_proj")),
        ("bert", ("query", "value")),
        ("deberta-v2", ("query_proj", "value_proj")),
        ("distilbert", ("q_lin", "v_lin")),
    ],
)
def test_models_without_a_head(kind: str, names: tuple[str, ...]) -> None:
    """The default target modules are found under whatever name a model has for them."""
    for count, numbers in ((None, "0123"), (2, "23")):
        bare = LanguageModel(tiny_model(kind), None, kind, Path())
        shape = replace(SHAPE, layers=count)
        model = trainable(bare, kind="lora", shape=shape, adapter=None, seed=1)
        assert layers_of(model) == {(number, name) for number in numbers for name in names}
        assert model(input_ids=torch.tensor([[5, 6]])).last_hidden_state.shape == (1, 2, 32)


def test_other_modules_than_the_default_are_taken_by_name() -> None:
    bare = LanguageModel(tiny_model("bert"), None, "bert", Path())
    shape = replace(SHAPE, target_modules=("key",), layers=1)
    model = trainable(bare, kind="lora", shape=shape, adapter=None, seed=1)
    assert layers_of(model) == {("3", "key")}
    bare = LanguageModel(tiny_model("bert"), None, "bert", Path())
    wrong = replace(SHAPE, target_modules=("k_proj", "key"))
    with pytest.raises(UserError, match=r"no layer k_proj.\n.*dense, key, .*query, .*value"):
        trainable(bare, kind="lora", shape=wrong, adapter=None, seed=1)


def test_more_layers_than_there_are() -> None:
    bare = LanguageModel(tiny_model("llama", layers=2), None, "llama", Path())
    assert top_layers(30, 2) == [28, 29]
    assert top_layers(30, None) is None
    with pytest.raises(UserError, match=r"lora.layers = 3, but the model has 2 layers.*\n.*1 to 2"):
        trainable(bare, kind="lora", shape=replace(SHAPE, layers=3), adapter=None, seed=1)
