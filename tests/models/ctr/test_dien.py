from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tastemaker import registry
from tastemaker.errors import UnknownNameError
from tastemaker.models.ctr.dien import DIEN
from tastemaker.models.ctr.inputs import Inputs, Shape, Steps
from tastemaker.models.layers.interest import (
    AttentionGru,
    Evolution,
    InterestEvolution,
    Moments,
)
from tastemaker.testing.backbone import BackboneContract, random_inputs

SHAPE = Shape(dim=4, candidate=2, context=1, steps=(3, 2), vectors=1, wide=2)
EVOLUTIONS: list[Evolution] = ["gru", "aigru", "agru", "augru"]
MASK = torch.tensor(
    [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 1, 0]], dtype=torch.bool
)


class DienContract(BackboneContract):
    backbone = DIEN
    shapes: ClassVar = [*BackboneContract.shapes, Shape(dim=4, candidate=1)]
    evolution: ClassVar[Evolution]

    def make(self, shape: Shape, **options: Any) -> Any:
        return super().make(shape, evolution=self.evolution, **options)


class TestGru(DienContract):
    evolution = "gru"


class TestAigru(DienContract):
    evolution = "aigru"


class TestAgru(DienContract):
    evolution = "agru"


class TestAugru(DienContract):
    evolution = "augru"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def gru_step(
    gru: AttentionGru, step: Tensor, state: Tensor, *, gate: str, weight: Tensor
) -> Tensor:
    """The next state of one row; rows of `gates` are reset, then update."""
    width = len(state)
    opened = torch.sigmoid(
        gru.gates.weight @ step + gru.gates.bias + gru.recurrent_gates.weight @ state
    )
    reset, update = opened[:width], opened[width:]
    remembered = reset * (gru.recurrent_candidate.weight @ state)
    proposed = torch.tanh(gru.candidate.weight @ step + gru.candidate.bias + remembered)
    update = {"agru": weight, "augru": weight * update}.get(gate, update)
    return (1 - update) * state + update * proposed


def evolved(
    layer: InterestEvolution, query: Tensor, interests: Tensor, *, evolution: str
) -> Tensor:
    """Interest of one row, step by step; weights are softmaxed."""
    state, states = torch.zeros_like(query), []
    weights = attention(layer, query, interests)
    for weight, interest in zip(weights, interests, strict=True):
        step = weight * interest if evolution == "aigru" else interest
        state = gru_step(layer.gru, step, state, gate=evolution, weight=weight)
        states.append(state)
    if evolution != "gru" or not states:
        return state
    weights = attention(layer, query, torch.stack(states))
    return sum((w * s for w, s in zip(weights, states, strict=True)), torch.zeros_like(query))


def attention(layer: InterestEvolution, query: Tensor, keys: Tensor) -> list[Tensor]:
    """Softmaxed weights of one row's steps, one by one."""
    scores = [
        layer.attention.unit(torch.cat([query, key, query - key, query * key])[None])[0, 0].exp()
        for key in keys
    ]
    return [score / torch.stack(scores).sum() for score in scores]


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "dien") is DIEN


def test_unknown_evolution_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="augru"):
        DIEN(SHAPE, evolution="lstm")


def test_moments_sort_steps_by_number_within_a_row() -> None:
    moments = Moments.of(MASK)
    assert moments.sizes == [4, 3, 1, 1]
    assert moments.rows.tolist() == [2, 0, 4, 3]
    # Row by row the steps are 0-1 (row 0), 2-5 (row 2), 6 (row 3), 7-8 (row 4).
    assert moments.order.tolist() == [2, 0, 7, 6, 3, 1, 8, 4, 5]
    assert moments.order[moments.last].tolist() == [5, 1, 8, 6]
    assert moments.order[moments.back].tolist() == list(range(9))


def test_extractor_is_the_gru_of_torch() -> None:
    ours, theirs = AttentionGru(3, 4), nn.GRU(3, 4, batch_first=True)
    for weight in ours.parameters():
        nn.init.normal_(weight)
    with torch.no_grad():
        # Torch's update gate says how much is kept, ours how much is replaced.
        reset, update = ours.gates.weight.chunk(2)
        theirs.weight_ih_l0.copy_(torch.cat([reset, -update, ours.candidate.weight]))
        reset, update = ours.recurrent_gates.weight.chunk(2)
        theirs.weight_hh_l0.copy_(torch.cat([reset, -update, ours.recurrent_candidate.weight]))
        reset, update = ours.gates.bias.chunk(2)
        theirs.bias_ih_l0.copy_(torch.cat([reset, -update, ours.candidate.bias]))
        theirs.bias_hh_l0.zero_()
    moments, steps = Moments.of(MASK), torch.randn(9, 3)
    found = ours(steps[moments.order], moments.sizes)[moments.back]
    rows = zip(found.split([2, 4, 1, 2]), steps.split([2, 4, 1, 2]), strict=True)
    for states, row in rows:
        torch.testing.assert_close(states, theirs(row)[0])


@pytest.mark.parametrize("evolution", EVOLUTIONS)
def test_evolution_written_out_row_by_row_and_step_by_step(evolution: Evolution) -> None:
    layer = InterestEvolution(4, hidden=(5, 3), evolution=evolution, softmax=True).eval()
    for name, weight in layer.named_parameters():
        if "alpha" not in name:
            nn.init.normal_(weight, std=0.5)
    candidate, interests, moments = torch.randn(5, 4), torch.randn(9, 4), Moments.of(MASK)
    rows = zip(candidate, interests.split([2, 0, 4, 1, 2]), strict=True)
    expected = [evolved(layer, query, row, evolution=evolution) for query, row in rows]
    found = layer(candidate, interests[moments.order], moments)
    torch.testing.assert_close(found, torch.stack(expected))
    assert torch.equal(found[1], torch.zeros(4))


@pytest.mark.parametrize("evolution", EVOLUTIONS)
@pytest.mark.parametrize("softmax", [None, True, False])
def test_softmax_is_on_by_default_where_weights_are_gates(
    evolution: Evolution, softmax: bool | None
) -> None:
    model = DIEN(SHAPE, evolution=evolution, softmax=softmax).eval()
    wanted = evolution in ("agru", "augru") if softmax is None else softmax
    attention = model.evolutions[0].attention
    weights = attention.weights(torch.randn(5, 8), torch.randn(9, 8), MASK)
    sums = torch.zeros(5).index_add(0, MASK.nonzero()[:, 0], weights)
    assert torch.allclose(sums[[0, 2, 3, 4]], torch.ones(4)) == wanted


def test_head_reads_interests_candidate_context_and_texts() -> None:
    model, inputs = DIEN(SHAPE).eval(), random_inputs(SHAPE, rows=4, reads_steps=True)
    candidate, interests = inputs.candidate.flatten(1), []
    for extractor, evolution, one in zip(
        model.extractors, model.evolutions, inputs.steps, strict=True
    ):
        moments = Moments.of(one.mask)
        states = extractor(one.values[moments.order], moments.sizes)
        interests.append(evolution(candidate, states, moments))
    read = [*interests, candidate, inputs.context.flatten(1), inputs.vectors.flatten(1)]
    expected = model.head(torch.cat([*read, inputs.wide], dim=1))[:, 0]
    torch.testing.assert_close(model(inputs), expected)


def with_values(inputs: Inputs, values: Tensor) -> Inputs:
    """The same batch with other steps in its first sequence."""
    first, *others = inputs.steps
    return replace(inputs, steps=(Steps(values, first.mask), *others))


@pytest.mark.parametrize("evolution", EVOLUTIONS)
def test_the_order_of_steps_matters(evolution: Evolution) -> None:
    model = DIEN(SHAPE, evolution=evolution).eval()
    inputs = random_inputs(SHAPE, rows=3, reads_steps=True)
    values = inputs.steps[0].values.clone()
    values[-2:] = values[-2:].flip(0)
    found, before = model(with_values(inputs, values)), model(inputs)
    torch.testing.assert_close(found[:2], before[:2])
    assert not torch.isclose(found[2], before[2], rtol=1e-4)
