from __future__ import annotations

import math

import pytest
import torch

from tastemaker.models.layers.list_losses import LIST_LOSSES, attention_loss, pointwise_loss

SCORES = torch.tensor([[2.0, -1.0, 0.5, 9.0], [0.0, 1.0, -3.0, 2.0]])
LABELS = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])
MASK = torch.tensor([[True, True, True, False], [True, True, True, True]])


def test_pointwise_is_the_mean_over_real_items() -> None:
    losses = [
        math.log1p(math.exp(-s if y else s))
        for scores, labels, mask in zip(
            SCORES.tolist(), LABELS.tolist(), MASK.tolist(), strict=True
        )
        for s, y, real in zip(scores, labels, mask, strict=True)
        if real
    ]
    assert len(losses) == 7
    expected = sum(losses) / 7
    assert pointwise_loss(SCORES, LABELS, MASK).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("likes_only", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_attention_compares_two_softmaxes(temperature: float, likes_only: bool) -> None:
    total = 0.0
    for scores, labels, mask in zip(SCORES.tolist(), LABELS.tolist(), MASK.tolist(), strict=True):
        real = [place for place in range(4) if mask[place]]
        weights = {p: math.exp(labels[p] / temperature) for p in real}
        if likes_only:
            weights = {p: weight * labels[p] for p, weight in weights.items()}
        found = {p: math.exp(scores[p] / temperature) for p in real}
        for p in real:
            share = weights[p] / sum(weights.values())
            total -= share * math.log(found[p] / sum(found.values()))
    loss = attention_loss(SCORES, LABELS, MASK, temperature=temperature, likes_only=likes_only)
    assert loss.item() == pytest.approx(total / 2, rel=1e-5)


def test_the_temperature_of_kar_is_the_default() -> None:
    expected = attention_loss(SCORES, LABELS, MASK, temperature=0.5)
    assert LIST_LOSSES["attention"](SCORES, LABELS, MASK) == expected
    assert LIST_LOSSES["pointwise"] is pointwise_loss


def test_attention_is_least_where_scores_order_as_labels_do() -> None:
    scores = SCORES.clone().requires_grad_()
    for _ in range(300):
        loss = attention_loss(scores, LABELS, MASK)
        (gradient,) = torch.autograd.grad(loss, scores)
        scores = (scores - gradient).detach().requires_grad_()
    # softmax(score / T) = softmax(label / T): differences of scores are those of labels.
    assert (scores[0, 0] - scores[0, 1]).item() == pytest.approx(1, abs=1e-3)
    assert (scores[1, 1] - scores[1, 2]).item() == pytest.approx(0, abs=1e-3)
    assert scores[0, 3].item() == 9.0


@pytest.mark.parametrize("loss", [pointwise_loss, attention_loss])
def test_what_is_padding_tells_nothing(loss) -> None:
    expected = loss(SCORES[1:], LABELS[1:], MASK[1:])
    padded = torch.cat([SCORES, torch.full((2, 1), 1e30)], dim=1)
    labels = torch.cat([LABELS, torch.ones(2, 1, dtype=torch.int64)], dim=1)
    mask = torch.cat([MASK, torch.zeros(2, 1, dtype=torch.bool)], dim=1)
    mask[0] = False
    padded.requires_grad_()
    found = loss(padded, labels, mask)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, padded)
    assert torch.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()


def test_padding_stays_harmless_in_half_precision() -> None:
    scores = torch.tensor([[30.0, 10.0, 5.0]], dtype=torch.float16, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    loss = attention_loss(scores, torch.tensor([[1, 0, 1]]), mask)
    (gradient,) = torch.autograd.grad(loss, scores)
    # The share that an item without a like is to have, 1 / (1 + e^2), times the distance.
    assert loss.item() == pytest.approx(40 / (1 + math.exp(2)), rel=1e-2)
    assert torch.isfinite(gradient).all()


def test_lists_without_a_like_are_no_part_of_a_loss_of_likes_only() -> None:
    labels = LABELS.clone()
    labels[0] = 0
    one = attention_loss(SCORES[1:], labels[1:], MASK[1:], likes_only=True)
    torch.testing.assert_close(attention_loss(SCORES, labels, MASK, likes_only=True), one)
    none = attention_loss(SCORES, torch.zeros_like(LABELS), MASK, likes_only=True)
    assert none.item() == 0.0
    # Otherwise they ask for equal scores.
    level = attention_loss(torch.zeros(1, 4), labels[:1], MASK[:1])
    assert level.item() == pytest.approx(math.log(3), rel=1e-6)
    assert attention_loss(SCORES[:1], labels[:1], MASK[:1]) > level
