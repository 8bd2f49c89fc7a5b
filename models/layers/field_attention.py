"""Self-attention of the fields of a row over one another, as in AutoInt (arXiv 1810.11921)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tastemaker.models.layers.mlp import xavier_normal_

__all__ = ["FieldAttention"]


class FieldAttention(nn.Module):
    """One "interacting layer": ReLU of what the heads read plus the field itself.

    Args:
        width: Size of a field that comes in.
        size: Size of a head; a field that goes out has `heads * size` numbers.
        heads: Heads, put side by side.
        residual: Whether a field is added to what it read, projected where the sizes differ.
        scaled: Whether scores are divided by the root of `size`.
        dropout: Share of what was read that is left out in training, 0 to 1.
    """

    def __init__(
        self,
        width: int,
        *,
        size: int,
        heads: int = 1,
        residual: bool = True,
        scaled: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.query = nn.Linear(width, heads * size, bias=False)
        self.key = nn.Linear(width, heads * size, bias=False)
        self.value = nn.Linear(width, heads * size, bias=False)
        self.residual: nn.Module | None = None
        if residual:
            same = width == heads * size
            self.residual = nn.Identity() if same else nn.Linear(width, heads * size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.apply(xavier_normal_)
        self._heads = heads
        self._scale = size**-0.5 if scaled else 1.0
        self._merged = width < 2 * size

    def forward(self, fields: Tensor) -> Tensor:
        """Float [B, fields, width] to [B, fields, heads * size]."""
        value = self._split(self.value(fields))
        weights = self.weights(fields).transpose(2, 3)
        read = self.dropout((weights @ value).transpose(1, 2).flatten(2))
        return torch.relu(read if self.residual is None else read + self.residual(fields))

    def weights(self, fields: Tensor) -> Tensor:
        """How much each field is read by each other one.

        Args:
            fields: Float [B, fields, width].

        Returns:
            Float [B, heads, fields, fields], field read × field that reads; sums to one over the
            field read. In this order the softmax runs over whole vectors, some four times as fast
            on a CPU as along the last dimension when that is as short as a row has fields.
        """
        query, key = self._merged_pair(fields) if self._merged else self._projected_pair(fields)
        return torch.softmax(key @ query.transpose(2, 3), dim=2)

    def _projected_pair(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, both float [B, heads, fields, size]."""
        query = nn.functional.linear(fields, self._scale * self.query.weight)
        return self._split(query), self._split(self.key(fields))

    def _merged_pair(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """Queries that need no keys: float [B, heads, fields, width], and the fields themselves.

        ⟨W_q x, W_k y⟩ = ⟨W_kᵀ W_q x, y⟩ with one projection in the place of two, which are more
        work when heads are wider than half a field.
        """
        heads = self._heads
        query, key = (w.weight.unflatten(0, (heads, -1)) for w in (self.query, self.key))
        product = (self._scale * key.transpose(1, 2) @ query).flatten(0, 1)
        return self._split(nn.functional.linear(fields, product)), fields[:, None]

    def _split(self, numbers: Tensor) -> Tensor:
        """Float [B, fields, heads * n] to [B, heads, fields, n]."""
        return numbers.unflatten(2, (self._heads, -1)).transpose(1, 2)
