from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tastemaker import registry
from tastemaker.models.rerank.mir import MIR, SetToListAttention
from tastemaker.testing.reranker import Lists, RerankerContract, random_lists


class TestMir(RerankerContract):
    reranker = MIR
    equivariant = True
    options = {"field": 4}  # noqa: RUF012


class TestMirOfOneField(RerankerContract):
    reranker = MIR
    equivariant = True


def test_is_found_by_name() -> None:
    assert registry.load("re-ranker", "mir") is MIR


def attention() -> tuple[SetToListAttention, Lists, tuple[Tensor, Tensor]]:
    """Fields of 4: three in an item, two in a step, whose last number is zero."""
    torch.manual_seed(0)
    lists = random_lists(seed=2)
    rich = torch.randn(4, 6, 10), torch.randn(4, 5, 9).masked_fill(~lists.past[..., None], 0.0)
    plain = replace(lists, history=lists.history.masked_fill(~lists.past[..., None], 0.0))
    return SetToListAttention((12, 7), rich=(10, 9), field=4, hidden=3), plain, rich


def affinity_of(model: SetToListAttention, lists: Lists, rich: tuple[Tensor, Tensor]) -> Tensor:
    affinity = torch.zeros(4, 6, 5)
    steps = torch.cat([lists.history, torch.zeros(4, 5, 1)], dim=-1)
    for row, item, step in torch.cartesian_prod(*map(torch.arange, (4, 6, 5))).tolist():
        total = rich[1][row, step] @ model.whole.weight @ rich[0][row, item]
        for a in range(2):
            for b in range(3):
                left = steps[row, step, 4 * a : 4 * a + 4]
                right = lists.items[row, item, 4 * b : 4 * b + 4]
                total = total + model.pairs.weight[a, b] * (left @ model.fields.weight @ right)
        affinity[row, item, step] = torch.tanh(total)
    return affinity


def test_affinity_is_that_of_wholes_and_of_pairs_of_fields() -> None:
    model, lists, rich = attention()
    found = model.affinity((lists.items, lists.history), rich=rich)
    torch.testing.assert_close(found, affinity_of(model, lists, rich))


def test_both_sides_read_each_other_as_written_out() -> None:
    model, lists, rich = attention()
    read_items, read_steps = model(
        (lists.items, lists.history), rich=rich, mask=lists.mask, past=lists.past
    )
    affinity = affinity_of(model, lists, rich)
    assert (read_steps[0] == 0).all()
    for row in (0, 1, 2):
        items, steps = (m[row].nonzero()[:, 0].tolist() for m in (lists.mask, lists.past))
        v = {i: model.set_states.weight @ rich[0][row, i] for i in items}
        q = {s: model.list_states.weight @ rich[1][row, s] for s in steps}
        c = affinity[row]
        hv = {i: torch.tanh(v[i] + sum(c[i, s] * q[s] for s in steps)) for i in items}
        hq = {s: torch.tanh(q[s] + sum(c[i, s] * v[i] for i in items)) for s in steps}
        for i in items:
            logits = torch.stack([hv[i] @ hv[j] / 3**0.5 for j in items])
            weights = torch.softmax(logits, dim=0)
            torch.testing.assert_close(read_items[row, i], weights @ rich[0][row, items])
            if steps:
                logits = torch.stack([hv[i] @ hq[s] / 3**0.5 for s in steps])
                weights = torch.softmax(logits, dim=0)
                torch.testing.assert_close(read_steps[row, i], weights @ rich[1][row, steps])


def test_fields_reach_the_logits_by_themselves() -> None:
    torch.manual_seed(0)
    model, lists = MIR(12, step=7, length=6, field=4).eval(), random_lists()
    before = lists.given_to(model)
    model.interaction.fields.weight.data *= -3
    changed = (lists.given_to(model) - before).abs().amax(dim=1)
    assert changed[0] == 0
    assert (changed[1:] > 0).all()


def test_sizes_that_do_not_fit_are_refused() -> None:
    for options in ({"heads": 3}, {"hidden": 63, "heads": 1}):
        with pytest.raises(ValueError, match="odd or no multiple"):
            MIR(12, step=7, length=6, **options)
