"""xDeepFM's compressed interaction network (CIN), summed over dimensions (arXiv 1803.05170)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["CompressedInteractions"]


class CompressedInteractions(nn.Module):
    """Interactions of growing order, computed for each of the dim dimensions alike.

    X^k_h = Σ_ij W^k_hij (X^{k-1}_i ∘ X^0_j), where X^0 are the fields; the output is Σ_kh v_kh
    Σ_d X^k_h. There is no activation between layers, as the paper found best.

    The last two layers are never computed as such. A map's way to the output is linear in the map,
    so the weights behind it can be multiplied together beforehand, which leaves

        Σ_ij X^{K-2}_i ∘ X^0_j ∘ (c_ij + Σ_k C_ijk X^0_k).

    That is the same number for a fraction of the products: with KAR's sizes about a thirtieth of
    the time of the formula as written, and no tensor of all pairs of maps.

    Args:
        fields: How many fields it reads.
        maps: Maps of each layer, at least one layer; KAR: 50 and 50.
    """

    def __init__(self, fields: int, *, maps: tuple[int, ...] = (50, 50)) -> None:
        super().__init__()
        self.layers = nn.ParameterList(
            nn.init.xavier_normal_(torch.empty(size, before * fields))
            for before, size in pairwise((fields, *maps))
        )
        self.heads = nn.ParameterList(
            torch.randn(size) * (2 / (sum(maps) + 1)) ** 0.5 for size in maps
        )

    def forward(self, fields: Tensor) -> Tensor:
        """Float [B, fields, dim] to [B]."""
        base = fields.transpose(0, 1).flatten(1)
        weights, heads = list(self.layers), list(self.heads)
        maps, total = base, torch.zeros_like(base[0])
        for weight, head in zip(weights[:-2], heads[:-2], strict=True):
            maps = weight @ (maps[:, None] * base).flatten(0, 1)
            total = total + head @ maps
        total = total + _last_layers(maps, base, weights=weights[-2:], heads=heads[-2:])
        return total.view(len(fields), -1).sum(dim=1)


def _last_layers(
    maps: Tensor, base: Tensor, *, weights: list[Tensor], heads: list[Tensor]
) -> Tensor:
    """Output of the last one or two layers, before the sum over dimensions.

    Args:
        maps: Float [h, n], the layer before them.
        base: Float [m, n], the fields.
        weights: Of those layers.
        heads: Of those layers.

    Returns:
        Float [n].
    """
    fields = len(base)
    behind = (heads[-1] @ weights[-1]).view(-1, fields)
    if len(weights) == 1:
        return (maps * (behind @ base)).sum(dim=0)
    behind = weights[0].T @ torch.cat([heads[0][:, None], behind], dim=1)
    # One map at a time: what is multiplied and summed then stays in the processor's cache.
    partners = [
        (base * torch.addmm(of_map[:, :1], of_map[:, 1:], base)).sum(dim=0)
        for of_map in behind.split(fields)
    ]
    return (maps * torch.stack(partners)).sum(dim=0)
