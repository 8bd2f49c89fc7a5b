"""Half-precision weights with a residual stream in float32.

Products are formed in bfloat16 either way. But in a model that is half-precision throughout, the
sum that all layers add to is rounded after every addition, which is most of what half precision
changes in a small model. Keeping that sum in float32 costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["float32_residuals", "half_products"]


@contextmanager
def float32_residuals(causal: Any) -> Iterator[bool]:
    """Let a half-precision model add up in float32 inside; whether it does.

    Forward passes must run inside `torch.autocast`, as those of `half_products` do. Models with
    PyTorch's own LayerNorm, which wants inputs in the precision of its weights, are left alone.

    Args:
        causal: A causal language model of transformers, without its adapter's wrapper.
    """
    half = next(iter(causal.parameters())).dtype == torch.bfloat16
    if not half or any(isinstance(module, nn.LayerNorm) for module in causal.modules()):
        yield False
        return
    hook = causal.get_input_embeddings().register_forward_hook(_in_float32)
    try:
        yield True
    finally:
        hook.remove()


@contextmanager
def half_products(causal: Any) -> Iterator[None]:
    """Run forward passes of a half-precision model with sums in float32; others as they are."""
    with (
        float32_residuals(causal) as mixed,
        torch.autocast(causal.device.type, dtype=torch.bfloat16, enabled=mixed),
    ):
        yield


def _in_float32(module: Any, inputs: Any, output: Tensor) -> Tensor:
    return output.float()
