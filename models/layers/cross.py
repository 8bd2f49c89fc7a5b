"""Cross layers: x_{l+1} = x_0 ∘ f_l(x_l) + x_l (DCN, arXiv 1708.05123; DCN-v2, 2008.13535)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tastemaker.models.layers.mlp import xavier_normal_

__all__ = ["MatrixCross", "MixtureCross", "VectorCross"]


class VectorCross(nn.Module):
    """Layers of DCN: x_{l+1} = x_0 (w_l · x_l) + b_l + x_l.

    Each x_l is a_l x_0 + c_l, where a_l is one number per row and c_l, the sum of earlier biases,
    is the same for all rows. So only a_l has to be followed from layer to layer, a_{l+1} = a_l +
    a_l (w_l · x_0) + w_l · c_l, and all products with x_0 are taken at once.

    Args:
        width: Size of the rows.
        layers: How many.
    """

    def __init__(self, width: int, *, layers: int) -> None:
        super().__init__()
        # Xavier-normal for linear maps to one number each.
        self.weight = nn.Parameter(torch.randn(layers, width) * (2 / (width + 1)) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(layers, width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Float [B, width] to [B, width]."""
        products = inputs @ self.weight.T
        earlier = self.bias.cumsum(dim=0) - self.bias
        offsets = (self.weight * earlier).sum(dim=1)
        factor = torch.ones_like(inputs[:, 0])
        for product, offset in zip(products.unbind(dim=1), offsets.unbind(), strict=True):
            factor = torch.addcmul(factor + offset, factor, product)
        return torch.addcmul(self.bias.sum(dim=0), factor[:, None], inputs)


class MatrixCross(nn.Module):
    """Layers of DCN-v2 with full matrices: x_{l+1} = x_0 ∘ (W_l x_l + b_l) + x_l (eq. 1).

    Args:
        width: Size of the rows.
        layers: How many.
    """

    def __init__(self, width: int, *, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.layers.apply(xavier_normal_)

    def forward(self, inputs: Tensor) -> Tensor:
        """Float [B, width] to [B, width]."""
        crossed = inputs
        for layer in self.layers:
            crossed = torch.addcmul(crossed, inputs, layer(crossed))
        return crossed


class MixtureCross(nn.Module):
    """Layers of DCN-v2 with gated experts of low rank.

    x_{l+1} = Σ_e g_e(x_l) x_0 ∘ (U_e tanh(C_e tanh(V_eᵀ x_l)) + b) + x_l, where the gates g are
    softmaxed.

    Args:
        width: Size of the rows.
        layers: How many.
        rank: Size to which an expert projects.
        experts: Experts of each layer.
    """

    def __init__(self, width: int, *, layers: int, rank: int, experts: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Mixture(width, rank=rank, experts=experts) for _ in range(layers)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Float [B, width] to [B, width]."""
        crossed = inputs
        for layer in self.layers:
            crossed = torch.addcmul(crossed, inputs, layer(crossed))
        return crossed


class _Mixture(nn.Module):
    """What stands in for the matrix and bias of one layer."""

    def __init__(self, width: int, *, rank: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        xavier_normal_(self.gate)
        self.down = _matrices(experts, rank, width)
        self.core = _matrices(experts, rank, rank)
        self.up = _matrices(experts, rank, width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Float [B, width] to [B, width]."""
        experts, rank, _ = self.down.shape
        down = torch.tanh(inputs @ self.down.flatten(0, 1).T).view(-1, experts, rank)
        core = torch.tanh(torch.einsum("bes,ers->ber", down, self.core))
        # The gates sum to one, so they may be applied before U and leave the bias alone; then one
        # product with all U side by side also sums the experts.
        gated = torch.softmax(self.gate(inputs), dim=1)[:, :, None] * core
        return torch.addmm(self.bias, gated.flatten(1), self.up.flatten(0, 1))


def _matrices(count: int, rows: int, columns: int) -> nn.Parameter:
    matrices = torch.empty(count, rows, columns)
    for matrix in matrices:
        nn.init.xavier_normal_(matrix)
    return nn.Parameter(matrices)
