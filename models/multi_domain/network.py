"""What networks for several domains have in common: who passes where, experts and their gates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs
from tastemaker.models.layers.mlp import Mlp, xavier_normal_

__all__ = ["Experts", "Gate", "MultiDomainNetwork", "Shared"]

Shared = tuple[Tensor, ...]


class MultiDomainNetwork(nn.Module, ABC):
    """A part that all domains share, and a part of each domain behind it.

    Subclasses make the shared part, then call `add_domain` once per domain.

    Attributes:
        own: The part of each domain.
    """

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList()

    @property
    def domains(self) -> int:
        """Number of heads."""
        return len(self.own)

    def add_domain(self) -> None:
        """Append the part of one more domain, with fresh weights."""
        self.own.append(self.new_part().to(next(self.parameters())))

    @abstractmethod
    def new_part(self) -> nn.Module:
        """What a domain has of its own, with fresh weights."""

    @abstractmethod
    def shared(self, inputs: Inputs) -> Shared:
        """What is computed for B rows whatever their domain, tensors [B, ...]."""

    def head(self, part: nn.Module, shared: Shared) -> Tensor:
        """Log-odds of a like by the part of one domain, float [B]."""
        return part(*shared).squeeze(-1)

    def forward(self, inputs: Inputs, heads: Tensor | None = None) -> Tensor:
        """Log-odds of a like.

        Args:
            inputs: B rows.
            heads: int [B], 0 to `domains` - 1: whose part each row passes through; None: all.

        Returns:
            Float [B], or [B, domains] without `heads`.

        Raises:
            ValueError: a head that is not there.
        """
        shared = self.shared(inputs)
        if heads is None:
            return torch.stack([self.head(part, shared) for part in self.own], dim=1)
        order = torch.argsort(heads, stable=True)
        counts = torch.bincount(heads, minlength=self.domains).tolist()
        if len(counts) > self.domains:
            raise ValueError(f"head {len(counts) - 1} of {self.domains}")
        logits = [shared[0].new_empty(0)]
        for part, rows in zip(self.own, order.split(counts), strict=True):
            if len(rows):
                logits.append(self.head(part, tuple(tensor[rows] for tensor in shared)))
        return torch.cat(logits)[torch.argsort(order)]


class Experts(nn.ModuleList):
    """MLPs side by side, with an activation behind every layer.

    Args:
        count: Their number.
        sizes: Widths from input to output; at least two.
        dropout: Share of units left out behind each activation while training, 0 to 1.
    """

    def __init__(self, count: int, sizes: Sequence[int], *, dropout: float = 0.0) -> None:
        made = [Mlp(sizes, last_linear=False, dropout=dropout) for _ in range(count)]
        super().__init__(made)

    def forward(self, inputs: Tensor) -> Tensor:
        """Float [n, sizes[0]] to [n, count, sizes[-1]]."""
        return torch.stack([expert(inputs) for expert in self], dim=1)


class Gate(nn.Module):
    """Mixes experts by weights that a row chooses, softmax(W x), as in MMoE and PLE.

    Args:
        width: Size of x.
        experts: Their number.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, experts, bias=False)
        xavier_normal_(self.linear)

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Weighted sum of what the experts say.

        Args:
            inputs: Float [n, width], which the weights depend on.
            outputs: Float [n, experts, out].

        Returns:
            Float [n, out].
        """
        weights = torch.softmax(self.linear(inputs), dim=-1)
        return torch.einsum("ne,neo->no", weights, outputs)
