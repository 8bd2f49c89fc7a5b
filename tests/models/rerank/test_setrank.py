from __future__ import annotations

import pytest
import torch

from tastemaker import registry
from tastemaker.models.rerank.blocks import AttentionBlock
from tastemaker.models.rerank.setrank import SetRank
from tastemaker.testing.reranker import RerankerContract


class TestSetRank(RerankerContract):
    reranker = SetRank
    equivariant = True


class TestDirectSetRank(RerankerContract):
    reranker = SetRank
    equivariant = True
    options = {"induced": 0, "blocks": 2}  # noqa: RUF012


def test_is_found_by_name() -> None:
    assert registry.load("re-ranker", "setrank") is SetRank
    assert SetRank.loss == "attention"


def test_items_see_each_other_through_the_induced_vectors_only() -> None:
    torch.manual_seed(0)
    model = SetRank(12, step=7, length=6, induced=3).eval()
    block = model.blocks[0]
    states, mask = torch.randn(2, 6, 64), torch.ones(2, 6, dtype=torch.bool)
    gathered = block.blocks[0](block.induced[None].repeat(2, 1, 1), states, mask)
    assert gathered.shape == (2, 3, 64)
    one_by_one = [block.blocks[1](states[:, [place]], gathered) for place in range(6)]
    torch.testing.assert_close(block(states, mask), torch.cat(one_by_one, dim=1))


def test_attention_is_the_sum_written_out() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(4, heads=2, feedforward=8).eval()
    queries, keys = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    mask = torch.tensor([[True, False, True]])
    weight, bias = block.attention.in_proj_weight, torch.randn(12)
    block.attention.in_proj_bias.data = bias
    found, _ = block.attention(queries, keys, keys, key_padding_mask=~mask)
    for place in range(2):
        heads = []
        for part in (slice(0, 2), slice(2, 4)):
            q, k, v = ((weight[n * 4 :][part], bias[n * 4 :][part]) for n in range(3))
            asked = q[0] @ queries[0, place] + q[1]
            real = keys[0, [0, 2]]
            logits = torch.stack([asked @ (k[0] @ key + k[1]) / 2**0.5 for key in real])
            shares = torch.softmax(logits, dim=0)
            heads.append(sum(s * (v[0] @ key + v[1]) for s, key in zip(shares, real, strict=True)))
        expected = block.attention.out_proj(torch.cat(heads))
        torch.testing.assert_close(found[0, place], expected)


def test_odd_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of heads = 3"):
        SetRank(12, step=7, length=6, heads=3)
