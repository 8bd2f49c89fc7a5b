"""DIN: attention of the candidate over the steps of the history (arXiv 1706.06978, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.activation import TargetAttention
from tastemaker.models.layers.mlp import Mlp, xavier_normal_

__all__ = ["BACKBONE", "DIN"]


class DIN(nn.Module):
    """Deep interest network.

    Each step is projected linearly to the width of the candidate; weights are masked, not
    softmaxed; the final MLP reads [interest, candidate, context, text vectors] (KAR §3).

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the final MLP; KAR: 200 and 80.
        attention: Hidden sizes of the activation unit; KAR: 32 and 16.
        softmax: Whether the weights of a history sum to one; off in the paper and in KAR.
        dropout: Share of hidden units left out in training, 0 to 1; KAR: 0.
    """

    reads_steps: ClassVar[bool] = True
    first_order: ClassVar[bool] = False

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: tuple[int, ...] = (200, 80),
        attention: tuple[int, ...] = (32, 16),
        softmax: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = shape.candidate * shape.dim
        self.steps = nn.ModuleList(nn.Linear(fields * shape.dim, width) for fields in shape.steps)
        self.steps.apply(xavier_normal_)
        self.attention = nn.ModuleList(
            TargetAttention(width, hidden=attention, softmax=softmax) for _ in shape.steps
        )
        interests = len(shape.steps) * width
        read = interests + width + shape.context * shape.dim + shape.text
        self.head = Mlp((read, *hidden, 1), dropout=dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        candidate = inputs.candidate.flatten(1)
        interests = [
            attention(candidate, steps.projected(project), steps.mask)
            for project, attention, steps in zip(
                self.steps, self.attention, inputs.steps, strict=True
            )
        ]
        read = [*interests, candidate, inputs.context.flatten(1), inputs.text]
        return self.head(torch.cat(read, dim=1)).squeeze(-1)


BACKBONE = DIN
