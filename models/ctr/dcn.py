"""DCN: cross layers weighted by vectors beside a deep part (arXiv 1708.05123, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.cross import VectorCross
from tastemaker.models.layers.mlp import Mlp

__all__ = ["BACKBONE", "DCN"]


class DCN(nn.Module):
    """Deep and cross network, first version.

    Cross and deep part both read everything side by side, text vectors included; a final MLP reads
    both outputs (KAR §3). The paper has one linear layer in the place of that MLP: `hidden=()`.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the final MLP; KAR: 200 and 80.
        deep: Sizes of the deep part, at least one; KAR: 200 and 80.
        cross: Cross layers; KAR: 3.
        dropout: Share of hidden units left out in training, 0 to 1; KAR: 0.
    """

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: tuple[int, ...] = (200, 80),
        deep: tuple[int, ...] = (200, 80),
        cross: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.cross = VectorCross(shape.flat, layers=cross)
        self.deep = Mlp((shape.flat, *deep), last_linear=False, dropout=dropout)
        self.head = Mlp((shape.flat + deep[-1], *hidden, 1), dropout=dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        flat = inputs.flat
        return self.head(torch.cat([self.cross(flat), self.deep(flat)], dim=1)).squeeze(-1)


BACKBONE = DCN
