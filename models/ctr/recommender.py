"""A click-through-rate backbone as a recommender: features, training, scoring, saving."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.errors import SaveCheckError, UserError
from tastemaker.eval.protocol import Requests
from tastemaker.models.ctr.options import checked_options
from tastemaker.models.feature_embedding import FeatureEmbedding
from tastemaker.models.feature_space import Columns, FeatureSpace
from tastemaker.models.features import Feature, default_features
from tastemaker.models.layers.experts import AdaptorSizes
from tastemaker.models.text_vectors import (
    PrestoredTexts,
    TextFusion,
    TextVectors,
    require_same_texts,
    text_columns,
    told_texts,
)
from tastemaker.models.training import Curve, TrainingPlan, train_columns

__all__ = ["ClassWeight", "CtrRecommender"]

ClassWeight = Literal["balanced"] | float | None
_WEIGHTS, _CONFIG, _PRESTORED = "model.safetensors", "config.json", "prestored.safetensors"
_SCORED_ROWS = 8192
_CHECKED_ROWS = 256
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Settings:
    """What the recommender was asked to be."""

    name: str
    backbone: str
    dim: int
    min_count: int
    options: Mapping[str, Any]
    class_weight: ClassWeight
    adaptor: AdaptorSizes
    plan: TrainingPlan


class _Network(nn.Module):
    """Features and backbone, with the loss that the Trainer asks for."""

    accepts_loss_kwargs = False  # or the Trainer would add its own arguments to the columns

    def __init__(
        self, features: FeatureEmbedding, backbone: nn.Module, *, positive_weight: float
    ) -> None:
        super().__init__()
        self.features, self.backbone = features, backbone
        self._positive_weight = positive_weight

    def forward(self, labels: Tensor | None = None, **columns: Tensor) -> dict[str, Tensor]:
        """`logits` float [B], log-odds of a like, and with labels their cross-entropy `loss`."""
        logits = self.backbone(self.features(**columns))
        if labels is None:
            return {"logits": logits}
        weight = logits.new_tensor(self._positive_weight) if self._positive_weight != 1 else None
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
        return {"loss": loss, "logits": logits}


class CtrRecommender:
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
            name,
            backbone,
            dim,
            min_count,
            checked_options(self._backbone, options or {}, backbone=backbone),
            class_weight,
            adaptor or AdaptorSizes(),
            plan or TrainingPlan(),
        )
        self._features, self._texts = features, tuple(texts)
        self._scratch, self._on_progress = scratch, on_progress or (lambda _: None)
        self._split: Split | None = None
        self._space: FeatureSpace | None = None
        self._network: _Network | None = None
        self.name = name
        self.curve: Curve = []

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
        features = self._features or default_features(split.tables.schema, split.tables)
        self._split = split
        self._space = FeatureSpace.fit(split, features, min_count=self._settings.min_count)
        self._network = self._new_network(positive_weight=self._positive_weight(split))
        return self.event_columns(split.train)

    def score(self, requests: Requests) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n].

        Raises:
            UserError: `fit` has not been called.
        """
        users, items, times, rows = (
            values.astype(np.int64)
            for values in (requests.users, requests.items, requests.times, requests.rows)
        )
        parts = [
            self.logits(self.columns(users[part], items[part], times[part], rows=rows[part]))
            for part in _chunks(len(requests))
        ]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def evidence(self, users: Whole, times: Whole) -> Whole:
        """Interaction rows whose item and rating the backbone sees, int64 [n, history].

        Args:
            users: Dense users [n].
            times: Moments [n] of their targets.

        Returns:
            Newest at the right end; -1 to the left of shorter histories.
        """
        return self.space.evidence(users, times)

    @property
    def space(self) -> FeatureSpace:
        """The features, fixed by the train part."""
        return self._fitted()[1]

    @property
    def network(self) -> _Network:
        """Features and backbone as a module: columns to `{"logits", "loss"}`."""
        return self._fitted()[2]

    @property
    def texts(self) -> tuple[TextVectors, ...]:
        """The text vectors that it reads."""
        return self._texts

    @property
    def min_count(self) -> int:
        """Training events a value needs for an embedding of its own."""
        return self._settings.min_count

    def save(self, folder: Path) -> None:
        """Write weights, vocabularies, settings and fused texts; read them back, compare scores.

        Raises:
            UserError: `fit` has not been called.
            SaveCheckError: what was read back scores differently.
        """
        split, space, network = self._fitted()
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
        if self._texts:
            save_file(self._fusion().tables(), folder / _PRESTORED)
        about = {
            "settings": asdict(self._settings),
            "space": space.to_dict(),
            "texts": told_texts(self._texts),
            "curve": self.curve,
        }
        (folder / _CONFIG).write_text(json.dumps(about, indent=1), encoding="utf-8")
        probe = self.event_columns(split.train[:_CHECKED_ROWS])
        expected = self.logits(probe)
        again = type(self).load(folder, split=split, texts=self._texts)
        device = next(network.parameters()).device  # another one would round otherwise
        again.network.to(device)
        same = np.array_equal(expected, again.logits(probe))
        if self._texts:
            again = type(self).load(folder, split=split, texts=self._texts, prestored=True)
            again.network.to(device)
            same &= np.allclose(expected, again.logits(probe), atol=1e-4)
        if not same:
            raise SaveCheckError(
                f"{folder}: the saved '{self.name}' scores differently once read back."
            )

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        split: Split,
        texts: Sequence[TextVectors] = (),
        prestored: bool = False,
    ) -> Self:
        """Read what `save` wrote.

        Args:
            folder: Where it was saved.
            split: Gives histories and the columns of users and items; those whose id training did
                not know are unseen.
            texts: The same text vectors as in training.
            prestored: Read fused texts from the table that `save` wrote, without an adaptor: for
                serving. The texts must be those that were there when it was saved.

        Raises:
            UserError: the text vectors are missing, or others; or a column is missing.
        """
        about = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        require_same_texts(about["texts"], texts, folder=folder)
        settings = about["settings"]
        model = cls(
            **{
                **settings,
                "plan": TrainingPlan(**settings["plan"]),
                "adaptor": AdaptorSizes(**settings["adaptor"]),
            },
            texts=texts,
        )
        model._split, model.curve = split, about["curve"]
        model._space = FeatureSpace.from_dict(about["space"], split)
        model._network = model._new_network()
        model._network.load_state_dict(load_file(folder / _WEIGHTS))
        if prestored and texts:
            tables = load_file(folder / _PRESTORED)
            model._network.features.texts = PrestoredTexts.of(
                tables, texts, dim=model._settings.dim
            )
        model._network.eval()
        return model

    def columns(
        self, users: Whole, items: Whole, times: Whole, *, rows: Whole | None = None
    ) -> Columns:
        """Arguments of the network, arrays [n, …]; see `FeatureSpace.columns`."""
        found = self.space.columns(users, items, times, rows=rows)
        return found | text_columns(self._texts, users=users, items=items, times=times)

    def event_columns(self, rows: Whole) -> Columns:
        """The same for interaction rows, with their `labels` float32 [n]."""
        events = self._fitted_split().tables.interactions[rows]
        users, items, times = (
            events[name].to_numpy().astype(np.int64) for name in ("user", "item", "time")
        )
        labels = events["label"].to_numpy().astype(np.float32)
        return {**self.columns(users, items, times, rows=rows), "labels": labels}

    def logits(self, columns: Columns) -> NDArray[np.float32]:
        """Log-odds of a like for arrays of `columns`, float32 [n]."""
        network = self.network
        device = next(network.parameters()).device
        inputs = {name: torch.from_numpy(array) for name, array in columns.items()}
        inputs.pop("labels", None)
        with torch.inference_mode():
            logits = network(**{name: value.to(device) for name, value in inputs.items()})["logits"]
        return logits.float().cpu().numpy()

    def _fusion(self) -> TextFusion:
        fusion = self.network.features.texts
        if not isinstance(fusion, TextFusion):
            raise UserError(
                f"'{self.name}' was loaded for serving, without its adaptor.",
                remedy="Load it with prestored=False.",
            )
        return fusion

    def _fitted(self) -> tuple[Split, FeatureSpace, _Network]:
        if self._split is None or self._space is None or self._network is None:
            raise UserError(
                f"'{self.name}' has not been fitted.", remedy="Call fit(split) or load it first."
            )
        return self._split, self._space, self._network

    def _fitted_split(self) -> Split:
        return self._fitted()[0]

    def _positive_weight(self, split: Split) -> float:
        weight = self._settings.class_weight
        if weight != "balanced":
            return 1.0 if weight is None else float(weight)
        labels = split.tables.interactions["label"].to_numpy()[split.train]
        likes = int(labels.sum())
        return (len(labels) - likes) / likes if 0 < likes < len(labels) else 1.0

    def _new_network(self, *, positive_weight: float = 1.0) -> _Network:
        settings, space = self._settings, self._space
        assert space is not None
        with torch.random.fork_rng(devices=[]):  # modules draw their weights from global state
            torch.manual_seed(settings.plan.seed)
            fusion = None
            if self._texts:
                fusion = TextFusion(self._texts, dim=settings.dim, sizes=settings.adaptor)
            features = FeatureEmbedding(
                space,
                dim=settings.dim,
                texts=fusion,
                vectors=fusion.vectors if fusion else 0,
                wide=fusion.wide if fusion else 0,
                reads_steps=self._backbone.reads_steps,
                first_order=self._backbone.first_order,
            )
            backbone = self._backbone(features.shape, **settings.options)
        return _Network(features, backbone, positive_weight=positive_weight)


def _chunks(length: int) -> list[slice]:
    return [slice(start, start + _SCORED_ROWS) for start in range(0, length, _SCORED_ROWS)]
