"""Prompts and answers as what an encoder-decoder model reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.errors import DataError
from tastemaker.models.seq2seq import encode_sources, encode_targets, padded
from tastemaker.tuning.examples import check_columns, labels_of

__all__ = ["UNASKED", "PairCollator", "PairExamples", "encode_pairs"]

UNASKED = -100  # where no token is foretold, as in transformers
_CHUNK = 10_000  # examples tokenized at once


@dataclass(frozen=True, eq=False)
class PairExamples:
    """Token ids of n prompts and of their answers, each with the end token.

    Attributes:
        sources: int32 [s], all prompts one after another.
        source_offsets: int64 [n + 1], where they begin and end.
        targets: int32 [t], all answers.
        target_offsets: int64 [n + 1].
        labels: int64 [n], 1 for a like and 0 for a dislike; None where examples have no labels.
    """

    sources: NDArray[np.int32]
    source_offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    target_offsets: NDArray[np.int64]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.source_offsets) - 1

    def question(self, place: int) -> list[int]:
        """Token ids of the prompt of one example."""
        start, stop = self.source_offsets[place : place + 2]
        found: list[int] = self.sources[start:stop].tolist()
        return found

    def answer(self, place: int) -> list[int]:
        """Token ids of the answer of one example."""
        start, stop = self.target_offsets[place : place + 2]
        found: list[int] = self.targets[start:stop].tolist()
        return found

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of prompt and answer together."""
        lengths: NDArray[np.int64] = np.diff(self.source_offsets) + np.diff(self.target_offsets)
        return lengths

    @property
    def has_both_labels(self) -> bool:
        """Whether there are likes and dislikes, so that an AUC exists."""
        return self.labels is not None and len(np.unique(self.labels)) == 2


def encode_pairs(
    rows: datasets.Dataset,
    name: str,
    *,
    tokenizer: Any,
    limit: int,
    target_limit: int,
    leave_out_long: bool = False,
) -> PairExamples:
    """Tokenize prompts and answers.

    Args:
        rows: Columns `prompt` and `completion`, conversational, and `label`, 0 or 1, if known.
        name: Of the part, for messages.
        tokenizer: Of the model.
        limit: Tokens of a prompt at most.
        target_limit: Tokens of an answer at most.
        leave_out_long: Whether longer examples are left out instead of refused, unless all are.

    Raises:
        DataError: missing columns, no rows, or a prompt or answer longer than allowed.
    """
    check_columns(rows, name)
    sources: list[NDArray[np.int32]] = []
    targets: list[NDArray[np.int32]] = []
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        answers = [turns[-1]["content"] for turns in chunk["completion"]]
        sources.extend(map(_small, encode_sources(tokenizer, chunk["prompt"])))
        targets.extend(map(_small, encode_targets(tokenizer, answers)))
    sizes = [np.array([len(one) for one in side], dtype=np.int64) for side in (sources, targets)]
    kept = np.arange(len(rows))
    fitting = (sizes[0] <= limit) & (sizes[1] <= target_limit)
    if leave_out_long and fitting.any():
        kept = np.flatnonzero(fitting)
    _check(sizes[0][kept], name, "prompt", most=limit, setting="tune.max_length")
    _check(sizes[1][kept], name, "answer", most=target_limit, setting="tune.max_target_length")
    labels = labels_of(rows)
    return PairExamples(
        np.concatenate([sources[place] for place in kept]),
        _borders(sizes[0][kept]),
        np.concatenate([targets[place] for place in kept]),
        _borders(sizes[1][kept]),
        None if labels is None else labels[kept],
    )


class PairCollator:
    """Makes batches of examples.

    Args:
        examples: All examples of the part.
        pad: Token id that fills rows up.
    """

    def __init__(self, examples: PairExamples, *, pad: int) -> None:
        self._examples, self._pad = examples, pad

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of B examples.

        Returns:
            `input_ids` and `attention_mask` int64 [B, L]; `labels` int64 [B, T], the tokens to
            foretell, -100 where there is none.
        """
        places = [item["place"] for item in items]
        tokens, mask = padded([self._examples.question(place) for place in places], self._pad)
        labels, asked = padded([self._examples.answer(place) for place in places], UNASKED)
        return {
            "input_ids": tokens,
            "attention_mask": mask,
            "labels": torch.where(asked == 1, labels, UNASKED),
        }


def _small(ids: Sequence[int]) -> NDArray[np.int32]:
    return np.array(ids, dtype=np.int32)


def _borders(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _check(sizes: NDArray[np.int64], name: str, side: str, *, most: int, setting: str) -> None:
    over = int((sizes > most).sum())
    if over:
        longest = int(sizes.argmax())
        raise DataError(
            f"the {side} of {name} example {longest} has {int(sizes[longest])} tokens, more than "
            f"{setting} = {most} ({over} of {len(sizes)} are longer).",
            remedy=f"Raise {setting}"
            + (
                ", lower build.history, or set build.max_length and build.tokenizer."
                if side == "prompt"
                else "."
            ),
        )
