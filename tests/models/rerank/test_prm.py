from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tastemaker import registry
from tastemaker.models.rerank.blocks import AttentionBlock, attended, masked_softmax
from tastemaker.models.rerank.prm import PRM
from tastemaker.testing.reranker import RerankerContract, random_lists


class TestPrm(RerankerContract):
    reranker = PRM


class TestDeeperPrm(RerankerContract):
    reranker = PRM
    options = {"blocks": 2, "heads": 1, "scorer": ()}  # noqa: RUF012


def test_is_found_by_name() -> None:
    assert registry.load("re-ranker", "prm") is PRM


def test_the_block_is_a_layer_of_torchs_encoder() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, heads=2, feedforward=16).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    theirs.self_attn.load_state_dict(block.attention.state_dict())
    theirs.norm1.load_state_dict(block.behind_attention.state_dict())
    theirs.norm2.load_state_dict(block.behind_feedforward.state_dict())
    theirs.linear1.load_state_dict(block.feedforward.layers[0].state_dict())
    theirs.linear2.load_state_dict(block.feedforward.layers[2].state_dict())
    lists = random_lists()
    states = lists.items[..., :8]
    expected = theirs(states, src_key_padding_mask=~lists.mask)
    torch.testing.assert_close(block(states, states, lists.mask)[lists.mask], expected[lists.mask])


def test_a_row_without_anything_real_is_looked_at_whole_or_not_at_all() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert attended(mask).tolist() == [[True, False, True], [True, True, True]]
    weights = masked_softmax(torch.tensor([[0.0, 9.0, 1.0], [1.0, 2.0, 3.0]]), mask)
    torch.testing.assert_close(weights[0, [0, 2]], torch.softmax(torch.tensor([0.0, 1.0]), dim=0))
    assert (weights[~mask] == 0).all()


def test_only_positions_tell_equal_items_apart() -> None:
    torch.manual_seed(0)
    model, lists = PRM(12, step=7, length=6).eval(), random_lists()
    alike = replace(lists, items=lists.items[:, :1].expand(-1, 6, -1))
    apart = alike.given_to(model)[2]
    assert len(set(apart.tolist())) == 6
    nn.init.zeros_(model.positions.weight)
    torch.testing.assert_close(alike.given_to(model)[2], alike.given_to(model)[2, :1].expand(6))


def test_lists_longer_than_the_positions_and_odd_heads_are_refused() -> None:
    lists = random_lists()
    with pytest.raises(ValueError, match="6 places, the model knows 5"):
        lists.given_to(PRM(12, step=7, length=5))
    with pytest.raises(ValueError, match="no multiple of heads = 3"):
        PRM(12, step=7, length=6, heads=3)
