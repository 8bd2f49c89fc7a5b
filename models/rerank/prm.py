"""PRM: a transformer encoder over the list with learned positions (arXiv 1904.06813).

As in the paper the position is learned and added to the item before a linear layer brings both to
the encoder's width. As in KAR's code there is one block with two heads, and an MLP scores
[encoded item, item]; the paper has several blocks and one linear layer behind them. Positions count
real items only.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.layers.list_losses import ListLoss
from tastemaker.models.layers.mlp import xavier_normal_
from tastemaker.models.rerank.blocks import AttentionBlock, Scorer, attended

__all__ = ["PRM", "RERANKER"]


class PRM(nn.Module):
    """Personalised re-ranking model.

    Args:
        width: Size of an item; the user's vectors in it are what makes it personal.
        step: Size of a step of the history, which is not read.
        length: Longest list.
        hidden: Width of the encoder, a multiple of `heads`; as the other re-rankers in KAR: 64.
        heads: Attention heads; KAR: 2.
        blocks: Layers of the encoder; KAR: 1.
        feedforward: Hidden size of their feed-forward parts; KAR's setting: 128.
        scorer: Hidden sizes of the scoring MLP; KAR: 200 and 80.
        dropout: Share left out in training, 0 to 1; KAR: 0.

    Raises:
        ValueError: `hidden` is no multiple of `heads`.
    """

    reads_steps: ClassVar[bool] = False
    loss: ClassVar[ListLoss] = "pointwise"

    def __init__(
        self,
        width: int,
        *,
        step: int,
        length: int,
        hidden: int = 64,
        heads: int = 2,
        blocks: int = 1,
        feedforward: int = 128,
        scorer: tuple[int, ...] = (200, 80),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden = {hidden} is no multiple of heads = {heads}")
        self.positions = nn.Embedding(length, width)
        self.project = nn.Linear(width, hidden)
        self.apply(xavier_normal_)
        self.encoder = nn.ModuleList(
            AttentionBlock(hidden, heads=heads, feedforward=feedforward, dropout=dropout)
            for _ in range(blocks)
        )
        self.scorer = Scorer(hidden + width, hidden=scorer, dropout=dropout)

    def forward(self, items: Tensor, mask: Tensor, history: Tensor, past: Tensor) -> Tensor:
        """Logits [B, K]; shapes as in the package docstring.

        Raises:
            ValueError: a list with more places than `length`.
        """
        longest = self.positions.num_embeddings
        if mask.shape[1] > longest:
            raise ValueError(f"a list has {mask.shape[1]} places, the model knows {longest}")
        places = (torch.cumsum(mask, dim=1) - 1).clamp(min=0)
        placed = items + self.positions(places)
        states, seen = self.project(placed), attended(mask)
        for block in self.encoder:
            states = block(states, states, seen)
        return self.scorer(states, placed)


RERANKER = PRM
