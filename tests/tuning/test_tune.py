"""TRL and PEFT on a real tokenizer and a small model of the same architecture."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from trl import SFTConfig, SFTTrainer

from tastemaker.errors import DataError, SaveCheckError, StageError, UserError
from tastemaker.models.adapters import base_identity
from tastemaker.models.language import LanguageModel, load_language_model, quiet_loading
from tastemaker.models.scoring import score_yes_no
from tastemaker.tuning import causal, running
from tastemaker.tuning import tune as tune_module
from tastemaker.tuning.save_check import check_save
from tastemaker.tuning.settings import AdapterShape, TuneResult, TuneSettings
from tastemaker.tuning.tune import tune
from tastemaker.tuning.weights import trainable

SHAPE = AdapterShape(
    rank=8,
    alpha=32,
    dropout=0.1,
    target_modules=("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"),
)
SETTINGS = TuneSettings(
    kind="lora",
    lora=SHAPE,
    learning_rate=0.05,
    warmup_steps=0,
    epochs=4,
    batch_size=4,
    micro_batch=None,
    max_length=96,
    loss_on="answer",
    rows="single",
    row_tokens=512,
    group_by_length=False,
    gradient_checkpointing=None,
    evaluate_every=None,
    patience=None,
    metric="auto",
    tracker="none",
)
CHOICES = ("Yes.", "No.")

Fresh = Callable[[], LanguageModel]


@pytest.fixture
def fresh(folder: Path) -> Fresh:
    return partial(load_language_model, str(folder), dtype=torch.float32, device="cpu")


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
                "label": int(liked),
            }
        )
    return Dataset.from_list(rows)


def run(fresh: Fresh, place: Path, **changes: Any) -> TuneResult:
    return tune(
        fresh,
        changes.pop("train", examples(16)),
        valid=changes.pop("valid", examples(4)),
        settings=replace(SETTINGS, **changes.pop("settings", {})),
        out=place / "out",
        scratch=changes.pop("scratch", place / "scratch"),
        seed=3,
        choices=CHOICES,
        **changes,
    )


def weights(place: Path, name: str = "adapter_model.safetensors") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(place / "out" / name)
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def losses(result: TuneResult) -> list[float]:
    return [entry["loss"] for entry in result.curve if "loss" in entry]


def test_learns_saves_and_reloads(fresh: Fresh, folder: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    result = run(fresh, tmp_path, on_step=steps.append)
    assert losses(result)[-1] < 0.7 * losses(result)[0]
    assert (result.steps, sum(steps)) == (16, 16)
    assert result.logit_difference == 0
    assert result.trained_parameters > 0
    checks = [entry for entry in result.curve if "valid_auc" in entry]
    assert [entry["step"] for entry in checks] == [4, 8, 12, 16]
    assert result.metric == "auc"
    assert result.best_valid_auc == max(entry["valid_auc"] for entry in checks) == 1.0
    record = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert record["base"] == {"name": str(folder), "identity": base_identity(folder)}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tuning.json",
    ]


def test_learns_in_half_precision(folder: Path, tmp_path: Path) -> None:
    half = partial(load_language_model, str(folder), dtype=torch.bfloat16, device="cpu")
    result = run(half, tmp_path, settings={"learning_rate": 0.02})
    assert losses(result)[-1] < 0.8 * losses(result)[0]
    assert result.best_valid_auc is not None
    assert result.logit_difference == 0


def test_the_validation_figures_are_those_of_the_scorer(fresh: Fresh, tmp_path: Path) -> None:
    valid = examples(6, words=1)
    result = run(fresh, tmp_path, valid=valid, settings={"epochs": 1, "metric": "loss"})
    from tastemaker.eval.metrics import auc
    from tastemaker.models.adapters import with_adapter

    loaded = with_adapter(fresh(), tmp_path / "out")
    scores = score_yes_no(loaded, valid["prompt"])
    assert result.best_valid_auc == auc(scores, torch.tensor(valid["label"]).numpy())
    assert result.metric == "loss"


def trl_trainer(fresh: Fresh, folder: Path, model: Any) -> SFTTrainer:
    with quiet_loading():
        return SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(folder),
                per_device_train_batch_size=8,
                bf16=False,
                use_cpu=True,
                activation_checkpointing=False,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=examples(8).remove_columns("label"),
            processing_class=fresh().tokenizer,
        )


@pytest.mark.parametrize("rows", ["single", "packed", "streamed"])
def test_loss_and_gradients_equal_trl(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    """One step without dropout on one batch, through TRL's own collator, head and loss."""
    model = trainable(fresh(), kind="lora", shape=replace(SHAPE, dropout=0.0), adapter=None, seed=1)
    theirs = trl_trainer(fresh, tmp_path, model)
    batch = next(iter(theirs.get_train_dataloader()))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data.add_(0.01)  # or half of all gradients would be zero
    expected = SFTTrainer.compute_loss(theirs, model, dict(batch))
    grads = torch.autograd.grad(expected, trained, allow_unused=True)
    found: list[Any] = []

    def stop(trainer: Any, scratch: Path) -> None:
        with torch.no_grad():
            for mine, other in zip(
                (w for w in trainer.model.parameters() if w.requires_grad), trained, strict=True
            ):
                mine.copy_(other)
        ours = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, ours, num_items_in_batch=None)
        mine = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        found.append((loss.detach(), torch.autograd.grad(loss, mine, allow_unused=True)))
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_module, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        run(
            fresh,
            tmp_path,
            train=examples(8),
            settings={"rows": rows, "batch_size": 8, "lora": replace(SHAPE, dropout=0.0)},
        )
    torch.testing.assert_close(found[0][0], expected.detach(), rtol=1e-5, atol=1e-6)
    for left, right in zip(found[0][1], grads, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


class Killed(BaseException):
    pass


def test_a_killed_run_ends_with_the_same_weights(fresh: Fresh, tmp_path: Path) -> None:
    run(fresh, tmp_path / "whole")
    seen: list[int] = []

    def die(done: int) -> None:
        seen.append(done)
        if sum(seen) == 10:
            raise Killed

    resumed = tmp_path / "resumed"
    with pytest.raises(Killed):
        run(fresh, resumed, on_step=die)
    assert not (resumed / "out").exists()
    # A checkpoint that was being written when the process died is not used.
    torn = resumed / "scratch" / "checkpoint-12"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    later: list[int] = []
    run(fresh, resumed, on_step=later.append)
    assert later[0] == 8
    assert sum(later) == 16
    assert_same(weights(tmp_path / "whole"), weights(resumed))


def test_killed_after_the_last_step_it_only_reads_the_best_state(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(fresh, tmp_path / "whole", settings={"patience": 1, "epochs": 6})
    assert whole.steps < 24  # it stopped early: the first check finds an AUC of 1

    def die(*_: Any) -> None:
        raise Killed

    resumed = tmp_path / "resumed"
    monkeypatch.setattr(running, "_save", die)
    with pytest.raises(Killed):
        run(fresh, resumed, settings={"patience": 1, "epochs": 6})
    monkeypatch.undo()
    steps: list[int] = []
    again = run(fresh, resumed, settings={"patience": 1, "epochs": 6}, on_step=steps.append)
    assert steps == []
    assert again.curve == whole.curve
    assert (again.best_step, again.steps) == (whole.best_step, whole.steps)
    assert_same(weights(tmp_path / "whole"), weights(resumed))


def test_checks_every_so_many_steps(fresh: Fresh, tmp_path: Path) -> None:
    result = run(fresh, tmp_path, settings={"evaluate_every": 3, "epochs": 2})
    assert [entry["step"] for entry in result.curve if "valid_loss" in entry] == [3, 6, 8]
    assert result.best_step in (3, 6, 8)


def test_accumulated_passes_equal_one(fresh: Fresh, tmp_path: Path) -> None:
    still = {"lora": replace(SHAPE, dropout=0.0), "epochs": 1}
    train = examples(16)
    whole = run(fresh, tmp_path / "a", train=train, settings=still)
    parts = run(fresh, tmp_path / "b", train=train, settings={**still, "micro_batch": 1})
    assert (whole.micro_batch, parts.micro_batch) == (4, 1)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_gradient_checkpointing_changes_nothing(fresh: Fresh, tmp_path: Path) -> None:
    still = {"lora": replace(SHAPE, dropout=0.0), "epochs": 1}
    run(fresh, tmp_path / "a", settings=still)
    result = run(fresh, tmp_path / "b", settings={**still, "gradient_checkpointing": True})
    assert result.gradient_checkpointing
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_all_weights_can_be_tuned(fresh: Fresh, tmp_path: Path) -> None:
    result = run(fresh, tmp_path, settings={"kind": "full", "learning_rate": 0.01, "epochs": 4})
    assert losses(result)[-1] < 0.7 * losses(result)[0]
    assert result.logit_difference == 0
    loaded = load_language_model(str(tmp_path / "out"), dtype=torch.float32, device="cpu")
    scores = score_yes_no(loaded, examples(4)["prompt"])
    assert scores[0] > scores[1]


def test_goes_on_from_an_adapter(fresh: Fresh, tmp_path: Path) -> None:
    before = run(fresh, tmp_path / "first", settings={"epochs": 4})
    first = weights(tmp_path / "first")
    result = run(
        fresh,
        tmp_path / "second",
        adapter=tmp_path / "first" / "out",
        settings={"epochs": 1, "learning_rate": 1e-6},
    )
    assert_same(first, weights(tmp_path / "second"))  # where it began, as it hardly moved
    assert losses(result)[0] < 0.8 * losses(before)[0]


def test_a_damaged_adapter_fails_the_check(fresh: Fresh, tmp_path: Path) -> None:
    from tastemaker.models.adapters import with_adapter

    run(fresh, tmp_path, settings={"epochs": 1})
    out = tmp_path / "out"
    tuned = with_adapter(fresh(), out).model
    probes = [[1, 2, 3]]
    assert check_save(tuned, out, fresh=fresh, probes=probes) == 0
    file = out / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(SaveCheckError, match="gives other logits"):
        check_save(tuned, out, fresh=fresh, probes=probes)


def test_a_save_that_fails_its_check_is_not_finished(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.tuning.save_check.LOGIT_TOLERANCE", -1.0)
    with pytest.raises(SaveCheckError):
        run(fresh, tmp_path, settings={"epochs": 1})
    assert not (tmp_path / "out" / "tuning.json").exists()


ONE_KIND = examples(8).select([0, 2, 4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": Dataset.from_list([{"text": "a"}])}, "no column completion, prompt"),
        ({"valid": examples(2).select([])}, "validation examples are empty"),
        ({"train": examples(8, words=90)}, r"example 0 has .* more than tune.max_length = 96"),
        (
            {"train": examples(8, words=300), "settings": {"max_length": 9999}},
            "more than the 256 that the model can read",
        ),
        ({"valid": ONE_KIND, "settings": {"metric": "auc"}}, "do not hold both likes and dislikes"),
    ],
)
def test_bad_examples(fresh: Fresh, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(fresh, tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_labels_of_one_kind_are_judged_by_loss(fresh: Fresh, tmp_path: Path) -> None:
    result = run(fresh, tmp_path, valid=ONE_KIND, settings={"epochs": 1})
    assert result.metric == "loss"
    assert result.best_valid_auc is None


def test_a_loss_that_is_no_number_stops(fresh: Fresh, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the loss became .*tune\.learning_rate"):
        run(fresh, tmp_path, settings={"learning_rate": 1e30})
    assert not (tmp_path / "out").exists()


def test_a_base_without_chat_template_is_refused(fresh: Fresh, tmp_path: Path) -> None:
    def bare() -> LanguageModel:
        model = fresh()
        model.tokenizer.chat_template = None
        return model

    with pytest.raises(UserError, match=r"no chat template.*\n.*\n.*tune.wrapper to alpaca"):
        run(bare, tmp_path)


def test_an_adapter_of_another_base_is_refused(fresh: Fresh, folder: Path, tmp_path: Path) -> None:
    run(fresh, tmp_path / "first", settings={"epochs": 1})
    other = load_language_model(str(folder), dtype=torch.float32, device="cpu")
    for weight in other.model.parameters():
        weight.data.mul_(1.5)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    stranger = partial(
        load_language_model, str(tmp_path / "other"), dtype=torch.float32, device="cpu"
    )
    with pytest.raises(UserError, match="other weights"):
        run(stranger, tmp_path / "second", adapter=tmp_path / "first" / "out")


def test_unknown_layers_are_refused(fresh: Fresh, tmp_path: Path) -> None:
    shape = replace(SHAPE, target_modules=("q_proj", "query"))
    with pytest.raises(UserError, match=r"no layer query[^\0]*q_proj"):
        run(fresh, tmp_path, settings={"lora": shape})


@pytest.mark.parametrize("rows", ["packed", "streamed"])
def test_shared_rows_need_a_model_that_keeps_them_apart(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    monkeypatch.setattr(causal, "attends_fully", lambda *_: False)  # as of a sliding window
    with pytest.raises(
        UserError, match=rf"tune.rows {rows} needs a model[^\0]*tune.rows to single"
    ):
        run(fresh, tmp_path, settings={"rows": rows})
    run(fresh, tmp_path, settings={"epochs": 1})
