"""The output layer of a model in training, on the hidden states that foretell answers only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AnswerHead"]

_COPIED = 1 << 27  # weights of a layer that is small enough to be copied: 512 MiB in float32


class AnswerHead:
    """Narrows what the output layer of a model computes.

    The few states that are left are worth float32: logits of a usual size lie up to 1/8 apart in
    half precision. A frozen layer is copied for that unless it is large.

    Args:
        causal: A causal language model of transformers, without its adapter's wrapper.
    """

    def __init__(self, causal: Any) -> None:
        self._layer = causal.get_output_embeddings()
        self._exact = self._in_float32()

    @contextmanager
    def only(self, rows: Tensor, nodes: Tensor) -> Iterator[None]:
        """Forward passes inside give logits [1, m, vocabulary] of the states at (row, node).

        Args:
            rows: int64 [m].
            nodes: int64 [m].
        """
        plain = self._layer.forward

        def narrow(hidden: Tensor, *others: Any, **named: Any) -> Tensor:
            chosen = hidden[rows, nodes][None]
            if self._exact is None:
                return plain(chosen, *others, **named)
            with torch.autocast(chosen.device.type, enabled=False):
                return nn.functional.linear(chosen.float(), self._exact, self._bias())

        self._layer.forward = narrow
        try:
            yield
        finally:
            del self._layer.forward

    def _in_float32(self) -> Tensor | None:
        """Weights in float32: the layer's own, a copy, or None where neither is possible."""
        if type(self._layer) is not nn.Linear:  # an adapter sits on it: let it do its own work
            return None
        weight: Tensor = self._layer.weight
        if weight.dtype == torch.float32:
            return weight
        return None if weight.requires_grad or weight.numel() > _COPIED else weight.float()

    def _bias(self) -> Tensor | None:
        bias = self._layer.bias
        return None if bias is None else bias.float()
