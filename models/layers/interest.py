"""DIEN's two layers: interests by a GRU, their evolution under attention (arXiv 1809.03672)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tastemaker.errors import UnknownNameError
from tastemaker.models.layers.activation import TargetAttention
from tastemaker.models.layers.mlp import xavier_normal_

__all__ = ["AttentionGru", "Evolution", "InterestEvolution", "Moments"]

Evolution = Literal["gru", "aigru", "agru", "augru"]
_Gate = Literal["own", "attention", "both"]


@dataclass(frozen=True)
class Moments:
    """The real steps of B histories, sorted by moment instead of by row.

    All first steps come first, then all second ones, each in the same order of rows, longest
    history first: the rows that still have a step are then always the first few, and a recurrent
    layer meets no padding.

    Attributes:
        mask: Bool [B, L], which places the steps fill; true N times.
        order: Int [N], where each step is when they are sorted by row.
        back: Int [N], the inverse of `order`.
        sizes: Rows that have a first, second, ... step; their sum is N.
        rows: Int [R], the rows that have a history, longest first.
        last: Int [R], where the last step of each of these rows is in `order`.
    """

    mask: Tensor
    order: Tensor
    back: Tensor
    sizes: list[int]
    rows: Tensor
    last: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Moments:
        """From bool [B, L]; a step's moment is its number among the real steps of its row."""
        lengths = mask.sum(dim=1)
        starts = lengths.cumsum(0) - lengths
        longest = lengths.argsort(descending=True, stable=True)
        moments = torch.arange(mask.shape[1], device=mask.device)[:, None]
        reached = moments < lengths[longest]  # [L, B]
        order = (starts[longest] + moments)[reached]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=mask.device)
        sizes = [size for size in reached.sum(dim=1).tolist() if size]
        rows = longest[: sizes[0] if sizes else 0]
        last = back[(starts + lengths)[rows] - 1]
        return cls(mask=mask, order=order, back=back, sizes=sizes, rows=rows, last=last)


class AttentionGru(nn.Module):
    """A GRU whose update gate may be an attention weight, or scaled by it.

    h' = (1 - u) ∘ h + u ∘ tanh(W x + b + r ∘ U h); r and u are sigmoids of linear maps of x and h.
    With the gate "attention", u is the weight of the step instead (DIEN's AGRU); with "both", that
    weight times u (AUGRU).

    Args:
        width_in: Size of a step.
        width: Size of the state, zero at the beginning.
        gate: What updates the state.
    """

    def __init__(self, width_in: int, width: int, *, gate: _Gate = "own") -> None:
        super().__init__()
        gates = width if gate == "attention" else 2 * width
        self.gates = nn.Linear(width_in, gates)
        self.candidate = nn.Linear(width_in, width)
        self.recurrent_gates = nn.Linear(width, gates, bias=False)
        self.recurrent_candidate = nn.Linear(width, width, bias=False)
        self.apply(xavier_normal_)
        self._width = width

    def forward(self, steps: Tensor, sizes: list[int], attention: Tensor | None = None) -> Tensor:
        """State behind each step.

        Args:
            steps: Float [N, width_in], sorted by moment.
            sizes: How many steps each moment has.
            attention: Float [N], weight of each step; for the gates "attention" and "both".

        Returns:
            Float [N, width], sorted by moment.
        """
        # What does not depend on the state is one product for all steps; only U h is left.
        gates, candidates = self.gates(steps), self.candidate(steps)
        if not sizes:
            return candidates
        weights = [None] * len(sizes) if attention is None else attention[:, None].split(sizes)
        moments = zip(gates.split(sizes), candidates.split(sizes), weights, strict=True)
        state = candidates.new_zeros(sizes[0], self._width)
        states = []
        for gate, candidate, weight in moments:
            state = self._step(state[: len(gate)], gate, candidate, weight)
            states.append(state)
        return torch.cat(states)

    def _step(
        self, state: Tensor, gate: Tensor, candidate: Tensor, weight: Tensor | None
    ) -> Tensor:
        """The next state of n rows, all float [n, ...]."""
        opened = torch.sigmoid(torch.addmm(gate, state, self.recurrent_gates.weight.T))
        reset, *updates = opened.split(self._width, dim=1)
        if weight is not None:
            updates = [weight * update for update in updates] or [weight]
        remembered = self.recurrent_candidate(state)
        proposed = torch.tanh(torch.addcmul(candidate, reset, remembered))
        return torch.lerp(state, proposed, updates[0])


class InterestEvolution(nn.Module):
    """How interests lead to a candidate: a second recurrent layer, under attention (DIEN).

    The evolution says where attention enters:

    * "gru": not into the recurrent layer; its states are summed with their weights.
    * "aigru": each interest is multiplied by its weight before.
    * "agru": the weight is the update gate.
    * "augru": the weight multiplies the update gate.

    But for "gru", the result is the state behind the last step.

    Args:
        width: Size of candidates, interests and states.
        hidden: Hidden sizes of the activation unit.
        evolution: One of these.
        softmax: Whether the weights of a history sum to one; as a gate, a weight outside of 0 to 1
            makes the state grow without bound.

    Raises:
        UnknownNameError: no such evolution.
    """

    def __init__(
        self, width: int, *, hidden: tuple[int, ...], evolution: Evolution, softmax: bool
    ) -> None:
        super().__init__()
        gates: dict[str, _Gate] = {
            "gru": "own",
            "aigru": "own",
            "agru": "attention",
            "augru": "both",
        }
        if evolution not in gates:
            raise UnknownNameError("evolution", evolution, get_args(Evolution))
        self.attention = TargetAttention(width, hidden=hidden, softmax=softmax)
        self.gru = AttentionGru(width, width, gate=gates[evolution])
        self._evolution = evolution

    def forward(self, candidate: Tensor, interests: Tensor, moments: Moments) -> Tensor:
        """Interest of each row in its candidate.

        Args:
            candidate: Float [B, width].
            interests: Float [N, width], sorted by moment.
            moments: How the N steps are sorted.

        Returns:
            Float [B, width]; zero where a history is empty.
        """
        if self._evolution == "gru":
            states = self.gru(interests, moments.sizes).index_select(0, moments.back)
            return self.attention(candidate, states, moments.mask)
        by_row = interests.index_select(0, moments.back)
        weights = self.attention.weights(candidate, by_row, moments.mask)
        weights = weights.index_select(0, moments.order)
        if self._evolution == "aigru":
            states = self.gru(weights[:, None] * interests, moments.sizes)
        else:
            states = self.gru(interests, moments.sizes, weights)
        last = states.index_select(0, moments.last)
        return torch.zeros_like(candidate).index_copy(0, moments.rows, last)
