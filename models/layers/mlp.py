"""Stacks of linear layers, initialised as KAR's code does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["Mlp", "xavier_normal_"]


class Mlp(nn.Module):
    """Linear layers with an activation after each but, by default, the last.

    Args:
        sizes: Widths from input to output; at least two.
        activation: Makes the activation for a width.
        last_linear: Whether the last layer has no activation.
        dropout: Share of units left out behind each activation while training, 0 to 1.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Callable[[int], nn.Module] = lambda _: nn.ReLU(),
        last_linear: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(sizes):
            behind = [activation(width_out), *([nn.Dropout(dropout)] if dropout else [])]
            layers += [nn.Linear(width_in, width_out), *behind]
        behind_last = len(behind) if last_linear else 0
        self.layers = nn.Sequential(*layers[: len(layers) - behind_last])
        self.apply(xavier_normal_)

    def forward(self, inputs: Tensor) -> Tensor:
        """Float [..., sizes[0]] to [..., sizes[-1]]."""
        return self.layers(inputs)


def xavier_normal_(module: nn.Module) -> None:
    """Xavier-normal weights and zero biases for a linear or embedding layer (KAR §3)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
