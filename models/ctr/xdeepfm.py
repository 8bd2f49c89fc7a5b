"""xDeepFM: a compressed interaction network plus an MLP (arXiv 1803.05170, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.cin import CompressedInteractions
from tastemaker.models.layers.factorisation import DenseFirstOrder
from tastemaker.models.layers.mlp import Mlp

__all__ = ["BACKBONE", "XDeepFM"]


class XDeepFM(nn.Module):
    """First order, compressed interactions and deep part, added.

    A text vector is one more field of the interactions if it has a field's width (KAR §3); all
    text vectors enter the deep part and, with a weight per number, the first order. The bias is
    that of the deep part's last layer.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the deep part; KAR: 200 and 80.
        maps: Feature maps of each interaction layer, at least one layer; KAR: 50 and 50.
        dropout: Share of hidden units left out in training, 0 to 1; KAR: 0.
    """

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = True

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: tuple[int, ...] = (200, 80),
        maps: tuple[int, ...] = (50, 50),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear = DenseFirstOrder(shape.text)
        self.interactions = CompressedInteractions(shape.fields, maps=maps)
        self.deep = Mlp((shape.flat, *hidden, 1), dropout=dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        linear = self.linear(inputs.linear, inputs.text)
        return linear + self.interactions(inputs.fields) + self.deep(inputs.flat).squeeze(-1)


BACKBONE = XDeepFM
