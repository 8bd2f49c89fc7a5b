"""Contract tests for re-rankers: subclass, name the class, and get them all.

```python
class TestMine(RerankerContract):
    reranker = Mine
    equivariant = True  # when the order of the items is to change nothing
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tastemaker.models.layers.list_losses import LIST_LOSSES
from tastemaker.testing.gradients import assert_finite_gradients

__all__ = ["Lists", "RerankerContract", "random_lists"]

_WIDTH, _STEP, _LENGTH, _ITEMS, _STEPS = 12, 7, 9, 6, 5


@dataclass(frozen=True)
class Lists:
    """What the `forward` of a re-ranker is given, under the same names."""

    items: Tensor
    mask: Tensor
    history: Tensor
    past: Tensor

    def given_to(self, model: nn.Module) -> Tensor:
        """Its logits of these lists, float [B, K]."""
        return model(self.items, self.mask, self.history, self.past)


def random_lists(*, lists: int = 4, reads_steps: bool = True, seed: int = 0) -> Lists:
    """Normal numbers: list 0 has no history, list 1 padding in both, the others are full.

    Args:
        lists: B, at least 3.
        reads_steps: Whether there is a history, or L is 0.
        seed: Of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = _STEPS if reads_steps else 0
    items = torch.randn(lists, _ITEMS, _WIDTH, generator=generator)
    history = torch.randn(lists, steps, _STEP, generator=generator)
    mask = torch.ones(lists, _ITEMS, dtype=torch.bool)
    mask[1, 4:] = False
    past = torch.ones(lists, steps, dtype=torch.bool)
    past[0] = False
    past[1, :2] = False
    return Lists(items, mask, history, past)


def _select(lists: Lists, rows: list[int]) -> Lists:
    """Some lists of a batch."""
    return Lists(*(part[rows] for part in (lists.items, lists.mask, lists.history, lists.past)))


class RerankerContract:
    """What every re-ranker keeps to."""

    reranker: ClassVar[Callable[..., nn.Module]]
    """The class under test."""

    equivariant: ClassVar[bool] = False
    """Whether another order of the items is to give the same logits in that order."""

    options: ClassVar[dict[str, Any]] = {}
    """Arguments of its own."""

    def make(self, **options: Any) -> Any:
        """A re-ranker with reproducible weights, ready to predict."""
        torch.manual_seed(0)
        sizes = {"step": _STEP, "length": _LENGTH}
        return type(self).reranker(_WIDTH, **sizes, **self.options, **options).eval()

    def lists(self, *, seed: int = 1) -> Lists:
        """A batch for it."""
        return random_lists(reads_steps=self.make().reads_steps, seed=seed)

    def test_one_finite_logit_per_place(self) -> None:
        """For lists without history and for a list of nothing but padding too."""
        model, lists = self.make(), self.lists()
        nothing = lists.mask.clone()
        nothing[2] = False
        for given in (lists, replace(lists, mask=nothing)):
            logits = given.given_to(model)
            assert logits.shape == (4, _ITEMS)
            assert torch.isfinite(logits).all()

    def test_a_list_does_not_change_with_its_batch_mates(self) -> None:
        """Alone, in another order, or together, in training too: the same logits."""
        model, lists = self.make(), self.lists()
        for mode in (model.eval(), model.train()):
            together = lists.given_to(mode)
            backwards = [3, 2, 1, 0]
            torch.testing.assert_close(
                _select(lists, backwards).given_to(mode), together[backwards]
            )
            for row in range(4):
                torch.testing.assert_close(_select(lists, [row]).given_to(mode)[0], together[row])

    def test_padding_changes_nothing(self) -> None:
        """Neither what stands in it nor how much there is of it, behind the items or before."""
        model, lists = self.make(), self.lists()
        expected = lists.given_to(model)[lists.mask]
        for side in ((0, 2), (2, 0)):
            wider = Lists(
                functional.pad(lists.items, (0, 0, *side)),
                functional.pad(lists.mask, side),
                functional.pad(lists.history, (0, 0, 2, 0)),
                functional.pad(lists.past, (2, 0)),
            )
            rubbish = replace(
                wider,
                items=wider.items.masked_fill(~wider.mask[..., None], 50.0),
                history=wider.history.masked_fill(~wider.past[..., None], -50.0),
            )
            for given in (wider, rubbish):
                torch.testing.assert_close(given.given_to(model)[given.mask], expected)

    def test_every_input_has_a_gradient(self) -> None:
        """Each number of each real item and step is read, the knowledge among them included."""
        model, lists = self.make(), self.lists()
        names = [("items", lists.mask), *([("history", lists.past)] if model.reads_steps else [])]
        for name, mask in names:
            leaf = getattr(lists, name).clone().requires_grad_()
            # Squares: the sum of all outputs of a layer norm would not move.
            replace(lists, **{name: leaf}).given_to(model)[lists.mask].square().sum().backward()
            assert leaf.grad is not None, name
            assert torch.isfinite(leaf.grad).all(), name
            assert (leaf.grad[mask] != 0).all(), name
            assert (leaf.grad[~mask] == 0).all(), name

    def test_an_item_is_seen_by_the_others_of_its_list(self) -> None:
        """A re-ranker that scores items one by one is none."""
        model, lists = self.make(), self.lists()
        items = lists.items.clone()
        items[:, 0] += 1
        changed = replace(lists, items=items).given_to(model) - lists.given_to(model)
        assert (changed[lists.mask].abs() > 0).all()

    def test_order_matters_only_where_it_is_promised_to(self) -> None:
        """Shuffled items have the same logits in that order, or others."""
        model, lists = self.make(), self.lists()
        order = [3, 1, 5, 0, 4, 2]
        shuffled = replace(lists, items=lists.items[:, order], mask=lists.mask[:, order])
        found, expected = shuffled.given_to(model), lists.given_to(model)[:, order]
        if self.equivariant:
            torch.testing.assert_close(found[shuffled.mask], expected[shuffled.mask])
        else:
            assert not torch.allclose(found[shuffled.mask], expected[shuffled.mask], atol=1e-4)

    def test_history_matters_where_it_is_read(self) -> None:
        """And so does its order; a model that does not read it is given none."""
        model, lists = self.make(), self.lists()
        if not model.reads_steps:
            return
        logits = lists.given_to(model)
        backwards = replace(lists, history=lists.history.flip(1)).given_to(model)
        assert not torch.allclose(backwards[2:], logits[2:], atol=1e-4)
        torch.testing.assert_close(backwards[0], logits[0])
        none = replace(lists, history=lists.history[:, :0], past=lists.past[:, :0])
        torch.testing.assert_close(none.given_to(model)[0], logits[0])

    def test_trains_without_any_history(self) -> None:
        """Its own loss gives every parameter that is used a finite gradient."""
        model = self.make().train()
        lists = _select(self.lists(), [0, 0])
        labels = torch.eye(2, _ITEMS)
        LIST_LOSSES[model.loss](lists.given_to(model), labels, lists.mask).backward()
        assert_finite_gradients(model)

    def test_learns_which_item_is_liked(self) -> None:
        """A few steps on its own loss bring the liked item of each list to the top."""
        model, lists = self.make().train(), self.lists()
        labels = torch.zeros(4, _ITEMS)
        labels[range(4), [0, 3, 5, 1]] = 1
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(40):
            optimiser.zero_grad()
            LIST_LOSSES[model.loss](lists.given_to(model), labels, lists.mask).backward()
            optimiser.step()
        logits = lists.given_to(model).masked_fill(~lists.mask, -torch.inf)
        assert torch.equal(logits.argmax(dim=1), labels.argmax(dim=1))

    def test_computes_in_float64_too(self) -> None:
        """Single and double precision agree to single precision."""
        model, lists = self.make(), self.lists()
        expected = lists.given_to(model)
        doubled = replace(lists, items=lists.items.double(), history=lists.history.double())
        found = doubled.given_to(model.double())
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)

    def test_trains_with_half_precision_products(self) -> None:
        """As `TrainingPlan.precision` has it: about the same logits, finite float32 gradients."""
        model, lists = self.make(), self.lists()
        expected = lists.given_to(model)[lists.mask]
        with torch.autocast("cpu", torch.bfloat16):
            found = lists.given_to(model).float()
        torch.testing.assert_close(found[lists.mask], expected, rtol=0.05, atol=0.1)
        LIST_LOSSES[model.loss](found, torch.eye(4, _ITEMS), lists.mask).backward()
        assert_finite_gradients(model)

    def test_dropout_works_in_training_only(self) -> None:
        """Two passes differ while training and agree afterwards."""
        model, lists = self.make(dropout=0.5), self.lists()
        torch.testing.assert_close(lists.given_to(model), lists.given_to(model))
        model.train()
        assert not torch.allclose(lists.given_to(model), lists.given_to(model))
