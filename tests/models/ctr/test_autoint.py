from __future__ import annotations

import pytest
import torch

from tastemaker import registry
from tastemaker.models.ctr.autoint import AutoInt
from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.layers.field_attention import FieldAttention
from tastemaker.testing.backbone import BackboneContract, random_inputs


class TestAutoInt(BackboneContract):
    backbone = AutoInt
    shapes = (*BackboneContract.shapes, Shape(dim=4, candidate=1))


class TestPlainAutoInt(BackboneContract):
    backbone = AutoInt

    def make(self, shape, **options):
        return super().make(shape, hidden=(), heads=2, size=4, layers=2, **options)


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "autoint") is AutoInt


@pytest.mark.parametrize(
    ("width", "size", "heads"), [(6, 5, 1), (6, 2, 3), (8, 5, 2), (8, 2, 2), (3, 2, 2), (5, 5, 1)]
)
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_attention_is_that_of_the_paper_written_out(
    width: int, size: int, heads: int, residual: bool, scaled: bool
) -> None:
    torch.manual_seed(0)
    layer = FieldAttention(width, size=size, heads=heads, residual=residual, scaled=scaled)
    fields = torch.randn(3, 4, width)
    expected = torch.zeros(3, 4, heads * size)
    with torch.no_grad():
        for row in range(3):
            for reader in range(4):
                for head in range(heads):
                    part = slice(head * size, (head + 1) * size)
                    query = layer.query.weight[part] @ fields[row, reader]
                    keys = [layer.key.weight[part] @ field for field in fields[row]]
                    scores = torch.stack([query @ key for key in keys])
                    if scaled:
                        scores = scores / size**0.5
                    weights = scores.exp() / scores.exp().sum()
                    for weight, field in zip(weights, fields[row], strict=True):
                        expected[row, reader, part] += weight * (layer.value.weight[part] @ field)
                if residual:
                    own = fields[row, reader]
                    expected[row, reader] += (
                        own if width == heads * size else layer.residual.weight @ own
                    )
        torch.testing.assert_close(layer(fields), expected.clamp(min=0))


def test_weights_of_what_a_field_reads_sum_to_one() -> None:
    weights = FieldAttention(6, size=4, heads=2).weights(torch.randn(5, 3, 6))
    assert weights.shape == (5, 2, 3, 3)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(5, 2, 3))


def test_large_scores_do_not_overflow() -> None:
    assert FieldAttention(6, size=4)(1e4 * torch.randn(5, 3, 6)).isfinite().all()


def test_the_logit_is_the_sum_of_both_parts() -> None:
    torch.manual_seed(0)
    shape = Shape(dim=4, candidate=2, context=1, vectors=1, wide=3)
    model, inputs = AutoInt(shape), random_inputs(shape, rows=5, reads_steps=False)
    attended = model.attention(inputs.fields)
    assert attended.shape == (5, 4, 64)
    linear = model.linear(torch.cat([attended.flatten(1), inputs.wide], dim=1))
    assert model.deep is not None
    torch.testing.assert_close(model(inputs), (linear + model.deep(inputs.flat))[:, 0])


def test_without_hidden_sizes_there_is_no_deep_part() -> None:
    shape = Shape(dim=4, candidate=2)
    names = {name.split(".")[0] for name, _ in AutoInt(shape, hidden=()).named_parameters()}
    assert names == {"attention", "linear"}


def test_kar_sizes_are_the_defaults() -> None:
    model = AutoInt(Shape(dim=32, candidate=2, context=1))
    assert [layer.query.weight.shape for layer in model.attention] == [(64, 32), (64, 64), (64, 64)]
    assert [weight.shape[0] for weight in model.deep.parameters() if weight.dim() == 2] == [
        200,
        80,
        1,
    ]


def test_a_single_field_attends_to_itself() -> None:
    layer = FieldAttention(4, size=3)
    field = torch.randn(2, 1, 4)
    expected = torch.relu(layer.value(field) + layer.residual(field))
    torch.testing.assert_close(layer(field), expected)
