"""TRL and PEFT on a real tokenizer and a small model of the same architecture."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer

from tastemaker.errors import DataError, SaveCheckError, StageError
from tastemaker.models.language import (
    LanguageModel,
    language_model_folder,
    load_language_model,
    quiet_loading,
    with_adapter,
)
from tastemaker.tuning import lora
from tastemaker.tuning.lora import AdapterSettings, AnswerTrainer, check_adapter, tune_adapter

SETTINGS = AdapterSettings(
    rank=8,
    alpha=32,
    dropout=0.1,
    target_modules=("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"),
    learning_rate=0.05,
    epochs=4,
    batch_size=4,
    max_length=96,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: SmolLM2's tokenizer and chat template, two small random layers."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(language_model_folder("smollm2"))
    tokenizer.save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                initializer_range=0.3,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
            )
        )
    model.save_pretrained(path)
    return path


@pytest.fixture
def base(folder: Path) -> LanguageModel:
    return load_language_model(str(folder), dtype=torch.float32, device="cpu")


def examples(count: int, *, words: int = 3) -> Dataset:
    """Even films are liked, odd ones are not."""
    rows = []
    for index in range(count):
        liked = index % 2 == 0
        text = f"Is a film of the {'even' if liked else 'odd'} kind liked? {'word ' * words}"
        rows.append(
            {
                "prompt": [{"role": "user", "content": text}],
                "completion": [{"role": "assistant", "content": "Yes." if liked else "No."}],
                "row": index,
            }
        )
    return Dataset.from_list(rows)


def tune(base: LanguageModel, out: Path, scratch: Path, **changes: Any) -> Any:
    return tune_adapter(
        base,
        changes.pop("train", examples(16)),
        valid=changes.pop("valid", examples(4)),
        settings=replace(SETTINGS, **changes.pop("settings", {})),
        out=out,
        scratch=scratch,
        seed=3,
        **changes,
    )


def test_learns_saves_and_reloads(base: LanguageModel, tmp_path: Path) -> None:
    steps: list[int] = []
    result = tune(base, tmp_path / "out", tmp_path / "scratch", on_step=steps.append)
    losses = [entry["loss"] for entry in result.curve if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert (result.steps, sum(steps)) == (16, 16)
    assert result.logit_difference == 0
    assert result.trained_parameters > 0
    assert result.best_valid_loss == pytest.approx(
        min(entry["valid_loss"] for entry in result.curve if "valid_loss" in entry), abs=1e-5
    )
    assert json.loads((tmp_path / "out" / "tuning.json").read_text())["steps"] == 16
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tuning.json",
    ]


def test_loss_and_gradients_equal_trl(base: LanguageModel, tmp_path: Path) -> None:
    with quiet_loading():
        trainer = lora._trainer(
            base,
            examples(8, words=3),
            valid=examples(2),
            settings=replace(SETTINGS, dropout=0.0),
            folder=tmp_path,
            seed=0,
        )
    batch = next(iter(trainer.get_train_dataloader()))
    weights = [p for p in trainer.model.parameters() if p.requires_grad]
    found = []
    for compute in (AnswerTrainer.compute_loss, SFTTrainer.compute_loss):
        for items in (None, torch.tensor(40)):
            loss = compute(trainer, trainer.model, dict(batch), num_items_in_batch=items)
            found.append((loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)))
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
        for left, right in zip(ours[1], theirs[1], strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_a_killed_run_ends_with_the_same_weights(
    base: LanguageModel, folder: Path, tmp_path: Path
) -> None:
    tune(base, tmp_path / "whole", tmp_path / "scratch-1")
    seen: list[int] = []

    def die(done: int) -> None:
        seen.append(done)
        if sum(seen) == 10:
            raise KeyboardInterrupt

    again = load_language_model(str(folder), dtype=torch.float32, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        tune(again, tmp_path / "resumed", tmp_path / "scratch-2", on_step=die)
    # A checkpoint that was being written when the process died is not used.
    torn = tmp_path / "scratch-2" / "checkpoint-12"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    later: list[int] = []
    fresh = load_language_model(str(folder), dtype=torch.float32, device="cpu")
    tune(fresh, tmp_path / "resumed", tmp_path / "scratch-2", on_step=later.append)
    assert later[0] == 8
    assert sum(later) == 16
    whole, resumed = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "resumed")
    )
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-5, atol=1e-6)


def test_a_damaged_adapter_fails_the_check(
    base: LanguageModel, folder: Path, tmp_path: Path
) -> None:
    tune(base, tmp_path / "out", tmp_path / "scratch", settings={"epochs": 1})
    fresh = load_language_model(str(folder), dtype=torch.float32, device="cpu")
    tuned = with_adapter(fresh, tmp_path / "out")
    probes = [examples(1)[0]["prompt"]]
    assert check_adapter(tuned, tmp_path / "out", probes=probes) == 0
    file = tmp_path / "out" / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(SaveCheckError, match="gives other logits"):
        check_adapter(tuned, tmp_path / "out", probes=probes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": Dataset.from_list([{"text": "a"}])}, "no column completion, prompt"),
        ({"valid": examples(2).select([])}, "validation examples are empty"),
        ({"train": examples(8, words=90)}, "more than tune.max_length = 96"),
    ],
)
def test_bad_examples(
    base: LanguageModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tune(base, tmp_path / "out", tmp_path / "scratch", **changes)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_stops(base: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the loss became .*tune\.learning_rate"):
        tune(base, tmp_path / "out", tmp_path / "scratch", settings={"learning_rate": 1e30})
    assert not (tmp_path / "out").exists()
