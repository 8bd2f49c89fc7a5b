from __future__ import annotations

import pytest
import torch

from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.multi_domain.ple import PLE
from tastemaker.testing.backbone import random_inputs
from tastemaker.testing.multi_domain import MultiDomainContract

SMALL = {"expert": (12,), "tower": (8,)}


class TestPle(MultiDomainContract):
    network = PLE
    options = {**SMALL, "shared_experts": 2}  # noqa: RUF012


@pytest.mark.parametrize("levels", [1, 2])
def test_has_the_experts_of_uni_ctr(levels: int) -> None:
    network = PLE(Shape(dim=4, candidate=2), 2, expert=(6,), tower=(), levels=levels)
    of_domain, shared = 2, 1
    assert [len(experts) for experts in network.experts] == [shared] * levels
    for route in network.own:
        assert [len(level.experts) for level in route.levels] == [of_domain] * levels
        assert [level.gate.linear.out_features for level in route.levels] == [3] * levels


def test_one_level_mixes_shared_and_own_experts() -> None:
    torch.manual_seed(0)
    shape = MultiDomainContract.shape
    network = PLE(shape, 2, levels=1, **SMALL).eval()
    inputs = random_inputs(shape, rows=4, reads_steps=False)
    flat = inputs.flat
    for domain, route in enumerate(network.own):
        (level,) = route.levels
        experts = [*network.experts[0], *level.experts]
        weights = torch.softmax(level.gate.linear(flat), dim=1)
        mixed = sum(weights[:, [e]] * expert(flat) for e, expert in enumerate(experts))
        torch.testing.assert_close(network(inputs)[:, domain], route.tower(mixed)[:, 0])


def test_the_second_level_reads_what_the_first_one_made() -> None:
    torch.manual_seed(0)
    shape = MultiDomainContract.shape
    network = PLE(shape, 1, shared_experts=2, **SMALL).eval()
    inputs = random_inputs(shape, rows=4, reads_steps=False)
    flat, first = inputs.flat, network.experts[0](inputs.flat)
    common = network.gates[0](flat, first)
    (route,) = network.own
    state = route.levels[0](flat, first)
    state = route.levels[1](state, network.experts[1](common))
    torch.testing.assert_close(network(inputs), route.tower(state))
