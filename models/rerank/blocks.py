"""What several re-rankers are built of: an attention block, a masked recurrence, a scoring MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tastemaker.models.layers.mlp import Mlp, xavier_normal_

__all__ = ["AttentionBlock", "Scorer", "attended", "masked_softmax", "recurrent_states"]


class AttentionBlock(nn.Module):
    """Multi-head attention and a feed-forward part, each with a residual and a layer norm behind.

    With queries and keys the same it is a layer of a transformer encoder; with others it is the
    multi-head attention block of Set Transformer and SetRank. It is equivariant in the queries and
    invariant in the keys.

    Args:
        hidden: Size of queries, keys and outputs; a multiple of `heads`.
        heads: Attention heads.
        feedforward: Hidden size of the feed-forward part.
        dropout: Share of attention weights and units left out in training, 0 to 1.
    """

    def __init__(self, hidden: int, *, heads: int, feedforward: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.attention.apply(xavier_normal_)
        self.behind_attention = nn.LayerNorm(hidden)
        self.feedforward = Mlp((hidden, feedforward, hidden), dropout=dropout)
        self.behind_feedforward = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Float [B, Q, hidden] that have looked at keys, float [B, K, hidden], where `mask`.

        `mask` is bool [B, K] with a true entry in every row; all keys are looked at without it.
        """
        hidden_keys = None if mask is None else ~mask
        read, _ = self.attention(
            queries, keys, keys, key_padding_mask=hidden_keys, need_weights=False
        )
        states = self.behind_attention(queries + self.dropout(read))
        return self.behind_feedforward(states + self.dropout(self.feedforward(states)))


class Scorer(nn.Module):
    """An MLP with one output, applied to every item by itself.

    Args:
        width: Size of what it reads of an item.
        hidden: Hidden sizes.
        dropout: Share of hidden units left out in training, 0 to 1.
    """

    def __init__(self, width: int, *, hidden: tuple[int, ...], dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = Mlp((width, *hidden, 1), dropout=dropout)

    def forward(self, *parts: Tensor) -> Tensor:
        """Logits [B, K] of parts [B, K, ...] that are put side by side."""
        return self.layers(torch.cat(parts, dim=-1)).squeeze(-1)


def attended(mask: Tensor) -> Tensor:
    """The mask, all true in rows without any real entry: a softmax over nothing is not finite."""
    return mask | ~mask.any(dim=1, keepdim=True)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where `mask`, zero elsewhere and where nothing is real.

    Args:
        logits: Float [..., n].
        mask: Bool that broadcasts to it.
    """
    lowest = torch.finfo(logits.dtype).min
    weights = torch.softmax(logits.masked_fill(~mask, lowest), dim=-1)
    return weights.masked_fill(~mask, 0.0)


def recurrent_states(network: nn.RNNBase, inputs: Tensor, mask: Tensor) -> Tensor:
    """States of a recurrent network that steps over padding, wherever it lies.

    Args:
        network: With `batch_first`, in one or both directions.
        inputs: Float [B, L, width].
        mask: Bool [B, L], true at real entries.

    Returns:
        Float [B, L, states of all directions], zero at padding.
    """
    width = network.hidden_size * (2 if network.bidirectional else 1)
    lengths = mask.sum(dim=1)
    lengths = lengths[lengths > 0]
    if not len(lengths):
        return inputs.new_zeros(*mask.shape, width)
    longest = int(lengths.max())
    filled = torch.arange(longest, device=mask.device) < lengths[:, None]
    compact = inputs.new_zeros(len(lengths), longest, inputs.shape[-1])
    compact[filled] = inputs[mask]
    packed = pack_padded_sequence(compact, lengths.cpu(), batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(network(packed)[0], batch_first=True)
    states = outputs.new_zeros(*mask.shape, width)
    states[mask] = outputs[filled]
    return states
