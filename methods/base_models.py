"""The base model that a recipe tunes: one that is there, or a T5 that starts from nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from tastemaker import processes
from tastemaker.errors import RecipeError
from tastemaker.models.adapters import tuned
from tastemaker.models.language import (
    LanguageModel,
    best_dtype,
    default_device,
    load_language_model,
)
from tastemaker.models.new_t5 import T5Shape, make_t5
from tastemaker.models.new_tokens import with_tokens
from tastemaker.models.seq2seq import plain_text
from tastemaker.models.wrappers import wrapped
from tastemaker.recipe import TuneConfig
from tastemaker.tuning.weights import quantisation

__all__ = ["NEW", "check_new", "load_model", "load_untuned", "load_whole", "make_new"]

NEW = "new-t5"
_CHUNK = 1000  # examples read at once


def check_new(config: TuneConfig) -> None:
    """Refuse what a model that starts from nothing cannot have.

    Raises:
        RecipeError: an adapter, a first stage, training of an adapter only, or of shared rows.
        UserError: a shape that no T5 can have.
    """
    if config.model != NEW:
        return
    if config.kind != "full":
        raise RecipeError(
            f"tune.kind {config.kind}: {NEW} starts from random weights, all of which are trained.",
            remedy="Set tune.kind to full.",
        )
    if config.instruction_tuning is not None or config.adapter:
        raise RecipeError(
            f"tune.model {NEW} starts from nothing, so nothing can come before it.",
            remedy="Remove tune.instruction_tuning and tune.adapter.",
        )
    if config.rows != "single" or config.loss_on != "answer":
        raise RecipeError(
            f"tune.model {NEW} has an encoder: each prompt is a row of its own, and only answers "
            "are foretold.",
            remedy="Set tune.rows to single and tune.loss_on to answer.",
        )
    _shape(config)


def make_new(
    config: TuneConfig, train: Dataset, folder: Path, *, tokens: Sequence[str], seed: int
) -> Path:
    """The folder of the new model, made unless it is there.

    Args:
        config: Section `tune`.
        train: Columns `prompt` and `completion`, what its tokenizer is trained on.
        folder: Where it goes, complete or not at all.
        tokens: Whole tokens that answers are made of.
        seed: Of its weights.
    """
    if processes.is_main() and not folder.is_dir():
        made = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(made, ignore_errors=True)
        make_t5(_texts(train), made, shape=_shape(config), tokens=tokens, seed=seed)
        made.rename(folder)
    processes.barrier()
    return folder


def load_untuned(
    config: TuneConfig, *, folder: Path | None = None, tokens: Sequence[str] = (), seed: int
) -> LanguageModel:
    """What tuning begins with.

    Args:
        config: Section `tune`.
        folder: Of weights to begin with in place of `tune.model`, under whose name they go.
        tokens: Whole tokens that answers are made of; only where all weights are trained, since an
            adapter could not learn their embeddings: it reads them piece by piece.
        seed: Of the embeddings of these.
    """
    device = default_device()
    full = config.kind == "full"
    dtype = torch.float32 if full else best_dtype(device, config.precision)
    base = load_language_model(
        config.model if folder is None else str(folder),
        dtype=dtype,
        device=device,
        quantisation=quantisation(config.kind, dtype),
        seq2seq=True,
        whole_words=config.whole_words,
    )
    base = LanguageModel(base.model, base.tokenizer, config.model, base.folder)
    return wrapped(with_tokens(base, tokens, seed=seed) if full else base, config.wrapper)


def load_model(config: TuneConfig, folder: Path | None = None) -> LanguageModel:
    """The base model as the recipe names it, or with what was tuned.

    Args:
        config: Section `tune`.
        folder: Adapter or whole model, as `tuned_folder` gives it; the base alone when None.
    """
    if config.kind == "full" and folder is not None:
        return load_whole(config, folder)
    base = load_untuned(config, seed=0)
    return base if folder is None else tuned(base, folder)


def _shape(config: TuneConfig) -> T5Shape:
    return T5Shape(**config.new_model.model_dump(), whole_words=config.whole_words)


def load_whole(config: TuneConfig, folder: Path) -> LanguageModel:
    """A whole model that was tuned, by this recipe or another, in the precision of this one."""
    device = default_device()
    dtype = best_dtype(device, config.precision)
    return load_language_model(str(folder), dtype=dtype, device=device, seq2seq=True)


def _texts(train: Dataset) -> Iterator[str]:
    """Prompts and answers as a model reads and writes them."""
    for first in range(0, len(train), _CHUNK):
        chunk: dict[str, Any] = train[first : first + _CHUNK]
        for messages in (*chunk["prompt"], *chunk["completion"]):
            yield plain_text(messages)
