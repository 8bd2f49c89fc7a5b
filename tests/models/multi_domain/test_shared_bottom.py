from __future__ import annotations

import torch

from tastemaker import registry
from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.multi_domain.shared_bottom import SharedBottom
from tastemaker.testing.backbone import random_inputs
from tastemaker.testing.multi_domain import MultiDomainContract


class TestSharedBottom(MultiDomainContract):
    network = SharedBottom
    options = {"bottom": (16, 12), "tower": (8,)}  # noqa: RUF012


def test_is_found_by_name() -> None:
    assert registry.load("multi-domain backbone", "shared_bottom") is SharedBottom
    assert {"mmoe", "ple", "star"} < set(registry.names("multi-domain backbone"))
    assert not {"network", "recommender", "rows"} & set(registry.names("multi-domain backbone"))


def test_has_the_sizes_of_uni_ctr() -> None:
    network = SharedBottom(Shape(dim=4, candidate=2), 2)
    sizes = [tuple(v.shape) for n, v in network.named_parameters() if n.endswith("weight")]
    tower = [(1024, 1024), (512, 1024), (256, 512), (1, 256)]
    assert sizes == [*tower, *tower, (1024, 8), (1024, 1024)]  # one tower per domain


def test_a_tower_reads_what_all_share() -> None:
    torch.manual_seed(0)
    shape = MultiDomainContract.shape
    network = SharedBottom(shape, 2, bottom=(16,), tower=(8,)).eval()
    inputs = random_inputs(shape, rows=4, reads_steps=False)
    hidden = torch.relu(network.bottom.layers[0](inputs.flat))
    expected = torch.cat([tower(hidden) for tower in network.own], dim=1)
    torch.testing.assert_close(network(inputs), expected)


def test_hidden_units_are_left_out_in_training_only() -> None:
    shape = MultiDomainContract.shape
    network = SharedBottom(shape, 1, bottom=(16,), tower=(8,), dropout=0.5)
    inputs = random_inputs(shape, rows=4, reads_steps=False)
    assert not torch.equal(network(inputs), network(inputs))
    network.eval()
    assert torch.equal(network(inputs), network(inputs))
