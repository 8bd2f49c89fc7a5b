"""DCNv2: cross layers weighted by matrices, whole or of low rank (arXiv 2008.13535, as in KAR)."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from tastemaker.errors import UnknownNameError
from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.cross import MatrixCross, MixtureCross
from tastemaker.models.layers.mlp import Mlp

__all__ = ["BACKBONE", "DCNv2", "Structure"]

Structure = Literal["parallel", "stacked"]


class DCNv2(nn.Module):
    """Deep and cross network, second version.

    The cross part reads everything side by side, text vectors included. In parallel, so does the
    deep part, and a final MLP reads both outputs (KAR §3); stacked, the deep part reads the cross
    part's output and the final MLP the deep part's. The paper has one linear layer in the place of
    that MLP: `hidden=()`.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the final MLP; KAR: 200 and 80.
        deep: Sizes of the deep part, at least one; KAR: 200 and 80.
        cross: Cross layers; KAR: 3.
        rank: Size to which an expert of a cross layer projects; none: one matrix of full rank, as
            in KAR.
        experts: Experts of a cross layer if it has a rank.
        structure: Whether the deep part stands beside the cross part or behind it.
        dropout: Share of hidden units left out in training, 0 to 1; KAR: 0.

    Raises:
        UnknownNameError: no such structure.
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
        rank: int | None = None,
        experts: int = 4,
        structure: Structure = "parallel",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if structure not in get_args(Structure):
            raise UnknownNameError("structure", structure, get_args(Structure))
        self.cross: nn.Module
        if rank is None:
            self.cross = MatrixCross(shape.flat, layers=cross)
        else:
            self.cross = MixtureCross(shape.flat, layers=cross, rank=rank, experts=experts)
        self.deep = Mlp((shape.flat, *deep), last_linear=False, dropout=dropout)
        self.stacked = structure == "stacked"
        read = deep[-1] if self.stacked else shape.flat + deep[-1]
        self.head = Mlp((read, *hidden, 1), dropout=dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        flat = inputs.flat
        crossed = self.cross(flat)
        if self.stacked:
            return self.head(self.deep(crossed)).squeeze(-1)
        return self.head(torch.cat([crossed, self.deep(flat)], dim=1)).squeeze(-1)


BACKBONE = DCNv2
