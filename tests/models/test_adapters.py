"""Adapters of today, of the paper, and those that must be refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tastemaker.errors import UserError
from tastemaker.models.adapters import base_identity, is_adapter, tuned, with_adapter
from tastemaker.models.language import LanguageModel, load_language_model, quiet_loading

IDS = torch.tensor([[1, 4093, 198, 17, 300, 9]])
SAFE, OLD = "adapter_model.safetensors", "adapter_model.bin"
# What PEFT 0.3 wrote for TALLRec, key by key.
OLD_CONFIG = {
    "base_model_name_or_path": "decapoda-research/llama-7b-hf",
    "bias": "none",
    "enable_lora": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "merge_weights": False,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 8,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}


def copied(base: LanguageModel, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model of the test's own, sooner than loading it again."""
    return replace(base, model=copy.deepcopy(base.model).to(dtype))


def logits(language_model: LanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        return language_model.model(input_ids=IDS).logits


def save_adapter(language_model: LanguageModel, folder: Path, **changes: Any) -> torch.Tensor:
    """Put a random adapter on a model and save it; returns the logits."""
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **changes}
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(1)
        config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings)
        model = get_peft_model(language_model.model, config).eval()
        model.save_pretrained(folder)
    return logits(replace(language_model, model=model))


@pytest.fixture(scope="module")
def base(llama_folder: Path) -> LanguageModel:
    """Never to be changed: every test may compare with it."""
    return load_language_model(str(llama_folder), dtype=torch.float32, device="cpu")


@pytest.fixture
def modern(base: LanguageModel, tmp_path: Path) -> Path:
    """An adapter folder as today's PEFT writes it."""
    folder = tmp_path / "modern"
    save_adapter(copied(base), folder)
    return folder


@pytest.fixture
def paper(modern: Path, tmp_path: Path) -> Path:
    """The same weights as PEFT 0.3 would have written them."""
    folder = tmp_path / "paper"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(OLD_CONFIG))
    torch.save(load_file(modern / SAFE), folder / OLD)
    return folder


def refuses(base: LanguageModel, folder: Path, *parts: str) -> None:
    """The adapter is refused in these words, and the base answers as before."""
    before, layers = logits(base), [name for name, _ in base.model.named_modules()]
    with pytest.raises(UserError) as caught:
        with_adapter(base, folder)
    for part in parts:
        assert part in str(caught.value)
    assert [name for name, _ in base.model.named_modules()] == layers
    assert torch.equal(logits(base), before)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_modules": r".*\.(up|down)_proj", "use_rslora": True},
        {"use_dora": True},
        {"target_modules": "all-linear", "rank_pattern": {"o_proj": 2}},
        {"modules_to_save": ["norm"]},
        {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
        {"trainable_token_indices": [17, 198]},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_what_peft_saves_comes_back(
    base: LanguageModel, tmp_path: Path, changes: dict[str, Any]
) -> None:
    expected = save_adapter(copied(base), tmp_path / "saved", **changes)
    assert not torch.allclose(expected, logits(base), atol=0.1) or "norm" in str(changes)
    again = with_adapter(copied(base), tmp_path / "saved")
    assert torch.equal(logits(again), expected)
    assert not again.model.training
    assert not any(weight.requires_grad for weight in again.model.parameters())


def test_the_papers_format_gives_the_same_logits(
    base: LanguageModel, modern: Path, paper: Path
) -> None:
    found = with_adapter(copied(base), paper)
    assert torch.equal(logits(found), logits(with_adapter(copied(base), modern)))
    assert found.model.peft_config["default"].r == 8


def test_safetensors_win_over_a_bin_file(base: LanguageModel, modern: Path) -> None:
    expected = logits(with_adapter(copied(base), modern))
    (modern / OLD).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert torch.equal(logits(with_adapter(copied(base), modern)), expected)


def test_an_adapter_can_be_trained_further_in_float32(base: LanguageModel, modern: Path) -> None:
    model = with_adapter(copied(base, torch.bfloat16), modern, trainable=True).model
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}


def test_only_one_adapter_at_a_time(base: LanguageModel, modern: Path) -> None:
    carrying = with_adapter(copied(base), modern)
    with pytest.raises(UserError, match="carries an adapter already"):
        with_adapter(carrying, modern)


def test_a_folder_without_adapter(base: LanguageModel, tmp_path: Path, modern: Path) -> None:
    refuses(base, tmp_path, "holds no adapter", "adapter_model.safetensors", "tastemaker tune")
    (modern / SAFE).unlink()
    refuses(base, modern, "holds no adapter")


@pytest.mark.parametrize("name", [SAFE, OLD])
def test_a_pointer(base: LanguageModel, paper: Path, name: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64
    pointer += b"\nsize 16822989\n"
    assert 120 < len(pointer) < 140
    (paper / name).write_bytes(pointer)
    refuses(base, paper, "git-LFS pointer", "git lfs pull")


def test_layers_the_base_does_not_have(base: LanguageModel, paper: Path) -> None:
    saved = torch.load(paper / OLD, weights_only=True)
    for new in ("c_attn", "query_key_value"):
        renamed = {name.replace("q_proj", new): value for name, value in saved.items()}
        torch.save(renamed, paper / OLD)
        config = OLD_CONFIG | {"target_modules": [new, "v_proj"]}
        (paper / "adapter_config.json").write_text(json.dumps(config))
        words = f"the base has no layers named {new}.", "decapoda-research/llama-7b-hf"
        refuses(base, paper, "does not fit", *words)
        config = OLD_CONFIG | {"target_modules": [new]}
        only = {name: value for name, value in renamed.items() if new in name}
        torch.save(only, paper / OLD)
        (paper / "adapter_config.json").write_text(json.dumps(config))
        refuses(base, paper, "does not fit", *words)


def test_more_or_fewer_layers_than_the_base(base: LanguageModel, modern: Path) -> None:
    saved = load_file(modern / SAFE)
    more = {name.replace("layers.1.", "layers.7."): value.clone() for name, value in saved.items()}
    save_file({**saved, **more}, modern / SAFE)
    refuses(base, modern, "the base has no model.layers.7.self_attn.q_proj (2 such layers)")
    save_file({name: one for name, one in saved.items() if "layers.0." in name}, modern / SAFE)
    refuses(base, modern, "has model.layers.1.self_attn", "which the adapter lacks (4 such")
    bare = {name.removeprefix("base_model.model."): value for name, value in saved.items()}
    save_file({f"x.{name}": value for name, value in bare.items()}, modern / SAFE)
    refuses(base, modern, "does not fit")


def test_shapes_that_do_not_fit(base: LanguageModel, paper: Path) -> None:
    saved = torch.load(paper / OLD, weights_only=True)
    wide = {
        name: torch.zeros(8, 4096) if "lora_A" in name else value for name, value in saved.items()
    }
    torch.save(wide, paper / OLD)
    refuses(base, paper, "layers.0.self_attn.q_proj.lora_A.weight is 8 × 4096, ", "needs 8 × 32")


def test_another_base_of_the_same_shape(
    base: LanguageModel, llama_folder: Path, modern: Path, tmp_path: Path
) -> None:
    identity = base_identity(llama_folder)
    record = {"base": {"name": "smollm2", "identity": identity}}
    (modern / "tuning.json").write_text(json.dumps(record))
    with_adapter(copied(base), modern)
    other = tmp_path / "other"
    shutil.copytree(llama_folder, other)
    weights = load_file(other / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] += 0.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert base_identity(other) != identity
    refuses(replace(base, folder=other), modern, "other weights", "Its base is smollm2", identity)


@pytest.mark.parametrize("record", ["{", "[]", '{"steps": 3}', '{"base": "smollm2"}'])
def test_a_record_that_does_not_tell_the_base(
    base: LanguageModel, modern: Path, record: str
) -> None:
    (modern / "tuning.json").write_text(record)
    with_adapter(copied(base), modern)


def test_identity_sees_names_sizes_middles_and_architecture(tmp_path: Path) -> None:
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(bytes(40 << 20))
    config.write_text('{"architectures": ["LlamaForCausalLM"], "use_cache": true}')
    seen = [base_identity(tmp_path)]
    config.write_text('{"architectures": ["LlamaForCausalLM"], "use_cache": false}')
    assert base_identity(tmp_path) == seen[0]
    config.write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    seen.append(base_identity(tmp_path))
    with weights.open("r+b") as handle:
        handle.seek(17 << 20)
        handle.write(bytes([1]) * (1 << 20))
    seen.append(base_identity(tmp_path))
    weights.rename(tmp_path / "other.safetensors")
    seen.append(base_identity(tmp_path))
    assert len(set(seen)) == 4
    assert all(len(one) == 16 for one in seen)


class _Call:
    """Pickled, it asks whoever unpickles it to call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("function", [os.system, eval])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_bin_file_does_not_run(
    base: LanguageModel, paper: Path, tmp_path: Path, function: Any, legacy: bool
) -> None:
    mark = tmp_path / "ran"
    commands = {
        os.system: f"touch {mark}",
        eval: f"__import__('pathlib').Path({str(mark)!r}).touch()",
    }
    hostile = {
        **torch.load(paper / OLD, weights_only=True),
        "x": _Call(function, commands[function]),
    }
    torch.save(hostile, paper / OLD, _use_new_zipfile_serialization=not legacy)
    refuses(base, paper, "cannot be read as weights", "never run")
    assert not mark.exists()
    torch.load(paper / OLD, weights_only=False)  # the file is what it claims to be
    assert mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02."])
@pytest.mark.parametrize("name", [SAFE, OLD])
def test_damaged_weights(base: LanguageModel, paper: Path, name: str, content: bytes) -> None:
    (paper / name).write_bytes(content)
    refuses(base, paper, "cannot be read as weights")


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"state": {"a": torch.zeros(1)}}])
def test_a_bin_file_without_tensors(base: LanguageModel, paper: Path, content: Any) -> None:
    torch.save(content, paper / OLD)
    refuses(base, paper, "holds no tensors of an adapter")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "kind PREFIX_TUNING"),
        ({"enable_lora": [True, False]}, "not supported here: enable_lora"),
        ({"from_the_future": 3}, "pip install -U peft"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config"),
        ({"r": 0}, "should be a positive"),
    ],
)
def test_configurations_out_of_reach(
    base: LanguageModel, paper: Path, changes: dict[str, Any], part: str
) -> None:
    (paper / "adapter_config.json").write_text(json.dumps(OLD_CONFIG | changes))
    refuses(base, paper, part)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_configuration(base: LanguageModel, paper: Path, text: str) -> None:
    (paper / "adapter_config.json").write_text(text)
    refuses(base, paper, "adapter_config.json cannot be read")


def test_tuned_takes_adapters_and_whole_models(
    base: LanguageModel, llama_folder: Path, modern: Path, tmp_path: Path
) -> None:
    assert is_adapter(modern)
    assert not is_adapter(llama_folder)
    assert not is_adapter(tmp_path)
    adapted = tuned(copied(base), modern)
    assert torch.equal(logits(adapted), logits(with_adapter(copied(base), modern)))
    whole = tmp_path / "whole"
    shutil.copytree(llama_folder, whole)
    weights = {name: value * 2 for name, value in load_file(whole / "model.safetensors").items()}
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
    found = tuned(copied(base, torch.bfloat16), whole)
    assert found.model.dtype == torch.bfloat16
    assert found.folder == whole
    expected = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(logits(found), expected(input_ids=IDS).logits)
    with pytest.raises(UserError, match="holds no adapter"):
        tuned(copied(base), tmp_path)
