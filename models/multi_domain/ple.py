"""PLE: shared experts, and experts of each domain, level upon level (RecSys 2020).

Deviation: in the paper every row belongs to all tasks, and below the last level the shared route
mixes the experts of all tasks. Here a row belongs to one domain, and the shared route goes through
the shared experts only: a row touches no other domain's experts, and a domain can be added without
a change to the rest. At one level (the paper's CGC) there is no difference.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.mlp import Mlp
from tastemaker.models.multi_domain.network import Experts, Gate, MultiDomainNetwork, Shared

__all__ = ["MULTI_DOMAIN", "PLE"]


class PLE(MultiDomainNetwork):
    """Progressive layered extraction, a domain in the place of a task.

    Uni-CTR tells the numbers of experts; the sizes are those of its MMoE.

    Args:
        shape: Fields that it reads.
        domains: Number of heads.
        shared_experts: At each level, 1 or more; Uni-CTR: 1.
        specific_experts: Of each domain at each level; Uni-CTR: 2.
        levels: 1 or more; 1 is CGC.
        expert: Sizes of an expert, at least one.
        tower: Hidden sizes of a tower.
        dropout: Share of hidden units left out in training, 0 to 1.
    """

    def __init__(
        self,
        shape: Shape,
        domains: int,
        *,
        shared_experts: int = 1,
        specific_experts: int = 2,
        levels: int = 2,
        expert: tuple[int, ...] = (1024, 512),
        tower: tuple[int, ...] = (1024, 1024),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._widths = (shape.flat, *[expert[-1]] * (levels - 1))
        self._specific, self._expert = specific_experts, expert
        self._tower, self._dropout = (expert[-1], *tower, 1), dropout
        self.experts = nn.ModuleList(
            Experts(shared_experts, (width, *expert), dropout=dropout) for width in self._widths
        )
        self.gates = nn.ModuleList(Gate(width, shared_experts) for width in self._widths[:-1])
        for _ in range(domains):
            self.add_domain()

    def new_part(self) -> nn.Module:
        """At each level some experts and a gate, and a tower behind them."""
        levels = [
            _Level(
                Experts(self._specific, (width, *self._expert), dropout=self._dropout),
                Gate(width, self._specific + len(shared)),
            )
            for width, shared in zip(self._widths, self.experts, strict=True)
        ]
        return _Route(levels, Mlp(self._tower, dropout=self._dropout))

    def shared(self, inputs: Inputs) -> Shared:
        """The row, float [B, flat], then what the shared experts of each level say.

        Each of these is float [B, shared_experts, expert[-1]].
        """
        flat = state = inputs.flat
        said = [self.experts[0](state)]
        for gate, experts in zip(self.gates, self.experts[1:], strict=True):
            state = gate(state, said[-1])
            said.append(experts(state))
        return flat, *said


class _Level(nn.Module):
    def __init__(self, experts: Experts, gate: Gate) -> None:
        super().__init__()
        self.experts, self.gate = experts, gate

    def forward(self, state: Tensor, shared: Tensor) -> Tensor:
        return self.gate(state, torch.cat([shared, self.experts(state)], dim=1))


class _Route(nn.Module):
    def __init__(self, levels: list[_Level], tower: Mlp) -> None:
        super().__init__()
        self.levels, self.tower = nn.ModuleList(levels), tower

    def forward(self, flat: Tensor, *shared: Tensor) -> Tensor:
        state = flat
        for level, said in zip(self.levels, shared, strict=True):
            state = level(state, said)
        return self.tower(state)


MULTI_DOMAIN = PLE
