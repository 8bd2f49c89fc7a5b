"""Fi-GNN's graph: every field is a node that hears from all others (arXiv 1910.05552)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tastemaker.models.layers.bilinear import per_field, square_matrices
from tastemaker.models.layers.mlp import Mlp, xavier_normal_

__all__ = ["AttentiveReadout", "FieldEdges", "FieldMessages", "GatedUpdate"]


class FieldEdges(nn.Module):
    """How much a node hears from each other one: a softmax of LeakyReLU(w [e_i, e_j]) over j ≠ i.

    Fi-GNN's "attentional edge weights". The product with w is the sum of a number per hearer and
    one per speaker, so the pairs of vectors are never made.

    Args:
        dim: Width of a field.
        slope: Of the LeakyReLU below 0.
    """

    def __init__(self, dim: int, *, slope: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, 2 * dim)))
        self._slope = slope

    def forward(self, fields: Tensor) -> Tensor:
        """Float [B, F, dim] to [B, F, F], hearer × speaker; rows sum to one, or zero if F is 1."""
        count = fields.shape[1]
        if count == 1:
            return torch.zeros_like(fields[:, :, :1])
        hearer, speaker = (fields @ self.weight.view(2, -1).T).unbind(2)
        # Speaker × hearer until the softmax, which is slow along a short last dimension.
        scores = functional.leaky_relu(speaker[:, :, None] + hearer[:, None], self._slope)
        itself = torch.eye(count, dtype=torch.bool, device=fields.device)
        return torch.softmax(scores.masked_fill(itself, -torch.inf), dim=1).transpose(1, 2)


class FieldMessages(nn.Module):
    """What each node hears: a_i = (Σ_j A_ij h_j W_out^j) W_in^i + b.

    Args:
        fields: How many nodes there are.
        dim: Width of each.
    """

    def __init__(self, fields: int, dim: int) -> None:
        super().__init__()
        self.speak = square_matrices(fields, dim)
        self.hear = square_matrices(fields, dim)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, edges: Tensor, states: Tensor) -> Tensor:
        """Float [B, F, F] and [B, F, dim] to [B, F, dim]."""
        return per_field(edges @ per_field(states, self.speak), self.hear) + self.bias


class GatedUpdate(nn.Module):
    """A GRU cell, one for all nodes (Fi-GNN's "state update").

    Args:
        dim: Width of a node.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(dim, dim)
        for name, weight in self.cell.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.xavier_normal_(weight)

    def forward(self, messages: Tensor, states: Tensor) -> Tensor:
        """Float [B, F, dim] twice to [B, F, dim]."""
        updated = self.cell(messages.flatten(0, 1), states.flatten(0, 1))
        return updated.view_as(states)


class AttentiveReadout(nn.Module):
    """Σ_i a_i y_i with a score y_i from each node and a weight a_i from all of them.

    Args:
        fields: How many nodes there are.
        dim: Width of each.
        hidden: Hidden sizes of the MLP that weighs.
        dropout: Share of its hidden units left out in training, 0 to 1.
    """

    def __init__(
        self, fields: int, dim: int, *, hidden: tuple[int, ...] = (), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)
        self.score.apply(xavier_normal_)
        self.weigh = Mlp((fields * dim, *hidden, fields), dropout=dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Float [B, F, dim] to [B]."""
        weights = torch.sigmoid(self.weigh(states.flatten(1)))
        return (weights * self.score(states).squeeze(-1)).sum(dim=1)
