"""A click-through-rate backbone as a recommender: features, training, scoring, saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests
from tastemaker.models.ctr.options import checked_options
from tastemaker.models.feature_embedding import FeatureEmbedding
from tastemaker.models.feature_recommender import (
    FeatureNetwork,
    FeatureRecommender,
    Settings,
    Targets,
)
from tastemaker.models.feature_space import Columns, FeatureSpace
from tastemaker.models.features import Feature
from tastemaker.models.layers.experts import AdaptorSizes
from tastemaker.models.live_trail import Trail
from tastemaker.models.text_vectors import TextVectors, text_columns
from tastemaker.models.training import TrainingPlan, train_columns

__all__ = ["ClassWeight", "CtrRecommender"]

ClassWeight = Literal["balanced"] | float | None
_CHECKED_ROWS = 256
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Settings(Settings):
    backbone: str
    class_weight: ClassWeight


class _Network(FeatureNetwork):
    """Features and backbone, with the loss that the Trainer asks for."""

    accepts_loss_kwargs = False  # or the Trainer would add its own arguments to the columns

    def __init__(
        self, features: FeatureEmbedding, backbone: nn.Module, *, positive_weight: float
    ) -> None:
        super().__init__(features)
        self.backbone = backbone
        self._positive_weight = positive_weight

    def forward(self, labels: Tensor | None = None, **columns: Tensor) -> dict[str, Tensor]:
        """`logits` float [B], log-odds of a like, and with labels their cross-entropy `loss`."""
        logits = self.backbone(self.features(**columns)).float()
        if labels is None:
            return {"logits": logits}
        weight = logits.new_tensor(self._positive_weight) if self._positive_weight != 1 else None
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
        return {"loss": loss, "logits": logits}


class CtrRecommender(FeatureRecommender):
    """Predicts a like from the candidate, the user's last events, and whatever else is declared.

    Training rows are all rows of the train part; the epoch is chosen by AUC on the valid part.

    Args:
        name: Shown to people.
        backbone: A file of `models/ctr`.
        features: What it reads; None: `default_features`, those of KAR, which has no user id.
        dim: Width of a field; KAR: 32.
        min_count: Training events that a value needs for an embedding of its own; 2 or more, or
            unseen values are scored by an embedding that nothing has trained.
        plan: How to train.
        options: Keyword arguments of the backbone, such as `hidden`.
        class_weight: Weight of a like in the loss; `balanced`: dislikes per like in the train part,
            which shifts all log-odds; None: 1.
        adaptor: Experts for texts that are fused by the adaptor.
        texts: Text vectors.
        scratch: Where checkpoints survive a killed process; nowhere when None.
        on_progress: Called with 1 after each epoch.

    Attributes:
        name: Shown to people.
        curve: One entry per epoch: `epoch`, `loss`, `valid_loss`, `valid_auc`.

    Raises:
        UnknownNameError: no such backbone, or no such option of it.
    """

    def __init__(
        self,
        name: str,
        backbone: str = "din",
        *,
        features: Sequence[Feature] | None = None,
        dim: int = 32,
        min_count: int = 2,
        plan: TrainingPlan | None = None,
        options: Mapping[str, Any] | None = None,
        class_weight: ClassWeight = None,
        adaptor: AdaptorSizes | None = None,
        texts: Sequence[TextVectors] = (),
        scratch: Path | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._backbone = registry.load("backbone", backbone)
        self._settings = _Settings(
            name=name,
            dim=dim,
            min_count=min_count,
            options=checked_options(self._backbone, options or {}, backbone=backbone),
            adaptor=adaptor or AdaptorSizes(),
            plan=plan or TrainingPlan(),
            backbone=backbone,
            class_weight=class_weight,
        )
        super().__init__(
            self._settings,
            features=features,
            texts=texts,
            scratch=scratch,
            on_progress=on_progress,
        )

    def fit(self, split: Split) -> Self:
        """Train on the train part, keep the epoch with the best AUC on the valid part.

        Raises:
            DataError: the valid part does not hold both likes and dislikes.
            UserError: a feature that these tables cannot give.
        """
        train = self.prepared(split)
        self.curve = train_columns(
            self.network,
            train,
            valid=self.event_columns(split.valid),
            plan=self._settings.plan,
            scratch=self._scratch,
            on_epoch=lambda: self._on_progress(1),
        )
        return self

    def prepared(self, split: Split) -> Columns:
        """Everything that comes before training: vocabularies, fresh weights, training columns.

        Raises:
            UserError: a feature that these tables cannot give.
        """
        self._split = split
        self._space = FeatureSpace.fit(
            split, self._features_of(split), min_count=self._settings.min_count
        )
        self._network = self._new_network()
        return self.event_columns(split.train)

    def score(self, requests: Requests) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n].

        Raises:
            UserError: `fit` has not been called.
        """
        parts = [self.logits(self._of(part)) for part in Targets.of_requests(requests).parts()]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def columns(
        self,
        users: Whole,
        items: Whole,
        times: Whole,
        *,
        rows: Whole | None = None,
        trail: Trail | None = None,
    ) -> Columns:
        """Arguments of the network, arrays [n, …]; see `FeatureSpace.columns`."""
        found = self.space.columns(users, items, times, rows=rows, trail=trail)
        return found | text_columns(self._texts, users=users, items=items, times=times)

    def event_columns(self, rows: Whole) -> Columns:
        """The same for interaction rows, with their `labels` float32 [n]."""
        tables = self._fitted()[0].tables
        labels = tables.interactions["label"].to_numpy()[rows].astype(np.float32)
        return {**self._of(Targets.of_events(tables, rows)), "labels": labels}

    def _of(self, targets: Targets) -> Columns:
        return self.columns(targets.users, targets.items, targets.times, rows=targets.rows)

    def _probe(self, split: Split) -> Columns:
        return self.event_columns(split.train[:_CHECKED_ROWS])

    def _positive_weight(self, split: Split) -> float:
        weight = self._settings.class_weight
        if weight != "balanced":
            return 1.0 if weight is None else float(weight)
        labels = split.tables.interactions["label"].to_numpy()[split.train]
        likes = int(labels.sum())
        return (len(labels) - likes) / likes if 0 < likes < len(labels) else 1.0

    def _new_network(self) -> _Network:
        make, split = self._backbone, self._split
        assert split is not None
        with self._seeded():
            features = self._embedding(reads_steps=make.reads_steps, first_order=make.first_order)
            backbone = make(features.shape, **self._settings.options)
        return _Network(features, backbone, positive_weight=self._positive_weight(split))
