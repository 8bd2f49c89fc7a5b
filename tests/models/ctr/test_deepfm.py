from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import ClassVar

import pytest
import torch
from torch import nn

from tastemaker import registry
from tastemaker.models.ctr.deepfm import DeepFM
from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.factorisation import DenseFirstOrder, second_order
from tastemaker.testing.backbone import BackboneContract, random_inputs

SHAPE = BackboneContract.shape


class TestDeepfm(BackboneContract):
    backbone = DeepFM
    shapes: ClassVar = [*BackboneContract.shapes, Shape(dim=4, candidate=1)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def inputs() -> Inputs:
    return random_inputs(SHAPE, rows=4, reads_steps=False)


def without(*parts: nn.Module) -> None:
    """Let them give nothing but zeros."""
    for part in parts:
        for weight in part.parameters():
            nn.init.zeros_(weight)


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "deepfm") is DeepFM


def test_has_the_sizes_of_kar() -> None:
    sizes = [tuple(v.shape) for n, v in DeepFM(SHAPE).named_parameters() if n.endswith("weight")]
    assert sizes == [(19,), (200, 91), (80, 200), (1, 80)]


@pytest.mark.parametrize("fields", [0, 1, 2, 7])
def test_second_order_is_the_sum_over_all_pairs(fields: int) -> None:
    rows = torch.randn(5, fields, 4)
    found = second_order(rows)
    for row in range(5):
        pairs = [torch.dot(a, b) for a, b in combinations(rows[row], 2)]
        torch.testing.assert_close(found[row], sum(pairs, torch.tensor(0.0)))


def test_dense_first_order_adds_one_product_per_number() -> None:
    linear, numbers, layer = torch.randn(3), torch.randn(3, 5), DenseFirstOrder(5)
    expected = [linear[row] + torch.dot(numbers[row], layer.weight) for row in range(3)]
    torch.testing.assert_close(layer(linear, numbers), torch.stack(expected))


def test_dense_first_order_of_no_numbers_adds_nothing() -> None:
    linear = torch.randn(3)
    assert torch.equal(DenseFirstOrder(0)(linear, torch.empty(3, 0)), linear)


def test_second_order_pairs_all_fields_but_those_of_texts(inputs: Inputs) -> None:
    model = DeepFM(SHAPE)
    without(model.linear, model.deep)
    fields = torch.cat([inputs.candidate, inputs.context, inputs.history], dim=1)
    pairs = combinations(fields.unbind(dim=1), 2)
    expected = inputs.linear + sum((a * b).sum(dim=1) for a, b in pairs)
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("part", ["vectors", "wide"])
def test_first_order_has_a_weight_for_every_number_of_the_texts(inputs: Inputs, part: str) -> None:
    model = DeepFM(SHAPE)
    without(model.deep)
    more = torch.randn_like(getattr(inputs, part))
    of_vectors, of_wide = model.linear.weight.split([2 * 8, 3])
    weight = of_vectors if part == "vectors" else of_wide
    changed = model(replace(inputs, **{part: getattr(inputs, part) + more})) - model(inputs)
    torch.testing.assert_close(changed, more.flatten(1) @ weight, rtol=1e-4, atol=1e-5)


def test_the_deep_part_reads_everything_and_is_added(inputs: Inputs) -> None:
    model = DeepFM(SHAPE)
    together, deep = model(inputs), model.deep(inputs.flat)[:, 0]
    without(model.deep)
    torch.testing.assert_close(together, model(inputs) + deep)
