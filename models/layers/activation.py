"""DIN's attention of a candidate over a history, and its activation Dice (arXiv 1706.06978)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tastemaker.models.layers.mlp import Mlp

__all__ = ["Dice", "TargetAttention"]


class Dice(nn.Module):
    """A ReLU whose corner follows the data (DIN §5.3): p·x + (1 - p)·α·x, p = σ(normalised x).

    Training normalises by the batch, evaluation by running averages, so that a prediction does not
    depend on its batch-mates.

    Args:
        width: Size of the last dimension.
        epsilon: Added to the variance.
        momentum: Weight of a batch in the running averages.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, *, epsilon: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self._epsilon = epsilon
        self._momentum = momentum

    def forward(self, inputs: Tensor) -> Tensor:
        """Float [n, width] to [n, width]."""
        normalised = functional.batch_norm(
            inputs,
            self.mean,
            self.variance,
            training=self.training and len(inputs) > 1,  # one row has no variance
            momentum=self._momentum,
            eps=self._epsilon,
        )
        gate = torch.sigmoid(normalised)
        return inputs * (gate + self.alpha * (1 - gate))


class TargetAttention(nn.Module):
    """Weighted sum of history steps; weights from an MLP on [q, k, q - k, q ∘ k], not softmaxed.

    Only real steps reach the MLP, so padding neither costs time nor moves Dice's averages.

    Args:
        width: Size of candidate and history vectors.
        hidden: Hidden sizes; KAR: 32 and 16.
    """

    def __init__(self, width: int, *, hidden: tuple[int, ...] = (32, 16)) -> None:
        super().__init__()
        self.unit = Mlp((4 * width, *hidden, 1), activation=Dice)

    def forward(self, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Interest of each row in its candidate.

        Args:
            candidate: Float [B, width].
            history: Float [N, width], the real steps of all rows, row by row.
            mask: Bool [B, L], true N times: which positions those steps fill.

        Returns:
            Float [B, width]; zero where a history is empty.
        """
        rows = mask.nonzero()[:, 0]
        query = candidate[rows]
        weights = self.unit(torch.cat([query, history, query - history, query * history], dim=-1))
        return torch.zeros_like(candidate).index_add(0, rows, weights * history)
