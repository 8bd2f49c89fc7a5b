"""FiBiNET's two layers: squeeze-excitation of fields, bilinear pairs (arXiv 1905.09433)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tastemaker.errors import UnknownNameError
from tastemaker.models.layers.mlp import xavier_normal_

__all__ = ["BilinearPairs", "PairMatrix", "SqueezeExcitation", "per_field", "square_matrices"]

PairMatrix = Literal["field_all", "field_each", "field_interaction"]


class SqueezeExcitation(nn.Module):
    """A weight for every field, from the means of all of them (FiBiNET's "SENET layer").

    Args:
        fields: How many fields there are.
        reduction: The layer between has `fields / reduction` units, at least one.
    """

    def __init__(self, fields: int, *, reduction: float) -> None:
        super().__init__()
        reduced = max(1, int(fields / reduction))
        self.layers = nn.Sequential(
            nn.Linear(fields, reduced, bias=False),
            nn.ReLU(),
            nn.Linear(reduced, fields, bias=False),
            nn.ReLU(),
        )
        self.apply(xavier_normal_)

    def forward(self, fields: Tensor) -> Tensor:
        """Float [B, fields, dim] to weights [B, fields], none below 0."""
        return self.layers(fields.mean(dim=2))


class BilinearPairs(nn.Module):
    """(v_i W) ∘ v_j for all pairs of fields i < j (FiBiNET's "bilinear-interaction layer").

    Args:
        fields: How many fields there are.
        dim: Width of each.
        matrix: Whether all pairs share W, those with the same first field do, or none.

    Raises:
        UnknownNameError: no such matrix.
    """

    left: Tensor
    right: Tensor

    def __init__(self, fields: int, dim: int, *, matrix: PairMatrix = "field_all") -> None:
        super().__init__()
        left, right = torch.triu_indices(fields, fields, offset=1)
        counts = {"field_all": 1, "field_each": fields - 1, "field_interaction": len(left)}
        if matrix not in counts:
            raise UnknownNameError("matrix", matrix, get_args(PairMatrix))
        self.weight = square_matrices(counts[matrix], dim)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self._matrix = matrix

    def forward(self, fields: Tensor) -> Tensor:
        """Float [B, fields, dim] to [B, pairs, dim], pairs ordered by i, then by j."""
        if self._matrix == "field_all":
            projected = (fields @ self.weight[0]).index_select(1, self.left)
        elif self._matrix == "field_each":
            projected = per_field(fields[:, :-1], self.weight).index_select(1, self.left)
        else:
            projected = per_field(fields.index_select(1, self.left), self.weight)
        # A training step may multiply in half precision; then pairs, by far the largest tensors of
        # the model, are kept in it, too.
        return projected * fields.to(projected.dtype).index_select(1, self.right)

    def products(self, weights: Tensor) -> Tensor:
        """w_i w_j of all pairs, [B, fields] to [B, pairs].

        They scale the pairs of the fields as if the fields had been scaled before.
        """
        return weights.index_select(1, self.left) * weights.index_select(1, self.right)


def per_field(fields: Tensor, matrices: Tensor) -> Tensor:
    """Every field times its own matrix: float [B, n, dim] and [n, dim, dim] to [B, n, dim]."""
    return torch.bmm(fields.transpose(0, 1), matrices).transpose(0, 1).contiguous()


def square_matrices(count: int, dim: int) -> nn.Parameter:
    """Xavier-normal matrices, float [count, dim, dim]."""
    return nn.Parameter(torch.randn(count, dim, dim) * dim**-0.5)
