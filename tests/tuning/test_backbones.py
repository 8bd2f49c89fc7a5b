"""What is trained below the networks, what therefore stays fixed, and that it can be read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from tastemaker.errors import UserError
from tastemaker.models.prompt_ctr import PromptCtr
from tastemaker.models.prompt_states import PromptBackbone
from tastemaker.models.state_store import store_bytes
from tastemaker.testing.prompt_models import (
    tiny_backbone,
    tiny_folder,
    tiny_prompt_ctr,
    tiny_prompts,
)
from tastemaker.tuning.backbones import make_trainable, read_trained, save_trained
from tastemaker.tuning.settings import AdapterShape, TuneSettings

Folders = dict[str, Path]
PROMPTS = tiny_prompts(12, seed=7)
SETTINGS = TuneSettings(
    kind="lora",
    lora=AdapterShape(rank=2, alpha=4, dropout=0.1, target_modules=("q_proj", "v_proj")),
    learning_rate=0.01,
    warmup_steps=0,
    epochs=1,
    batch_size=4,
    micro_batch=None,
    max_length=64,
    loss_on="answer",
    rows="single",
    row_tokens=64,
    group_by_length=False,
    gradient_checkpointing=None,
    evaluate_every=None,
    patience=None,
    metric="auto",
    tracker="none",
)


def with_layers(layers: int | None) -> TuneSettings:
    return replace(SETTINGS, lora=replace(SETTINGS.lora, layers=layers))


def trained_of(backbone: PromptBackbone) -> set[str]:
    return {name for name, one in backbone.model.named_parameters() if one.requires_grad}


def jolt(backbone: PromptBackbone) -> None:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in backbone.model.parameters():
            if one.requires_grad:
                one += 0.1 * torch.randn(one.shape, generator=generator).to(one.dtype)


def scores(model: PromptCtr) -> NDArray[np.float32]:
    return model.score(model.backbone.encode(PROMPTS.texts), PROMPTS.domains)


@pytest.mark.parametrize(
    ("kind", "layers", "fixed", "kept", "count"),
    [
        ("frozen", None, 4, 4, 0),
        ("lora", 1, 3, 3, 4),
        ("lora", 3, 1, 1, 12),
        ("lora", 4, 0, 0, 16),
        ("lora", None, 0, 0, 16),
        ("full", None, 0, 0, None),
    ],
)
@pytest.mark.parametrize("model", ["llama", "bert"])
def test_what_is_trained_and_what_stays_fixed(
    tiny_folders: Folders,
    model: str,
    kind: Any,
    layers: int | None,
    fixed: int,
    kept: int,
    count: int | None,
) -> None:
    backbone = tiny_backbone(tiny_folders[model])
    whole = len(list(backbone.model.parameters()))
    adapter = make_trainable(backbone, with_layers(layers), kind=kind, seed=1)
    assert (adapter is not None) == (kind == "lora")
    names = trained_of(backbone)
    assert len(names) == (whole if count is None else count)
    assert all("lora_" in name for name in names) == (kind != "full")
    assert (backbone.fixed, backbone.kept) == (fixed, kept)
    assert backbone.is_fixed == (kind == "frozen")
    assert backbone.trains_embeddings == (kind == "full")
    for place in range(4):
        of_layer = [
            name for name in names if f"layers.{place}." in name or f"layer.{place}." in name
        ]
        assert bool(of_layer) == (place >= fixed)
    assert store_bytes(backbone, 1) == 2 * kept * 32 + (0 if kind == "frozen" else 4 * 32)


def test_from_the_embeddings_on_an_adapter_keeps_those(tiny_folders: Folders) -> None:
    for kind, kept in (("lora", 1), ("full", 0)):
        backbone = tiny_backbone(tiny_folders["llama"], from_embeddings=True)
        make_trainable(backbone, SETTINGS, kind=kind, seed=1)  # type: ignore[arg-type]
        assert backbone.kept == kept


def test_the_seed_makes_the_adapter(tiny_folders: Folders) -> None:
    state = torch.get_rng_state()
    found = []
    for seed in (1, 1, 2):
        backbone = tiny_backbone(tiny_folders["bert"])
        make_trainable(backbone, SETTINGS, kind="lora", seed=seed)
        found.append(dict(backbone.model.named_parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    name = next(name for name in found[0] if "lora_A" in name)
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])


@pytest.mark.parametrize(
    ("model", "kind", "layers", "holds"),
    [
        ("llama", "frozen", None, []),
        ("bert", "lora", None, ["adapter_config.json", "adapter_model.safetensors"]),
        ("llama", "lora", 2, ["adapter_config.json", "adapter_model.safetensors"]),
        ("bert", "full", None, ["language_model.safetensors"]),
    ],
)
def test_it_is_read_back_as_it_was_saved(
    tiny_folders: Folders,
    tmp_path: Path,
    model: str,
    kind: Any,
    layers: int | None,
    holds: list[str],
) -> None:
    ours, again = (tiny_prompt_ctr(tiny_folders[model]) for _ in range(2))
    before = scores(ours)
    adapter = make_trainable(ours.backbone, with_layers(layers), kind=kind, seed=1)
    jolt(ours.backbone)
    save_trained(ours.backbone, tmp_path, adapter=adapter)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted(["base.json", *holds])
    read_trained(again.backbone, tmp_path)
    found = scores(again)
    assert np.array_equal(found, scores(ours))
    assert np.allclose(found, before) == (kind == "frozen")
    for name in ("fixed", "kept", "is_fixed", "trains_embeddings", "depths"):
        assert getattr(again.backbone, name) == getattr(ours.backbone, name), name
    assert again.backbone.identity() == ours.backbone.identity()
    assert "/" not in json.loads((tmp_path / "base.json").read_text())["identity"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_half_precision_is_read_back(tiny_folders: Folders, tmp_path: Path, kind: Any) -> None:
    """Weights that are all trained are so in float32: smaller steps would be rounded away."""
    ours, again = (tiny_prompt_ctr(tiny_folders["llama"], precision="bfloat16") for _ in range(2))
    adapter = make_trainable(ours.backbone, SETTINGS, kind=kind, seed=1)
    trained = [one for one in ours.backbone.model.parameters() if one.requires_grad]
    assert {one.dtype for one in trained} == {torch.float32}
    jolt(ours.backbone)
    save_trained(ours.backbone, tmp_path, adapter=adapter)
    read_trained(again.backbone, tmp_path)
    assert np.array_equal(scores(again), scores(ours))


def test_an_adapter_is_float32_and_nothing_else_is_saved(
    tiny_folders: Folders, tmp_path: Path
) -> None:
    backbone = tiny_backbone(tiny_folders["llama"])
    adapter = make_trainable(backbone, with_layers(1), kind="lora", seed=1)
    save_trained(backbone, tmp_path, adapter=adapter)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(weights) == 4
    assert all(".layers.3." in f".{name}" for name in weights)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_folders["llama"])


def test_another_base_is_refused(tiny_folders: Folders, tmp_path: Path) -> None:
    backbone = tiny_backbone(tiny_folders["llama"])
    adapter = make_trainable(backbone, SETTINGS, kind="lora", seed=1)
    save_trained(backbone, tmp_path / "saved", adapter=adapter)
    other = tiny_folder("llama", tmp_path / "other", seed=1)
    for place, every in ((other, 1), (tiny_folders["bert"], 1), (tiny_folders["llama"], 2)):
        stranger = tiny_backbone(place, every=every)
        before = stranger.identity()
        with pytest.raises(UserError, match=r"was trained on .*, not on [^\0]*that it was trained"):
            read_trained(stranger, tmp_path / "saved")
        assert stranger.identity() == before


@pytest.mark.parametrize(
    ("kind", "file", "data"),
    [
        ("lora", "base.json", None),
        ("lora", "base.json", b'{"name": "x"}'),
        ("lora", "adapter/adapter_config.json", None),
        ("lora", "adapter/adapter_config.json", b"{"),
        ("lora", "adapter/adapter_model.safetensors", b"none"),
        ("lora", "adapter/adapter_model.safetensors", None),
        ("full", "language_model.safetensors", None),
        ("full", "language_model.safetensors", b"none"),
    ],
)
def test_damaged_files_are_told(
    tiny_folders: Folders, tmp_path: Path, kind: Any, file: str, data: bytes | None
) -> None:
    backbone = tiny_backbone(tiny_folders["llama"])
    adapter = make_trainable(backbone, SETTINGS, kind=kind, seed=1)
    save_trained(backbone, tmp_path, adapter=adapter)
    (tmp_path / file).unlink()
    if data is not None:
        (tmp_path / file).write_bytes(data)
    with pytest.raises(UserError, match="holds no trained language model that can be read"):
        read_trained(tiny_backbone(tiny_folders["llama"]), tmp_path)


def test_what_cannot_be_made_trainable(tiny_folders: Folders) -> None:
    with pytest.raises(UserError, match="qlora is not made for"):
        make_trainable(tiny_backbone(tiny_folders["llama"]), SETTINGS, kind="qlora", seed=1)
    with pytest.raises(UserError, match=r"lora.layers = 5, but the model has 4 layers"):
        make_trainable(tiny_backbone(tiny_folders["llama"]), with_layers(5), kind="lora", seed=1)
    odd = replace(SETTINGS, lora=replace(SETTINGS.lora, target_modules=("c_attn",)))
    with pytest.raises(UserError, match="no layer c_attn"):
        make_trainable(tiny_backbone(tiny_folders["llama"]), odd, kind="lora", seed=1)
