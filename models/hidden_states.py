"""Hidden states of token sequences at the tokens that matter, each computed once.

Sequences become the branches of trees, so that what they begin with is computed once per tree;
trees of similar size share a batch. Apart from rounding, a hidden state depends neither on the
other sequences nor on order or batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from tastemaker.errors import UserError
from tastemaker.models.mixed_precision import half_products
from tastemaker.models.output_layer import OutputLayer
from tastemaker.models.prefix_tree import PrefixTree, arrange, attends_fully, batch_trees
from tastemaker.models.tree_attention import tree_attention

__all__ = ["HiddenStates", "check_context", "evaluating"]

_DENSE_TOKENS = 1024  # of a row whose attention costs its length squared
_Row = tuple[list[int], PrefixTree]


class HiddenStates:
    """Runs sequences as trees, batch by batch.

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
        with half_products(causal):  # a training may have its own hold on the precision
            self.output.check()
        self._causal, self._decoder = causal, causal.get_decoder()
        self._dtype = next(causal.parameters()).dtype
        self._sequences, self._wanted = sequences, wanted
        self._batch_tokens = batch_tokens
        self._share = share and attends_fully(causal, max(map(len, sequences)))

    def __iter__(self) -> Iterator[tuple[list[int], list[Tensor]]]:
        with tree_attention(self._causal) as by_block:
            for batch in _batches(self._rows(by_block), self._batch_tokens):
                inputs = batch_trees(
                    [tree for _, tree in batch], dtype=self._dtype, device=self._causal.device
                )
                with half_products(self._causal):  # not while whoever asked works on the states
                    output = self._decoder(**inputs.arguments(), use_cache=False)
                hidden = output.last_hidden_state
                places, states = [], []
                for row, (group, tree) in enumerate(batch):
                    for place, path in zip(group, tree.paths, strict=True):
                        nodes = torch.from_numpy(path[self._wanted[place]]).to(hidden.device)
                        places.append(place)
                        states.append(hidden[row, nodes])
                yield places, states

    def _rows(self, by_block: bool) -> list[_Row]:
        """Sequences that share a row, and their tree."""
        groups = [[place] for place in range(len(self._sequences))]
        if self._share:
            limit = self._batch_tokens if by_block else min(self._batch_tokens, _DENSE_TOKENS)
            groups = arrange(self._sequences, limit=limit, least_shared=0.0)
        return [
            (group, PrefixTree.of([self._sequences[place] for place in group])) for group in groups
        ]


def _batches(rows: Sequence[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    """Rows of similar length together, chains apart from trees.

    The largest come first: a batch that does not fit into memory fails at once, not at the end.
    """
    batch: list[_Row] = []
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


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside, the earlier mode after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
