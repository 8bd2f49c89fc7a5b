"""DIN: attention of the candidate over the items of the history (arXiv 1706.06978, as in KAR)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tastemaker.models.layers.activation import TargetAttention
from tastemaker.models.layers.mlp import Mlp, xavier_normal_

__all__ = ["BACKBONE", "DIN"]


class DIN(nn.Module):
    """Deep interest network over item ids and star ratings.

    A history step [item, rating] is projected linearly to the width of the candidate; the final MLP
    200-80-1 reads [interest, candidate, extra] (KAR §3). There is no user id, as in KAR.

    Args:
        n_items: Rows of the item table: 0 is padding, 1 stands for rare and unseen items.
        n_ratings: Rows of the rating table: 0 is padding.
        dim: Embedding size; KAR: 32.
        extra_dim: Size of the extra features; 0 without.
    """

    def __init__(self, n_items: int, n_ratings: int, *, dim: int, extra_dim: int = 0) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, dim, padding_idx=0)
        self.ratings = nn.Embedding(n_ratings, dim, padding_idx=0)
        self.step = nn.Linear(2 * dim, dim)
        self.attention = TargetAttention(dim)
        self.head = Mlp((2 * dim + extra_dim, 200, 80, 1))
        for layer in (self.items, self.ratings, self.step):
            xavier_normal_(layer)

    def forward(
        self, item: Tensor, history: Tensor, ratings: Tensor, extra: Tensor | None = None
    ) -> Tensor:
        """Log-odds of a like.

        Args:
            item: Integers [B], candidates.
            history: Integers [B, L], items of earlier events; 0 is padding.
            ratings: Integers [B, L], rating level of each of them.
            extra: Float [B, extra_dim], further features of the row.

        Returns:
            Float [B].
        """
        mask = history != 0
        candidate = self.items(item)
        steps = torch.cat([self.items(history[mask]), self.ratings(ratings[mask])], dim=-1)
        interest = self.attention(candidate, self.step(steps), mask)
        parts = [interest, candidate] if extra is None else [interest, candidate, extra]
        return self.head(torch.cat(parts, dim=-1)).squeeze(-1)


BACKBONE = DIN
