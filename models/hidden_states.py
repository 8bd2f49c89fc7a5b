"""Hidden states of token sequences at the tokens that matter, each computed once.

What all sequences begin with is encoded once and cached; sequences that share more than that become
the branches of one tree; trees of similar size share a batch. Apart from rounding, a hidden state
depends neither on the other sequences nor on order or batch size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tastemaker.errors import UserError
from tastemaker.models.conversations import common_length
from tastemaker.models.output_layer import OutputLayer
from tastemaker.models.prefix_tree import PrefixTree, arrange, attends_fully, batch_trees

__all__ = ["HiddenStates", "check_context", "evaluating"]

_TREE_TOKENS = 1024  # of a row: attention costs its length squared


class HiddenStates:
    """Runs sequences as trees, batch by batch, behind what all of them begin with.

    Iterating, inside `evaluating` and without gradients, yields places of sequences, and for each
    of them its hidden states [tokens, width] at the tokens wanted.

    Args:
        model: A causal language model, with or without an adapter.
        sequences: Token ids, at least one sequence.
        wanted: The tokens of each sequence whose states are asked for, start and stop given.
        share: Encode common beginnings once; slower without, same states.
        batch_tokens: Tokens per forward pass, padding included; a longer row is run alone.

    Attributes:
        output: Gives logits from the states.

    Raises:
        UserError: a sequence is longer than the model's context.
        StageError: the architecture changes its logits in a way that is not known here.
    """

    def __init__(
        self,
        model: Any,
        sequences: Sequence[list[int]],
        wanted: Sequence[slice],
        *,
        share: bool,
        batch_tokens: int,
    ) -> None:
        # The layers of an adapter live inside the base model, so it stays active.
        causal = model.get_base_model() if isinstance(model, PeftModel) else model
        check_context(causal, sequences)
        self.output = OutputLayer(causal)
        self.output.check()
        self._decoder = causal.get_decoder()
        self._dtype = next(causal.parameters()).dtype
        self._device = causal.device
        self._sequences, self._wanted = sequences, wanted
        self._batch_tokens = batch_tokens
        prefix = _common_prefix(sequences)[: min(one.start for one in wanted)] if share else []
        self._cache = self._encode_prefix(prefix, causal.config)
        self._skip = len(prefix) if self._cache is not None else 0
        self._share = share and attends_fully(causal, max(map(len, sequences)))

    def __iter__(self) -> Iterator[tuple[list[int], list[Tensor]]]:
        rest = [sequence[self._skip :] for sequence in self._sequences]
        groups = [[place] for place in range(len(rest))]
        if self._share:
            groups = arrange(rest, limit=_TREE_TOKENS)
        rows = [(group, PrefixTree.of([rest[place] for place in group])) for group in groups]
        for batch in _batches(rows, self._batch_tokens):
            hidden = self._run([tree for _, tree in batch])
            places, states = [], []
            for row, (group, tree) in enumerate(batch):
                for place, path in zip(group, tree.paths, strict=True):
                    wanted = self._wanted[place]
                    nodes = path[wanted.start - self._skip : wanted.stop - self._skip]
                    places.append(place)
                    states.append(hidden[row, torch.from_numpy(nodes).to(self._device)])
            yield places, states

    def _run(self, trees: Sequence[PrefixTree]) -> Tensor:
        """Last hidden states of a batch of trees [B, L, width]."""
        inputs = batch_trees(trees, cached=self._skip, dtype=self._dtype, device=self._device)
        cache = None
        if self._cache is not None:
            cache = copy.deepcopy(self._cache)  # a forward pass appends to the cache it is given
            cache.batch_repeat_interleave(len(trees))
        output = self._decoder(
            **inputs.arguments(), past_key_values=cache, use_cache=cache is not None
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _encode_prefix(self, prefix: list[int], config: Any) -> DynamicCache | None:
        if not prefix:
            return None
        cache = DynamicCache(config=config)
        if not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
            return None  # recurrent layers: their state cannot be repeated for a batch
        inputs = torch.tensor([prefix], device=self._device)
        self._decoder(input_ids=inputs, past_key_values=cache, use_cache=True)
        return cache


def _batches(
    rows: Sequence[tuple[list[int], PrefixTree]], batch_tokens: int
) -> Iterator[list[tuple[list[int], PrefixTree]]]:
    """Rows of similar length together, chains apart from trees.

    The largest come first: a batch that does not fit into memory fails at once, not at the end.
    """
    batch: list[tuple[list[int], PrefixTree]] = []
    for row in sorted(rows, key=lambda row: (row[1].is_chain, -len(row[1]))):
        if batch:
            mixed = row[1].is_chain != batch[0][1].is_chain
            if mixed or (len(batch) + 1) * len(batch[0][1]) > batch_tokens:
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


def check_context(causal: Any, sequences: Sequence[Sequence[int]]) -> None:
    """Make sure that every sequence fits into the model's context.

    Raises:
        UserError: one does not.
    """
    context = getattr(causal.config, "max_position_embeddings", None)
    longest = max(map(len, sequences))
    if context is not None and longest > context:
        raise UserError(
            f"a prompt has {longest} tokens, more than the {context} of the model's context.",
            remedy="Show shorter histories (build.history), or set build.max_length and "
            "build.tokenizer.",
        )


def _common_prefix(sequences: Sequence[list[int]]) -> list[int]:
    """Longest beginning that all share, leaving each at least one token of its own."""
    if len(sequences) < 2:
        return []
    # In lexicographic order, what the first and the last share is shared by all.
    first = min(sequences)
    shared = common_length(first, max(sequences))
    return first[: min(shared, min(map(len, sequences)) - 1)]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside, the earlier mode after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
