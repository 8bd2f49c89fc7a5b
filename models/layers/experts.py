"""KAR's hybrid-expert adaptor: from text vectors to features of a CTR model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tastemaker.models.layers.mlp import Mlp

__all__ = ["HybridExpertAdaptor"]


class HybridExpertAdaptor(nn.Module):
    """Shared and dedicated experts per kind of knowledge, mixed by a gate of that kind (KAR §3).

    Where a row has no knowledge, a learned vector of its kind stands in. (KAR has knowledge for
    every row; ours may not, and must not read from it what is not there.)

    Args:
        width: Size of a text vector.
        shared_experts: Experts that see both kinds; KAR: 2.
        dedicated_experts: Experts of each kind; KAR searches 2 to 6.
        hidden: Hidden size of an expert; KAR: 128.
        dim: Output size per kind; KAR: 32.
    """

    def __init__(
        self, width: int, *, shared_experts: int, dedicated_experts: int, hidden: int, dim: int
    ) -> None:
        super().__init__()
        self.dim = dim
        sizes = (width, hidden, dim)
        self.shared = _experts(shared_experts, sizes)
        self.user = _KindOfKnowledge(sizes, shared=shared_experts, dedicated=dedicated_experts)
        self.item = _KindOfKnowledge(sizes, shared=shared_experts, dedicated=dedicated_experts)

    def forward(
        self, user: Tensor, user_present: Tensor, item: Tensor, item_present: Tensor
    ) -> Tensor:
        """Adapted vectors of both kinds side by side.

        Args:
            user: Float [B, width], text vectors of the users.
            user_present: Bool [B], whether the row has one.
            item: Float [B, width], text vectors of the items.
            item_present: Bool [B], whether the row has one.

        Returns:
            Float [B, 2 * dim].
        """
        adapted_user = self.user(user, user_present, self.shared)
        return torch.cat([adapted_user, self.item(item, item_present, self.shared)], dim=-1)


class _KindOfKnowledge(nn.Module):
    """Gate, dedicated experts and stand-in of one kind."""

    def __init__(self, sizes: tuple[int, int, int], *, shared: int, dedicated: int) -> None:
        super().__init__()
        self.dedicated = _experts(dedicated, sizes)
        self.gate = nn.Linear(sizes[0], shared + dedicated, bias=False)
        nn.init.xavier_normal_(self.gate.weight)
        self.missing = nn.Parameter(torch.zeros(sizes[-1]))

    def forward(self, vectors: Tensor, present: Tensor, shared: nn.ModuleList) -> Tensor:
        # Only the rows that have knowledge reach the experts: often a small part of the batch.
        known = vectors[present]
        outputs = torch.stack([expert(known) for expert in [*shared, *self.dedicated]], dim=1)
        weights = torch.softmax(self.gate(known), dim=-1)
        adapted = torch.einsum("be,bed->bd", weights, outputs)
        rows = present.nonzero()[:, 0]
        return self.missing.expand(len(present), -1).index_copy(0, rows, adapted)


def _experts(count: int, sizes: tuple[int, int, int]) -> nn.ModuleList:
    return nn.ModuleList(Mlp(sizes, last_linear=False) for _ in range(count))
