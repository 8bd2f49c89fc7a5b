from __future__ import annotations

import pytest
import torch
from torch import nn

from tastemaker.models.layers.activation import Dice, TargetAttention
from tastemaker.models.layers.experts import HybridExpertAdaptor
from tastemaker.models.layers.mlp import Mlp


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_mlp_ends_with_a_linear_layer_unless_told_otherwise() -> None:
    def kinds(mlp: Mlp) -> list[str]:
        return [type(layer).__name__ for layer in mlp.layers]

    assert kinds(Mlp((3, 4, 1))) == ["Linear", "ReLU", "Linear"]
    assert kinds(Mlp((3, 4, 2), last_linear=False)) == ["Linear", "ReLU", "Linear", "ReLU"]
    assert torch.equal(Mlp((3, 4)).layers[0].bias, torch.zeros(4))


def test_dice_with_alpha_one_changes_nothing() -> None:
    dice = Dice(4)
    nn.init.ones_(dice.alpha)
    inputs = torch.randn(8, 4)
    torch.testing.assert_close(dice(inputs), inputs)


def test_dice_in_training_gates_by_the_batch() -> None:
    inputs = 5 + 3 * torch.randn(1000, 2)
    standard = (inputs - inputs.mean(0)) / inputs.std(0, unbiased=False)
    torch.testing.assert_close(Dice(2)(inputs), inputs * torch.sigmoid(standard))


def test_dice_in_evaluation_looks_at_each_row_alone() -> None:
    dice = Dice(4)
    for _ in range(3):
        dice(torch.randn(16, 4) + 2)
    dice.eval()
    inputs = torch.randn(6, 4)
    alone = torch.cat([dice(row[None]) for row in inputs])
    torch.testing.assert_close(dice(inputs), alone)


def test_dice_trains_on_a_single_row() -> None:
    assert torch.isfinite(Dice(4)(torch.randn(1, 4))).all()


def test_attention_is_an_unnormalised_weighted_sum_of_the_real_steps() -> None:
    attention = TargetAttention(4, hidden=(8, 3)).eval()
    candidate, steps = torch.randn(3, 4), torch.randn(3, 5, 4)
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    found = attention(candidate, steps[mask], mask)
    for row in range(3):
        expected = torch.zeros(4)
        for step in steps[row][mask[row]]:
            query = candidate[row]
            parts = torch.cat([query, step, query - step, query * step])
            expected += attention.unit(parts[None])[0] * step
        torch.testing.assert_close(found[row], expected)


def adaptor(*, shared: int = 2, dedicated: int = 3) -> HybridExpertAdaptor:
    return HybridExpertAdaptor(
        6, shared_experts=shared, dedicated_experts=dedicated, hidden=8, dim=4
    )


@pytest.mark.parametrize("shared", [0, 2])
def test_adaptor_mixes_shared_and_dedicated_experts_by_the_gate_of_the_kind(shared: int) -> None:
    model = adaptor(shared=shared)
    user, item, present = torch.randn(5, 6), torch.randn(5, 6), torch.ones(5, dtype=torch.bool)
    found = model(user, present, item, present)
    assert found.shape == (5, 8)
    for vectors, kind, part in ((user, model.user, found[:, :4]), (item, model.item, found[:, 4:])):
        experts = [*model.shared, *kind.dedicated]
        assert len(experts) == shared + 3
        weights = torch.softmax(vectors @ kind.gate.weight.T, dim=-1)
        expected = sum(weights[:, [e]] * expert(vectors) for e, expert in enumerate(experts))
        torch.testing.assert_close(part, expected)


def test_adaptor_puts_a_learned_vector_where_knowledge_is_missing() -> None:
    model = adaptor()
    nn.init.normal_(model.user.missing)
    present = torch.tensor([True, False, True])
    user, item = torch.randn(3, 6), torch.randn(3, 6)
    found = model(user, present, item, ~present)
    torch.testing.assert_close(found[1, :4], model.user.missing)
    torch.testing.assert_close(found[0, 4:], model.item.missing)
    other = model(user + 100 * ~present[:, None], present, item, ~present)
    torch.testing.assert_close(other, found)
    found.sum().backward()
    torch.testing.assert_close(model.user.missing.grad, torch.ones(4))


def test_adaptor_handles_a_batch_without_any_knowledge() -> None:
    nothing = torch.zeros(3, dtype=torch.bool)
    found = adaptor()(torch.randn(3, 6), nothing, torch.randn(3, 6), nothing)
    torch.testing.assert_close(found, torch.zeros(3, 8))
