from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tastemaker import registry
from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.ctr.xdeepfm import XDeepFM
from tastemaker.models.layers.cin import CompressedInteractions
from tastemaker.testing.backbone import BackboneContract, random_inputs

SHAPE = BackboneContract.shape


class TestXdeepfm(BackboneContract):
    backbone = XDeepFM
    shapes: ClassVar = [*BackboneContract.shapes, Shape(dim=4, candidate=1)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def inputs() -> Inputs:
    return random_inputs(SHAPE, rows=4, reads_steps=False)


@pytest.fixture
def interacting() -> XDeepFM:
    """A model of which only the interactions and `Inputs.linear` are left."""
    model = XDeepFM(SHAPE, maps=(3, 2))
    for weight in [*model.linear.parameters(), *model.deep.parameters()]:
        nn.init.zeros_(weight)
    return model


def written_out(network: CompressedInteractions, fields: Tensor) -> Tensor:
    """The layers as xDeepFM defines them, one by one, and the sum over maps and dimensions."""
    maps, total = fields, torch.zeros_like(fields[:, 0, 0])
    for weight, head in zip(network.layers, network.heads, strict=True):
        matrices = weight.view(len(head), maps.shape[1], fields.shape[1])
        maps = torch.einsum("hij,bid,bjd->bhd", matrices, maps, fields)
        for number, share in enumerate(head):
            total = total + share * maps[:, number].sum(dim=1)
    return total


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "xdeepfm") is XDeepFM


def test_has_the_sizes_of_kar() -> None:
    model = XDeepFM(SHAPE)
    sizes = [tuple(v.shape) for n, v in model.named_parameters() if n.endswith("weight")]
    assert sizes == [(19,), (200, 91), (80, 200), (1, 80)]
    assert [tuple(v.shape) for v in model.interactions.layers] == [(50, 11 * 11), (50, 50 * 11)]


@pytest.mark.parametrize("maps", [(4,), (4, 3), (2, 3, 4), (3, 2, 2, 3)])
def test_interactions_are_those_of_the_paper(maps: tuple[int, ...]) -> None:
    network = CompressedInteractions(5, maps=maps).double()
    fields = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    found, expected = network(fields), written_out(network, fields)
    torch.testing.assert_close(found, expected)
    leaves = [fields, *network.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found.sin().sum(), leaves),
        torch.autograd.grad(expected.sin().sum(), leaves),
    )


def test_the_first_layer_weighs_every_pair_in_every_dimension() -> None:
    network, fields = CompressedInteractions(2, maps=(1,)), torch.randn(1, 2, 3)
    weight, share = network.layers[0].view(2, 2), network.heads[0][0]
    expected = torch.tensor(0.0)
    for i in range(2):
        for j in range(2):
            for d in range(3):
                expected = expected + weight[i, j] * fields[0, i, d] * fields[0, j, d]
    torch.testing.assert_close(network(fields)[0], share * expected)


def test_interactions_read_all_fields_and_are_added(inputs: Inputs, interacting: XDeepFM) -> None:
    parts = [inputs.candidate, inputs.context, inputs.history, inputs.vectors]
    expected = inputs.linear + written_out(interacting.interactions, torch.cat(parts, dim=1))
    torch.testing.assert_close(interacting(inputs), expected)


def test_interactions_see_fields_of_texts_but_no_raw_ones(
    inputs: Inputs, interacting: XDeepFM
) -> None:
    before = interacting(inputs)
    for field in range(SHAPE.vectors):
        vectors = inputs.vectors.clone()
        vectors[:, field] += 1
        assert (interacting(replace(inputs, vectors=vectors)) != before).all()
    assert torch.equal(interacting(replace(inputs, wide=inputs.wide + 1)), before)


def test_first_order_and_deep_part_read_everything_and_are_added(
    inputs: Inputs, interacting: XDeepFM
) -> None:
    other = XDeepFM(SHAPE, maps=(3, 2))
    other.interactions.load_state_dict(interacting.interactions.state_dict())
    texts = torch.cat([inputs.vectors.flatten(1), inputs.wide], dim=1)
    added = texts @ other.linear.weight + other.deep(inputs.flat)[:, 0]
    torch.testing.assert_close(other(inputs), interacting(inputs) + added)
