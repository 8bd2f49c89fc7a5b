from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.multi_domain.star import STAR
from tastemaker.testing.backbone import random_inputs
from tastemaker.testing.multi_domain import MultiDomainContract

SHAPE = MultiDomainContract.shape
SMALL = {"hidden": (12, 6), "auxiliary": (8,)}


class TestStar(MultiDomainContract):
    network = STAR
    options = SMALL


@pytest.fixture
def network() -> STAR:
    torch.manual_seed(0)
    made = STAR(SHAPE, 2, **SMALL).eval()
    for part in made.own:  # as if trained: nothing is one or zero any more
        for weight in part.parameters():
            nn.init.normal_(weight)
    return made


@pytest.fixture
def inputs() -> Inputs:
    return random_inputs(SHAPE, rows=4, reads_steps=False)


def test_has_the_sizes_of_uni_ctr() -> None:
    network = STAR(Shape(dim=4, candidate=2), 2)
    layers = [(1024, 8), (512, 1024), (256, 512), (1, 256)]
    for part in (network.centre, *network.own):
        assert [tuple(weight.shape) for weight in part.weights] == layers


def test_layers_are_shared_ones_times_those_of_the_domain(network: STAR, inputs: Inputs) -> None:
    flat, centre = inputs.flat, network.centre
    for domain, part in enumerate(network.own):
        state = functional.layer_norm(flat, flat.shape[1:])
        state = state * centre.scale * part.scale + centre.shift_bias + part.shift_bias
        for layer in range(3):
            weight = centre.weights[layer] * part.weights[layer]
            state = state @ weight.T + centre.biases[layer] + part.biases[layer]
            state = torch.relu(state) if layer < 2 else state
        named = torch.cat([flat, part.indicator.repeat(4, 1)], dim=1)
        expected = (state + network.auxiliary(named))[:, 0]
        torch.testing.assert_close(network(inputs)[:, domain], expected)


def test_a_new_domain_begins_as_the_shared_network(network: STAR, inputs: Inputs) -> None:
    network.add_domain()
    network.add_domain()
    nn.init.zeros_(network.auxiliary.layers[-1].weight)  # which tells the domains apart
    logits = network(inputs)
    torch.testing.assert_close(logits[:, 2], logits[:, 3], rtol=0, atol=0)
    assert (logits[:, 0] != logits[:, 2]).all()


def test_the_size_of_a_row_does_not_matter_behind_the_normalisation(
    network: STAR, inputs: Inputs
) -> None:
    nn.init.zeros_(network.auxiliary.layers[-1].weight)
    parts = ("candidate", "context", "history", "vectors", "wide")
    larger = replace(inputs, **{name: 3 * getattr(inputs, name) for name in parts})
    torch.testing.assert_close(network(larger), network(inputs), rtol=1e-3, atol=1e-4)


def test_a_row_of_zeros_has_a_finite_logit(network: STAR, inputs: Inputs) -> None:
    parts = ("candidate", "context", "history", "vectors", "wide")
    empty = replace(inputs, **{name: torch.zeros_like(getattr(inputs, name)) for name in parts})
    assert torch.isfinite(network(empty)).all()
