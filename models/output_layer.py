"""The output layer of a language model on chosen hidden states only, in float32.

With a vocabulary of 50,000 to 250,000 tokens that layer is a large part of a small model; and half-
precision logits of this size lie up to 1/8 apart, which would tie most scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tastemaker.errors import StageError

__all__ = ["OutputLayer"]

_PROBES = (1, 2)  # any two tokens
_ROWS = 8192  # of the layer's weights that are held in float32 at once


class OutputLayer:
    """Logits from hidden states, as the model itself would give them.

    Args:
        causal: A causal language model of transformers, without its adapter's wrapper.
    """

    def __init__(self, causal: Any) -> None:
        self._causal = causal
        self._layer = causal.get_output_embeddings()
        config = causal.config.get_text_config(decoder=True)
        # What some architectures do to logits after the output layer: Cohere, Granite, Gemma.
        self._factor = getattr(config, "logit_scale", None) or 1.0
        self._factor /= getattr(config, "logits_scaling", None) or 1.0
        self._cap = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Float [n, width] to float32 [n, vocabulary]."""
        return self._finish(self._layer(self._fitting(hidden)).float())

    def of_tokens(self, hidden: Tensor, tokens: Sequence[int] | slice) -> Tensor:
        """Float [n, width] to float32 [n, tokens], logits of these tokens alone."""
        chosen = tokens if isinstance(tokens, slice) else list(tokens)
        if type(self._layer) is not nn.Linear:  # an adapter sits on it: let it do its own work
            return self._finish(self._layer(self._fitting(hidden))[:, chosen].float())
        logits = hidden.float() @ self._layer.weight[chosen].float().T
        bias = self._layer.bias
        return self._finish(logits if bias is None else logits + bias[chosen].float())

    def log_normaliser(self, hidden: Tensor) -> Tensor:
        """Float [n, width] to float32 [n], log-sum-exp over the vocabulary; without gradients."""
        if type(self._layer) is not nn.Linear:
            return self(hidden).logsumexp(-1)
        parts = [slice(start, start + _ROWS) for start in range(0, len(self._layer.weight), _ROWS)]
        found = [self.of_tokens(hidden, part).logsumexp(-1) for part in parts]
        return torch.stack(found).logsumexp(0)

    def log_probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of one token after each hidden state; without gradients.

        Args:
            hidden: Float [n, width].
            targets: int64 [n].

        Returns:
            float32 [n], 0 or less.
        """
        if type(self._layer) is not nn.Linear:
            logits = self(hidden)
            return (logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)).clamp(max=0)
        chosen = (hidden.float() * self._layer.weight[targets].float()).sum(-1)
        if self._layer.bias is not None:
            chosen = chosen + self._layer.bias[targets].float()
        # Rounding may leave the sum of all answers below the only likely one.
        return (self._finish(chosen) - self.log_normaliser(hidden)).clamp(max=0)

    def check(self) -> None:
        """Compare with the model's own forward pass.

        Raises:
            StageError: the architecture does more to its logits than is known here.
        """
        inputs = torch.tensor([_PROBES], device=self._causal.device)
        expected = self._causal(input_ids=inputs, use_cache=False).logits[:, -1].float()
        hidden = self._causal.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state
        found = self(hidden[:, -1])
        if not torch.allclose(found, expected, rtol=0.05, atol=0.25):
            worst = int((found - expected).abs().argmax())
            raise StageError(
                f"{type(self._causal).__name__} changes its logits after the output layer in an "
                f"unknown way: {float(expected[0, worst]):.4g} instead of "
                f"{float(found[0, worst]):.4g}."
            )

    def _fitting(self, hidden: Tensor) -> Tensor:
        return hidden.to(next(self._layer.parameters()).dtype)

    def _finish(self, logits: Tensor) -> Tensor:
        if self._factor != 1.0:
            logits = logits * self._factor
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits
