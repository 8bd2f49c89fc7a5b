"""What contract tests of several kinds of modules check alike."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["assert_finite_gradients"]


def assert_finite_gradients(module: nn.Module) -> None:
    """Some parameter has a gradient, and all gradients are finite numbers in float32."""
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
