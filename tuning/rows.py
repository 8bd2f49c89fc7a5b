"""Training examples as rows of batches: alone, packed, or as streams of one user's targets.

Whatever shares a row, every token sees only the tokens of its own example, at its own positions
(see `models.prefix_tree`): losses are those of the examples run alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.models.prefix_tree import PrefixTree, arrange, batch_trees
from tastemaker.tuning.examples import Examples

__all__ = ["AnswerCollator", "Rows", "rows_of"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Which examples share a row.

    Attributes:
        groups: Places of examples, one list a row.
        lengths: int64 [rows], tokens of each row after merging shared beginnings.
    """

    groups: Sequence[Sequence[int]]
    lengths: NDArray[np.int64]

    def dataset(self) -> datasets.Dataset:
        """What a trainer samples from: columns `place` and `length`."""
        return datasets.Dataset.from_dict(
            {"place": range(len(self.groups)), "length": self.lengths}
        )


def rows_of(
    examples: Examples, form: Literal["single", "packed", "streamed"], *, limit: int, seed: int
) -> Rows:
    """Arrange examples in rows.

    Args:
        examples: Of the training part.
        form: `single`: one a row. `packed`: random ones together. `streamed`: examples that begin
            alike together, such as targets of one user whose histories grow.
        limit: Tokens of a row at most; a longer example stands alone.
        seed: Of the order in which examples are packed.
    """
    if form == "single":
        return Rows([[place] for place in range(len(examples))], examples.lengths)
    if form == "streamed":
        groups: Sequence[Sequence[int]] = arrange(examples.sequences(), limit=limit)
    else:
        groups = _packed(examples.lengths, limit=limit, seed=seed)
    trees = (PrefixTree.of([examples.sequence(place) for place in group]) for group in groups)
    return Rows(groups, np.array([len(tree) for tree in trees], dtype=np.int64))


def _packed(lengths: NDArray[np.int64], *, limit: int, seed: int) -> list[list[int]]:
    groups: list[list[int]] = []
    size = limit + 1
    for place in np.random.default_rng(seed).permutation(len(lengths)).tolist():
        length = int(lengths[place])
        if size + length > limit:
            groups.append([])
            size = 0
        groups[-1].append(place)
        size += length
    return groups


class AnswerCollator:
    """Makes batches of rows, and says where the loss is taken.

    Args:
        examples: All examples of the part.
        rows: Which of them share a row.
        pad: Token id that fills rows up.
        dtype: Of the attention mask: that of the model.
        everything: Whether the prompt's tokens count too; else only the answer's.
        merged: Whether all rows of a batch become one tree, for attention block by block.
    """

    def __init__(
        self,
        examples: Examples,
        rows: Rows,
        *,
        pad: int,
        dtype: torch.dtype,
        everything: bool = False,
        merged: bool = False,
    ) -> None:
        self._examples, self._rows = examples, rows
        self._pad, self._dtype, self._everything = pad, dtype, everything
        self._merged = merged

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of B rows.

        Returns:
            What the decoder reads (`input_ids` [B, L], and for rows that branch `position_ids` and
            `attention_mask`); `labels` int64 [m], the tokens to foretell; `rows` and `nodes`
            int64 [m], where the hidden states that foretell them stand.
        """
        trees, rows, nodes, targets = [], [], [], []
        groups = [self._rows.groups[item["place"]] for item in items]
        if self._merged:
            groups = [[place for group in groups for place in group]]
        for row, group in enumerate(groups):
            sequences = [self._examples.sequence(place) for place in group]
            tree = PrefixTree.of(sequences)
            trees.append(tree)
            for place, sequence, path in zip(group, sequences, tree.paths, strict=True):
                first = 1 if self._everything else int(self._examples.starts[place])
                nodes.extend(path[first - 1 : -1].tolist())
                targets.extend(sequence[first:])
                rows.extend([row] * (len(sequence) - first))
        batch = batch_trees(trees, pad=self._pad, dtype=self._dtype).arguments()
        asked = torch.tensor(targets)
        return {
            **batch,
            "labels": asked,
            "shift_labels": asked,
            "rows": torch.tensor(rows),
            "nodes": torch.tensor(nodes),
        }
