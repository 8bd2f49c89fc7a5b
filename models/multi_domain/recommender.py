"""A network for several domains as a recommender: heads, training, a domain added later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
from tastemaker.models.multi_domain.network import MultiDomainNetwork
from tastemaker.models.multi_domain.rows import (
    answered,
    checked_domains,
    heads_of,
    require_addable,
    require_trainable,
    rows_of_domains,
)
from tastemaker.models.text_vectors import TextVectors, text_columns
from tastemaker.models.training import Curve, TrainingPlan, train_columns

__all__ = ["MultiDomainRecommender"]

_CHECKED_ROWS = 64  # of each domain
Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Settings(Settings):
    backbone: str
    domains: tuple[str, ...]


class _Network(FeatureNetwork):
    """Features and backbone, with the loss that the Trainer asks for."""

    accepts_loss_kwargs = False  # or the Trainer would add its own arguments to the columns

    def __init__(self, features: FeatureEmbedding, backbone: MultiDomainNetwork) -> None:
        super().__init__(features)
        self.backbone = backbone

    def forward(
        self, labels: Tensor | None = None, domain_head: Tensor | None = None, **columns: Tensor
    ) -> dict[str, Tensor]:
        """`logits`, log-odds of a like, and with labels their cross-entropy `loss`.

        They are float [B] with `domain_head` int64 [B], the head of each row; else [B, heads].
        """
        logits = self.backbone(self.features(**columns), domain_head).float()
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits}


class MultiDomainRecommender(FeatureRecommender):
    """One network for several domains, with a head for each.

    Rows of other domains neither train nor choose the epoch, and no vocabulary is taken from them;
    they stand in the histories of users, as whatever happened before does. The loss is that of each
    row's own head; the epoch is chosen by AUC on the valid rows of all domains together.

    A domain without a head is scored by the mean of all heads' log-odds: nobody can know beforehand
    which of them fits it. (Uni-CTR's comparison takes whichever head is best on the test rows.)

    Args:
        name: Shown to people.
        backbone: A file of `models/multi_domain`.
        domains: Those to train on, as the tables name them.
        features: What it reads; None: `default_features`, those of KAR, which has no user id.
        dim: Width of a field; Uni-CTR: 32.
        min_count: Training events that a value needs for an embedding of its own.
        plan: How to train.
        options: Keyword arguments of the backbone, such as `tower`.
        adaptor: Experts for texts that are fused by the adaptor.
        texts: Text vectors.
        scratch: Where checkpoints survive a killed process; nowhere when None.
        on_progress: Called with 1 after each epoch.

    Attributes:
        name: Shown to people.
        curve: One entry per epoch of `fit`: `epoch`, `loss`, `valid_loss`, `valid_auc`.
        added_curves: The same for each domain that was added.

    Raises:
        UnknownNameError: no such backbone, or no such option of it.
        UserError: no domain, or one twice.
    """

    def __init__(
        self,
        name: str,
        backbone: str = "shared_bottom",
        *,
        domains: Sequence[str],
        features: Sequence[Feature] | None = None,
        dim: int = 32,
        min_count: int = 2,
        plan: TrainingPlan | None = None,
        options: Mapping[str, Any] | None = None,
        adaptor: AdaptorSizes | None = None,
        texts: Sequence[TextVectors] = (),
        scratch: Path | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._backbone = registry.load("multi-domain backbone", backbone)
        self._settings = _Settings(
            name=name,
            dim=dim,
            min_count=min_count,
            options=checked_options(self._backbone, options or {}, backbone=backbone),
            adaptor=adaptor or AdaptorSizes(),
            plan=plan or TrainingPlan(),
            backbone=backbone,
            domains=checked_domains(domains),
        )
        super().__init__(
            self._settings,
            features=features,
            texts=texts,
            scratch=scratch,
            on_progress=on_progress,
        )
        self.added_curves: dict[str, Curve] = {}
        self._added_spaces: list[FeatureSpace] = []

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that have a head, in the order of the heads."""
        return (*self._settings.domains, *self.added_curves)

    def fit(self, split: Split) -> Self:
        """Train on the train part, keep the epoch with the best AUC on the valid part.

        Raises:
            DataError: the tables have no domain, one of `domains` has no row in the train part, or
                their valid rows do not hold both likes and dislikes.
            UnknownNameError: no domain of that name.
            UserError: a feature that these tables cannot give.
        """
        domains = self._settings.domains
        own = rows_of_domains(split, domains)
        require_trainable(own, domains)
        self.added_curves, self._added_spaces, self._split = {}, [], split
        features = self._features_of(split)
        self._space = FeatureSpace.fit(own, features, min_count=self._settings.min_count)
        self._network = self._new_network()
        self.curve = self._trained(own, self._settings.plan, space=self._space)
        return self

    def add_domain(self, split: Split, name: str, *, plan: TrainingPlan | None = None) -> Self:
        """Train a part for one more domain on its rows; everything else stays as it is.

        Embeddings and vocabularies stay as well: items that `fit` did not know have none, unless
        their attributes or texts are read. Statistics of the new domain's rows count its own events
        too. The scores of requests of the other domains keep every bit.

        Args:
            split: Of the same tables as that of `fit`; its rows of other domains are left aside.
            name: The domain.
            plan: How to train; None: as in `fit`.

        Raises:
            DataError: the domain has no row in the train part, or its valid rows do not hold both
                likes and dislikes.
            UnknownNameError: no domain of that name.
            UserError: the domain has a head already, `fit` has not been called, or other tables.
        """
        known, network = self._fitted()[0], self.network
        require_addable(split, name, fitted=known, domains=self.domains)
        own = rows_of_domains(split, [name])
        require_trainable(own, [name])
        space = self._space_with(split, (*self.domains, name))
        device = next(network.parameters()).device
        backbone = network.cpu().requires_grad_(False).backbone
        with self._seeded():
            backbone.add_domain()
        self.added_curves[name] = []
        self._added_spaces.append(space)
        try:
            plan = plan or self._settings.plan
            self.added_curves[name] = self._trained(own, plan, space=space)
        except BaseException:
            del self.added_curves[name], self._added_spaces[-1], backbone.own[-1]
            raise
        finally:
            network.requires_grad_(True).eval().to(device)
        return self

    def score(self, requests: Requests) -> Floats:
        """Log-odds of a like, float32 [n]; a domain without a head: the mean over all heads.

        Raises:
            UserError: `fit` has not been called.
        """
        targets = Targets.of_requests(requests)
        return answered(
            self._heads(targets),
            own=lambda head, places: self._own_scores(head, targets[places]),
            all_heads=lambda places: self._all_scores(targets[places]),
        )

    def head_scores(self, requests: Requests) -> Floats:
        """Log-odds of a like by every head, whatever the domain: float32 [n, heads].

        The columns are those of `domains`. The best of them on the rows that judge is an oracle,
        not a model.

        Raises:
            UserError: `fit` has not been called.
        """
        return self._all_scores(Targets.of_requests(requests))

    def event_columns(self, rows: Whole, *, space: FeatureSpace | None = None) -> Columns:
        """Arguments of the network for interaction rows of its domains, with their labels.

        Args:
            rows: Interaction rows [n].
            space: Instead of the one that `fit` made.
        """
        tables = self._fitted()[0].tables
        targets = Targets.of_events(tables, rows)
        labels = tables.interactions["label"].to_numpy()[rows].astype(np.float32)
        columns = self._columns(targets, space=space or self.space)
        return {**columns, "domain_head": self._heads(targets), "labels": labels}

    def _trained(self, own: Split, plan: TrainingPlan, *, space: FeatureSpace) -> Curve:
        return train_columns(
            self.network,
            self.event_columns(own.train, space=space),
            valid=self.event_columns(own.valid, space=space),
            plan=plan,
            scratch=self._scratch,
            on_epoch=lambda: self._on_progress(1),
        )

    def _own_scores(self, head: int, targets: Targets) -> Floats:
        found = [np.empty(0, np.float32)]
        for part in targets.parts():
            columns = self._columns(part, space=self._space_of(head))
            found.append(self.logits({**columns, "domain_head": np.full(len(part), head)}))
        return np.concatenate(found)

    def _all_scores(self, targets: Targets) -> Floats:
        first = len(self._settings.domains)
        found = [np.empty((0, len(self.domains)), np.float32)]
        for part in targets.parts():
            logits = [self.logits(self._columns(part, space=self.space))[:, :first]]
            for head, space in enumerate(self._added_spaces, start=first):
                logits.append(self.logits(self._columns(part, space=space))[:, head : head + 1])
            found.append(np.concatenate(logits, axis=1))
        return np.concatenate(found)

    def _columns(self, targets: Targets, *, space: FeatureSpace) -> Columns:
        users, items, times = targets.users, targets.items, targets.times
        found = space.columns(users, items, times, rows=targets.rows)
        return found | text_columns(self._texts, users=users, items=items, times=times)

    def _heads(self, targets: Targets) -> Whole:
        tables = self._fitted()[0].tables
        return heads_of(tables, targets.items, rows=targets.rows, domains=self.domains)

    def _space_of(self, head: int) -> FeatureSpace:
        added = head - len(self._settings.domains)
        return self.space if added < 0 else self._added_spaces[added]

    def _space_with(self, split: Split, domains: Sequence[str]) -> FeatureSpace:
        """The space of `fit`, which counts the train rows of these domains."""
        assert self._space is not None
        return FeatureSpace.from_dict(self._space.to_dict(), rows_of_domains(split, domains))

    def _probe(self, split: Split) -> Columns:
        parts = []
        for head, name in enumerate(self.domains):
            rows = rows_of_domains(split, [name]).train[:_CHECKED_ROWS]
            parts.append(self.event_columns(rows, space=self._space_of(head)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _more(self) -> dict[str, Any]:
        return {"added": self.added_curves}

    def _recall(self, about: Mapping[str, Any]) -> None:
        split, first = self._split, len(self._settings.domains)
        assert split is not None
        self.added_curves = dict(about["added"])
        self._space, *self._added_spaces = (
            self._space_with(split, self.domains[:count])
            for count in range(first, len(self.domains) + 1)
        )

    def _new_network(self) -> _Network:
        make = self._backbone
        with self._seeded():
            features = self._embedding(reads_steps=make.reads_steps, first_order=make.first_order)
            backbone = make(features.shape, len(self.domains), **self._settings.options)
        return _Network(features, backbone)
