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
    """Weighted sum of history steps; weights from an MLP on [q, k, q - k, q ∘ k].

    Only real steps reach the MLP, so padding neither costs time nor moves Dice's averages.

    Args:
        width: Size of candidate and history vectors.
        hidden: Hidden sizes; KAR: 32 and 16.
        softmax: Whether the weights of a row sum to one; not so in DIN's paper and in KAR.
    """

    def __init__(
        self, width: int, *, hidden: tuple[int, ...] = (32, 16), softmax: bool = False
    ) -> None:
        super().__init__()
        self.unit = Mlp((4 * width, *hidden, 1), activation=Dice)
        self._softmax = softmax

    def forward(self, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Interest of each row in its candidate.

        Args:
            candidate: Float [B, width].
            history: Float [N, width], the real steps of all rows, row by row.
            mask: Bool [B, L], true N times: which positions those steps fill.

        Returns:
            Float [B, width]; zero where a history is empty.
        """
        weights = self.weights(candidate, history, mask)
        rows = mask.nonzero()[:, 0]
        weighted = weights[:, None] * history
        return weighted.new_zeros(candidate.shape).index_add(0, rows, weighted)

    def weights(self, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Weight of each real step, float [N]; arguments as those of `forward`."""
        rows = mask.nonzero()[:, 0]
        query = candidate.index_select(0, rows)  # its gradient is quicker than that of [rows]
        first, *rest = self.unit.layers
        assert isinstance(first, nn.Linear)
        # The layer is linear in q, k, q - k and q ∘ k: the four are not put side by side, and what
        # depends on q alone is computed once per row instead of once per step.
        of_query, of_step, of_difference, of_product = first.weight.chunk(4, dim=1)
        own = functional.linear(candidate, of_query + of_difference, first.bias)
        hidden = own.index_select(0, rows)
        hidden = hidden + functional.linear(history, of_step - of_difference)
        hidden = hidden + functional.linear(query * history, of_product)
        for layer in rest:
            hidden = layer(hidden)
        weights = hidden.squeeze(-1)
        if not self._softmax:
            return weights
        spread = weights.new_full(mask.shape, -torch.inf).masked_scatter(mask, weights)
        return torch.softmax(spread, dim=1)[mask]
