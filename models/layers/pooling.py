"""From the states of a text's tokens to one vector.

Padding has weight zero, so a text alone and in a batch gets the same vector apart from rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["POOLINGS", "Pooling", "pool"]

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


def _average(states: Tensor, weights: Tensor) -> Tensor:
    total = torch.einsum("nt,ntw->nw", weights, states)
    return total / weights.sum(dim=1, keepdim=True)
