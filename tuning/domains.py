"""Training of Uni-CTR's networks, with or without an adapter in the language model below them.

Fu et al., TOIS 2024, arXiv 2312.10743, section 3. What does not change of a prompt is computed once
and read from disk in every epoch: all states where the model is frozen, those below the lowest
adapted layer where an adapter changes only the top ones, and none where all layers change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainingArguments

from tastemaker.errors import DataError, StageError
from tastemaker.models.domain_networks import domain_codes
from tastemaker.models.hidden_states import evaluating
from tastemaker.models.prompt_ctr import PromptCtr, moved
from tastemaker.models.seq2seq import source_batches
from tastemaker.models.state_store import StateStore
from tastemaker.tuning.checks import Check, CheckedTrainer
from tastemaker.tuning.examples import check_lengths
from tastemaker.tuning.rows import Rows
from tastemaker.tuning.running import (
    Parts,
    arguments,
    cut_steps,
    picking_metric,
    quietly,
    result,
    run,
)
from tastemaker.tuning.settings import TuneResult, TuneSettings
from tastemaker.tuning.tracking import tracking
from tastemaker.tuning.trainer import watch

__all__ = ["DomainExamples", "train_networks"]

_CHECKED_TOKENS = 4096  # of a forward pass without gradients
_STEPS = ("Yes", "No")  # there is a score, so an AUC exists


@dataclass(frozen=True, eq=False)
class DomainExamples:
    """Prompts of a part with their domains and labels.

    Attributes:
        sequences: Token ids of each prompt.
        domains: Name of each prompt's domain.
        labels: int64 [n], 1 for a like.
        store: What is known of the prompts, if anything.
    """

    sequences: Sequence[Sequence[int]]
    domains: Sequence[str]
    labels: NDArray[np.int64]
    store: StateStore | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of each prompt."""
        return np.array([len(one) for one in self.sequences], dtype=np.int64)

    @property
    def has_both_labels(self) -> bool:
        """Whether there are likes and dislikes, so that an AUC exists."""
        return len(np.unique(self.labels)) == 2

    def question(self, place: int) -> Sequence[int]:
        """Token ids of one prompt."""
        return self.sequences[place]


def train_networks(
    model: PromptCtr,
    train: DomainExamples,
    *,
    valid: DomainExamples,
    settings: TuneSettings,
    scratch: Path,
    seed: int,
    general: bool = True,
    logs: Path | None = None,
    on_step: Callable[[int], None] = lambda _: None,
) -> TuneResult:
    """Train all weights of a model that want it, in place; it ends with those of its best state.

    Args:
        model: Its weights to train have `requires_grad`.
        train: Prompts to learn from.
        valid: Prompts that pick the state.
        settings: How to train.
        scratch: Folder for checkpoints; a complete one found there is continued.
        seed: Of the order of prompts and of dropout.
        general: Whether the general network learns too; off where a domain is added.
        logs: Folder for a tracker's files.
        on_step: Called with the number of newly finished steps.

    Raises:
        DataError: no prompts to learn from or to check on, one that is longer than
            `settings.max_length` or the model's context, or an AUC asked for where labels are of
            one kind only.
        UserError: a batch that does not fit into memory.
        StageError: the loss is no number.
    """
    started = time.perf_counter()
    _check_parts(model, train, valid, limit=settings.max_length)
    rows = Rows([[place] for place in range(len(train))], train.lengths)
    parts = Parts(train, valid, rows, 0)
    metric = picking_metric(settings, valid, _STEPS)
    with quietly(), tracking(settings.tracker, logs):
        cut = cut_steps(model, parts, settings)
        half = next(model.backbone.model.parameters()).dtype == torch.bfloat16
        args = arguments(
            model, parts, settings, cut=cut, metric=metric, mixed=half, out=scratch, seed=seed
        )
        trainer = _DomainTrainer(
            valid=valid,
            general=general,
            model=model,
            args=TrainingArguments(**{**args, "ddp_find_unused_parameters": True}),
            data_collator=_Collator(model, train),
            train_dataset=rows.dataset(),
            eval_dataset=datasets.Dataset.from_dict({"place": range(len(valid))}),
        )
        watch(trainer, settings.patience, on_step)
        run(trainer, scratch)
    model.eval()
    return result(trainer, parts, cut, metric=metric, difference=0.0, started=started)


def _check_parts(
    model: PromptCtr, train: DomainExamples, valid: DomainExamples, *, limit: int
) -> None:
    """Make sure that there are prompts, none of them too long."""
    context = getattr(model.config, "max_position_embeddings", None)
    for part, name in ((train, "train"), (valid, "validation")):
        if not len(part):
            raise DataError(
                f"the {name} prompts are empty.",
                remedy="Move the borders of data.split, lower build.min_history, or leave out a "
                "domain of so few rows.",
            )
        check_lengths(part.lengths, name, limit=limit, context=context)


class _Collator:
    """Makes batches of training prompts.

    Args:
        model: Knows the codes of the domains and the padding.
        examples: All prompts of the part.
    """

    def __init__(self, model: PromptCtr, examples: DomainExamples) -> None:
        self._model, self._examples = model, examples
        self._codes = domain_codes(examples.domains, model.networks.domains)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`batch`, a `PromptBatch`, and `labels`, float [B]."""
        places = [int(item["place"]) for item in items]
        examples = self._examples
        batch = self._model.batch(examples.sequences, self._codes, places, store=examples.store)
        labels = torch.from_numpy(examples.labels[places]).float()
        return {"batch": batch, "labels": labels}


class _DomainTrainer(CheckedTrainer):
    """Trains on batches of a `_Collator`; checkpoints hold the trained weights only.

    Args:
        valid: Prompts that pick the state to keep.
        general: Whether the general network learns.
        arguments: Of `Trainer`.
    """

    def __init__(self, *, valid: DomainExamples, general: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._valid, self._general = valid, general
        model = self.accelerator.unwrap_model(self.model)
        self._collate = _Collator(model, valid)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss of the rows of a pass."""
        del num_items_in_batch
        device = inputs["labels"].device
        outputs = model(moved(inputs["batch"], device), inputs["labels"], general=self._general)
        loss = outputs["losses"].mean()
        return (loss, outputs) if return_outputs else loss

    def validation(self) -> tuple[int, NDArray[np.int64] | None]:
        """Number of validation prompts, and their labels where an AUC is wanted."""
        valid = self._valid
        return len(valid), valid.labels if valid.has_both_labels else None

    def checks(self, places: list[int]) -> list[Check]:
        """Losses and log-odds of some validation prompts."""
        model = self.accelerator.unwrap_model(self.model)
        found: list[Check] = []
        sequences = [self._valid.sequences[place] for place in places]
        with evaluating(model), torch.inference_mode(), model.products():
            for batch in source_batches(sequences, _CHECKED_TOKENS):
                mine = [places[one] for one in batch]
                given = self._collate([{"place": place} for place in mine])
                labels = given["labels"].to(model.device)
                outputs = model(given["batch"], labels, general=self._general)
                losses, logits = outputs["losses"].tolist(), outputs["logits"].tolist()
                found += [
                    Check(place, loss, 1, score)
                    for place, loss, score in zip(mine, losses, logits, strict=True)
                ]
        return found

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that a checkpoint lacks were never trained; it must hold no others."""
        if load_result.unexpected_keys:
            raise StageError(
                f"a checkpoint holds weights of another model: {load_result.unexpected_keys[0]}"
            )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The trained weights only: the model below them is read from where it came."""
        del state_dict
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        trained = {
            name: weight.detach().cpu().contiguous()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        save_file(trained, folder / "model.safetensors", metadata={"format": "pt"})
