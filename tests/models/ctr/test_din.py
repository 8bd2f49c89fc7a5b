from __future__ import annotations

import torch

from tastemaker import registry
from tastemaker.models.ctr.din import DIN
from tastemaker.models.layers.activation import TargetAttention
from tastemaker.testing.backbone import BackboneContract


class TestDin(BackboneContract):
    backbone = DIN


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "din") is DIN


def test_attention_is_the_weighted_sum_of_the_steps_written_out() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(4).eval()
    candidate, history = torch.randn(2, 4), torch.randn(3, 4)
    mask = torch.tensor([[False, True], [True, True]])
    expected = torch.zeros(2, 4)
    for row, steps in ((0, [0]), (1, [1, 2])):
        for step in steps:
            q, k = candidate[row], history[step]
            expected[row] += attention.unit(torch.cat([q, k, q - k, q * k])[None])[0, 0] * k
    torch.testing.assert_close(attention(candidate, history, mask), expected)


def test_softmaxed_weights_of_a_history_sum_to_one() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(4, softmax=True).eval()
    mask = torch.tensor([[False, True], [True, True], [False, False]])
    weights = attention.weights(torch.randn(3, 4), torch.randn(3, 4), mask)
    torch.testing.assert_close(weights[0], torch.tensor(1.0))
    torch.testing.assert_close(weights[1:].sum(), torch.tensor(1.0))
