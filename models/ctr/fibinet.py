"""FiBiNET: fields weighted by their importance, paired bilinearly (arXiv 1905.09433, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.bilinear import BilinearPairs, PairMatrix, SqueezeExcitation
from tastemaker.models.layers.factorisation import DenseFirstOrder
from tastemaker.models.layers.mlp import Mlp

__all__ = ["BACKBONE", "FiBiNET"]


class FiBiNET(nn.Module):
    """Feature importance and bilinear interaction network.

    The final MLP reads the pairs of the fields, the pairs of the re-weighted fields and raw text
    vectors; every text vector is one more field (KAR §3). First-order weights, of text vectors
    too, are added (as in the paper; KAR's code has none). A row of a single field has no pair: the
    field itself is read.

    Raw and re-weighted fields share their matrices, as in the paper's code and in KAR. A weight is
    one number per field, so the pairs of re-weighted fields are the raw pairs times two weights,
    and the matrices are applied only once.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the final MLP; KAR: 200 and 80.
        reduction: Ratio of SENET, which has `fields / reduction` hidden units; KAR: .5, that is
            twice as many as fields; the paper: 3.
        matrix: Whether all pairs share a matrix ("field_all"; KAR), those with the same first field
            do ("field_each"), or each pair has its own ("field_interaction").
        dropout: Share of hidden units left out in training, 0 to 1; KAR: 0.

    Raises:
        UnknownNameError: no such matrix.
    """

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = True

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: tuple[int, ...] = (200, 80),
        reduction: float = 0.5,
        matrix: PairMatrix = "field_all",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.squeeze = SqueezeExcitation(shape.fields, reduction=reduction)
        self.pairs = BilinearPairs(shape.fields, shape.dim, matrix=matrix)
        self.linear = DenseFirstOrder(shape.text)
        read = shape.fields * (shape.fields - 1) or 1
        self.head = Mlp((read * shape.dim + shape.wide, *hidden, 1), dropout=dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        pairs = self._pairs(inputs.fields)
        read = [*pairs, inputs.wide.to(pairs[0].dtype)]
        logit = self.head(torch.cat([one.flatten(1) for one in read], dim=1)).squeeze(-1)
        return logit + self.linear(inputs.linear, inputs.text)

    def _pairs(self, fields: Tensor) -> tuple[Tensor, ...]:
        """Raw and re-weighted pairs, float [B, pairs, dim] each, or the only field."""
        if fields.shape[1] == 1:
            return (fields,)
        pairs = self.pairs(fields)
        products = self.pairs.products(self.squeeze(fields)).to(pairs.dtype)
        return pairs, pairs * products[:, :, None]


BACKBONE = FiBiNET
