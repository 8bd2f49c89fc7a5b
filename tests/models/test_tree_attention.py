from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tastemaker.models import tree_attention as module_under_test
from tastemaker.models.prefix_tree import TREE_ATTENTION, PrefixTree, batch_trees
from tastemaker.models.tree_attention import block_attention, tree_attention

Build = Callable[..., Any]
HEADS, WIDTH = 4, 8


def forest(seed: int, *, rows: int = 3) -> Tensor:
    """Mask of trees of different size: long stems, short branches, branches of branches."""
    random = np.random.default_rng(seed)
    trees = []
    for row in range(rows):
        stem = random.integers(0, 50, 9 + 5 * row).tolist()
        cuts = [len(stem)] * 3 + random.integers(0, len(stem), 3 + row).tolist()
        trees.append(
            PrefixTree.of(
                [stem[:cut] + random.integers(0, 50, 1 + cut % 4).tolist() for cut in cuts]
            )
        )
    mask = batch_trees(trees).attention_mask
    assert mask is not None
    return mask


def inputs(mask: Tensor, *, key_heads: int = 2, value_width: int = WIDTH) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows, length = len(mask), mask.shape[-1]
    shapes = [(HEADS, WIDTH), (key_heads, WIDTH), (key_heads, value_width)]
    return [
        torch.randn(rows, heads, length, width, generator=generator, requires_grad=True)
        for heads, width in shapes
    ]


def layer(key_heads: int = 2) -> Any:
    return SimpleNamespace(num_key_value_groups=HEADS // key_heads, is_causal=True)


def dense(tensors: list[Tensor], mask: Tensor, scale: float | None) -> Tensor:
    query, key, value = tensors
    repeats = query.shape[1] // key.shape[1]
    return scaled_dot_product_attention(
        query,
        key.repeat_interleave(repeats, dim=1),
        value.repeat_interleave(repeats, dim=1),
        attn_mask=mask,
        scale=scale,
    ).transpose(1, 2)


def assert_equals_dense(tensors: list[Tensor], mask: Tensor, scale: float | None = None) -> None:
    found, weights = block_attention(layer(tensors[1].shape[1]), *tensors, mask, scaling=scale)
    expected = dense(tensors, mask, scale)
    assert weights is None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(found, tensors, upstream)
    for gradient, wanted in zip(
        gradients, torch.autograd.grad(expected, tensors, upstream), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("blocks", [(1, 1), (1, 3), (8, 16), (96, 256), (10**4, 10**4)])
def test_values_and_gradients_are_those_of_dense_attention(
    monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, int], key_heads: int
) -> None:
    monkeypatch.setattr(module_under_test, "_LEAST", blocks[0])
    monkeypatch.setattr(module_under_test, "_MOST", blocks[1])
    mask = forest(0)
    assert_equals_dense(inputs(mask, key_heads=key_heads), mask)


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=2, max_size=6),
    st.integers(1, 12),
    st.integers(1, 12),
)
@settings(max_examples=40)
def test_so_are_those_of_any_tree_cut_anyhow(
    sequences: list[list[int]], least: int, most: int
) -> None:
    trees = [PrefixTree.of(sequences), PrefixTree.of([[0, 0], [0, 1]])]
    mask = batch_trees(trees).attention_mask
    assert mask is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_under_test, "_LEAST", least)
        patch.setattr(module_under_test, "_MOST", most)
        assert_equals_dense(inputs(mask), mask)


def test_a_scale_of_the_model_s_own_counts() -> None:
    mask = forest(1)
    assert_equals_dense(inputs(mask), mask, 0.7)


def test_values_may_be_narrower_than_keys_as_in_deepseek() -> None:
    mask = forest(2)
    assert_equals_dense(inputs(mask, value_width=5), mask)


@pytest.mark.parametrize("scores", [torch.bfloat16, torch.float32])
def test_bfloat16_values_cost_their_own_rounding_only(scores: torch.dtype) -> None:
    mask = forest(3)
    query, key, value = (tensor.detach().bfloat16() for tensor in inputs(mask))
    found, _ = block_attention(layer(), query.to(scores), key.to(scores), value, mask.bfloat16())
    assert found.dtype == torch.bfloat16
    expected = dense([query.float(), key.float(), value.float()], mask, None)
    # Weights and result are rounded to 8 bits; values are below 4 in size.
    torch.testing.assert_close(found.float(), expected, atol=2**-6, rtol=0)


def test_autocast_leaves_scores_in_float32() -> None:
    mask = forest(4)
    tensors = [tensor.detach() for tensor in inputs(mask)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = block_attention(layer(), *tensors, mask)
    torch.testing.assert_close(found, dense(tensors, mask, None), atol=1e-5, rtol=0)


def plain_calls() -> dict[str, tuple[list[Tensor], Tensor | None, dict[str, Any]]]:
    mask = forest(5)
    tensors = [tensor.detach() for tensor in inputs(mask)]
    length = mask.shape[-1]
    last = [tensors[0][:, :, -1:], *tensors[1:]]
    return {
        "no mask": (tensors, None, {}),
        "a mask that says yes or no": (tensors, mask == 0, {}),
        "one query and cached keys": (last, mask[:, :, -1:], {}),
        "one mask for all rows": (tensors, mask[:1], {}),
        "a mask for each head": (tensors, mask.expand(-1, HEADS, -1, -1), {}),
        "a bias of positions": (
            tensors,
            mask,
            {"position_bias": torch.linspace(0, 3, length).expand(1, HEADS, length, length)},
        ),
    }


@pytest.mark.parametrize("call", list(plain_calls()))
def test_whatever_is_no_tree_goes_to_pytorch(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    tensors, mask, others = plain_calls()[call]
    monkeypatch.setattr(module_under_test, "_attend", None)  # would fail
    found, _ = block_attention(layer(), *tensors, mask, **others)
    expected, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](layer(), *tensors, mask, **others)
    torch.testing.assert_close(found, expected)


def test_dropout_is_pytorch_s_work(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = forest(6)
    monkeypatch.setattr(module_under_test, "_attend", None)
    found, _ = block_attention(layer(), *inputs(mask), mask, dropout=0.99)
    assert (found == 0).any()


def test_inside_the_model_attends_by_block_and_afterwards_as_before(build: Build) -> None:
    causal = build("llama")
    with tree_attention(causal) as by_block:
        assert by_block is True
        assert causal.config._attn_implementation == TREE_ATTENTION
        with tree_attention(causal) as again:
            assert again is True
        assert causal.config._attn_implementation == TREE_ATTENTION
    assert causal.config._attn_implementation == "sdpa"


def test_an_error_inside_changes_nothing_about_that(build: Build) -> None:
    causal = build("llama")
    with pytest.raises(RuntimeError, match="stop"), tree_attention(causal):
        raise RuntimeError("stop")
    assert causal.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [("llama", {"attn_implementation": "eager"}), ("gemma2", {}), ("mamba", {}), ("falcon", {})],
)
def test_models_that_cannot_are_left_as_they_are(
    build: Build, architecture: str, changes: dict[str, Any]
) -> None:
    causal = build(architecture, **changes)
    before = causal.config._attn_implementation
    with tree_attention(causal) as by_block:
        assert by_block is False
        assert causal.config._attn_implementation == before


def test_layers_share_one_plan_and_logits_stay_the_same(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal = build("llama")
    trees = [PrefixTree.of([[5, 6, 7], [5, 8, 9], [5, 8, 4, 3]]), PrefixTree.of([[5, 6]])]
    batch = batch_trees(trees)
    planned: list[int] = []
    blocks = module_under_test._blocks

    def counted(mask: Tensor) -> Any:
        planned.append(len(mask))
        return blocks(mask)

    monkeypatch.setattr(module_under_test, "_blocks", counted)
    with torch.inference_mode():
        expected = causal(**batch.arguments()).logits
        assert planned == []
        with tree_attention(causal):
            found = causal(**batch.arguments()).logits
    assert planned == [7, 7]  # rows, though there are two layers
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
