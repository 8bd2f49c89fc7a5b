"""Attention over prefix trees, block by block: only what a block of tokens can see is computed.

A row that holds many branches sees little of itself: in a dense mask most of the work is thrown
away. Here consecutive queries form blocks, cut where a branch begins, and each block meets only the
keys that one of its queries sees. Query heads that share a key head are multiplied in one go. On a
CPU that is two to five times as fast as the fused kernel (which is made for dense rows, and copies
shared key heads); GPUs keep the fused kernel, where many small products would cost more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tastemaker.models.prefix_tree import TREE_ATTENTION

__all__ = ["block_attention", "tree_attention"]

_LEAST, _MOST = 96, 256  # queries of a block, where branches allow
_PLAIN_ONLY = ("cache", "position_bias", "softcap")


@dataclass(frozen=True, eq=False)
class _Block:
    """Queries `start:stop` of a row, the keys they meet, and which of these each one sees.

    Attributes:
        keys: Their number where they are the first ones of the row, else their places.
        mask: [queries, keys], added to attention scores.
    """

    start: int
    stop: int
    keys: int | Tensor
    mask: Tensor


_plans: Any = WeakTensorKeyDictionary()  # the layers of a forward pass share one mask


@contextmanager
def tree_attention(causal: Any) -> Iterator[bool]:
    """Let a model attend block by block inside; whether it does.

    A model on a GPU is left as it is, and so is one that does not use PyTorch's attention or does
    not let go of it.

    Args:
        causal: A causal language model of transformers, without its adapter's wrapper.
    """
    before = getattr(causal.config, "_attn_implementation", None)
    switches = before == "sdpa" and causal._can_set_attn_implementation()
    if causal.device.type != "cpu" or not switches:
        yield before == TREE_ATTENTION  # as it is where a training checks itself
        return
    ALL_ATTENTION_FUNCTIONS.register(TREE_ATTENTION, block_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(TREE_ATTENTION, sdpa_mask)
    causal.set_attn_implementation(TREE_ATTENTION)
    try:
        yield True
    finally:
        causal.set_attn_implementation(before)


def block_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, block by block where the mask is that of trees.

    Scores and their softmax are computed in float32, products with values in the precision of the
    values.

    Args:
        module: The attention layer.
        query: [B, heads, L, width].
        key: [B, key heads, L, width].
        value: [B, key heads, L, value width].
        attention_mask: [B, 1, L, L], added to scores; anything else goes to PyTorch's attention.
        scaling: Of the scores; one by the root of the width when None.
        dropout: Of attention weights; where there is any, PyTorch's attention does it.
        others: For PyTorch's attention, which is left to do what needs more than a mask.

    Returns:
        [B, L, heads, value width], and no weights.
    """
    more = dropout or any(others.get(name) is not None for name in _PLAIN_ONLY)
    if attention_mask is None or more or not _is_of_trees(attention_mask, query, key):
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
        found: tuple[Tensor, None] = plain(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return found
    rows = []
    with torch.autocast(query.device.type, enabled=False):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        for row, blocks in enumerate(_plan(attention_mask)):
            pair = query[row].float(), key[row].float()
            rows.append(_attend(*pair, value[row], blocks, scale))
    return torch.stack(rows), None


def _is_of_trees(mask: Tensor, query: Tensor, key: Tensor) -> bool:
    rows, _, length, _ = query.shape
    square = mask.shape == (rows, 1, length, length) and key.shape[-2] == length
    return mask.is_floating_point() and square


def _attend(
    query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[_Block], scale: float
) -> Tensor:
    """[L, heads, value width] of one row."""
    heads, _, width = query.shape
    groups = key.shape[0]
    shared = heads // groups
    sizes = [block.stop - block.start for block in blocks]
    parts = query.view(groups, shared, -1, width).split(sizes, dim=2)
    found = []
    for block, part, size in zip(blocks, parts, sizes, strict=True):
        if isinstance(block.keys, int):
            keys, values = key[:, : block.keys], value[:, : block.keys]
        else:
            keys, values = (whole.index_select(1, block.keys) for whole in (key, value))
        queries = part.reshape(groups, shared * size, width)
        mask = block.mask.repeat(shared, 1).expand(groups, -1, -1)
        scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scale)
        weights = scores.softmax(-1).to(values.dtype)
        summed = torch.bmm(weights, values)
        if weights.dtype != scores.dtype:  # rounded weights no longer add up to 1
            summed = summed / weights.detach().sum(-1, keepdim=True, dtype=scores.dtype)
        found.append(summed.to(values.dtype).view(heads, size, -1))
    return torch.cat(found, dim=1).transpose(0, 1)


def _plan(mask: Tensor) -> list[list[_Block]]:
    """Blocks of each row of a mask [B, 1, L, L]."""
    found = _plans.get(mask)
    if found is None:
        found = [_blocks(row[0]) for row in mask]
        _plans[mask] = found
    return found


def _blocks(mask: Tensor) -> list[_Block]:
    seen = mask > torch.finfo(mask.dtype).min / 2
    begins = (~seen.diagonal(-1)).nonzero().flatten() + 1  # it does not see the one before it
    blocks = []
    for start, stop in _cuts([0, *begins.tolist(), len(mask)]):
        places = seen[start:stop].any(0).nonzero().flatten()
        last = int(places[-1]) + 1
        keys = last if last == len(places) else places
        part = mask[start:stop, :last] if isinstance(keys, int) else mask[start:stop, places]
        blocks.append(_Block(start, stop, keys, part.float()))
    return blocks


def _cuts(borders: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Spans of queries: whole branches while they are short, parts of them where they are long."""
    start = borders[0]
    for place, stop in enumerate(borders[1:], 1):
        after = borders[place + 1] if place + 1 < len(borders) else None
        if after is not None and after - start <= _LEAST:
            continue
        parts = -(-(stop - start) // _MOST)
        size = -(-(stop - start) // max(parts, 1))
        for first in range(start, stop, max(size, 1)):
            yield first, min(first + size, stop)
        start = stop
