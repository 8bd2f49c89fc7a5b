"""A click-through-rate backbone as a recommender: features, training, scoring, saving."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, SaveCheckError, UserError
from tastemaker.eval.protocol import Requests
from tastemaker.models.training import Columns, Curve, TrainingPlan, train_columns
from tastemaker.stage import digest

__all__ = ["CtrRecommender", "ExtraFeatures"]

_WEIGHTS, _VOCABULARY, _CONFIG = "model.safetensors", "vocabulary.safetensors", "config.json"
_SCORED_ROWS = 8192
_CHECKED_ROWS = 256
_RARE = 1  # embedding of items with too few training events; 0 is padding


class ExtraFeatures(Protocol):
    """Further inputs of a CTR model, such as knowledge vectors.

    Attributes:
        dim: Size of what `module` returns per row.
    """

    dim: int

    def module(self) -> nn.Module:
        """A new module whose keyword arguments are the `columns`; returns float [B, dim]."""

    def columns(
        self, users: NDArray[np.int64], items: NDArray[np.int64], times: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Arrays [n, ...], one per argument of `module`, for rows known at their own moment."""


@dataclass(frozen=True)
class _Settings:
    """What the recommender was asked to be."""

    name: str
    backbone: str
    dim: int
    history: int
    min_count: int
    plan: TrainingPlan


@dataclass(frozen=True)
class _Vocabulary:
    """Embedding rows, fixed by the train part.

    Attributes:
        items: int64 [n_items], embedding row of each dense item.
        ratings: float32 [levels], the distinct ratings, ascending.
    """

    items: NDArray[np.int64]
    ratings: NDArray[np.float32]

    @classmethod
    def of(cls, split: Split, *, min_count: int) -> Self:
        """Items with `min_count` training events get a row of their own, the others share one."""
        events = split.tables.interactions[split.train_events]
        counts = np.bincount(events["item"].to_numpy(), minlength=split.tables.n_items)
        frequent = counts >= min_count
        rows = np.where(frequent, _RARE + np.cumsum(frequent), _RARE)
        return cls(rows, np.unique(events["rating"].to_numpy()))

    def levels(self, ratings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Embedding row of each rating: that of the nearest one in the train part, from 1 on."""
        middles = (self.ratings[1:] + self.ratings[:-1]) / 2
        return 1 + np.searchsorted(middles, ratings).astype(np.int64)


class _Network(nn.Module):
    """Backbone and extra features, with the loss that the Trainer asks for."""

    accepts_loss_kwargs = False  # or the Trainer would add its own arguments to the columns

    def __init__(self, backbone: nn.Module, extra: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.extra = extra

    def forward(
        self,
        item: Tensor,
        history: Tensor,
        ratings: Tensor,
        labels: Tensor | None = None,
        **columns: Tensor,
    ) -> dict[str, Tensor]:
        """`logits` float [B], log-odds of a like, and with labels their cross-entropy `loss`."""
        extra = self.extra(**columns) if self.extra is not None else None
        logits = self.backbone(item, history, ratings, extra)
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits}


class CtrRecommender:
    """Predicts a like from the candidate, the user's last events with their ratings, and extras.

    There is no user id: whoever has a history can be scored. Training rows are all events of the
    train part; the epoch is chosen by AUC on the valid part.

    Args:
        name: Shown to people.
        backbone: A file of `models/ctr`.
        dim: Embedding size; KAR: 32.
        history: Most recent events looked at; KAR: 10.
        min_count: Training events an item needs for an embedding of its own; 2 or more, or unseen
            items are scored by an embedding that nothing has trained.
        learning_rate: Of AdamW; KAR searches 1e-4 to 1e-3.
        weight_decay: KAR: 0.
        batch_size: KAR searches 128 to 2048.
        epochs: At most so many; KAR: 20.
        patience: Epochs without a better AUC until training stops; KAR: 3.
        seed: Of the initial weights and the order of the rows.
        extra: Further features.
        scratch: Where checkpoints survive a killed process; nowhere when None.
        on_progress: Called with 1 after each epoch.

    Attributes:
        name: Shown to people.
        curve: One entry per epoch: `epoch`, `loss`, `valid_loss`, `valid_auc`.

    Raises:
        UnknownNameError: no such backbone.
    """

    def __init__(
        self,
        name: str,
        backbone: str = "din",
        *,
        dim: int,
        history: int,
        min_count: int,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        epochs: int,
        patience: int,
        seed: int,
        extra: ExtraFeatures | None = None,
        scratch: Path | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        plan = TrainingPlan(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            epochs=epochs,
            patience=patience,
            seed=seed,
        )
        self._settings = _Settings(name, backbone, dim, history, min_count, plan)
        self._backbone = registry.load("backbone", backbone)
        self._extra = extra
        self._scratch = scratch
        self._on_progress = on_progress or (lambda _: None)
        self._split: Split | None = None
        self._vocabulary: _Vocabulary | None = None
        self._network: _Network | None = None
        self.name = name
        self.curve: Curve = []

    def fit(self, split: Split) -> Self:
        """Train on the train part, keep the epoch with the best AUC on the valid part.

        Raises:
            DataError: the valid part does not hold both likes and dislikes.
        """
        self._split = split
        self._vocabulary = _Vocabulary.of(split, min_count=self._settings.min_count)
        self._network = self._new_network()
        self.curve = train_columns(
            self._network,
            self._event_columns(split.train),
            valid=self._event_columns(split.valid),
            plan=self._settings.plan,
            scratch=self._scratch,
            on_epoch=lambda: self._on_progress(1),
        )
        return self

    def score(self, requests: Requests) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n].

        Raises:
            UserError: `fit` has not been called.
        """
        users, items, times = (
            values.astype(np.int64) for values in (requests.users, requests.items, requests.times)
        )
        parts = [
            self._logits(self._columns(users[rows], items[rows], times[rows]))
            for rows in _chunks(len(requests))
        ]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def evidence(self, users: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Interaction rows whose item and rating the backbone sees, int64 [n, history].

        Args:
            users: Dense users [n].
            times: Moments [n] of their targets.

        Returns:
            Newest at the right end; -1 to the left of shorter histories.
        """
        split, _, _ = self._fitted()
        width = self._settings.history
        return split.histories.at(users, times, max_length=width).padded(width)

    @property
    def own_items(self) -> NDArray[np.int64]:
        """Dense items with an embedding of their own, ascending."""
        return np.flatnonzero(self._fitted()[1].items > _RARE).astype(np.int64)

    @property
    def own_ratings(self) -> NDArray[np.float32]:
        """Ratings with an embedding of their own, ascending."""
        return self._fitted()[1].ratings

    @property
    def min_count(self) -> int:
        """Training events an item needs for an embedding of its own."""
        return self._settings.min_count

    def save(self, folder: Path) -> None:
        """Write weights, vocabulary and settings, then read them back and compare scores.

        Raises:
            UserError: `fit` has not been called.
            SaveCheckError: what was read back scores differently.
        """
        split, vocabulary, network = self._fitted()
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
        save_arrays(
            {"items": vocabulary.items, "ratings": vocabulary.ratings}, folder / _VOCABULARY
        )
        about = {
            "settings": asdict(self._settings),
            "extra_dim": self._extra_dim,
            "catalogue": _catalogue(split.tables),
            "curve": self.curve,
        }
        (folder / _CONFIG).write_text(json.dumps(about, indent=1), encoding="utf-8")
        again = type(self).load(folder, split=split, extra=self._extra)
        probe = self._event_columns(split.train[:_CHECKED_ROWS])
        if not np.array_equal(self._logits(probe), again._logits(probe)):
            raise SaveCheckError(
                f"{folder}: the saved '{self.name}' scores differently once read back."
            )

    @classmethod
    def load(cls, folder: Path, *, split: Split, extra: ExtraFeatures | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            folder: Where it was saved.
            split: The data it was trained on; gives histories back.
            extra: The same extra features as in training.

        Raises:
            DataError: `split` has another catalogue than the model was trained on.
            UserError: the extra features are missing, or of another size.
        """
        about = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        settings, plan = about["settings"], about["settings"].pop("plan")
        model = cls(**settings, **plan, extra=extra)
        _require_same(about, split, extra_dim=model._extra_dim, folder=folder)
        arrays = load_arrays(folder / _VOCABULARY)
        model._split, model.curve = split, about["curve"]
        model._vocabulary = _Vocabulary(arrays["items"], arrays["ratings"])
        model._network = model._new_network()
        model._network.load_state_dict(load_file(folder / _WEIGHTS))
        model._network.eval()
        return model

    @property
    def _extra_dim(self) -> int:
        return self._extra.dim if self._extra is not None else 0

    def _fitted(self) -> tuple[Split, _Vocabulary, _Network]:
        if self._split is None or self._vocabulary is None or self._network is None:
            raise UserError(
                f"'{self.name}' has not been fitted.", remedy="Call fit(split) or load it first."
            )
        return self._split, self._vocabulary, self._network

    def _new_network(self) -> _Network:
        vocabulary = self._vocabulary
        assert vocabulary is not None
        with torch.random.fork_rng(devices=[]):  # modules draw their weights from global state
            torch.manual_seed(self._settings.plan.seed)
            backbone = self._backbone(
                int(vocabulary.items.max(initial=_RARE)) + 1,
                len(vocabulary.ratings) + 1,
                dim=self._settings.dim,
                extra_dim=self._extra_dim,
            )
            return _Network(backbone, self._extra.module() if self._extra is not None else None)

    def _event_columns(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        assert self._split is not None
        events = self._split.tables.interactions[rows]
        users, items, times = (
            events[name].to_numpy().astype(np.int64) for name in ("user", "item", "time")
        )
        labels = events["label"].to_numpy().astype(np.float32)
        return {**self._columns(users, items, times), "labels": labels}

    def _columns(
        self, users: NDArray[np.int64], items: NDArray[np.int64], times: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        split, vocabulary, _ = self._fitted()
        past = self.evidence(users, times)
        seen = past >= 0
        interactions = split.tables.interactions
        history, ratings = np.zeros_like(past), np.zeros_like(past)
        history[seen] = vocabulary.items[interactions["item"].to_numpy()[past[seen]]]
        ratings[seen] = vocabulary.levels(interactions["rating"].to_numpy()[past[seen]])
        columns = {"item": vocabulary.items[items], "history": history, "ratings": ratings}
        extra = self._extra.columns(users, items, times) if self._extra is not None else {}
        return {**columns, **extra}

    def _logits(self, columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        _, _, network = self._fitted()
        device = next(network.parameters()).device
        batch = Columns(columns)
        inputs = batch.__getitems__(list(range(len(batch))))
        inputs.pop("labels", None)
        with torch.inference_mode():
            logits = network(**{name: value.to(device) for name, value in inputs.items()})["logits"]
        return logits.float().cpu().numpy()


def _chunks(length: int) -> list[slice]:
    return [slice(start, start + _SCORED_ROWS) for start in range(0, length, _SCORED_ROWS)]


def _catalogue(tables: Tables) -> str:
    """Names the numbering of the items, on which the vocabulary depends."""
    return digest(tables.items["item_id"].to_list())


def _require_same(about: dict[str, Any], split: Split, *, extra_dim: int, folder: Path) -> None:
    if about["catalogue"] != _catalogue(split.tables):
        raise DataError(
            f"{folder}: the model was trained on another catalogue of items.",
            remedy="Load it with the split it was trained on, or train again.",
        )
    if about["extra_dim"] != extra_dim:
        raise UserError(
            f"{folder}: the model was trained with {about['extra_dim']} extra features, "
            f"{extra_dim} were given.",
            remedy="Give the same extra features as in training.",
        )
