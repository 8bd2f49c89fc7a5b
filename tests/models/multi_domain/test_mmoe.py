from __future__ import annotations

import torch

from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.multi_domain.mmoe import MMoE
from tastemaker.models.multi_domain.network import Gate
from tastemaker.testing.backbone import random_inputs
from tastemaker.testing.multi_domain import MultiDomainContract


class TestMmoe(MultiDomainContract):
    network = MMoE
    options = {"experts": 3, "expert": (16, 12), "tower": (8,)}  # noqa: RUF012


def test_has_the_sizes_of_uni_ctr() -> None:
    network = MMoE(Shape(dim=4, candidate=2), 1)
    sizes = [tuple(v.shape) for n, v in network.named_parameters() if n.endswith("weight")]
    own = [(3, 8), (1024, 512), (1024, 1024), (1, 1024)]
    assert sizes == [*own, *[(1024, 8), (512, 1024)] * 3]


def test_a_gate_weighs_experts_with_numbers_that_sum_to_one() -> None:
    torch.manual_seed(0)
    gate, rows = Gate(5, 3), torch.randn(4, 5)
    torch.testing.assert_close(gate(rows, torch.ones(4, 3, 2)), torch.ones(4, 2))
    found = gate(rows, torch.eye(3).expand(4, 3, 3))  # expert i says nothing but unit vector i
    torch.testing.assert_close(found, torch.softmax(gate.linear(rows), dim=1))
    assert len(set(found[:, 0].tolist())) == 4


def test_every_domain_mixes_the_same_experts_in_its_own_way() -> None:
    torch.manual_seed(0)
    shape = MultiDomainContract.shape
    network = MMoE(shape, 2, experts=3, expert=(6,), tower=(8,)).eval()
    inputs = random_inputs(shape, rows=4, reads_steps=False)
    flat = inputs.flat
    for domain, part in enumerate(network.own):
        weights = torch.softmax(part.gate.linear(flat), dim=1)
        mixed = sum(weights[:, [e]] * expert(flat) for e, expert in enumerate(network.experts))
        torch.testing.assert_close(network(inputs)[:, domain], part.tower(mixed)[:, 0])
