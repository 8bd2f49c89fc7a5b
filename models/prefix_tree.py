"""Token sequences that begin alike, run as one: what they share is computed once.

A *prefix tree* merges sequences where they begin alike and lists its tokens depth first. Each token
attends to its ancestors only, at the position it has in its own sequence; so every sequence gets
exactly what it would get alone, and no token of one branch is ever seen by another. Twenty
candidates for one user share the user's history; many targets of one user share most of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tastemaker.models.conversations import common_length

__all__ = ["TREE_ATTENTION", "PrefixTree", "TreeBatch", "arrange", "attends_fully", "batch_trees"]

TREE_ATTENTION = "tastemaker_tree"  # as transformers knows `models.tree_attention`
_LEAST_SHARED = 0.5  # of a sequence, for joining the row of the one before it
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """Sequences merged where they begin alike.

    Attributes:
        tokens: int64 [L], depth first: a token's ancestors stand before it.
        depths: int64 [L], position of each token in its sequences, from 0.
        ends: int64 [L], one behind the last descendant of each token.
        paths: One int64 array per sequence, in the order given: where its tokens stand.
    """

    tokens: Numbers
    depths: Numbers
    ends: Numbers
    paths: tuple[Numbers, ...]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> PrefixTree:
        """The tree of one or more sequences, none of them empty."""
        tokens: list[int] = []
        depths: list[int] = []
        ends: list[int] = []
        paths: list[Numbers] = [np.zeros(0, dtype=np.int64)] * len(sequences)
        path: list[int] = []
        before: Sequence[int] = ()
        for place in sorted(range(len(sequences)), key=lambda place: list(sequences[place])):
            sequence = sequences[place]
            shared = common_length(before, sequence)
            for node in path[shared:]:
                ends[node] = len(tokens)
            del path[shared:]
            path.extend(range(len(tokens), len(tokens) + len(sequence) - shared))
            tokens.extend(sequence[shared:])
            depths.extend(range(shared, len(sequence)))
            ends.extend([0] * (len(sequence) - shared))
            paths[place] = np.array(path, dtype=np.int64)
            before = sequence
        for node in path:
            ends[node] = len(tokens)
        return cls(np.array(tokens), np.array(depths), np.array(ends), tuple(paths))

    def __len__(self) -> int:
        """Tokens after merging."""
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether it never branches, so that plain causal attention does."""
        return bool((self.ends == len(self)).all())


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """What a decoder is given for a batch of trees, one a row, padded on the right.

    Attributes:
        input_ids: int64 [B, L].
        position_ids: int64 [B, L]; None where all trees are chains.
        attention_mask: [B, 1, L, L], added to attention scores, 0 or the lowest number; None where
            all trees are chains.
    """

    input_ids: Tensor
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None

    def arguments(self) -> dict[str, Tensor]:
        """Keyword arguments of a decoder's forward pass."""
        found = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def arrange(
    sequences: Sequence[Sequence[int]],
    *,
    limit: int,
    most: int | None = None,
    least_shared: float = _LEAST_SHARED,
) -> list[list[int]]:
    """Which sequences should share a tree, as lists of their places.

    Sequences are taken in lexicographic order; one joins the tree of the sequence before it when
    they share enough. Attention over a row costs its length squared, hence the limit.

    Args:
        sequences: Token ids.
        limit: Tokens of a tree at most; a longer sequence stands alone.
        most: Sequences of a tree at most.
        least_shared: Share of a sequence that it must have in common with the one before it.
    """
    groups: list[list[int]] = []
    size = 0
    before: Sequence[int] = ()
    for place in sorted(range(len(sequences)), key=lambda place: list(sequences[place])):
        sequence = sequences[place]
        shared = common_length(before, sequence)
        grown = size + len(sequence) - shared
        full = most is not None and bool(groups) and len(groups[-1]) >= most
        if not groups or full or grown > limit or shared < least_shared * len(sequence):
            groups.append([])
            grown = len(sequence)
        groups[-1].append(place)
        size, before = grown, sequence
    return groups


def batch_trees(
    trees: Sequence[PrefixTree],
    *,
    pad: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TreeBatch:
    """Trees as rows of one batch.

    Args:
        trees: One a row.
        pad: Token id that fills rows up; no real token ever looks at it.
        dtype: Of the mask: that of the model.
        device: Where the tensors go.
    """
    width = max(map(len, trees))
    tokens = np.full((len(trees), width), pad, dtype=np.int64)
    for row, tree in enumerate(trees):
        tokens[row, : len(tree)] = tree.tokens
    input_ids = torch.from_numpy(tokens).to(device)
    if all(tree.is_chain for tree in trees):
        return TreeBatch(input_ids)
    positions = np.zeros_like(tokens)
    ends = np.tile(np.arange(1, width + 1), (len(trees), 1))  # padding is seen by itself alone
    for row, tree in enumerate(trees):
        positions[row, : len(tree)] = tree.depths
        ends[row, : len(tree)] = tree.ends
    place = torch.arange(width, device=device)
    seen = place[:, None] >= place
    visible = seen & (place[:, None] < torch.from_numpy(ends).to(device)[:, None, :])
    mask = torch.zeros((len(trees), 1, width, width), dtype=dtype, device=device)
    mask[:, 0].masked_fill_(~visible, torch.finfo(dtype).min)
    return TreeBatch(input_ids, torch.from_numpy(positions).to(device), mask)


def attends_fully(causal: Any, longest: int) -> bool:
    """Whether every token of a causal language model can attend to all tokens before it.

    Trees need that, and positions of the caller's choice: recurrent layers, sliding windows shorter
    than a sequence, distances built into the attention scores (ALiBi, Inkling), windows counted in
    places of the row (GPT-Neo) and kernels that take no mask cannot follow branches.

    Args:
        causal: A causal language model of transformers, without its adapter's wrapper.
        longest: Tokens of the longest sequence.
    """
    config = causal.config
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager", TREE_ATTENTION):
        return False
    if getattr(config, "alibi", False) or getattr(config, "rel_extent", None):
        return False
    if "local" in getattr(config, "attention_layers", ()):
        return False
    if "position_ids" not in inspect.signature(causal.get_decoder().forward).parameters:
        return False
    return all(_reaches(layer, longest) for layer in DynamicCache(config=config).layers)


def _reaches(layer: Any, longest: int) -> bool:
    if isinstance(layer, DynamicSlidingWindowLayer):
        return bool(layer.sliding_window >= longest)
    return type(layer) is DynamicLayer
