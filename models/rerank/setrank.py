"""SetRank: induced self-attention over the list as a set, whatever its order (arXiv 1912.05891).

The order of the items changes their logits in nothing but their order. As in KAR's code there is
one block with two heads, and an MLP scores [encoded item, item]. The vectors in between are the
paper's; in KAR's code the items attend to each other directly.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.layers.list_losses import ListLoss
from tastemaker.models.layers.mlp import xavier_normal_
from tastemaker.models.rerank.blocks import AttentionBlock, Scorer, attended

__all__ = ["RERANKER", "SetRank"]


class SetRank(nn.Module):
    """Permutation-equivariant re-ranker.

    Args:
        width: Size of an item.
        step: Size of a step of the history, which is not read.
        length: Longest list; not needed.
        hidden: Width of the blocks, a multiple of `heads`; as the other re-rankers in KAR: 64.
        heads: Attention heads; KAR: 2.
        blocks: Blocks one after another; KAR: 1.
        induced: Learned vectors through which the items of a block see each other; the paper: 20.
            With 0 they look at each other directly, as in KAR's code.
        feedforward: Hidden size of the feed-forward parts; KAR's setting for PRM: 128.
        scorer: Hidden sizes of the scoring MLP; KAR: 200 and 80.
        dropout: Share left out in training, 0 to 1; KAR: 0.

    Raises:
        ValueError: `hidden` is no multiple of `heads`.
    """

    reads_steps: ClassVar[bool] = False
    loss: ClassVar[ListLoss] = "attention"

    def __init__(
        self,
        width: int,
        *,
        step: int,
        length: int,
        hidden: int = 64,
        heads: int = 2,
        blocks: int = 1,
        induced: int = 20,
        feedforward: int = 128,
        scorer: tuple[int, ...] = (200, 80),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden = {hidden} is no multiple of heads = {heads}")
        self.project = nn.Linear(width, hidden)
        self.project.apply(xavier_normal_)
        self.blocks = nn.ModuleList(
            _InducedBlock(
                hidden, induced=induced, heads=heads, feedforward=feedforward, dropout=dropout
            )
            for _ in range(blocks)
        )
        self.scorer = Scorer(hidden + width, hidden=scorer, dropout=dropout)

    def forward(self, items: Tensor, mask: Tensor, history: Tensor, past: Tensor) -> Tensor:
        """Logits [B, K]; shapes as in the package docstring."""
        states, seen = self.project(items), attended(mask)
        for block in self.blocks:
            states = block(states, seen)
        return self.scorer(states, items)


class _InducedBlock(nn.Module):
    """Learned vectors gather what the items say, and the items look at what they gathered."""

    def __init__(
        self, hidden: int, *, induced: int, heads: int, feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.induced = nn.Parameter(torch.empty(induced, hidden))
        if induced:
            nn.init.xavier_normal_(self.induced)
        self.blocks = nn.ModuleList(
            AttentionBlock(hidden, heads=heads, feedforward=feedforward, dropout=dropout)
            for _ in range(2 if induced else 1)
        )

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        if not len(self.induced):
            return self.blocks[0](states, states, mask)
        gather, spread = self.blocks
        gathered = gather(self.induced.expand(len(states), -1, -1), states, mask)
        return spread(states, gathered)


RERANKER = SetRank
