"""From the columns of lists to the logits of a re-ranker: what an item of a list is made of.

An item is everything side by side: its own fields, those of the user and the moment, the averaged
history unless the re-ranker reads it step by step, and the texts. As in KAR the user's vectors are
thereby repeated at every item. What a whole list shares, its history above all, is carried and
embedded once per list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Steps
from tastemaker.models.feature_embedding import FeatureEmbedding
from tastemaker.models.feature_recommender import FeatureNetwork
from tastemaker.models.layers.list_losses import LIST_LOSSES, ListLoss

__all__ = ["ListNetwork"]


class ListNetwork(FeatureNetwork):
    """Features and re-ranker, with the loss that the Trainer asks for.

    Args:
        features: Hands out histories step by step (`reads_steps`), for any re-ranker.
        new_reranker: Makes the re-ranker from the width of an item and, as `step`, that of a step.
        reads_steps: Whether the re-ranker reads steps; they are averaged into the items otherwise.
        loss: The re-ranker's.
        per_item: Columns [B, K, ...]: the item, its texts, numbers.
        per_list: Columns [B] that every item of a list shows: the user, their texts.
    """

    accepts_loss_kwargs = False  # or the Trainer would add its own arguments to the columns

    def __init__(
        self,
        features: FeatureEmbedding,
        new_reranker: Callable[..., nn.Module],
        *,
        reads_steps: bool,
        loss: ListLoss,
        per_item: Collection[str],
        per_list: Collection[str],
    ) -> None:
        super().__init__(features)
        shape = features.shape
        step = sum(shape.steps) * shape.dim if reads_steps else 0
        self.reranker = new_reranker(shape.flat - step, step=step)
        self._reads_steps, self._loss = reads_steps, LIST_LOSSES[loss]
        self._per_item, self._per_list = frozenset(per_item), frozenset(per_list)

    def forward(self, labels: Tensor | None = None, **columns: Tensor) -> dict[str, Tensor]:
        """`logits` float [B, K], and with labels [B, K] their `loss`.

        Args:
            labels: 1 or 0.
            **columns: As `ListRecommender.columns` returns them.
        """
        items, history, past = self.inputs(**columns)
        mask = torch.ones_like(columns["item"], dtype=torch.bool)
        logits = self.reranker(items, mask, history, past).float()
        if labels is None:
            return {"logits": logits}
        return {"loss": self._loss(logits, labels, mask), "logits": logits}

    def inputs(self, **columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the re-ranker reads.

        Returns:
            Items float [B, K, width], candidate, context, averaged history, fields of texts and raw
            texts side by side; history float [B, L, step] and its mask bool [B, L], both with L = 0
            for a re-ranker that does not read steps.
        """
        lists, length = columns["item"].shape
        embedded = self.features(**self._rows(columns, length=length))
        shared: list[Tensor] = []
        history, past = embedded.wide.new_zeros(lists, 0, 0), columns["item"][:, :0] > 0
        if self._reads_steps:
            history, past = _side_by_side(embedded.steps)
        else:
            shared = [_average(steps) for steps in embedded.steps]
        averages = [part[:, None].expand(-1, length, -1) for part in shared]
        own = (embedded.candidate, embedded.context, embedded.vectors, embedded.wide)
        parts = [part.unflatten(0, (lists, length)).flatten(2) for part in own]
        parts[2:2] = averages
        return torch.cat(parts, dim=-1), history, past

    def _rows(self, columns: Mapping[str, Tensor], *, length: int) -> dict[str, Tensor]:
        """The columns for B * K rows; those of the history stay as they are, one row per list."""
        rows = {}
        for name, column in columns.items():
            if name in self._per_item:
                column = column.flatten(0, 1)
            elif name in self._per_list:
                column = column.repeat_interleave(length)
            rows[name] = column
        return rows


def _padded(steps: Steps) -> Tensor:
    """Float [B, L, width], zeros where there is no step."""
    values = steps.values.new_zeros(*steps.mask.shape, steps.values.shape[1])
    return values.masked_scatter(steps.mask[..., None], steps.values)


def _average(steps: Steps) -> Tensor:
    """Mean over the real steps, float [B, width]; zeros where there are none."""
    return _padded(steps).sum(dim=1) / steps.mask.sum(dim=1, keepdim=True).clamp(min=1)


def _side_by_side(sequences: Sequence[Steps]) -> tuple[Tensor, Tensor]:
    """Several sequences as one, float [B, L, width of all], and where it has steps.

    All show the newest events of the user and end at the right, so what stands in one place is of
    one event; a shorter sequence has zeros where only longer ones reach.
    """
    longest = max((steps.mask for steps in sequences), key=lambda mask: mask.shape[1])
    aligned = [
        nn.functional.pad(_padded(steps), (0, 0, longest.shape[1] - steps.mask.shape[1], 0))
        for steps in sequences
    ]
    return torch.cat(aligned, dim=-1), longest
