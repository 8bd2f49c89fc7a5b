"""Contract tests for networks of several domains, and the checkerboard world cut into domains.

```python
class TestMine(MultiDomainContract):
    network = Mine
    options = {"tower": (8,)}
```
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from tastemaker.data.splits import Split
from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.testing.backbone import BackboneContract, random_inputs
from tastemaker.testing.world import checkerboard_split

__all__ = ["MultiDomainContract", "domain_split"]

_DOMAINS = 3
_PARTS = ("candidate", "context", "history", "vectors", "wide", "linear")


def domain_split(
    n_users: int = 40,
    n_items: int = 42,
    *,
    events: int = 20,
    seed: int = 0,
    domains: Sequence[str] = ("Books", "Games", "Music"),
    turned: Collection[str] = (),
) -> Split:
    """The checkerboard cut by global time; item i is of domain i modulo their number.

    With an odd number of domains every one has items of both parities.

    Args:
        n_users: See `checkerboard`.
        n_items: Likewise.
        events: Likewise.
        seed: Likewise.
        domains: Their names, in the order of the categories.
        turned: Domains in which even users like odd items instead.
    """
    split = checkerboard_split(n_users, n_items, events=events, seed=seed)
    names = pl.Series("domain", domains, dtype=pl.Enum(domains))
    events_of = split.tables.interactions
    of_event = names.gather(events_of["item"].to_numpy() % len(domains))
    away = of_event.is_in(list(turned))
    told = events_of.with_columns(
        of_event,
        rating=pl.when(away).then(6 - pl.col("rating")).otherwise("rating"),
        label=pl.when(away).then(1 - pl.col("label")).otherwise("label"),
    ).cast(events_of.schema)
    schema = replace(split.tables.schema, domain="domain", categorical=("genres",), text=())
    return replace(split, tables=replace(split.tables, interactions=told, schema=schema))


class _MeanOfHeads(nn.Module):
    """All heads at once, as if it were a backbone with one."""

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Inputs) -> Tensor:
        return self.network(inputs).mean(dim=1)


class MultiDomainContract(BackboneContract):
    """What every network for several domains keeps to, beside what every backbone does."""

    network: ClassVar[Callable[..., nn.Module]]
    """The class under test."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Sizes, small ones."""

    def make(self, shape: Shape, **options: Any) -> Any:
        """All heads of it, averaged."""
        return _MeanOfHeads(self.make_network(shape, **options)).eval()

    def make_network(self, shape: Shape | None = None, **options: Any) -> Any:
        """A network of three domains with reproducible weights, ready to predict."""
        torch.manual_seed(0)
        given = {**type(self).options, **options}
        return type(self).network(shape or self.shape, _DOMAINS, **given).eval()

    def inputs(self, shape: Shape, *, rows: int = 6, seed: int = 1) -> Inputs:
        """A batch for it."""
        return random_inputs(shape, rows=rows, reads_steps=False, seed=seed)

    def test_a_finite_logit_of_every_head(self) -> None:
        """Or of the head that each row names."""
        network, inputs = self.make_network(), self.inputs(self.shape)
        assert network(inputs).shape == (6, _DOMAINS)
        assert torch.isfinite(network(inputs)).all()
        assert network(inputs, torch.tensor([0, 1, 2, 2, 1, 0])).shape == (6,)
        none = replace(inputs, **{name: getattr(inputs, name)[:0] for name in _PARTS})
        assert network(none, torch.tensor([], dtype=torch.int64)).shape == (0,)

    @pytest.mark.parametrize(
        "heads", [[0, 1, 2, 2, 1, 0], [2, 0, 2, 0, 2, 0], [1] * 6, [2, 2, 2, 1, 1, 0]]
    )
    def test_a_row_gets_the_logit_of_its_head(self, heads: list[int]) -> None:
        """Whatever the order of the heads, and whichever of them nobody names."""
        network, inputs, of_row = self.make_network(), self.inputs(self.shape), torch.tensor(heads)
        expected = network(inputs).gather(1, of_row[:, None])[:, 0]
        torch.testing.assert_close(network(inputs, of_row), expected)

    def test_heads_say_different_things(self) -> None:
        """From the first step on."""
        logits = self.make_network()(self.inputs(self.shape))
        assert (logits[:, 0] != logits[:, 1]).any()
        assert (logits[:, 1] != logits[:, 2]).any()

    @pytest.mark.parametrize("head", range(_DOMAINS))
    def test_a_row_has_no_gradient_in_other_domains(self, head: int) -> None:
        """Not even in a batch that holds rows of these."""
        network, inputs = self.make_network().train(), self.inputs(self.shape)
        heads = torch.tensor([0, 1, 2, 0, 1, 2])
        network(inputs, heads)[heads == head].sum().backward()
        for place, part in enumerate(network.own):
            gradients = [weight.grad for weight in part.parameters()]
            reached = [g is not None and bool((g != 0).any()) for g in gradients]
            assert any(reached) == (place == head)
            assert place != head or all(g is not None for g in gradients)
        shared = [w for n, w in network.named_parameters() if not n.startswith("own.")]
        assert any(weight.grad is not None and (weight.grad != 0).any() for weight in shared)

    def test_an_added_domain_changes_no_bit_of_the_others(self) -> None:
        """And has a part of its own, on the same device and of the same type."""
        network, inputs = self.make_network().double(), self.inputs(self.shape)
        doubled = replace(inputs, **{name: getattr(inputs, name).double() for name in _PARTS})
        before = network(doubled)
        network.add_domain()
        after = network.eval()(doubled)
        assert after.shape == (6, _DOMAINS + 1)
        assert after.dtype == torch.float64
        assert torch.equal(after[:, :_DOMAINS], before)

    def test_an_added_domain_trains_alone(self) -> None:
        """With all else frozen, its part still learns."""
        network, inputs = self.make_network().requires_grad_(False), self.inputs(self.shape)
        network.add_domain()
        network(inputs, torch.full((6,), _DOMAINS)).sum().backward()
        trained = [name for name, weight in network.named_parameters() if weight.grad is not None]
        assert trained
        assert all(name.startswith(f"own.{_DOMAINS}.") for name in trained)

    def test_a_head_that_is_not_there_is_refused(self) -> None:
        """Rather than left out of the batch."""
        with pytest.raises(ValueError, match="head 3 of 3"):
            self.make_network()(self.inputs(self.shape), torch.tensor([0, 1, 2, 3, 0, 0]))
