"""Tuning of a language model, causal or encoder-decoder, with TRL or transformers, and PEFT.

The loss covers the answer only, as in TALLRec's formula (arXiv 2305.00447; the released code trains
on the prompt as well, which is an option). The best state by the validation AUC or loss is kept. A
killed run continues from its last complete checkpoint; what was saved is loaded back onto a fresh
base model and its logits are compared before anybody may use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import datasets

from tastemaker.models.language import LanguageModel
from tastemaker.models.seq2seq import is_seq2seq
from tastemaker.tuning import causal, seq2seq
from tastemaker.tuning.running import (
    arguments,
    cut_steps,
    keep,
    picking_metric,
    record,
    result,
    run,
)
from tastemaker.tuning.settings import TuneResult, TuneSettings
from tastemaker.tuning.tracking import tracking
from tastemaker.tuning.trainer import watch
from tastemaker.tuning.weights import trainable

__all__ = ["tune"]


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
        valid: The same columns; picks the state that is kept, with `label` (1: a like) by AUC.
        settings: How to train.
        out: Folder for the adapter, or the whole model of full tuning, and `tuning.json`.
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
        UserError: what `encode`, `trainable` or `micro_batch` refuse, an AUC asked for where labels
            are of one kind only, or shared rows where examples cannot be kept apart.
        StageError: the loss is no number, or what was saved gives other logits when read back.
    """
    started = time.perf_counter()
    base = fresh()
    kind: ModuleType = seq2seq if is_seq2seq(base.model) else causal
    parts = kind.encode(base, train, valid, settings, seed=seed, leave_out_long=leave_out_long)
    metric = picking_metric(settings, parts.valid, choices)
    model = trainable(base, kind=settings.kind, shape=settings.lora, adapter=adapter, seed=seed)
    with kind.prepared(model) as ready, tracking(settings.tracker, logs):
        cut = cut_steps(model, parts, settings)
        args = arguments(
            base, parts, settings, cut=cut, metric=metric, mixed=ready.mixed, out=scratch, seed=seed
        )
        trainer = kind.trainer(
            base, model, parts, settings, args=args, ready=ready, choices=choices
        )
        watch(trainer, settings.patience, on_step)
        run(trainer, scratch)
    difference = keep(trainer, base, parts.valid, fresh=fresh, out=out)
    done = result(trainer, parts, cut, metric=metric, difference=difference, started=started)
    record(done, base, settings, out)
    return done
