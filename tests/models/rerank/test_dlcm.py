from __future__ import annotations

import torch

from tastemaker import registry
from tastemaker.models.rerank.blocks import recurrent_states
from tastemaker.models.rerank.dlcm import DLCM
from tastemaker.testing.reranker import RerankerContract, random_lists


class TestDlcm(RerankerContract):
    reranker = DLCM


def test_is_found_by_name() -> None:
    assert registry.load("re-ranker", "dlcm") is DLCM


def test_scores_are_the_formula_written_out() -> None:
    torch.manual_seed(0)
    model, lists = DLCM(12, step=7, length=6, hidden=5).eval(), random_lists(seed=3)
    logits = lists.given_to(model)
    for row, length in enumerate(lists.mask.sum(dim=1).tolist()):
        state, states = torch.zeros(1, 1, 5), []
        for item in lists.items[row, :length]:
            _, state = model.gru(item[None, None], state)
            states.append(state[0, 0])
        context = torch.tanh(model.context.weight @ states[-1] + model.context.bias)
        for place, own in enumerate(states):
            expected = model.score.weight[0] @ (own * context) + model.score.bias[0]
            torch.testing.assert_close(logits[row, place], expected)


def test_states_step_over_padding_wherever_it_lies() -> None:
    torch.manual_seed(0)
    network = torch.nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    inputs = torch.randn(3, 5, 3)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    states = recurrent_states(network, inputs, mask)
    assert (states[~mask] == 0).all()
    for row in (0, 2):
        alone, _ = network(inputs[row][mask[row]][None])
        torch.testing.assert_close(states[row][mask[row]], alone[0])
    assert recurrent_states(network, inputs[:, :0], mask[:, :0]).shape == (3, 0, 8)
