"""Losses of a list of items with several likes or none: item by item, or the list as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LIST_LOSSES", "ListLoss", "attention_loss", "pointwise_loss"]

ListLoss = Literal["pointwise", "attention"]


def pointwise_loss(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(score) and label, averaged over all real items of all lists.

    Args:
        scores: Logits [B, K].
        labels: 1 or 0, [B, K].
        mask: Bool [B, K], true at real items; at least one.
    """
    chosen = labels[mask].to(scores.dtype)
    return functional.binary_cross_entropy_with_logits(scores[mask], chosen)


def attention_loss(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    temperature: float = 0.5,
    likes_only: bool = False,
) -> Tensor:
    """Cross-entropy of two distributions over a list, averaged over the lists with real items.

    softmax(label / temperature) is to be met by softmax(score / temperature).

    Args:
        scores: Float [B, K], of any size: only differences within a list matter.
        labels: 1 or 0, [B, K].
        mask: Bool [B, K], true at real items.
        temperature: Above 0; KAR: 0.5.
        likes_only: Whether items that are not liked have no share of the target, as in SetRank's
            paper and in KAR's code; a list without a like is then no part of the loss.
    """
    real = mask & (labels > 0) if likes_only else mask
    lowest = torch.finfo(scores.dtype).min
    wanted = (labels.to(scores.dtype) / temperature).masked_fill(~real, lowest)
    target = torch.softmax(wanted, dim=-1).masked_fill(~real, 0.0)
    found = torch.log_softmax((scores / temperature).masked_fill(~mask, lowest), dim=-1)
    # What padding says is set to nothing: 0 times a very large number may still overflow.
    losses = -(target * found.masked_fill(~mask, 0.0)).sum(dim=-1)
    return losses.sum() / real.any(dim=-1).sum().clamp(min=1)


LIST_LOSSES: dict[ListLoss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "pointwise": pointwise_loss,
    "attention": attention_loss,
}
"""The losses under the names that a re-ranker's `loss` gives."""
