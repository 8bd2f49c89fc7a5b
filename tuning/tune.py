"""Tuning of a causal language model with TRL's `SFTTrainer` and PEFT.

The loss covers the answer only, as in TALLRec's formula (arXiv 2305.00447; the released code trains
on the prompt as well, which is an option). The best state by the validation AUC or loss is kept. A
killed run continues from its last complete checkpoint; what was saved is loaded back onto a fresh
base model and its logits are compared before anybody may use it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import PeftModel
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging
from trl import SFTConfig

from tastemaker import processes
from tastemaker.errors import DataError, UserError
from tastemaker.models.adapters import base_identity
from tastemaker.models.conversations import answer_tokens
from tastemaker.models.language import LanguageModel, best_dtype, quiet_loading
from tastemaker.models.mixed_precision import float32_residuals
from tastemaker.models.prefix_tree import attends_fully
from tastemaker.models.training import ended_state, newest_checkpoint
from tastemaker.models.tree_attention import tree_attention
from tastemaker.stage import atomic_file
from tastemaker.tuning.examples import Examples, encode_examples
from tastemaker.tuning.memory import MicroBatch, free_bytes, micro_batch
from tastemaker.tuning.rows import AnswerCollator, Rows, rows_of
from tastemaker.tuning.save_check import check_save
from tastemaker.tuning.settings import TuneResult, TuneSettings
from tastemaker.tuning.tracking import tracking
from tastemaker.tuning.trainer import AnswerTrainer, Watcher
from tastemaker.tuning.weights import trainable

__all__ = ["RECORD", "tune"]

RECORD = "tuning.json"  # written last: a folder without it is not finished


@dataclass(frozen=True)
class _Parts:
    train: Examples
    valid: Examples
    rows: Rows
    left_out: int


@dataclass(frozen=True)
class _Ready:
    """The model inside its adapter, whether products are rounded, and whether trees are cheap."""

    causal: Any
    mixed: bool
    by_block: bool


def tune(
    fresh: Callable[[], LanguageModel],
    train: datasets.Dataset,
    *,
    valid: datasets.Dataset,
    settings: TuneSettings,
    out: Path,
    scratch: Path,
    seed: int,
    choices: tuple[str, str] | None = None,
    adapter: Path | None = None,
    leave_out_long: bool = False,
    logs: Path | None = None,
    on_step: Callable[[int], None] = lambda _: None,
) -> TuneResult:
    """Train a language model and write what was trained to `out`.

    Args:
        fresh: Loads the base model; called again to check what was saved.
        train: Columns `prompt` and `completion`, conversational.
        valid: The same columns; picks the state that is kept. With `label` (1 for a like) also by
            AUC.
        settings: How to train.
        out: Folder for the adapter, or for the whole model where all weights are trained, and
            `tuning.json`.
        scratch: Folder for checkpoints; a complete one found there is continued.
        seed: Of the new adapter's weights, the order of examples and dropout.
        choices: The positive and the negative answer, for the validation AUC.
        adapter: Go on from this one, in the shape it has.
        leave_out_long: Whether examples longer than allowed are left out instead of refused.
        logs: Folder for a tracker's files.
        on_step: Called with the number of newly finished steps.

    Returns:
        What was done; in a launch of several processes only the main one writes, and only its
        result is complete.

    Raises:
        UserError: what `encode_examples`, `trainable` or `micro_batch` refuse, an AUC asked for
            where labels are of one kind only, or shared rows where examples cannot be kept apart.
        StageError: the loss is no number, or what was saved gives other logits when read back.
    """
    started = time.perf_counter()
    base = fresh()
    parts = _encode(base, train, valid, settings, seed=seed, leave_out_long=leave_out_long)
    metric = _metric(settings, parts.valid, choices)
    model = trainable(base, kind=settings.kind, shape=settings.lora, adapter=adapter, seed=seed)
    with _prepared(model) as ready, tracking(settings.tracker, logs):
        cut = _cut(model, parts, settings)
        args = _arguments(
            base, parts, settings, cut=cut, metric=metric, ready=ready, out=scratch, seed=seed
        )
        trainer = _trainer(base, model, parts, settings, args=args, ready=ready, choices=choices)
        trainer.add_callback(Watcher(on_step, trainer.accelerator.wait_for_everyone))
        _train(trainer, scratch)
    difference = _keep(trainer, base, parts.valid, fresh=fresh, out=out)
    result = _result(trainer, parts, cut, metric=metric, difference=difference, started=started)
    if processes.is_main():
        _record(result, base, settings, out)
    return result


@contextmanager
def _prepared(model: Any) -> Iterator[_Ready]:
    """The model as it is fastest and most exact to train; as it was, afterwards."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    with (
        _quietly(),
        quiet_loading(),
        float32_residuals(causal) as mixed,
        tree_attention(causal) as by_block,
    ):
        yield _Ready(causal, mixed, by_block)


def _trainer(
    base: LanguageModel,
    model: Any,
    parts: _Parts,
    settings: TuneSettings,
    *,
    args: SFTConfig,
    ready: _Ready,
    choices: tuple[str, str] | None,
) -> AnswerTrainer:
    follows = attends_fully(ready.causal, int(parts.train.lengths.max()))
    if settings.rows != "single" and not follows:
        raise UserError(
            f"tune.rows {settings.rows} needs a model whose tokens can attend to any tokens "
            f"before them; {base.name} cannot.",
            remedy="Set tune.rows to single.",
        )
    merged = ready.by_block and follows
    if merged:
        args.train_sampling_strategy = "random"  # nothing is padded, whatever stands together
    trainer = AnswerTrainer(
        valid=parts.valid,
        choices=_answers(base, parts.valid, choices),
        model=model,
        args=args,
        data_collator=AnswerCollator(
            parts.train,
            parts.rows,
            pad=base.tokenizer.pad_token_id,
            dtype=next(iter(base.model.parameters())).dtype,
            everything=settings.loss_on == "everything",
            merged=merged,
        ),
        train_dataset=parts.rows.dataset(),
        eval_dataset=datasets.Dataset.from_dict({"place": range(len(parts.valid))}),
        processing_class=base.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    if settings.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    return trainer


def _encode(
    base: LanguageModel,
    train: datasets.Dataset,
    valid: datasets.Dataset,
    settings: TuneSettings,
    *,
    seed: int,
    leave_out_long: bool = False,
) -> _Parts:
    context = getattr(base.model.config, "max_position_embeddings", None)
    found = [
        encode_examples(
            rows,
            name,
            tokenizer=base.tokenizer,
            limit=settings.max_length,
            context=context,
            leave_out_long=leave_out_long,
        )
        for rows, name in ((train, "train"), (valid, "validation"))
    ]
    rows = rows_of(found[0], settings.rows, limit=settings.row_tokens, seed=seed)
    return _Parts(found[0], found[1], rows, len(train) - len(found[0]))


def _metric(settings: TuneSettings, valid: Examples, choices: tuple[str, str] | None) -> str:
    possible = choices is not None and valid.has_both_labels
    if settings.metric == "auc" and not possible:
        raise DataError(
            "tune.metric is auc, but the validation examples do not hold both likes and dislikes.",
            allowed="with such examples: loss",
            remedy="Raise tune.valid_shots or build.valid_examples, or set tune.metric to loss.",
        )
    return "auc" if possible and settings.metric != "loss" else "loss"


def _answers(
    base: LanguageModel, valid: Examples, choices: tuple[str, str] | None
) -> tuple[int, int] | None:
    if choices is None or not valid.has_both_labels:
        return None
    return answer_tokens(base.tokenizer, choices)


def _cut(model: Any, parts: _Parts, settings: TuneSettings) -> MicroBatch:
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


def _arguments(
    base: LanguageModel,
    parts: _Parts,
    settings: TuneSettings,
    *,
    cut: MicroBatch,
    metric: str,
    ready: _Ready,
    out: Path,
    seed: int,
) -> SFTConfig:
    rows = cut.rows * cut.passes * processes.world_size()
    steps = max(1, math.ceil(settings.epochs * math.ceil(len(parts.rows.groups) / rows)))
    every = settings.evaluate_every
    when = "epoch" if every is None else "steps"
    return SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=cut.rows,
        gradient_accumulation_steps=cut.passes,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type="linear",
        max_length=settings.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        # A frozen base is loaded in half precision where that is fast, adapter weights stay
        # float32; where all weights are trained they are float32. Only products are rounded.
        bf16=ready.mixed or (settings.kind == "full" and best_dtype(base.device) == torch.bfloat16),
        use_cpu=base.device.type == "cpu",
        activation_checkpointing=cut.checkpointing,
        eval_strategy=when,
        save_strategy=when,
        eval_steps=every and min(every, steps),
        save_steps=every and min(every, steps),
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{metric}",
        greater_is_better=metric == "auc",
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        log_level="error",
        logging_nan_inf_filter=False,  # or a loss that is no number would be hidden from the log
        report_to=settings.tracker,
        disable_tqdm=True,
        dataloader_pin_memory=base.device.type == "cuda",
        ddp_find_unused_parameters=False,
        seed=seed,
    )


def _train(trainer: AnswerTrainer, scratch: Path) -> None:
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


def _keep(
    trainer: AnswerTrainer,
    base: LanguageModel,
    valid: Examples,
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
    probes = [_question(valid, place) for place in range(min(2, len(valid)))]
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


def _question(examples: Examples, place: int) -> Sequence[int]:
    return examples.sequence(place)[: int(examples.starts[place])]


def _result(
    trainer: AnswerTrainer,
    parts: _Parts,
    cut: MicroBatch,
    *,
    metric: str,
    difference: float,
    started: float,
) -> TuneResult:
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
        tokens=(int(parts.train.offsets[-1]), int(np.sum(parts.rows.lengths))),
        micro_batch=cut.rows,
        gradient_checkpointing=cut.checkpointing,
        seconds=round(time.perf_counter() - started, 3),
        curve=_curve(state.log_history),
    )


def _record(result: TuneResult, base: LanguageModel, settings: TuneSettings, out: Path) -> None:
    record = {
        **asdict(result),
        "kind": settings.kind,
        "base": {"name": base.name, "identity": base_identity(base.folder)},
    }
    with atomic_file(out / RECORD) as handle:
        handle.write(json.dumps(record, indent=1).encode())


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
def _quietly() -> Iterator[None]:
    was_enabled = datasets.utils.logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()  # a trainer sets it for the whole process
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if was_enabled:
            datasets.enable_progress_bars()
