"""AutoInt: self-attention of the fields over one another (arXiv 1810.11921, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.field_attention import FieldAttention
from tastemaker.models.layers.mlp import Mlp, xavier_normal_

__all__ = ["BACKBONE", "AutoInt"]


class AutoInt(nn.Module):
    """Automatic feature interaction learning.

    Every text vector is one more field (KAR §3). The logit is linear in the fields that the last
    layer returns, and in raw text vectors, which are no fields and hence attend to nothing; a deep
    part over everything side by side is added to it (the paper's "AutoInt+"). `hidden=()` leaves
    that part out: the paper's plain form, which is also that of KAR's code.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the deep part; 200 and 80, KAR's for all backbones that have one.
        layers: Attention layers, at least one; KAR: 3.
        heads: Heads of a layer; KAR: 1.
        size: Size of a head; KAR: 64.
        residual: Whether a field is added to what it read; KAR: yes.
        scaled: Whether scores are divided by the root of `size`; KAR: yes.
        dropout: Share of hidden units and of what fields read left out in training, 0 to 1; KAR: 0.
    """

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: tuple[int, ...] = (200, 80),
        layers: int = 3,
        heads: int = 1,
        size: int = 64,
        residual: bool = True,
        scaled: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [shape.dim, *[heads * size] * (layers - 1)]
        self.attention = nn.Sequential(
            *(
                FieldAttention(
                    width,
                    size=size,
                    heads=heads,
                    residual=residual,
                    scaled=scaled,
                    dropout=dropout,
                )
                for width in widths
            )
        )
        self.linear = nn.Linear(shape.fields * heads * size + shape.wide, 1)
        self.linear.apply(xavier_normal_)
        self.deep = Mlp((shape.flat, *hidden, 1), dropout=dropout) if hidden else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        attended = self.attention(inputs.fields).flatten(1)
        logit = self.linear(torch.cat([attended, inputs.wide], dim=1))
        if self.deep is not None:
            logit = logit + self.deep(inputs.flat)
        return logit.squeeze(-1)


BACKBONE = AutoInt
