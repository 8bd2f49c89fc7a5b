"""Contract tests for CTR backbones: subclass, name the class, and get them all.

```python
class TestMine(BackboneContract):
    backbone = Mine
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape, Steps
from tastemaker.testing.gradients import assert_finite_gradients

__all__ = ["BackboneContract", "random_inputs"]

_LENGTH = 5


def random_inputs(
    shape: Shape, *, rows: int, reads_steps: bool, seed: int = 0, scale: float = 1.0
) -> Inputs:
    """Normal numbers of the given shape; row 0 has no history, row 1 a short one.

    Args:
        shape: Fields to fill.
        rows: B, at least 2.
        reads_steps: Whether sequences come step by step or averaged.
        seed: Of the numbers.
        scale: Their standard deviation.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return scale * torch.randn(*size, generator=generator)

    mask = torch.ones(rows, _LENGTH, dtype=torch.bool)
    mask[0] = False
    mask[1, :3] = False
    steps = tuple(Steps(normal(int(mask.sum()), s * shape.dim), mask) for s in shape.steps)
    history = normal(rows, sum(shape.steps), shape.dim)
    history[0] = 0
    return Inputs(
        candidate=normal(rows, shape.candidate, shape.dim),
        context=normal(rows, shape.context, shape.dim),
        history=history[:, :0] if reads_steps else history,
        steps=steps if reads_steps else (),
        vectors=normal(rows, shape.vectors, shape.dim),
        wide=normal(rows, shape.wide),
        linear=normal(rows),
    )


def _select(inputs: Inputs, rows: list[int]) -> Inputs:
    """Some rows of a batch."""
    wanted = torch.tensor(rows)
    steps = []
    for one in inputs.steps:
        owners = one.mask.nonzero()[:, 0]
        values = torch.cat([one.values[owners == row] for row in rows])
        steps.append(Steps(values, one.mask[wanted]))
    names = ("candidate", "context", "history", "vectors", "wide", "linear")
    parts = {name: getattr(inputs, name)[wanted] for name in names}
    return Inputs(**parts, steps=tuple(steps))


def _watched(inputs: Inputs, name: str) -> tuple[Tensor, Inputs]:
    """One of the inputs as a leaf that collects its gradient, and the batch that holds it."""
    if name == "steps":
        leaf = inputs.steps[0].values.requires_grad_()
        return leaf, replace(inputs, steps=(Steps(leaf, inputs.steps[0].mask),))
    leaf = getattr(inputs, name).requires_grad_()
    return leaf, replace(inputs, **{name: leaf})


class BackboneContract:
    """What every backbone keeps to."""

    backbone: ClassVar[Callable[..., nn.Module]]
    """The class under test."""

    shape = Shape(dim=8, candidate=3, context=2, steps=(4,), vectors=2, wide=3)
    shapes: ClassVar[list[Shape]] = [
        Shape(dim=8, candidate=2, steps=(3,)),
        Shape(dim=8, candidate=2, context=1),
        Shape(dim=4, candidate=1, steps=(2, 3), vectors=1),
        Shape(dim=8, candidate=1, context=1, wide=5),
    ]
    """Further shapes that must work: no texts, no history, two histories, raw texts only."""

    def make(self, shape: Shape, **options: Any) -> Any:
        """A backbone with reproducible weights, ready to predict."""
        torch.manual_seed(0)
        return type(self).backbone(shape, **options).eval()

    def inputs(self, shape: Shape, *, rows: int = 6, seed: int = 1) -> Inputs:
        """A batch for it."""
        reads_steps = type(self).backbone.reads_steps  # type: ignore[attr-defined]
        return random_inputs(shape, rows=rows, reads_steps=reads_steps, seed=seed)

    def test_one_finite_logit_per_row(self) -> None:
        """Of every shape, for rows without history too."""
        for shape in [self.shape, *self.shapes]:
            logits = self.make(shape)(self.inputs(shape))
            assert logits.shape == (6,)
            assert torch.isfinite(logits).all()

    def test_a_prediction_does_not_change_with_its_batch_mates(self) -> None:
        """Alone, in another order, or together: the same logit."""
        model, inputs = self.make(self.shape), self.inputs(self.shape)
        together = model(inputs)
        backwards = list(range(6))[::-1]
        torch.testing.assert_close(model(_select(inputs, backwards)), together[backwards])
        for row in range(6):
            torch.testing.assert_close(model(_select(inputs, [row]))[0], together[row])

    def test_every_input_has_a_gradient(self) -> None:
        """What the backbone is given is not silently left aside, in any of its fields."""
        model = self.make(self.shape)
        names = ["candidate", "context", "vectors", "wide"]
        names += ["steps"] if model.reads_steps else ["history"]
        names += ["linear"] if model.first_order else []
        for name in names:
            leaf, given = _watched(self.inputs(self.shape), name)
            model(given).sum().backward()
            assert leaf.grad is not None, name
            assert torch.isfinite(leaf.grad).all(), name
            of_fields = leaf.grad.abs().sum(dim=0)
            reached = of_fields.sum(dim=1) > 0 if of_fields.dim() > 1 else of_fields.sum() > 0
            assert reached.all(), name

    def test_more_padding_changes_nothing(self) -> None:
        """Two more empty places before every history."""
        model, inputs = self.make(self.shape), self.inputs(self.shape)
        wider = tuple(
            Steps(one.values, nn.functional.pad(one.mask, (2, 0))) for one in inputs.steps
        )
        torch.testing.assert_close(model(replace(inputs, steps=wider)), model(inputs))

    def test_trains_on_a_batch_without_any_history(self) -> None:
        """Every parameter that is used gets a finite gradient."""
        model, inputs = self.make(self.shape).train(), _select(self.inputs(self.shape), [0, 0])
        model(inputs).sum().backward()
        assert_finite_gradients(model)

    def test_computes_in_float64_too(self) -> None:
        """Single and double precision agree to single precision."""
        model, inputs = self.make(self.shape), self.inputs(self.shape)
        expected = model(inputs)
        steps = tuple(Steps(one.values.double(), one.mask) for one in inputs.steps)
        names = ("candidate", "context", "history", "vectors", "wide", "linear")
        doubled = Inputs(**{name: getattr(inputs, name).double() for name in names}, steps=steps)
        found = model.double()(doubled)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)

    def test_trains_with_half_precision_products(self) -> None:
        """As `TrainingPlan.precision` has it: about the same logits, finite float32 gradients."""
        for shape in [self.shape, *self.shapes]:
            model, inputs = self.make(shape), self.inputs(shape)
            expected = model(inputs)
            with torch.autocast("cpu", torch.bfloat16):
                found = model(inputs)
            torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.1)
            found.float().sum().backward()
            assert_finite_gradients(model)

    def test_biases_start_at_zero(self) -> None:
        """As in KAR's code; weights are Xavier-normal."""
        biases = {n: v for n, v in self.make(self.shape).named_parameters() if "bias" in n}
        assert biases
        assert all((value == 0).all() for value in biases.values())

    def test_dropout_works_in_training_only(self) -> None:
        """Two passes differ while training and agree afterwards."""
        model, inputs = self.make(self.shape, dropout=0.5), self.inputs(self.shape)
        torch.testing.assert_close(model(inputs), model(inputs))
        model.train()
        assert not torch.allclose(model(inputs), model(inputs))
