"""STAR: weights of a domain times shared ones, and a network that knows the domain (CIKM 2021).

Deviations from arXiv 2101.11398:

* Partitioned normalisation takes mean and variance over the numbers of a row, not over the
  rows of a domain in a batch: scores must not depend on batch-mates, and a domain that is added
  later brings no averages of its own. Its scales and shifts are those of the paper, shared ones and
  ones of each domain.
* How weights start is our choice: those of a domain at one and its biases at zero, so that every
  domain begins as the shared network; the product of two random draws would be so small that hardly
  anything reaches the output.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.mlp import Mlp
from tastemaker.models.multi_domain.network import MultiDomainNetwork, Shared

__all__ = ["MULTI_DOMAIN", "STAR"]


class STAR(MultiDomainNetwork):
    """Star topology adaptive recommender.

    A layer of a domain has the weights W ∘ W_p and the biases b + b_p, of which W and b are shared;
    the first reads the normalised row z as (γ γ_p) z + (β + β_p). The auxiliary network reads the
    row and a vector of the domain; both log-odds are added.

    Args:
        shape: Fields that it reads.
        domains: Number of heads.
        hidden: Hidden sizes; Uni-CTR: 1024, 512 and 256.
        auxiliary: Hidden sizes of the auxiliary network, which has two layers in the paper.
        dropout: Share of hidden units left out in training, 0 to 1.
    """

    def __init__(
        self,
        shape: Shape,
        domains: int,
        *,
        hidden: tuple[int, ...] = (1024, 512, 256),
        auxiliary: tuple[int, ...] = (256,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._dim, self._sizes = shape.dim, (shape.flat, *hidden, 1)
        self.centre = _Parameters(self._sizes)
        for weight in self.centre.weights:
            nn.init.xavier_normal_(weight)
        self.dropout = nn.Dropout(dropout)
        self.auxiliary = Mlp((shape.flat + shape.dim, *auxiliary, 1), dropout=dropout)
        for _ in range(domains):
            self.add_domain()

    def new_part(self) -> nn.Module:
        """Scale, shift, weights and biases of every layer, and a vector that names the domain."""
        part = _Parameters(self._sizes)
        part.indicator = nn.Parameter(torch.randn(self._dim) / self._dim**0.5)
        return part

    def shared(self, inputs: Inputs) -> Shared:
        """The row normalised, then as it is: float [B, flat] each."""
        flat = inputs.flat
        return functional.layer_norm(flat, flat.shape[1:]), flat

    def head(self, part: nn.Module, shared: Shared) -> Tensor:
        """Log-odds of a like by the part of one domain, float [B]."""
        state, flat = shared
        centre = self.centre
        state = state * (centre.scale * part.scale) + (centre.shift_bias + part.shift_bias)
        for place, weight in enumerate(centre.weights):
            if place:
                state = self.dropout(functional.relu(state))
            bias = centre.biases[place] + part.biases[place]
            state = functional.linear(state, weight * part.weights[place], bias)
        named = torch.cat([flat, part.indicator.expand(len(flat), -1)], dim=1)
        return (state + self.auxiliary(named)).squeeze(-1)


class _Parameters(nn.Module):
    """Parameters of the shared network or of a domain: ones to multiply by, zeros to add."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(sizes[0]))
        self.shift_bias = nn.Parameter(torch.zeros(sizes[0]))
        self.weights = nn.ParameterList(torch.ones(b, a) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(b) for b in sizes[1:])


MULTI_DOMAIN = STAR
