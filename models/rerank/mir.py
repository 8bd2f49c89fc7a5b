"""MIR: the candidates as a set meet the history as a list, item by item and field by field.

"Multi-Level Interaction Reranking with User Behavior History" (arXiv 2204.09370). Candidates attend
to each other, a Bi-LSTM reads the history, and *SLAttention* lets both sides look at each other
through one matrix of affinities, the sum of an affinity of whole items and one of their fields.

Deviations. KAR's code leaves the knowledge vectors out of MIR; here they are part of the items, so
everything reads them. It also projects to one unit per place of the list, which makes a logit
depend on the place; here the hidden states of the two sides are compared instead, so that the order
of the candidates changes nothing, as the paper wants it. KAR reads the history by a GRU in one
direction and takes fields of its states as well; here fields are those of the inputs. The paper's
decay by a user's own rate is left to the Bi-LSTM, as in KAR's code.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tastemaker.models.layers.list_losses import ListLoss
from tastemaker.models.layers.mlp import xavier_normal_
from tastemaker.models.rerank.blocks import Scorer, attended, masked_softmax, recurrent_states

__all__ = ["MIR", "RERANKER", "SetToListAttention"]


class MIR(nn.Module):
    """Multi-level interaction re-ranker.

    Args:
        width: Size of an item, knowledge vectors included.
        step: Size of a step of the history.
        length: Longest list; not needed.
        field: Size of a field in items and steps; the last one may be shorter. KAR: 32.
        hidden: Size of what candidates learn from each other, of the Bi-LSTM's two states together
            and of what both sides are compared in; even and a multiple of `heads`; KAR: 64.
        heads: Attention heads among the candidates; KAR: 2.
        scorer: Hidden sizes of the scoring MLP; KAR: 200 and 80.
        dropout: Share left out in training, 0 to 1; KAR: 0.

    Raises:
        ValueError: `hidden` is odd or no multiple of `heads`.
    """

    reads_steps: ClassVar[bool] = True
    loss: ClassVar[ListLoss] = "pointwise"

    def __init__(
        self,
        width: int,
        *,
        step: int,
        length: int,
        field: int = 32,
        hidden: int = 64,
        heads: int = 2,
        scorer: tuple[int, ...] = (200, 80),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden % heads or hidden % 2:
            raise ValueError(f"hidden = {hidden} is odd or no multiple of heads = {heads}")
        self.project = nn.Linear(width, hidden)
        self.set_attention = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.list_states = nn.LSTM(step, hidden // 2, batch_first=True, bidirectional=True)
        self.apply(xavier_normal_)
        rich_item, rich_step = width + hidden, step + hidden
        self.interaction = SetToListAttention(
            (width, step), rich=(rich_item, rich_step), field=field, hidden=hidden
        )
        self.scorer = Scorer(rich_item + 2 * rich_step + width, hidden=scorer, dropout=dropout)

    def forward(self, items: Tensor, mask: Tensor, history: Tensor, past: Tensor) -> Tensor:
        """Logits [B, K]; shapes as in the package docstring."""
        own = self.project(items)
        others, _ = self.set_attention(
            own, own, own, key_padding_mask=~attended(mask), need_weights=False
        )
        steps = history.masked_fill(~past[..., None], 0.0)
        rich_items = torch.cat([items, others], dim=-1)
        rich_steps = torch.cat([steps, recurrent_states(self.list_states, steps, past)], dim=-1)
        read_items, read_steps = self.interaction(
            (items, steps), rich=(rich_items, rich_steps), mask=mask, past=past
        )
        average = rich_steps.sum(dim=1) / past.sum(dim=1, keepdim=True).clamp(min=1)
        average = average[:, None].expand(-1, items.shape[1], -1)
        return self.scorer(read_items, read_steps, items, average)


class SetToListAttention(nn.Module):
    """SLAttention: candidates V and steps Q, each weighed in the light of the other.

    With the affinities C [K, L] it has the hidden states H_v = tanh(V W_v + C Q W_q) and
    H_q = tanh(Q W_q + Cᵀ V W_v). Candidate i reads candidates and steps with the weights
    softmax(H_v[i] · H_v[j] / √hidden) over j and softmax(H_v[i] · H_q[l] / √hidden) over l.

    Args:
        plain: Sizes of a candidate and of a step before they have seen others; for fields.
        rich: Their sizes afterwards; for whole items.
        field: Size of a field.
        hidden: Size of the hidden states.
    """

    def __init__(
        self, plain: tuple[int, int], *, rich: tuple[int, int], field: int, hidden: int
    ) -> None:
        super().__init__()
        fields_item, fields_step = (-(-size // field) for size in plain)
        self.field = field
        self.whole = nn.Linear(rich[0], rich[1], bias=False)
        self.fields = nn.Linear(field, field, bias=False)
        self.pairs = nn.Linear(fields_item, fields_step, bias=False)
        self.set_states = nn.Linear(rich[0], hidden, bias=False)
        self.list_states = nn.Linear(rich[1], hidden, bias=False)
        self.apply(xavier_normal_)

    def forward(
        self,
        plain: tuple[Tensor, Tensor],
        *,
        rich: tuple[Tensor, Tensor],
        mask: Tensor,
        past: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What each candidate reads of the candidates and of the steps.

        Args:
            plain: Float [B, K, plain] and [B, L, plain], before they have seen others.
            rich: Float [B, K, rich] and [B, L, rich].
            mask: Bool [B, K], true at real candidates.
            past: Bool [B, L], true at real steps; what lies elsewhere is zero.

        Returns:
            Float [B, K, rich of a candidate] and [B, K, rich of a step]; the latter is zero where
            there are no steps.
        """
        candidates, steps = rich
        affinity = self.affinity(plain, rich=rich)
        affinity = affinity.masked_fill(~(mask[:, :, None] & past[:, None]), 0.0)
        of_set, of_list = self.set_states(candidates), self.list_states(steps)
        set_hidden = torch.tanh(of_set + affinity @ of_list)
        list_hidden = torch.tanh(of_list + affinity.transpose(1, 2) @ of_set)
        scale = set_hidden.shape[-1] ** -0.5
        to_set = scale * set_hidden @ set_hidden.transpose(1, 2)
        to_list = scale * set_hidden @ list_hidden.transpose(1, 2)
        return (
            masked_softmax(to_set, mask[:, None]) @ candidates,
            masked_softmax(to_list, past[:, None]) @ steps,
        )

    def affinity(self, plain: tuple[Tensor, Tensor], *, rich: tuple[Tensor, Tensor]) -> Tensor:
        """How much candidate and step have to do with each other, float [B, K, L] from -1 to 1.

        The sum over pairs of fields a, b is weighed by a number per pair: Σ w_ab · s_aᵀ W c_b.
        """
        candidates, steps = rich
        whole = self.whole(candidates) @ steps.transpose(1, 2)
        of_item, of_step = self._cut(plain[0]), self._cut(plain[1])
        mixed = self.fields(self.pairs(of_item.transpose(2, 3)).transpose(2, 3))
        return torch.tanh(whole + mixed.flatten(2) @ of_step.flatten(2).transpose(1, 2))

    def _cut(self, rows: Tensor) -> Tensor:
        """Float [B, n, size] to [B, n, fields, field], zeros filling the last field."""
        missing = -rows.shape[-1] % self.field
        return functional.pad(rows, (0, missing)).unflatten(-1, (-1, self.field))


RERANKER = MIR
