from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tastemaker import registry
from tastemaker.errors import UnknownNameError
from tastemaker.models.ctr.dcnv2 import DCNv2
from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.layers.cross import MatrixCross, MixtureCross
from tastemaker.testing.backbone import BackboneContract, random_inputs

SHAPE = BackboneContract.shape


class TestDcnv2(BackboneContract):
    backbone = DCNv2
    shapes: ClassVar = [*BackboneContract.shapes, Shape(dim=4, candidate=1)]


class TestDcnv2OfLowRankStacked(TestDcnv2):
    def make(self, shape: Shape, **options: Any) -> Any:
        return super().make(shape, rank=3, experts=2, structure="stacked", **options)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "dcnv2") is DCNv2


def test_has_the_sizes_of_kar() -> None:
    sizes = [tuple(v.shape) for n, v in DCNv2(SHAPE).named_parameters() if n.endswith("weight")]
    deep, head = [(200, 91), (80, 200)], [(200, 171), (80, 200), (1, 80)]
    assert sizes == [(91, 91)] * 3 + deep + head
    assert isinstance(DCNv2(SHAPE).deep.layers[-1], nn.ReLU)


def test_full_rank_layers_are_the_recursion_of_the_paper() -> None:
    cross = MatrixCross(5, layers=3)
    for layer in cross.layers:
        nn.init.normal_(layer.bias)
    inputs = torch.randn(4, 5)
    found = cross(inputs)
    for row in range(4):
        x = inputs[row]
        for layer in cross.layers:
            product = [torch.dot(weights, x) for weights in layer.weight]
            x = inputs[row] * (torch.stack(product) + layer.bias) + x
        torch.testing.assert_close(found[row], x)


def test_mixture_layers_add_gated_experts_one_by_one() -> None:
    cross = MixtureCross(5, layers=2, rank=3, experts=4)
    for layer in cross.layers:
        nn.init.normal_(layer.bias)
    inputs = torch.randn(4, 5)
    found = cross(inputs)
    for row in range(4):
        x = inputs[row]
        for layer in cross.layers:
            x = x + mixed(layer, inputs[row], x)
        torch.testing.assert_close(found[row], x)


def mixed(layer: Any, base: Tensor, x: Tensor) -> Tensor:
    """Σ_e g_e(x) x_0 ∘ (U_e tanh(C_e tanh(V_eᵀ x)) + b), expert by expert."""
    gates = (layer.gate.weight @ x).exp()
    total = torch.zeros_like(x)
    for expert, gate in enumerate(gates / gates.sum()):
        inner = torch.tanh(layer.core[expert] @ torch.tanh(layer.down[expert] @ x))
        total += gate * base * (layer.up[expert].T @ inner + layer.bias)
    return total


def test_a_rank_makes_the_cross_part_a_mixture() -> None:
    cross = DCNv2(SHAPE, rank=3, experts=2).cross
    assert isinstance(cross, MixtureCross)
    assert [layer.down.shape for layer in cross.layers] == [(2, 3, SHAPE.flat)] * 3


def test_beside_each_other_both_parts_read_everything_and_the_head_reads_both() -> None:
    model, inputs = DCNv2(SHAPE, hidden=()), random_inputs(SHAPE, rows=4, reads_steps=False)
    of_cross, of_deep = model.head.layers[0].weight[0].split([SHAPE.flat, 80])
    expected = model.cross(inputs.flat) @ of_cross + model.deep(inputs.flat) @ of_deep
    torch.testing.assert_close(model(inputs), expected)


def test_stacked_the_deep_part_reads_the_crossed_and_the_head_the_deep_part() -> None:
    model = DCNv2(SHAPE, structure="stacked")
    inputs = random_inputs(SHAPE, rows=4, reads_steps=False)
    expected = model.head(model.deep(model.cross(inputs.flat)))[:, 0]
    torch.testing.assert_close(model(inputs), expected)


def test_an_unknown_structure_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="structure 'paralel'; did you mean 'parallel'"):
        DCNv2(SHAPE, structure="paralel")  # type: ignore[arg-type]
