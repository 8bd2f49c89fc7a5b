from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from tastemaker import registry
from tastemaker.models.ctr.dcn import DCN
from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.layers.cross import VectorCross
from tastemaker.testing.backbone import BackboneContract, random_inputs

SHAPE = BackboneContract.shape


class TestDcn(BackboneContract):
    backbone = DCN
    shapes: ClassVar = [*BackboneContract.shapes, Shape(dim=4, candidate=1)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "dcn") is DCN


def test_has_the_sizes_of_kar() -> None:
    sizes = [tuple(v.shape) for n, v in DCN(SHAPE).named_parameters() if n.endswith("weight")]
    assert sizes == [(3, 91), (200, 91), (80, 200), (200, 171), (80, 200), (1, 80)]
    assert isinstance(DCN(SHAPE).deep.layers[-1], nn.ReLU)


@pytest.mark.parametrize("layers", [0, 1, 2, 4])
def test_cross_layers_are_the_recursion_of_the_paper(layers: int) -> None:
    cross = VectorCross(5, layers=layers)
    nn.init.normal_(cross.bias)
    inputs = torch.randn(6, 5)
    found = cross(inputs)
    for row in range(6):
        x = inputs[row]
        for weight, bias in zip(cross.weight, cross.bias, strict=True):
            x = inputs[row] * torch.dot(weight, x) + bias + x
        torch.testing.assert_close(found[row], x)


def test_cross_layers_have_the_gradients_of_the_recursion() -> None:
    cross = VectorCross(4, layers=3).double()
    nn.init.normal_(cross.bias)
    inputs = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    x = inputs
    for weight, bias in zip(cross.weight, cross.bias, strict=True):
        x = inputs * (x @ weight)[:, None] + bias + x
    leaves = (inputs, cross.weight, cross.bias)
    expected = torch.autograd.grad(x.sin().sum(), leaves)
    found = torch.autograd.grad(cross(inputs).sin().sum(), leaves)
    torch.testing.assert_close(found, expected)


def test_the_head_reads_cross_and_deep_part_side_by_side() -> None:
    model, inputs = DCN(SHAPE, hidden=()), random_inputs(SHAPE, rows=4, reads_steps=False)
    last = model.head.layers[0]
    nn.init.normal_(last.bias)
    of_cross, of_deep = last.weight[0].split([SHAPE.flat, 80])
    expected = model.cross(inputs.flat) @ of_cross + model.deep(inputs.flat) @ of_deep + last.bias
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("part", ["vectors", "wide"])
@pytest.mark.parametrize("silent", ["deep", "cross"])
def test_cross_and_deep_part_each_see_the_texts(silent: str, part: str) -> None:
    model, inputs = DCN(SHAPE), random_inputs(SHAPE, rows=4, reads_steps=False)
    columns = model.head.layers[0].weight.data
    muted = columns[:, SHAPE.flat :] if silent == "deep" else columns[:, : SHAPE.flat]
    muted.zero_()
    other = replace(inputs, **{part: -getattr(inputs, part)})
    assert (model(other) != model(inputs)).all()
