"""DIEN: interests that evolve towards the candidate (arXiv 1809.03672, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape, Steps
from tastemaker.models.layers.interest import (
    AttentionGru,
    Evolution,
    InterestEvolution,
    Moments,
)
from tastemaker.models.layers.mlp import Mlp

__all__ = ["BACKBONE", "DIEN"]


class DIEN(nn.Module):
    """Deep interest evolution network.

    A GRU as wide as the candidate makes an interest of each step; a second recurrent layer follows
    those that bear on the candidate; the final MLP reads [interest, candidate, context, text
    vectors] (KAR §3). There is no auxiliary loss on the next click, as in KAR.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the final MLP; KAR: 200 and 80.
        evolution: Where attention enters the second layer: nowhere, its states are summed with
            their weights ("gru"), into its inputs ("aigru"), as its update gate ("agru"), or into
            that gate ("augru"). KAR's run script: "aigru"; the paper: "augru".
        attention: Hidden sizes of the activation unit, which is DIN's; KAR: 32 and 16.
        softmax: Whether the weights of a history sum to one; if not said, only where they are
            gates. The paper softmaxes all; KAR none, but a gate beyond 1 lets states explode.
        dropout: Share of hidden units left out in training, 0 to 1; KAR: 0.

    Raises:
        UnknownNameError: no such evolution.
    """

    reads_steps: ClassVar[bool] = True
    first_order: ClassVar[bool] = False

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: tuple[int, ...] = (200, 80),
        evolution: Evolution = "aigru",
        attention: tuple[int, ...] = (32, 16),
        softmax: bool | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = shape.candidate * shape.dim
        softmax = evolution in ("agru", "augru") if softmax is None else softmax
        self.extractors = nn.ModuleList(
            AttentionGru(fields * shape.dim, width) for fields in shape.steps
        )
        self.evolutions = nn.ModuleList(
            InterestEvolution(width, hidden=attention, evolution=evolution, softmax=softmax)
            for _ in shape.steps
        )
        interests = len(shape.steps) * width
        read = interests + width + shape.context * shape.dim + shape.text
        self.head = Mlp((read, *hidden, 1), dropout=dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        candidate = inputs.candidate.flatten(1)
        interests = [
            self._interest(sequence, candidate, steps)
            for sequence, steps in enumerate(inputs.steps)
        ]
        read = [*interests, candidate, inputs.context.flatten(1), inputs.text]
        return self.head(torch.cat(read, dim=1)).squeeze(-1)

    def _interest(self, sequence: int, candidate: Tensor, steps: Steps) -> Tensor:
        """What one of the sequences says about the candidate, float [B, width]."""
        moments = Moments.of(steps.mask)
        sorted_steps = steps.values.index_select(0, moments.order)
        interests = self.extractors[sequence](sorted_steps, moments.sizes)
        return self.evolutions[sequence](candidate, interests, moments)


BACKBONE = DIEN
