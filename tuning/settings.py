"""What tuning needs to know, in plain values; the defaults stand in the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AdapterShape", "TuneResult", "TuneSettings"]

Kind = Literal["lora", "qlora", "full", "frozen"]


@dataclass(frozen=True)
class AdapterShape:
    """Shape of a low-rank adapter.

    Attributes:
        rank: Rank of the update matrices.
        alpha: Scale numerator.
        dropout: On the adapter's input, from 0 to below 1.
        target_modules: Names of the layers that get an adapter.
        layers: Only so many of the model's top layers get one; all when None.
    """

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    layers: int | None = None


@dataclass(frozen=True)
class TuneSettings:
    """How to train.

    Attributes:
        kind: `lora`, `qlora` (on a 4-bit base), `full` (all weights), or `frozen` (none of the
            model's, only of networks on it).
        lora: Shape of the adapter.
        learning_rate: Peak; falls linearly to 0 after the warm-up.
        warmup_steps: Steps in which it rises from 0.
        warmup_share: The same as a share of all steps, where `warmup_steps` is 0.
        weight_decay: Of AdamW.
        epochs: Passes over the training examples.
        batch_size: Examples a step, over all processes.
        micro_batch: Rows a forward pass; by memory when None.
        max_length: Tokens of prompt and answer; longer examples are refused, never cut.
        max_target_length: Tokens of an answer that an encoder-decoder model is to write.
        loss_on: `answer` only, or `everything` (prompt too).
        rows: `single`, `packed`, or `streamed`: what shares a row of the batch.
        row_tokens: Tokens of a packed or streamed row at most.
        group_by_length: Batch rows of similar length.
        gradient_checkpointing: Compute activations twice instead of keeping them; only when memory
            asks for it when None.
        evaluate_every: Steps between checks on the validation examples; each epoch when None.
        patience: Checks without a better one that stop training; never when None.
        metric: Picks the best state: `auc`, `loss`, or `auto` (auc where answers have labels).
        tracker: `none`, `tensorboard`, `wandb` or `trackio`.
    """

    kind: Kind
    lora: AdapterShape
    learning_rate: float
    warmup_steps: int
    epochs: float
    batch_size: int
    micro_batch: int | None
    max_length: int
    loss_on: Literal["answer", "everything"]
    rows: Literal["single", "packed", "streamed"]
    row_tokens: int
    group_by_length: bool
    gradient_checkpointing: bool | None
    evaluate_every: int | None
    patience: int | None
    metric: Literal["auto", "auc", "loss"]
    tracker: Literal["none", "tensorboard", "wandb", "trackio"]
    warmup_share: float = 0.0
    weight_decay: float = 0.0
    max_target_length: int = 64


@dataclass(frozen=True)
class TuneResult:
    """What tuning did.

    Attributes:
        steps: Optimiser steps of the whole training, those before a resume included.
        trained_parameters: Number of weights that were trained.
        metric: Which validation figure picked the state that was kept: `auc` or `loss`.
        best_step: Step of that state.
        best_valid_loss: Mean loss per answer token there.
        best_valid_auc: AUC of the log-odds there; None without labels of both kinds.
        logit_difference: Largest difference of logits after reloading.
        left_out: Training examples longer than allowed, where these may be left out.
        tokens: Tokens of the training examples, and after merging shared beginnings.
        micro_batch: Rows of a forward pass.
        gradient_checkpointing: Whether activations were computed twice.
        seconds: Wall time of this process.
        curve: One entry per logged step or check: step, epoch, and loss, or valid_loss and
            valid_auc.
    """

    steps: int
    trained_parameters: int
    metric: str
    best_step: int
    best_valid_loss: float
    best_valid_auc: float | None
    logit_difference: float
    left_out: int
    tokens: tuple[int, int]
    micro_batch: int
    gradient_checkpointing: bool
    seconds: float
    curve: tuple[dict[str, float], ...]
