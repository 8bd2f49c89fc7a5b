"""DeepFM: a factorisation machine plus an MLP over shared fields (arXiv 1703.04247, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.factorisation import DenseFirstOrder, second_order
from tastemaker.models.layers.mlp import Mlp

__all__ = ["BACKBONE", "DeepFM"]


class DeepFM(nn.Module):
    """Factorisation machine and deep part, added.

    Text vectors enter the deep part and, with a weight per number, the first order; the second
    order pairs the other fields only (KAR §3). The bias is that of the deep part's last layer.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the deep part; KAR: 200 and 80.
        dropout: Share of hidden units left out in training, 0 to 1; KAR: 0.
    """

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = True

    def __init__(
        self, shape: Shape, *, hidden: tuple[int, ...] = (200, 80), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.linear = DenseFirstOrder(shape.text)
        self.deep = Mlp((shape.flat, *hidden, 1), dropout=dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        linear = self.linear(inputs.linear, inputs.text)
        return linear + second_order(inputs.plain) + self.deep(inputs.flat).squeeze(-1)


BACKBONE = DeepFM
