"""What every training has in common, whatever kind of model is trained.

Its steps are cut by memory; its arguments come from the settings; a complete checkpoint is
continued; what was saved is read back; and there is a record of it all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from tastemaker import processes
from tastemaker.errors import DataError
from tastemaker.models.adapters import base_identity
from tastemaker.models.language import LanguageModel, best_dtype, quiet_loading
from tastemaker.models.training import ended_state, newest_checkpoint
from tastemaker.stage import atomic_file
from tastemaker.tuning.memory import MicroBatch, free_bytes, micro_batch
from tastemaker.tuning.rows import Rows
from tastemaker.tuning.save_check import Probe, check_save
from tastemaker.tuning.settings import TuneResult, TuneSettings

__all__ = [
    "RECORD",
    "Parts",
    "TrainingExamples",
    "arguments",
    "cut_steps",
    "keep",
    "picking_metric",
    "quietly",
    "record",
    "result",
    "run",
]

RECORD = "tuning.json"  # written last: a folder without it is not finished


class TrainingExamples(Protocol):
    """Prompts with their answers as token ids, of one part."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of each example."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 [n], 1 for a like and 0 for a dislike; None where examples have no labels."""

    @property
    def has_both_labels(self) -> bool:
        """Whether there are likes and dislikes, so that an AUC exists."""

    def __len__(self) -> int: ...

    def question(self, place: int) -> Probe:
        """Token ids of the prompt of one example."""


@dataclass(frozen=True)
class Parts:
    """What is trained on, what is checked on, and which training examples share a row."""

    train: TrainingExamples
    valid: TrainingExamples
    rows: Rows
    left_out: int


def picking_metric(
    settings: TuneSettings, valid: TrainingExamples, choices: tuple[str, str] | None
) -> str:
    """Which validation figure picks the state that is kept: `auc` or `loss`.

    Raises:
        DataError: an AUC is asked for where labels are of one kind only.
    """
    possible = choices is not None and valid.has_both_labels
    if settings.metric == "auc" and not possible:
        raise DataError(
            "tune.metric is auc, but the validation examples do not hold both likes and dislikes.",
            allowed="with such examples: loss",
            remedy="Raise tune.valid_shots or build.valid_examples, or set tune.metric to loss.",
        )
    return "auc" if possible and settings.metric != "loss" else "loss"


def cut_steps(model: Any, parts: Parts, settings: TuneSettings) -> MicroBatch:
    """Rows of a step, cut into forward passes; the same in every process."""
    rows = max(1, round(settings.batch_size * len(parts.rows.groups) / len(parts.train)))
    weights = next(iter(model.parameters()))
    found = micro_batch(
        model,
        rows=-(-rows // processes.world_size()),
        row_tokens=int(parts.rows.lengths.max()),
        wanted=settings.micro_batch,
        checkpointing=settings.gradient_checkpointing,
        free=free_bytes(weights.device),
        width=weights.element_size(),
    )
    return MicroBatch(**processes.broadcast(asdict(found)))


def arguments(
    base: LanguageModel,
    parts: Parts,
    settings: TuneSettings,
    *,
    cut: MicroBatch,
    metric: str,
    mixed: bool,
    out: Path,
    seed: int,
) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments` and its children.

    Args:
        base: What is trained.
        parts: On what.
        settings: How.
        cut: Of a step.
        metric: That picks the state to keep.
        mixed: Whether products are rounded.
        out: Folder for checkpoints.
        seed: Of order and dropout.
    """
    rows = cut.rows * cut.passes * processes.world_size()
    steps = max(1, math.ceil(settings.epochs * math.ceil(len(parts.rows.groups) / rows)))
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": cut.rows,
        "gradient_accumulation_steps": cut.passes,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_steps or math.ceil(settings.warmup_share * steps),
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": "linear",
        "remove_unused_columns": False,
        "train_sampling_strategy": "group_by_length" if settings.group_by_length else "random",
        "activation_checkpointing": cut.checkpointing,
        # A frozen base is loaded in half precision where that is fast, adapter weights stay
        # float32; where all weights are trained they are float32. Only products are rounded.
        "bf16": mixed or (settings.kind == "full" and best_dtype(base.device) == torch.bfloat16),
        "use_cpu": base.device.type == "cpu",
        **_checks(settings.evaluate_every, steps=steps, metric=metric),
        "logging_steps": 1,
        "log_level": "error",
        "logging_nan_inf_filter": False,  # or a loss that is no number would be hidden from the log
        "report_to": settings.tracker,
        "disable_tqdm": True,
        "dataloader_pin_memory": base.device.type == "cuda",
        "ddp_find_unused_parameters": False,
        "seed": seed,
    }


def _checks(every: int | None, *, steps: int, metric: str) -> dict[str, Any]:
    """When a state is checked and saved, after epochs or after steps, and which one is kept."""
    when = "epoch" if every is None else "steps"
    return {
        "eval_strategy": when,
        "save_strategy": when,
        "eval_steps": every and min(every, steps),
        "save_steps": every and min(every, steps),
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{metric}",
        "greater_is_better": metric == "auc",
        "restore_callback_states_from_checkpoint": True,
    }


def run(trainer: Any, scratch: Path) -> None:
    """Train, or continue; the model ends with the weights of its best state."""
    found = newest_checkpoint(scratch) if processes.is_main() else None
    name = processes.broadcast(found.name if found else None)
    checkpoint = scratch / name if name else None
    ended = ended_state(checkpoint)
    if ended is None:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    # Killed between its last step and the saved result: only the best state is still to be read.
    ended.best_model_checkpoint = str(scratch / Path(str(ended.best_model_checkpoint)).name)
    trainer.state = ended
    trainer._load_best_model()


def keep(
    trainer: Any,
    base: LanguageModel,
    valid: TrainingExamples,
    *,
    fresh: Callable[[], LanguageModel],
    out: Path,
) -> float:
    """Save and read back, in the main process; the largest difference of logits."""
    if not processes.is_main():
        return 0.0
    # Without the rounding of products that training put around its forward pass.
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    with quiet_loading():
        _save(trained, base, out)
    probes = [valid.question(place) for place in range(min(2, len(valid)))]
    return check_save(trained, out, fresh=fresh, probes=probes)


def _save(model: Any, base: LanguageModel, out: Path) -> None:
    """Adapter or model as safetensors; the folder of the base is named, not shown."""
    config = getattr(model, "peft_config", {}).get("default")
    if config is not None:
        config.base_model_name_or_path = base.name
    # PEFT would look the base up by its name, in the network too, to see whether tokens were added.
    more = {} if config is None else {"save_embedding_layers": False}
    model.save_pretrained(str(out), safe_serialization=True, **more)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's is empty; ours comes from the method
    if config is None:
        base.tokenizer.save_pretrained(str(out))


def result(
    trainer: Any,
    parts: Parts,
    cut: MicroBatch,
    *,
    metric: str,
    difference: float,
    started: float,
) -> TuneResult:
    """What was done, as the trainer remembers it."""
    state = trainer.state
    best = int(str(state.best_model_checkpoint).rpartition("-")[2])
    check = next(log for log in state.log_history if "eval_loss" in log and log["step"] == best)
    weights = trainer.accelerator.unwrap_model(trainer.model).parameters()
    return TuneResult(
        steps=int(state.global_step),
        trained_parameters=sum(weight.numel() for weight in weights if weight.requires_grad),
        metric=metric,
        best_step=best,
        best_valid_loss=float(check["eval_loss"]),
        best_valid_auc=check.get("eval_auc"),
        logit_difference=difference,
        left_out=parts.left_out,
        tokens=(int(np.sum(parts.train.lengths)), int(np.sum(parts.rows.lengths))),
        micro_batch=cut.rows,
        gradient_checkpointing=cut.checkpointing,
        seconds=round(time.perf_counter() - started, 3),
        curve=_curve(state.log_history),
    )


def record(result: TuneResult, base: LanguageModel, settings: TuneSettings, out: Path) -> None:
    """Write `tuning.json`, in the main process."""
    if not processes.is_main():
        return
    told = {
        **asdict(result),
        "kind": settings.kind,
        "base": {"name": base.name, "identity": base_identity(base.folder)},
    }
    with atomic_file(out / RECORD) as handle:
        handle.write(json.dumps(told, indent=1).encode())


def _curve(history: Sequence[dict[str, Any]]) -> tuple[dict[str, float], ...]:
    names = {"loss": "loss", "eval_loss": "valid_loss", "eval_auc": "valid_auc"}
    entries = []
    for log in history:
        found = {names[key]: round(float(log[key]), 6) for key in names if key in log}
        if found:
            entries.append(
                {"step": int(log["step"]), "epoch": round(float(log["epoch"]), 4), **found}
            )
    return tuple(entries)


@contextmanager
def quietly() -> Iterator[None]:
    """No bars and no remarks; what was set before, afterwards."""
    was_enabled = datasets.utils.logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()  # a trainer sets it for the whole process
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if was_enabled:
            datasets.enable_progress_bars()
