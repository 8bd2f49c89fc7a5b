"""LoRA tuning of a causal language model with TRL's `SFTTrainer` and PEFT.

The loss covers the completion only, as in TALLRec's formula (arXiv 2305.00447; the released code
trains on the prompt as well). The best epoch by validation loss is kept. A killed run continues
from its last complete checkpoint; the saved adapter is loaded back onto a fresh base model and its
logits are compared before anybody may use it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from tastemaker.errors import DataError, SaveCheckError, StageError
from tastemaker.models.language import (
    LanguageModel,
    load_language_model,
    quiet_loading,
    with_adapter,
)
from tastemaker.models.training import newest_checkpoint, seal_checkpoint
from tastemaker.stage import atomic_file

__all__ = ["AdapterSettings", "AnswerTrainer", "TuneResult", "check_adapter", "tune_adapter"]

LOGIT_TOLERANCE = 1e-3
IGNORED = -100  # label of positions that are no answer
_COLUMNS = {"prompt", "completion"}


@dataclass(frozen=True)
class AdapterSettings:
    """Shape of the adapter and of its training.

    Attributes:
        rank: Rank of the update matrices; TALLRec's code: 8.
        alpha: Scale numerator; TALLRec's code: 16.
        dropout: On the adapter's input; TALLRec's code: .05.
        target_modules: Layers that get an adapter; TALLRec's code: query and value projections.
        learning_rate: TALLRec's code: 1e-4.
        epochs: Passes over the training examples.
        batch_size: Examples a step.
        max_length: Tokens; longer examples are refused, never cut. TALLRec's code: 512.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: float = 1e-4
    epochs: float = 3.0
    batch_size: int = 8
    max_length: int = 512


@dataclass(frozen=True)
class TuneResult:
    """What tuning did.

    Attributes:
        steps: Optimiser steps of the whole training, those before a resume included.
        trained_parameters: Number of adapter weights.
        best_valid_loss: Mean loss per completion token of the epoch that was kept.
        logit_difference: Largest difference of logits after reloading the adapter.
        seconds: Wall time of this process.
        curve: One entry per logged step or evaluation: step, epoch and loss or valid_loss.
    """

    steps: int
    trained_parameters: int
    best_valid_loss: float
    logit_difference: float
    seconds: float
    curve: tuple[dict[str, float], ...]


def tune_adapter(
    base: LanguageModel,
    train: datasets.Dataset,
    *,
    valid: datasets.Dataset,
    settings: AdapterSettings,
    out: Path,
    scratch: Path,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> TuneResult:
    """Train an adapter and write it to `out`.

    Args:
        base: The model to adapt; it is modified in place.
        train: Columns `prompt` and `completion`, conversational.
        valid: The same columns; picks the epoch that is kept.
        settings: Shape and training.
        out: Folder for the adapter (safetensors), its configuration and `tuning.json`.
        scratch: Folder for checkpoints; a complete one found there is continued.
        seed: Seed of shuffling, dropout and adapter initialisation.
        on_step: Called with the number of newly finished steps.

    Raises:
        DataError: missing columns, an empty split, or an example longer than `max_length`.
        StageError: the loss became NaN or infinite.
        SaveCheckError: the adapter read back gives other logits.
    """
    _check_examples(train, "train", base=base, limit=settings.max_length)
    _check_examples(valid, "validation", base=base, limit=settings.max_length)
    started = time.perf_counter()
    with _without_bars(), quiet_loading():
        trainer = _trainer(base, train, valid=valid, settings=settings, folder=scratch, seed=seed)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_StepCallback(on_step))
        checkpoint = newest_checkpoint(scratch)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.model.save_pretrained(str(out), safe_serialization=True)
    _drop_generated_card(out)
    probes = [example["prompt"] for example in valid.select(range(min(2, len(valid))))]
    tuned = LanguageModel(trainer.model, base.tokenizer, base.name, base.folder)
    result = TuneResult(
        steps=trainer.state.global_step,
        trained_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        best_valid_loss=float(trainer.state.best_metric),
        logit_difference=check_adapter(tuned, out, probes=probes),
        seconds=round(time.perf_counter() - started, 3),
        curve=_curve(trainer.state.log_history),
    )
    with atomic_file(out / "tuning.json") as handle:
        handle.write(json.dumps(asdict(result), indent=1).encode())
    return result


def check_adapter(tuned: LanguageModel, folder: Path, *, probes: Sequence[Any]) -> float:
    """Load the adapter in `folder` onto a fresh base and compare logits with the trained model.

    Args:
        tuned: The model in memory, adapter included.
        folder: The saved adapter.
        probes: Conversations to compare on.

    Returns:
        The largest absolute difference of last-token logits.

    Raises:
        SaveCheckError: it is above 1e-3.
    """
    kind = next(iter(tuned.model.parameters()))
    fresh = load_language_model(tuned.name, dtype=kind.dtype, device=kind.device)
    loaded = with_adapter(fresh, folder)
    difference = 0.0
    for messages in probes:
        ids = _token_ids(tuned, messages)
        pair = [_last_logits(model.model, ids) for model in (tuned, loaded)]
        difference = max(difference, float((pair[0] - pair[1]).abs().max()))
    if not difference <= LOGIT_TOLERANCE:
        raise SaveCheckError(
            f"the adapter read back from {folder} gives other logits (difference {difference:.3g}, "
            f"allowed {LOGIT_TOLERANCE:g}); nothing was kept"
        )
    return difference


def _trainer(
    base: LanguageModel,
    train: datasets.Dataset,
    *,
    valid: datasets.Dataset,
    settings: AdapterSettings,
    folder: Path,
    seed: int,
) -> SFTTrainer:
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        max_length=settings.max_length,
        bf16=False,  # the base is loaded in its final precision; adapter weights stay float32
        use_cpu=next(iter(base.model.parameters())).device.type == "cpu",
        activation_checkpointing=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_steps=1,
        logging_nan_inf_filter=False,  # or a loss that is no number would be hidden from the log
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    adapter = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    return AnswerTrainer(
        model=base.model,
        args=config,
        train_dataset=train.select_columns(sorted(_COLUMNS)),
        eval_dataset=valid.select_columns(sorted(_COLUMNS)),
        processing_class=base.tokenizer,
        peft_config=adapter,
    )


class AnswerTrainer(SFTTrainer):
    """TRL's trainer with the output head on answer positions only.

    TRL 1.16 sends every position through the head and discards the prompt's afterwards; with a
    vocabulary of 49,152 and answers of four tokens that is half the time of a step on a CPU.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy of the answer tokens, as TRL's `nll` loss; no metrics besides it."""
        labels = inputs["labels"]
        asked = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(-1)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=asked,
            use_cache=False,
        )
        targets = labels[:, asked + 1].flatten()
        total = torch.nn.functional.cross_entropy(
            outputs.logits.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum"
        )
        count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


class _StepCallback(TrainerCallback):
    """Reports steps, seals checkpoints and stops at a loss that is not a number."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self._on_step = on_step

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._on_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._on_step(1)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not torch.isfinite(torch.tensor(float(loss))):
            raise StageError(
                f"the loss became {loss} at step {state.global_step}; "
                "lower tune.learning_rate or set tune.precision to float32"
            )


def _check_examples(
    examples: datasets.Dataset, name: str, *, base: LanguageModel, limit: int
) -> None:
    missing = _COLUMNS - set(examples.column_names)
    if missing:
        raise DataError(
            f"the {name} examples have no column {', '.join(sorted(missing))}.",
            allowed=f"columns found: {', '.join(examples.column_names)}",
            remedy="Build them with: tastemaker build RECIPE",
        )
    if len(examples) == 0:
        raise DataError(f"the {name} examples are empty.", remedy="Build more examples.")
    for row, example in enumerate(examples):
        length = len(_token_ids(base, [*example["prompt"], *example["completion"]])[0])
        if length > limit:
            raise DataError(
                f"{name} example {row} has {length} tokens, more than tune.max_length = {limit}.",
                remedy="Raise tune.max_length or lower build.history.",
            )


def _token_ids(model: LanguageModel, messages: Sequence[Any]) -> torch.Tensor:
    found = model.tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=messages[-1]["role"] == "user", return_tensors="pt"
    )
    return found["input_ids"] if hasattr(found, "keys") else found


def _last_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        place = next(iter(model.parameters())).device
        logits = model(input_ids=ids.to(place), logits_to_keep=1).logits[0, -1].float().cpu()
    model.train(was_training)
    return logits


def _curve(history: Sequence[dict[str, Any]]) -> tuple[dict[str, float], ...]:
    names = {"loss": "loss", "eval_loss": "valid_loss"}
    entries = []
    for log in history:
        for source, name in names.items():
            if source in log:
                entries.append(
                    {
                        "step": int(log["step"]),
                        "epoch": round(float(log["epoch"]), 4),
                        name: round(float(log[source]), 6),
                    }
                )
    return tuple(entries)


def _drop_generated_card(folder: Path) -> None:
    """PEFT writes an empty model card; ours comes from the run's report."""
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def _without_bars() -> Any:
    was_enabled = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_progress_bars()
