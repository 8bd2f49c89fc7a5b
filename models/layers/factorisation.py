"""The two orders of a factorisation machine, over fields that are embedded already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DenseFirstOrder", "second_order"]


def second_order(fields: Tensor) -> Tensor:
    """Sum of ⟨e_i, e_j⟩ over all pairs of fields i < j.

    It is half of what the square of the sum has over the sum of the squares, which takes time
    linear in the number of fields.

    Args:
        fields: Float [B, fields, dim].

    Returns:
        Float [B].
    """
    square_of_sum = fields.sum(dim=1).square().sum(dim=1)
    return (square_of_sum - fields.flatten(1).square().sum(dim=1)) / 2


class DenseFirstOrder(nn.Module):
    """First-order weights of numbers, added to those of the fields (KAR §3: r̂ in DeepFM).

    Args:
        width: How many numbers; 0 is allowed and adds nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Xavier-normal for a linear map to one number.
        self.weight = nn.Parameter(torch.randn(width) * (2 / (width + 1)) ** 0.5)

    def forward(self, linear: Tensor, numbers: Tensor) -> Tensor:
        """Float [B] and [B, width] to [B]."""
        return linear + numbers @ self.weight
