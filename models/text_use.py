"""Whether text vectors really matter to a trained model, seen from its loss.

Vectors that are loaded, fused and then not read by the network look like vectors that do not help.
Two numbers tell them apart: the gradient of the loss with respect to the fused texts, and the loss
without the texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.feature_space import Columns

__all__ = ["TextUse", "text_use"]


@dataclass(frozen=True)
class TextUse:
    """What one text feature does on some rows.

    Attributes:
        name: Of the feature.
        rows: Rows that a text serves.
        gradient: Norm of the loss's gradient with respect to the fused texts of the rows.
        loss: Mean cross-entropy of these rows.
        loss_without: The same with the learned missing vector in place of every text.
        loss_shuffled: The same with the texts of other rows.
    """

    name: str
    rows: int
    gradient: float
    loss: float
    loss_without: float
    loss_shuffled: float

    @property
    def used(self) -> bool:
        """Whether the gradient reaches the texts and the loss notices when they are gone."""
        return self.gradient > 0 and self.loss != self.loss_without


def text_use(model: CtrRecommender, rows: NDArray[np.int64], *, seed: int = 0) -> list[TextUse]:
    """Look at every text feature of a fitted model, on interaction rows.

    Args:
        model: Fitted, with its adaptor (not loaded for serving).
        rows: Interaction rows [n].
        seed: Of the shuffling.
    """
    columns = model.event_columns(rows)
    whole, gradients = _loss_and_gradients(model, columns)
    order = np.random.default_rng(seed).permutation(len(rows))
    found = []
    for text in model.texts:
        own = columns[text.name]
        without = {**columns, text.name: np.full_like(own, -1)}
        shuffled = {**columns, text.name: own[order]}
        found.append(
            TextUse(
                name=text.name,
                rows=int((own >= 0).sum()),
                gradient=gradients[text.name],
                loss=whole,
                loss_without=_loss(model, without),
                loss_shuffled=_loss(model, shuffled),
            )
        )
    return found


def _loss(model: CtrRecommender, columns: Columns) -> float:
    inputs = {name: torch.from_numpy(array) for name, array in columns.items()}
    with torch.no_grad():
        return float(model.network(**inputs)["loss"])


def _loss_and_gradients(model: CtrRecommender, columns: Columns) -> tuple[float, dict[str, float]]:
    """The loss, and the norm of its gradient at the fused texts of each feature."""
    inputs = {name: torch.from_numpy(array) for name, array in columns.items()}
    fusion = model.network.features.texts
    assert fusion is not None
    caught: dict[str, torch.Tensor] = {}

    def watch(name: str, fused: torch.Tensor) -> torch.Tensor:
        caught[name] = fused.detach().requires_grad_()
        return caught[name]

    with fusion.watched(watch), torch.enable_grad():
        loss = model.network(**inputs)["loss"]
    names = list(caught)
    parts = torch.autograd.grad(loss, [caught[name] for name in names], allow_unused=True)
    norms = {
        name: 0.0 if part is None else float(part.norm())
        for name, part in zip(names, parts, strict=True)
    }
    return float(loss.detach()), norms
