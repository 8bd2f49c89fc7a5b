from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from tastemaker import registry
from tastemaker.errors import UnknownNameError
from tastemaker.models.ctr.fibinet import FiBiNET
from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.layers.bilinear import BilinearPairs, SqueezeExcitation, per_field
from tastemaker.testing.backbone import BackboneContract, random_inputs

MATRICES = ("field_all", "field_each", "field_interaction")


class TestFieldAll(BackboneContract):
    backbone = FiBiNET


class TestFieldEach(BackboneContract):
    backbone = FiBiNET

    def make(self, shape, **options):
        return super().make(shape, matrix="field_each", **options)


class TestFieldInteraction(BackboneContract):
    backbone = FiBiNET

    def make(self, shape, **options):
        return super().make(shape, matrix="field_interaction", **options)


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "fibinet") is FiBiNET


@pytest.mark.parametrize("matrix", MATRICES)
def test_pairs_are_bilinear_as_written_out(matrix: str) -> None:
    torch.manual_seed(0)
    fields = torch.randn(3, 4, 5)
    layer = BilinearPairs(4, 5, matrix=matrix)
    expected = []
    for number, (i, j) in enumerate(combinations(range(4), 2)):
        which = {"field_all": 0, "field_each": i, "field_interaction": number}[matrix]
        projected = torch.einsum("bd,de->be", fields[:, i], layer.weight[which])
        expected.append(projected * fields[:, j])
    torch.testing.assert_close(layer(fields), torch.stack(expected, dim=1))
    assert len(layer.weight) == {"field_all": 1, "field_each": 3, "field_interaction": 6}[matrix]


@pytest.mark.parametrize("matrix", MATRICES)
def test_products_scale_pairs_as_if_the_fields_had_been_scaled(matrix: str) -> None:
    torch.manual_seed(0)
    fields, weights = torch.randn(3, 4, 5), torch.rand(3, 4)
    layer = BilinearPairs(4, 5, matrix=matrix)
    scaled = layer(fields) * layer.products(weights)[:, :, None]
    torch.testing.assert_close(scaled, layer(fields * weights[:, :, None]))


@pytest.mark.parametrize("matrix", MATRICES)
def test_pairs_have_the_right_gradients(matrix: str) -> None:
    torch.manual_seed(0)
    layer = BilinearPairs(3, 2, matrix=matrix).double()
    fields = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (fields,))


def test_one_field_has_no_pairs() -> None:
    for matrix in MATRICES:
        assert BilinearPairs(1, 5, matrix=matrix)(torch.randn(3, 1, 5)).shape == (3, 0, 5)


def test_an_unknown_matrix_is_named() -> None:
    with pytest.raises(UnknownNameError, match="field_al"):
        BilinearPairs(3, 4, matrix="field_al")


def test_each_field_meets_its_own_matrix() -> None:
    fields, matrices = torch.randn(3, 4, 5), torch.randn(4, 5, 5)
    expected = torch.einsum("bfd,fde->bfe", fields, matrices)
    torch.testing.assert_close(per_field(fields, matrices), expected)


@pytest.mark.parametrize(("reduction", "reduced"), [(0.5, 8), (3, 1), (2, 2), (10, 1)])
def test_squeeze_excitation_as_written_out(reduction: float, reduced: int) -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation(4, reduction=reduction)
    fields = torch.randn(3, 4, 5)
    first, second = (weight.detach() for weight in layer.parameters())
    assert first.shape == (reduced, 4)
    for row in range(3):
        means = torch.stack([field.sum() / 5 for field in fields[row]])
        expected = (second @ (first @ means).clamp(min=0)).clamp(min=0)
        torch.testing.assert_close(layer(fields)[row], expected)


def test_the_head_reads_raw_and_reweighted_pairs_and_raw_texts() -> None:
    torch.manual_seed(0)
    shape = Shape(dim=4, candidate=2, context=1, vectors=1, wide=3)
    model, inputs = FiBiNET(shape), random_inputs(shape, rows=5, reads_steps=False)
    fields = inputs.fields
    weights = model.squeeze(fields)[:, :, None]
    read = [model.pairs(fields), model.pairs(weights * fields), inputs.wide]
    deep = model.head(torch.cat([one.flatten(1) for one in read], dim=1))[:, 0]
    first_order = inputs.linear + inputs.text @ model.linear.weight
    torch.testing.assert_close(model(inputs), deep + first_order)


def test_first_order_weights_enter_as_they_are() -> None:
    shape = Shape(dim=4, candidate=2)
    model, inputs = FiBiNET(shape), random_inputs(shape, rows=5, reads_steps=False)
    more = replace(inputs, linear=inputs.linear + 1)
    torch.testing.assert_close(model(more), model(inputs) + 1)


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_single_field_is_read_itself(matrix: str) -> None:
    shape = Shape(dim=4, candidate=1)
    model, inputs = FiBiNET(shape, matrix=matrix), random_inputs(shape, rows=5, reads_steps=False)
    expected = model.head(inputs.candidate[:, 0])[:, 0] + inputs.linear
    torch.testing.assert_close(model(inputs), expected)
