"""A model of its own for every domain: what one gains from a network for all is measured by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.eval.protocol import Requests
from tastemaker.models.ctr.recommender import ClassWeight, CtrRecommender
from tastemaker.models.features import Feature
from tastemaker.models.layers.experts import AdaptorSizes
from tastemaker.models.multi_domain.rows import (
    answered,
    checked_domains,
    heads_of,
    require_addable,
    require_trainable,
    rows_of_domains,
)
from tastemaker.models.text_vectors import TextVectors
from tastemaker.models.training import Curve, TrainingPlan

__all__ = ["SeparateDomains"]

_CONFIG = "config.json"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Settings:
    """Arguments that a saved one keeps; the names are those of the constructor."""

    name: str
    backbone: str
    dim: int
    min_count: int
    plan: TrainingPlan
    options: Mapping[str, Any]
    class_weight: ClassWeight
    adaptor: AdaptorSizes


class SeparateDomains:
    """One `CtrRecommender` per domain, which knows nothing of the others.

    Each is trained on the rows of its domain; vocabularies and statistics come from these rows too.
    The histories of users are the same for all: they hold whatever happened before.

    A domain without a model is scored by the mean of all models' log-odds.

    Args:
        name: Shown to people.
        backbone: A file of `models/ctr`.
        domains: Those to train on, as the tables name them.
        features: What it reads; None: `default_features`, those of KAR, which has no user id.
        dim: Width of a field.
        min_count: Training events of a domain that a value needs for an embedding of its own.
        plan: How to train each of them.
        options: Keyword arguments of the backbone, such as `hidden`.
        class_weight: See `CtrRecommender`.
        adaptor: Experts for texts that are fused by the adaptor.
        texts: Text vectors.
        scratch: Where checkpoints survive a killed process; nowhere when None.
        on_progress: Called with 1 after each epoch of each model.

    Attributes:
        name: Shown to people.

    Raises:
        UnknownNameError: no such backbone, or no such option of it.
        UserError: no domain, or one twice.
    """

    def __init__(
        self,
        name: str,
        backbone: str = "din",
        *,
        domains: Sequence[str],
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
        self.name = name
        self._settings = _Settings(
            name=name,
            backbone=backbone,
            dim=dim,
            min_count=min_count,
            plan=plan or TrainingPlan(),
            options=dict(options or {}),
            class_weight=class_weight,
            adaptor=adaptor or AdaptorSizes(),
        )
        self._asked, self._features, self._texts = checked_domains(domains), features, tuple(texts)
        self._scratch, self._on_progress = scratch, on_progress
        self._split: Split | None = None
        self._models: dict[str, CtrRecommender] = {}
        self._new_model(domains[0], self._settings.plan)  # a wrong option is told at once

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that have a model, in the order of `head_scores`."""
        return tuple(self._models) or self._asked

    @property
    def models(self) -> Mapping[str, CtrRecommender]:
        """Domain → its model."""
        return dict(self._models)

    @property
    def curves(self) -> dict[str, Curve]:
        """The curve of each domain's model; see `CtrRecommender`."""
        return {name: model.curve for name, model in self._models.items()}

    def fit(self, split: Split) -> Self:
        """Train one model after the other, each with the epoch that is best on its valid rows.

        Raises:
            DataError: the tables have no domain, a domain has no row in the train part, or its
                valid rows do not hold both likes and dislikes.
            UnknownNameError: no domain of that name.
            UserError: a feature that these tables cannot give.
        """
        parts = {name: _trainable(split, name) for name in self._asked}
        plan = self._settings.plan
        self._models = {n: self._new_model(n, plan).fit(own) for n, own in parts.items()}
        self._split = split
        return self

    def add_domain(self, split: Split, name: str, *, plan: TrainingPlan | None = None) -> Self:
        """Train a model for one more domain; the others stay as they are.

        Args:
            split: Of the same tables as that of `fit`; its rows of other domains are left aside.
            name: The domain.
            plan: How to train; None: as in `fit`.

        Raises:
            DataError: the domain has no row in the train part, or its valid rows do not hold both
                likes and dislikes.
            UnknownNameError: no domain of that name.
            UserError: the domain has a model already, `fit` has not been called, or other tables.
        """
        require_addable(split, name, fitted=self._fitted(), domains=self.domains)
        own = _trainable(split, name)
        self._models[name] = self._new_model(name, plan or self._settings.plan).fit(own)
        return self

    def score(self, requests: Requests) -> Floats:
        """Log-odds of a like, float32 [n]; a domain without a model: the mean over all models.

        Raises:
            UserError: `fit` has not been called.
        """
        split, models = self._fitted(), list(self._models.values())
        heads = heads_of(split.tables, requests.items, rows=requests.rows, domains=self.domains)
        return answered(
            heads,
            own=lambda head, _: models[head].score(requests.select(heads == head)),
            all_heads=lambda _: self.head_scores(requests.select(heads < 0)),
        )

    def head_scores(self, requests: Requests) -> Floats:
        """Log-odds of a like by every model, whatever the domain: float32 [n, models].

        The columns are those of `domains`. The best of them on the rows that judge is an oracle,
        not a model.

        Raises:
            UserError: `fit` has not been called.
        """
        self._fitted()
        return np.stack([model.score(requests) for model in self._models.values()], axis=1)

    def save(self, folder: Path) -> None:
        """Write one folder per model, named by its place; each is read back and compared.

        Raises:
            UserError: `fit` has not been called.
            SaveCheckError: what was read back scores differently.
        """
        self._fitted()
        for place, model in enumerate(self._models.values()):
            model.save(folder / str(place))
        about = {
            "domains": self._asked,
            "models": self.domains,
            "settings": asdict(self._settings),
        }
        (folder / _CONFIG).write_text(json.dumps(about, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, split: Split, texts: Sequence[TextVectors] = ()) -> Self:
        """Read what `save` wrote.

        Args:
            folder: Where it was saved.
            split: Gives histories, the columns of users and items, and domains.
            texts: The same text vectors as in training.

        Raises:
            DataError: the tables have no domain.
            UserError: the text vectors are missing, or others; or a column is missing.
        """
        about = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        models = {
            name: CtrRecommender.load(
                folder / str(place), split=rows_of_domains(split, [name]), texts=texts
            )
            for place, name in enumerate(about["models"])
        }
        settings = about["settings"]
        plan, adaptor = TrainingPlan(**settings["plan"]), AdaptorSizes(**settings["adaptor"])
        declared = next(iter(models.values())).space.declared
        whole = cls(
            **{**settings, "plan": plan, "adaptor": adaptor},
            domains=about["domains"],
            features=declared,
            texts=texts,
        )
        whole._models, whole._split = models, split
        return whole

    def _new_model(self, domain: str, plan: TrainingPlan) -> CtrRecommender:
        settings = self._settings
        return CtrRecommender(
            f"{settings.name}: {domain}",
            settings.backbone,
            features=self._features,
            dim=settings.dim,
            min_count=settings.min_count,
            plan=plan,
            options=settings.options,
            class_weight=settings.class_weight,
            adaptor=settings.adaptor,
            texts=self._texts,
            scratch=self._scratch,
            on_progress=self._on_progress,
        )

    def _fitted(self) -> Split:
        if self._split is None:
            raise UserError(
                f"'{self.name}' has not been fitted.", remedy="Call fit or load it first."
            )
        return self._split


def _trainable(split: Split, domain: str) -> Split:
    own = rows_of_domains(split, [domain])
    require_trainable(own, [domain])
    return own
