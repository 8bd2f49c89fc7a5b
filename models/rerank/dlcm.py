"""DLCM: a GRU reads the list, and its last state says how to weigh each item's state (1804.05936).

The list is read in the order given; the paper feeds it from the lowest to the highest rank of an
earlier ranking, of which KAR has none. The paper's local ranking function is kept; the batch norms
that KAR's code puts into it are not, since they would tie a list to the others of its batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.layers.list_losses import ListLoss
from tastemaker.models.layers.mlp import xavier_normal_
from tastemaker.models.rerank.blocks import recurrent_states

__all__ = ["DLCM", "RERANKER"]


class DLCM(nn.Module):
    """Deep listwise context model: φ(o, s) = v · (o ∘ tanh(W s + b)), paper §4.2.

    Args:
        width: Size of an item.
        step: Size of a step of the history, which is not read.
        length: Longest list; not needed.
        hidden: State of the GRU; KAR: 64.
        dropout: Share of the context's units left out in training, 0 to 1; KAR: 0.
    """

    reads_steps: ClassVar[bool] = False
    loss: ClassVar[ListLoss] = "pointwise"

    def __init__(
        self, width: int, *, step: int, length: int, hidden: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.context = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)
        self.apply(xavier_normal_)

    def forward(self, items: Tensor, mask: Tensor, history: Tensor, past: Tensor) -> Tensor:
        """Logits [B, K]; shapes as in the package docstring."""
        states = recurrent_states(self.gru, items, mask)
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (places * mask).argmax(dim=1)
        whole = states[torch.arange(len(states), device=mask.device), last]
        context = self.dropout(torch.tanh(self.context(whole)))
        return self.score(states * context[:, None]).squeeze(-1)


RERANKER = DLCM
