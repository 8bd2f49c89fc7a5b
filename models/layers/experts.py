"""KAR's hybrid-expert adaptor, from text vectors to fields, and two plainer ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from tastemaker.models.layers.mlp import Mlp

__all__ = [
    "ADAPTORS",
    "Adaptor",
    "AdaptorName",
    "AdaptorSizes",
    "HybridExpertAdaptor",
    "MixtureAdaptor",
    "MlpAdaptor",
    "new_adaptor",
]

AdaptorName = Literal["hybrid", "mixture", "mlp"]
ADAPTORS: tuple[AdaptorName, ...] = get_args(AdaptorName)


@dataclass(frozen=True)
class AdaptorSizes:
    """How large an adaptor is.

    Attributes:
        name: `hybrid`: KAR's. `mixture`: all experts see all kinds, one gate. `mlp`: one expert.
        shared_experts: Experts that see every kind of text; KAR: 2.
        dedicated_experts: Experts of each kind; KAR searches 2 to 6.
        hidden: Hidden size of an expert; KAR: 128.
    """

    name: AdaptorName = "hybrid"
    shared_experts: int = 2
    dedicated_experts: int = 2
    hidden: int = 128


class Adaptor(Protocol):
    """Brings text vectors to the width of a field."""

    def __call__(self, kind: str, vectors: Tensor) -> Tensor:
        """Float [n, width] of one kind to [n, dim]."""


def new_adaptor(
    kinds: Sequence[str], width: int, *, dim: int, sizes: AdaptorSizes
) -> HybridExpertAdaptor | MixtureAdaptor | MlpAdaptor:
    """An adaptor with fresh weights.

    Args:
        kinds: Names of the kinds of text, such as `user_text` and `item_text`.
        width: Size of a text vector.
        dim: Size of a field; KAR: 32.
        sizes: Which adaptor, and how large.
    """
    if sizes.name == "mlp":
        return MlpAdaptor(width, hidden=sizes.hidden, dim=dim)
    if sizes.name == "mixture":
        experts = sizes.shared_experts + sizes.dedicated_experts * len(kinds)
        return MixtureAdaptor(width, experts=experts, hidden=sizes.hidden, dim=dim)
    return HybridExpertAdaptor(
        kinds,
        width,
        shared_experts=sizes.shared_experts,
        dedicated_experts=sizes.dedicated_experts,
        hidden=sizes.hidden,
        dim=dim,
    )


class HybridExpertAdaptor(nn.Module):
    """Shared and dedicated experts, mixed by a gate of each kind of text (KAR §3).

    α_t = softmax(W_t r_t) over the shared experts and those of kind t; the output is the sum of
    their outputs with these weights.

    Args:
        kinds: Names of the kinds of text.
        width: Size of a text vector.
        shared_experts: Experts that see every kind; KAR: 2.
        dedicated_experts: Experts of each kind; KAR searches 2 to 6.
        hidden: Hidden size of an expert; KAR: 128.
        dim: Output size; KAR: 32.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        width: int,
        *,
        shared_experts: int,
        dedicated_experts: int,
        hidden: int,
        dim: int,
    ) -> None:
        super().__init__()
        sizes = (width, hidden, dim)
        self.shared = _experts(shared_experts, sizes)
        self.dedicated = nn.ModuleDict({kind: _experts(dedicated_experts, sizes) for kind in kinds})
        experts = shared_experts + dedicated_experts
        self.gates = nn.ModuleDict({kind: _gate(width, experts) for kind in kinds})

    def forward(self, kind: str, vectors: Tensor) -> Tensor:
        """Float [n, width] of one kind to [n, dim]."""
        dedicated = self.dedicated.get_submodule(kind)
        assert isinstance(dedicated, nn.ModuleList)
        return _mixed([*self.shared, *dedicated], self.gate(kind, vectors), vectors)

    def gate(self, kind: str, vectors: Tensor) -> Tensor:
        """Weights of shared, then dedicated experts, float [n, experts]; rows sum to one."""
        return torch.softmax(self.gates.get_submodule(kind)(vectors), dim=-1)


class MixtureAdaptor(nn.Module):
    """A plain mixture: every expert sees every kind, and one gate serves all.

    Args:
        width: Size of a text vector.
        experts: Their number.
        hidden: Hidden size of an expert.
        dim: Output size.
    """

    def __init__(self, width: int, *, experts: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.experts = _experts(experts, (width, hidden, dim))
        self.gates = _gate(width, experts)

    def forward(self, kind: str, vectors: Tensor) -> Tensor:
        """Float [n, width] of any kind to [n, dim]."""
        del kind
        return _mixed(list(self.experts), torch.softmax(self.gates(vectors), dim=-1), vectors)


class MlpAdaptor(nn.Module):
    """One expert for everything.

    Args:
        width: Size of a text vector.
        hidden: Hidden size.
        dim: Output size.
    """

    def __init__(self, width: int, *, hidden: int, dim: int) -> None:
        super().__init__()
        self.expert = Mlp((width, hidden, dim), last_linear=False)

    def forward(self, kind: str, vectors: Tensor) -> Tensor:
        """Float [n, width] of any kind to [n, dim]."""
        del kind
        return self.expert(vectors)


def _experts(count: int, sizes: tuple[int, int, int]) -> nn.ModuleList:
    return nn.ModuleList(Mlp(sizes, last_linear=False) for _ in range(count))


def _gate(width: int, experts: int) -> nn.Linear:
    gate = nn.Linear(width, experts, bias=False)
    nn.init.xavier_normal_(gate.weight)
    return gate


def _mixed(experts: Sequence[nn.Module], weights: Tensor, vectors: Tensor) -> Tensor:
    outputs = torch.stack([expert(vectors) for expert in experts], dim=1)
    return torch.einsum("ne,ned->nd", weights, outputs)
