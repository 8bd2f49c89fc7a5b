"""SharedBottom: one MLP for all domains, and a tower for each (as in arXiv 2312.10743)."""

from __future__ import annotations

from torch import nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.mlp import Mlp
from tastemaker.models.multi_domain.network import MultiDomainNetwork, Shared

__all__ = ["MULTI_DOMAIN", "SharedBottom"]


class SharedBottom(MultiDomainNetwork):
    """A shared MLP; its output feeds the tower of every domain.

    Args:
        shape: Fields that it reads.
        domains: Number of heads.
        bottom: Sizes of the shared MLP, at least one; Uni-CTR: 1024 and 1024.
        tower: Hidden sizes of a tower; Uni-CTR: 1024, 512 and 256.
        dropout: Share of hidden units left out in training, 0 to 1.
    """

    def __init__(
        self,
        shape: Shape,
        domains: int,
        *,
        bottom: tuple[int, ...] = (1024, 1024),
        tower: tuple[int, ...] = (1024, 512, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.bottom = Mlp((shape.flat, *bottom), last_linear=False, dropout=dropout)
        self._tower, self._dropout = (bottom[-1], *tower, 1), dropout
        for _ in range(domains):
            self.add_domain()

    def new_part(self) -> nn.Module:
        """A tower."""
        return Mlp(self._tower, dropout=self._dropout)

    def shared(self, inputs: Inputs) -> Shared:
        """Output of the shared MLP, float [B, bottom[-1]]."""
        return (self.bottom(inputs.flat),)


MULTI_DOMAIN = SharedBottom
