"""Answered prompts as token ids, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError
from tastemaker.models.conversations import encode_answered, require_chat_template

__all__ = ["Examples", "check_columns", "check_lengths", "encode_examples", "labels_of"]

_COLUMNS = {"prompt", "completion"}
_CHUNK = 1000  # examples tokenized at once


@dataclass(frozen=True, eq=False)
class Examples:
    """Token ids of n prompts with their answers, one after another.

    Attributes:
        tokens: int32 [total].
        offsets: int64 [n + 1]; example i is `tokens[offsets[i]:offsets[i + 1]]`.
        starts: int64 [n], how many tokens of each are the prompt's.
        labels: int64 [n], 1 for a like and 0 for a dislike; None where examples have no labels.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.starts)

    def sequence(self, place: int) -> list[int]:
        """Token ids of one example."""
        found: list[int] = self.tokens[self.offsets[place] : self.offsets[place + 1]].tolist()
        return found

    def sequences(self) -> list[list[int]]:
        """Token ids of all examples."""
        return [self.sequence(place) for place in range(len(self))]

    def question(self, place: int) -> list[int]:
        """Token ids of the prompt of one example."""
        return self.sequence(place)[: int(self.starts[place])]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of each example."""
        return np.diff(self.offsets)

    @property
    def has_both_labels(self) -> bool:
        """Whether there are likes and dislikes, so that an AUC exists."""
        return self.labels is not None and len(np.unique(self.labels)) == 2


def encode_examples(
    rows: datasets.Dataset,
    name: str,
    *,
    tokenizer: Any,
    limit: int,
    context: int | None,
    leave_out_long: bool = False,
) -> Examples:
    """Tokenize answered prompts by the chat template of the tokenizer.

    Args:
        rows: Columns `prompt` and `completion`, conversational, and `label`, 0 or 1, if known.
        name: Of the part, for messages.
        tokenizer: Of the model.
        limit: Tokens of an example at most.
        context: Tokens the model can read; None when it does not say.
        leave_out_long: Whether longer examples are left out instead of refused, unless all are.

    Raises:
        DataError: missing columns, no rows, or an example longer than `limit` or `context`.
        UserError: the tokenizer has no chat template, or an answer merges with its prompt.
    """
    check_columns(rows, name)
    require_chat_template(tokenizer)
    sequences: list[NDArray[np.int32]] = []
    starts: list[int] = []
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        answers = [turns[-1]["content"] for turns in chunk["completion"]]
        whole, lengths = encode_answered(tokenizer, chunk["prompt"], answers)
        sequences.extend(np.array(ids, dtype=np.int32) for ids in whole)
        starts.extend(lengths)
    sizes = np.array([len(ids) for ids in sequences], dtype=np.int64)
    kept = np.arange(len(sizes))
    if leave_out_long and (sizes <= min(limit, context or limit)).any():
        kept = np.flatnonzero(sizes <= min(limit, context or limit))
    check_lengths(sizes[kept], name, limit=limit, context=context)
    labels = labels_of(rows)
    return Examples(
        np.concatenate([sequences[place] for place in kept]),
        np.concatenate([[0], np.cumsum(sizes[kept])]),
        np.array(starts, dtype=np.int64)[kept],
        None if labels is None else labels[kept],
    )


def labels_of(rows: datasets.Dataset) -> NDArray[np.int64] | None:
    """1 for a like and 0 for a dislike, int64 [n]; None where some row has neither."""
    if "label" not in rows.column_names:
        return None
    values: Sequence[int | None] = rows["label"]
    if any(value is None for value in values):
        return None
    return np.array(values, dtype=np.int64)


def check_columns(rows: datasets.Dataset, name: str) -> None:
    """Make sure that a part has prompts and answers.

    Raises:
        DataError: a column is missing, or there is no row.
    """
    missing = _COLUMNS - set(rows.column_names)
    if missing:
        raise DataError(
            f"the {name} examples have no column {', '.join(sorted(missing))}.",
            allowed=f"columns found: {', '.join(rows.column_names)}",
            remedy="Build them with: tastemaker build RECIPE",
        )
    if len(rows) == 0:
        raise DataError(
            f"the {name} examples are empty.",
            remedy="Move the borders of data.split, or lower build.min_history.",
        )


def check_lengths(sizes: NDArray[np.int64], name: str, *, limit: int, context: int | None) -> None:
    """Make sure that examples are short enough.

    Args:
        sizes: Tokens of each, int64 [n].
        name: Of the part, for the message.
        limit: Tokens of an example at most.
        context: Tokens the model can read; None when it does not say.

    Raises:
        DataError: one is longer than `limit` or `context`.
    """
    longest = int(sizes.argmax())
    size = int(sizes[longest])
    over = int((sizes > limit).sum())
    if over:
        raise DataError(
            f"{name} example {longest} has {size} tokens, more than tune.max_length = {limit} "
            f"({over} of {len(sizes)} are longer).",
            remedy="Raise tune.max_length, lower build.history, or let the builder leave the "
            "oldest events out: build.max_length and build.tokenizer.",
        )
    if context is not None and size > context:
        raise DataError(
            f"{name} example {longest} has {size} tokens, more than the {context} that the model "
            "can read.",
            remedy="Lower build.history, set build.max_length and build.tokenizer, or choose a "
            "model with a longer context.",
        )
