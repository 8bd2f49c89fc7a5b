"""Training of a causal language model: TRL's `SFTTrainer`, examples as conversations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
from peft import PeftModel
from trl import SFTConfig

from tastemaker.errors import UserError
from tastemaker.models.conversations import answer_tokens
from tastemaker.models.language import LanguageModel, quiet_loading
from tastemaker.models.mixed_precision import float32_residuals
from tastemaker.models.prefix_tree import attends_fully
from tastemaker.models.tree_attention import tree_attention
from tastemaker.tuning.examples import Examples, encode_examples
from tastemaker.tuning.rows import AnswerCollator, rows_of
from tastemaker.tuning.running import Parts, quietly
from tastemaker.tuning.settings import TuneSettings
from tastemaker.tuning.trainer import AnswerTrainer

__all__ = ["CausalParts", "Ready", "encode", "prepared", "trainer"]


@dataclass(frozen=True)
class CausalParts(Parts):
    """Parts whose examples are conversations."""

    train: Examples
    valid: Examples


@dataclass(frozen=True)
class Ready:
    """The model inside its adapter, whether products are rounded, and whether trees are cheap."""

    causal: Any
    mixed: bool
    by_block: bool


def encode(
    base: LanguageModel,
    train: datasets.Dataset,
    valid: datasets.Dataset,
    settings: TuneSettings,
    *,
    seed: int,
    leave_out_long: bool = False,
) -> CausalParts:
    """Conversations as token ids, training examples arranged in rows."""
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
    return CausalParts(found[0], found[1], rows, len(train) - len(found[0]))


@contextmanager
def prepared(model: Any) -> Iterator[Ready]:
    """The model as it is fastest and most exact to train; as it was, afterwards."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    with (
        quietly(),
        quiet_loading(),
        float32_residuals(causal) as mixed,
        tree_attention(causal) as by_block,
    ):
        yield Ready(causal, mixed, by_block)


def trainer(
    base: LanguageModel,
    model: Any,
    parts: CausalParts,
    settings: TuneSettings,
    *,
    args: dict[str, Any],
    ready: Ready,
    choices: tuple[str, str] | None,
) -> AnswerTrainer:
    """A trainer of `model`.

    Args:
        base: The model without its adapter's wrapper, with its tokenizer.
        model: What is trained.
        parts: On what.
        settings: How.
        args: What `running.arguments` gives.
        ready: What `prepared` gives.
        choices: The positive and the negative answer, for the validation AUC.

    Raises:
        UserError: rows shared by several examples where these cannot be kept apart.
    """
    follows = attends_fully(ready.causal, int(parts.train.lengths.max()))
    if settings.rows != "single" and not follows:
        raise UserError(
            f"tune.rows {settings.rows} needs a model whose tokens can attend to any tokens "
            f"before them; {base.name} cannot.",
            remedy="Set tune.rows to single.",
        )
    merged = ready.by_block and follows
    if merged:
        # Nothing is padded, whatever stands together.
        args = {**args, "train_sampling_strategy": "random"}
    return AnswerTrainer(
        valid=parts.valid,
        choices=_answers(base, parts.valid, choices),
        model=model,
        args=SFTConfig(
            **args,
            max_length=settings.max_length,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
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


def _answers(
    base: LanguageModel, valid: Examples, choices: tuple[str, str] | None
) -> tuple[int, int] | None:
    if choices is None or not valid.has_both_labels:
        return None
    return answer_tokens(base.tokenizer, choices)
