"""From the states of a text's tokens to one vector.

Padding has weight zero, so a text alone and in a batch gets the same vector apart from rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["POOLINGS", "AttentionPooling", "Pooling", "pool"]

Pooling = Literal["mean", "cls", "last", "first_last", "weighted"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pool(layers: Sequence[Tensor], mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector per text, float32 [n, width].

    * `mean`: the last layer averaged over tokens (KAR's default, `bert_avg` in its code).
    * `cls`: the last layer at the first token.
    * `last`: the last layer at the last token, for decoders, where only it has seen everything.
    * `first_last`: the average of the first and the last layer, averaged over tokens.
    * `weighted`: the last layer averaged with weights 1, 2, … n (SGPT, arXiv 2202.08904, eq. 2).

    Args:
        layers: Float [n, tokens, width] each; the embeddings, then the states behind each layer.
            All but `first_last` look at the final one only.
        mask: Integer or bool [n, tokens], true at tokens; at least one per text.
        pooling: Which of them.
    """
    last = layers[-1].float()
    present = mask.to(last.dtype)
    if pooling == "cls":
        first = mask.to(torch.int64).argmax(dim=1)
        return last[torch.arange(len(last), device=last.device), first]
    if pooling == "last":
        places = torch.arange(mask.shape[1], device=last.device)
        final = (places * mask.to(torch.int64)).argmax(dim=1)
        return last[torch.arange(len(last), device=last.device), final]
    if pooling == "weighted":
        return _average(last, present * present.cumsum(dim=1))
    if pooling == "first_last":
        last = (layers[1].float() + last) / 2
    return _average(last, present)


class AttentionPooling(nn.Module):
    """A learned average: a = softmax(tanh(O W) q), the sum of a · O over the rows of O.

    The gate of Uni-CTR (arXiv 2312.10743, section 3) where O stacks two kinds of states.

    Args:
        width: Of a state.
        keys: Columns of W.
    """

    def __init__(self, width: int, *, keys: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, keys)
        self.query = nn.Linear(keys, 1, bias=False)

    def forward(self, states: Tensor, padding: Tensor) -> Tensor:
        """One vector per row, float [B, width].

        Args:
            states: Float [B, T, width].
            padding: Bool [B, T], true where there is no state; these weigh nothing.
        """
        scores = self.query(self.key(states).tanh()).squeeze(-1)
        weights = scores.masked_fill(padding, float("-inf")).softmax(dim=1)
        return torch.einsum("bt,btw->bw", weights, states)


def _average(states: Tensor, weights: Tensor) -> Tensor:
    total = torch.einsum("nt,ntw->nw", weights, states)
    return total / weights.sum(dim=1, keepdim=True)
