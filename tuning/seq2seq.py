"""Training of an encoder-decoder model, T5 above all, with transformers' `Trainer`.

The loss is P5's (arXiv 2203.13366, section 3): the negative log-likelihood of each answer is
averaged over its tokens and then over the examples, so that long answers count no more than short
ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainingArguments

from tastemaker.errors import UserError
from tastemaker.models.hidden_states import evaluating
from tastemaker.models.language import LanguageModel, quiet_loading
from tastemaker.models.seq2seq import first_answer_tokens, source_batches
from tastemaker.tuning.checks import Check, CheckedTrainer
from tastemaker.tuning.pairs import UNASKED, PairCollator, PairExamples, encode_pairs
from tastemaker.tuning.rows import Rows
from tastemaker.tuning.running import Parts, quietly
from tastemaker.tuning.settings import TuneSettings

__all__ = ["PairTrainer", "Ready", "Seq2SeqParts", "encode", "prepared", "trainer"]

_CHECKED_TOKENS = 8192  # of a forward pass without gradients


@dataclass(frozen=True)
class Seq2SeqParts(Parts):
    """Parts whose examples are pairs of prompt and answer."""

    train: PairExamples
    valid: PairExamples


@dataclass(frozen=True)
class Ready:
    """Whether products are rounded though weights are not."""

    mixed: bool


def encode(
    base: LanguageModel,
    train: datasets.Dataset,
    valid: datasets.Dataset,
    settings: TuneSettings,
    *,
    seed: int,
    leave_out_long: bool = False,
) -> Seq2SeqParts:
    """Prompts and answers as token ids, one example a row.

    Raises:
        UserError: rows that hold several examples are asked for, or a loss on the prompt.
    """
    del seed
    if settings.rows != "single" or settings.loss_on != "answer":
        raise UserError(
            f"{base.name} has an encoder: each prompt is a row of its own, and only answers are "
            "foretold.",
            allowed="for such a model: tune.rows single and tune.loss_on answer",
        )
    found = [
        encode_pairs(
            rows,
            name,
            tokenizer=base.tokenizer,
            limit=settings.max_length,
            target_limit=settings.max_target_length,
            leave_out_long=leave_out_long,
        )
        for rows, name in ((train, "train"), (valid, "validation"))
    ]
    rows = Rows([[place] for place in range(len(found[0]))], found[0].lengths)
    return Seq2SeqParts(found[0], found[1], rows, len(train) - len(found[0]))


@contextmanager
def prepared(model: Any) -> Iterator[Ready]:
    """Quiet inside; products of a half-precision model are rounded."""
    half = next(iter(model.parameters())).dtype == torch.bfloat16
    with quietly(), quiet_loading():
        yield Ready(mixed=half)


def trainer(
    base: LanguageModel,
    model: Any,
    parts: Seq2SeqParts,
    settings: TuneSettings,
    *,
    args: dict[str, Any],
    ready: Ready,
    choices: tuple[str, str] | None,
) -> PairTrainer:
    """A trainer of `model`; see `causal.trainer`."""
    del settings, ready
    answers = None
    if choices is not None and parts.valid.has_both_labels:
        answers = first_answer_tokens(base.tokenizer, choices)
    return PairTrainer(
        valid=parts.valid,
        choices=answers,
        pad=base.tokenizer.pad_token_id,
        model=model,
        args=TrainingArguments(**args),
        data_collator=PairCollator(parts.train, pad=base.tokenizer.pad_token_id),
        train_dataset=parts.rows.dataset(),
        eval_dataset=datasets.Dataset.from_dict({"place": range(len(parts.valid))}),
        processing_class=base.tokenizer,
    )


class PairTrainer(CheckedTrainer):
    """Trains on batches of a `PairCollator`.

    Args:
        valid: Examples that pick the state to keep.
        choices: First tokens of the positive and the negative answer, for the AUC; None for no AUC.
        pad: Token id that fills rows up.
        arguments: Of `Trainer`.
    """

    def __init__(
        self, *, valid: PairExamples, choices: tuple[int, int] | None, pad: int, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # `compute_loss` divides by the examples of a step
        self._valid, self._choices = valid, choices
        self._collate = PairCollator(valid, pad=pad)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Passes of a step, the last of an epoch perhaps smaller, and all their examples."""
        passes, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(one["labels"]) for one in passes), device=device)
        return passes, self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean over the examples of a step of the mean cross-entropy of their answer tokens."""
        outputs = model(**inputs, use_cache=False)
        losses = _per_example(outputs.logits, inputs["labels"])
        if num_items_in_batch is None:
            loss = losses.mean()
        else:  # gradients are averaged over processes
            loss = losses.sum() * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def validation(self) -> tuple[int, NDArray[np.int64] | None]:
        """Number of validation examples, and their labels where an AUC is wanted."""
        return len(self._valid), None if self._choices is None else self._valid.labels

    def checks(self, places: list[int]) -> list[Check]:
        """Losses and log-odds of some validation examples."""
        model = self.accelerator.unwrap_model(self.model)
        device = next(iter(model.parameters())).device
        questions = [self._valid.question(place) for place in places]
        checked: list[Check] = []
        with evaluating(model), torch.inference_mode(), self.compute_loss_context_manager():
            for batch in source_batches(questions, _CHECKED_TOKENS):
                rows = [{"place": places[one]} for one in batch]
                inputs = {name: value.to(device) for name, value in self._collate(rows).items()}
                logits = model(**inputs, use_cache=False).logits
                losses = _per_example(logits, inputs["labels"]).tolist()
                odds: list[float | None] = [None] * len(batch)
                if self._choices is not None:
                    both = logits[:, 0, list(self._choices)].float()
                    odds = (both[:, 0] - both[:, 1]).tolist()
                checked += [
                    Check(row["place"], loss, 1, score)
                    for row, loss, score in zip(rows, losses, odds, strict=True)
                ]
        return checked


def _per_example(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each row's tokens, float32 [B]."""
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=UNASKED, reduction="none"
    ).view(labels.shape)
    asked = labels != UNASKED
    return losses.sum(-1) / asked.sum(-1)
