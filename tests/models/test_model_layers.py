from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tastemaker.errors import UserError
from tastemaker.models.layers.activation import Dice, TargetAttention
from tastemaker.models.layers.experts import AdaptorSizes, HybridExpertAdaptor, new_adaptor
from tastemaker.models.layers.mlp import Mlp
from tastemaker.models.text_vectors import (
    FUSIONS,
    Fusion,
    PrestoredTexts,
    TextFusion,
    TextVectors,
    text_columns,
)


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


KINDS = ("user_text", "item_text")


def adaptor(*, shared: int = 2, dedicated: int = 3) -> HybridExpertAdaptor:
    return HybridExpertAdaptor(
        KINDS, 6, shared_experts=shared, dedicated_experts=dedicated, hidden=8, dim=4
    )


@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_adaptor_mixes_shared_and_dedicated_experts_by_the_gate_of_the_kind(
    kind: str, shared: int
) -> None:
    model = adaptor(shared=shared)
    vectors = torch.randn(5, 6)
    experts = [*model.shared, *model.dedicated[kind]]
    assert len(experts) == shared + 3
    weights = torch.softmax(vectors @ model.gates[kind].weight.T, dim=-1)
    expected = sum(weights[:, [e]] * expert(vectors) for e, expert in enumerate(experts))
    torch.testing.assert_close(model(kind, vectors), expected)


def test_gates_sum_to_one() -> None:
    model = adaptor()
    for kind in KINDS:
        weights = model.gate(kind, torch.randn(7, 6))
        assert weights.shape == (7, 5)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(7))


def test_a_dedicated_expert_gets_no_gradient_from_the_other_kind() -> None:
    model = adaptor()
    model("user_text", torch.randn(5, 6)).sum().backward()
    own = [weight.grad for weight in model.dedicated["user_text"].parameters()]
    shared = [weight.grad for weight in model.shared.parameters()]
    foreign = [*model.dedicated["item_text"].parameters(), *model.gates["item_text"].parameters()]
    assert all(grad is not None for grad in [*own, *shared])
    assert any(grad.abs().sum() > 0 for grad in own)
    assert all(weight.grad is None for weight in foreign)


def test_plainer_adaptors_know_no_kinds() -> None:
    vectors = torch.randn(5, 6)
    for name in ("mixture", "mlp"):
        model = new_adaptor(KINDS, 6, dim=4, sizes=AdaptorSizes(name, hidden=8))
        torch.testing.assert_close(model("user_text", vectors), model("item_text", vectors))
        assert model("user_text", vectors).shape == (5, 4)
    assert len(new_adaptor(KINDS, 6, dim=4, sizes=AdaptorSizes("mixture")).experts) == 2 + 2 * 2


def texts(*, fusion: Fusion = "adaptor") -> list[TextVectors]:
    """User 0 has a text from the start, user 1 after moment 50; items 0 and 2 have texts."""
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((2, 6)).astype(np.float32)
    after = np.array([10, 50, np.iinfo(np.int64).max])
    user = TextVectors("user_text", "user", matrix, np.array([0, 1, -1]), after, fusion)
    return [user, TextVectors("item_text", "item", -matrix, np.array([0, -1, 1]), None, fusion)]


def test_a_text_serves_only_later_targets() -> None:
    columns = text_columns(
        texts(),
        users=np.array([0, 0, 0, 1, 1, 2]),
        items=np.array([0, 1, 2, 0, 0, 0]),
        times=np.array([9, 10, 11, 50, 51, 99]),
    )
    assert columns["user_text"].tolist() == [-1, -1, 0, -1, 1, -1]
    assert columns["item_text"].tolist() == [0, -1, 1, 0, 0, 0]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_missing_texts_are_learned_and_present_ones_matter(fusion: Fusion) -> None:
    fused = TextFusion(texts(fusion=fusion), dim=4, sizes=AdaptorSizes(hidden=8))
    for vector in fused.missing.values():
        nn.init.normal_(vector)
    rows = torch.tensor([-1, 0, 1, -1])
    fields, wide = fused(user_text=rows, item_text=rows)
    found = wide.view(4, 2, 6) if fusion == "concat" else fields
    missing = torch.stack([fused.missing["user_text"], fused.missing["item_text"]])
    torch.testing.assert_close(found[0], missing)
    torch.testing.assert_close(found[3], missing)
    assert not torch.allclose(found[1], found[2])
    found.sum().backward()
    torch.testing.assert_close(fused.missing["user_text"].grad, torch.full(missing.shape[1:], 2.0))
    assert not [name for name in fused.state_dict() if "matrix" in name]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_prestored_texts_are_those_of_the_adaptor(fusion: Fusion) -> None:
    fused = TextFusion(texts(fusion=fusion), dim=4, sizes=AdaptorSizes(hidden=8))
    names = list(fused.tables()) if fusion == "concat" else []
    stored = PrestoredTexts(fused.tables(), dim=4, wide=names)
    rows = {"user_text": torch.tensor([-1, 1, 0]), "item_text": torch.tensor([1, -1, 1])}
    for expected, found in zip(fused(**rows), stored(**rows), strict=True):
        torch.testing.assert_close(found, expected)


def test_texts_of_two_widths_cannot_share_an_adaptor() -> None:
    user, item = texts()
    narrow = replace(item, matrix=item.matrix[:, :3])
    with pytest.raises(UserError, match="user_text: 6, item_text: 3"):
        TextFusion([user, narrow], dim=4, sizes=AdaptorSizes())
