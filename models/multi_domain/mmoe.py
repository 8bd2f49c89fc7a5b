"""MMoE: experts that all domains share, mixed by a gate of each domain (KDD 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.mlp import Mlp
from tastemaker.models.multi_domain.network import Experts, Gate, MultiDomainNetwork, Shared

__all__ = ["MULTI_DOMAIN", "MMoE"]


class MMoE(MultiDomainNetwork):
    """Multi-gate mixture of experts, a domain in the place of a task.

    Args:
        shape: Fields that it reads.
        domains: Number of heads.
        experts: Their number; Uni-CTR: 3.
        expert: Sizes of an expert, at least one; Uni-CTR: 1024 and 512.
        tower: Hidden sizes of a tower; Uni-CTR: 1024 and 1024.
        dropout: Share of hidden units left out in training, 0 to 1.
    """

    def __init__(
        self,
        shape: Shape,
        domains: int,
        *,
        experts: int = 3,
        expert: tuple[int, ...] = (1024, 512),
        tower: tuple[int, ...] = (1024, 1024),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.experts = Experts(experts, (shape.flat, *expert), dropout=dropout)
        self._width, self._tower, self._dropout = shape.flat, (expert[-1], *tower, 1), dropout
        for _ in range(domains):
            self.add_domain()

    def new_part(self) -> nn.Module:
        """A gate and a tower."""
        gate = Gate(self._width, len(self.experts))
        return _GatedTower(gate, Mlp(self._tower, dropout=self._dropout))

    def shared(self, inputs: Inputs) -> Shared:
        """The row, float [B, flat], and what each expert says, float [B, experts, expert[-1]]."""
        flat = inputs.flat
        return flat, self.experts(flat)


class _GatedTower(nn.Module):
    def __init__(self, gate: Gate, tower: Mlp) -> None:
        super().__init__()
        self.gate, self.tower = gate, tower

    def forward(self, flat: Tensor, outputs: Tensor) -> Tensor:
        return self.tower(self.gate(flat, outputs))


MULTI_DOMAIN = MMoE
