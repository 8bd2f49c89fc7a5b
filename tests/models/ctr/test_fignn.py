from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tastemaker import registry
from tastemaker.models.ctr.fignn import FiGNN
from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.layers.field_graph import (
    AttentiveReadout,
    FieldEdges,
    FieldMessages,
    GatedUpdate,
)
from tastemaker.testing.backbone import BackboneContract, random_inputs


class TestFiGNN(BackboneContract):
    backbone = FiGNN
    shapes = (*BackboneContract.shapes, Shape(dim=4, candidate=1))


class TestPlainFiGNN(BackboneContract):
    """Without a GRU, each layer with weights of its own."""

    backbone = FiGNN

    def make(self, shape, **options):
        return super().make(shape, hidden=(), gated=False, shared=False, layers=3, **options)


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "fignn") is FiGNN


def test_edges_as_written_out() -> None:
    torch.manual_seed(0)
    edges, fields = FieldEdges(4), torch.randn(3, 5, 4)
    found = edges(fields)
    for row in range(3):
        for hearer in range(5):
            expected = torch.zeros(5)
            for speaker in set(range(5)) - {hearer}:
                both = torch.cat([fields[row, hearer], fields[row, speaker]])
                score = (edges.weight[0] @ both).item()
                expected[speaker] = torch.tensor(score if score > 0 else 0.01 * score).exp()
            torch.testing.assert_close(found[row, hearer], expected / expected.sum())


def test_a_single_field_hears_nothing() -> None:
    assert FieldEdges(4)(torch.randn(3, 1, 4)).tolist() == [[[0.0]]] * 3


def test_messages_as_written_out() -> None:
    torch.manual_seed(0)
    layer = FieldMessages(4, 3)
    torch.nn.init.normal_(layer.bias)
    edges, states = torch.rand(2, 4, 4), torch.randn(2, 4, 3)
    expected = torch.zeros(2, 4, 3)
    with torch.no_grad():
        for row in range(2):
            for hearer in range(4):
                heard = torch.zeros(3)
                for speaker in range(4):
                    said = states[row, speaker] @ layer.speak[speaker]
                    heard += edges[row, hearer, speaker] * said
                expected[row, hearer] = heard @ layer.hear[hearer] + layer.bias
        torch.testing.assert_close(layer(edges, states), expected)


def test_update_is_a_gru_cell_for_every_node() -> None:
    torch.manual_seed(0)
    layer, messages, states = GatedUpdate(3), torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    found = layer(messages, states)
    weights_in = layer.cell.weight_ih.chunk(3)
    weights = layer.cell.weight_hh.chunk(3)
    for row in range(2):
        for node in range(4):
            x, h = messages[row, node], states[row, node]
            reset = torch.sigmoid(weights_in[0] @ x + weights[0] @ h)
            keep = torch.sigmoid(weights_in[1] @ x + weights[1] @ h)
            proposed = torch.tanh(weights_in[2] @ x + reset * (weights[2] @ h))
            torch.testing.assert_close(found[row, node], keep * h + (1 - keep) * proposed)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_layers_follow_one_another(gated: bool, shared: bool, residual: bool) -> None:
    torch.manual_seed(0)
    shape = Shape(dim=4, candidate=2, context=1, vectors=1, wide=3)
    model = FiGNN(shape, layers=2, gated=gated, shared=shared, residual=residual)
    inputs = random_inputs(shape, rows=5, reads_steps=False)
    fields = states = inputs.fields
    edges = model.edges(fields)
    assert len(model.messages) == (1 if shared else 2)
    for layer in (model.messages[0], model.messages[-1]):
        heard = layer(edges, states)
        states = model.update(heard, states) if gated else states + heard
        states = states + fields if residual else states
    expected = model.readout(states) + inputs.wide @ model.wide.weight
    torch.testing.assert_close(model(inputs), expected)


def test_readout_as_written_out() -> None:
    torch.manual_seed(0)
    layer, states = AttentiveReadout(4, 3), torch.randn(2, 4, 3)
    weigh = layer.weigh.layers[0]
    for row in range(2):
        expected = torch.zeros(())
        for node in range(4):
            weight = torch.sigmoid(weigh.weight[node] @ states[row].flatten() + weigh.bias[node])
            expected = expected + weight * (layer.score.weight[0] @ states[row, node])
        torch.testing.assert_close(layer(states)[row], expected)


def test_readout_weighs_by_an_mlp() -> None:
    torch.manual_seed(0)
    layer, states = AttentiveReadout(4, 3, hidden=(5,)), torch.randn(2, 4, 3)
    first, last = layer.weigh.layers[0], layer.weigh.layers[2]
    weights = torch.sigmoid(last(functional.relu(first(states.flatten(1)))))
    expected = (weights * (states @ layer.score.weight[0])).sum(dim=1)
    torch.testing.assert_close(layer(states), expected)


def test_a_shared_layer_is_saved_once() -> None:
    names = FiGNN(Shape(dim=4, candidate=2), layers=3).state_dict()
    assert [name for name in names if "speak" in name] == ["messages.0.speak"]
