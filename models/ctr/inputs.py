"""What every CTR backbone reads: embedded fields, all of one width, and where texts come in.

The recipe's features become these tensors in `models.layers.embedding`; a backbone only combines
them. `Shape` tells it beforehand how many fields there will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Backbone", "Inputs", "Shape", "Steps"]


@dataclass(frozen=True)
class Shape:
    """How many fields of each sort there are; the order is that of `Inputs`.

    Attributes:
        dim: Width of every field; KAR: 32.
        candidate: Fields of the item asked about: its id and attributes.
        context: Fields of the user, the moment and the statistics.
        steps: Fields of one step of each sequence, one number per sequence.
        vectors: Fields made of text vectors.
        wide: Numbers of raw text vectors, which are no fields.
    """

    dim: int
    candidate: int
    context: int = 0
    steps: tuple[int, ...] = ()
    vectors: int = 0
    wide: int = 0

    @property
    def plain(self) -> int:
        """Fields without those of text vectors, sequences averaged."""
        return self.candidate + self.context + sum(self.steps)

    @property
    def fields(self) -> int:
        """All fields, sequences averaged."""
        return self.plain + self.vectors

    @property
    def flat(self) -> int:
        """Numbers of a row when everything is put side by side."""
        return self.fields * self.dim + self.wide

    @property
    def text(self) -> int:
        """Numbers of a row that come from text vectors."""
        return self.vectors * self.dim + self.wide


class Steps:
    """The steps of one sequence for B rows; padding is not there.

    Args:
        values: Float [N, S * dim], the real steps of all rows, row by row, oldest first; None where
            they are looked up.
        mask: Bool [B, L], true N times: which places those steps fill; to the right end.
        looked_up: Tables float [u, w] with the row int [N] of each step, side by side: many steps
            show the same few rows.
    """

    def __init__(
        self,
        values: Tensor | None,
        mask: Tensor,
        *,
        looked_up: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self._values, self.mask, self._looked_up = values, mask, looked_up

    @property
    def values(self) -> Tensor:
        """Float [N, S * dim]."""
        if self._values is None:
            found = [functional.embedding(rows, table) for table, rows in self._looked_up]
            self._values = torch.cat(found, dim=1)
        return self._values

    def projected(self, layer: nn.Linear) -> Tensor:
        """What a linear layer makes of every step, float [N, out].

        Tables that are shorter than the steps are projected as they are, before the steps look
        their rows up: the same sum, with fewer products.
        """
        if self._values is not None or not self._looked_up:
            return layer(self.values)
        widths = [table.shape[1] for table, _ in self._looked_up]
        total: Tensor | None = None
        for (table, rows), weight in zip(
            self._looked_up, layer.weight.split(widths, dim=1), strict=True
        ):
            if len(table) < len(rows):
                part = functional.embedding(rows, functional.linear(table, weight))
            else:
                part = functional.linear(functional.embedding(rows, table), weight)
            total = part if total is None else total + part
        assert total is not None
        return total if layer.bias is None else total + layer.bias


@dataclass(frozen=True)
class Inputs:
    """B embedded rows.

    Attributes:
        candidate: Float [B, candidate, dim].
        context: Float [B, context, dim].
        history: Float [B, sum(steps), dim], each sequence averaged over its steps, zeros where it
            is empty; no fields for a backbone that `reads_steps`.
        steps: One entry per sequence for a backbone that `reads_steps`, else none.
        vectors: Float [B, vectors, dim], text vectors brought to the width of a field.
        wide: Float [B, wide], text vectors as they are.
        linear: Float [B], sum of the first-order weights of all plain fields (sequences and lists
            averaged, not summed); zeros unless the backbone asks for `first_order`.
    """

    candidate: Tensor
    context: Tensor
    history: Tensor
    steps: tuple[Steps, ...]
    vectors: Tensor
    wide: Tensor
    linear: Tensor

    @property
    def plain(self) -> Tensor:
        """Fields without those of text vectors: float [B, shape.plain, dim]."""
        return torch.cat([self.candidate, self.context, self.history], dim=1)

    @property
    def fields(self) -> Tensor:
        """All fields: float [B, shape.fields, dim]."""
        return torch.cat([self.candidate, self.context, self.history, self.vectors], dim=1)

    @property
    def flat(self) -> Tensor:
        """Everything side by side: float [B, shape.flat]."""
        parts = (self.candidate, self.context, self.history, self.vectors)
        return torch.cat([*(part.flatten(1) for part in parts), self.wide], dim=1)

    @property
    def text(self) -> Tensor:
        """All that comes from text vectors, side by side: float [B, shape.text]."""
        return torch.cat([self.vectors.flatten(1), self.wide], dim=1)


class Backbone(Protocol):
    """An `nn.Module` built from a `Shape` and keyword arguments of its own, all with defaults.

    Attributes:
        reads_steps: Whether it wants sequences step by step instead of averaged.
        first_order: Whether it reads `Inputs.linear`.
    """

    reads_steps: ClassVar[bool]
    first_order: ClassVar[bool]

    def __call__(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
