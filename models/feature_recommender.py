"""What recommenders on features have in common: texts, logits, saving with a check, reading."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.errors import SaveCheckError, UserError
from tastemaker.eval.protocol import Requests
from tastemaker.models.feature_embedding import FeatureEmbedding
from tastemaker.models.feature_space import Columns, FeatureSpace
from tastemaker.models.features import Feature, default_features
from tastemaker.models.layers.experts import AdaptorSizes
from tastemaker.models.text_vectors import (
    PrestoredTexts,
    TextFusion,
    TextVectors,
    require_same_texts,
    told_texts,
)
from tastemaker.models.training import Curve, TrainingPlan

__all__ = ["FeatureNetwork", "FeatureRecommender", "Settings", "Targets"]

_SCORED_ROWS = 8192
_WEIGHTS, _CONFIG, _PRESTORED = "model.safetensors", "config.json", "prestored.safetensors"
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """What any of them was asked to be; the names are those of its constructor's arguments."""

    name: str
    dim: int
    min_count: int
    options: Mapping[str, Any]
    adaptor: AdaptorSizes
    plan: TrainingPlan


@dataclass(frozen=True)
class Targets:
    """What a network is asked about, whether rows to learn from or requests.

    Attributes:
        users: Dense users, int64 [n].
        items: Dense items, int64 [n].
        times: Moments, int64 [n].
        rows: Interaction rows, int64 [n]; -1 where it is no event.
    """

    users: Whole
    items: Whole
    times: Whole
    rows: Whole

    @classmethod
    def of_requests(cls, requests: Requests) -> Self:
        """Those of requests, in their order."""
        return cls(
            users=requests.users.astype(np.int64),
            items=requests.items.astype(np.int64),
            times=requests.times,
            rows=requests.rows,
        )

    @classmethod
    def of_events(cls, tables: Tables, rows: Whole) -> Self:
        """Those of interaction rows, in their order."""
        events = tables.interactions[rows]
        users, items, times = (
            events[name].to_numpy().astype(np.int64) for name in ("user", "item", "time")
        )
        return cls(users, items, times, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: slice | Whole) -> Self:
        """Those at some places."""
        of = (self.users, self.items, self.times, self.rows)
        users, items, times, rows = (values[places] for values in of)
        return type(self)(users, items, times, rows)

    def parts(self) -> Iterator[Self]:
        """All of them, as many at a time as are scored together."""
        for start in range(0, len(self), _SCORED_ROWS):
            yield self[start : start + _SCORED_ROWS]


class FeatureNetwork(nn.Module):
    """A module whose first part embeds features.

    Args:
        features: That part.
    """

    def __init__(self, features: FeatureEmbedding) -> None:
        super().__init__()
        self.features = features


class FeatureRecommender(ABC):
    """Holds features, texts and a network; knows how to save and to read back.

    Args:
        settings: Names, sizes and plan.
        features: What it reads; None: `default_features`.
        texts: Text vectors.
        scratch: Where checkpoints survive a killed process; nowhere when None.
        on_progress: Called with 1 after each epoch.

    Attributes:
        name: Shown to people.
        curve: One entry per epoch.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        features: Sequence[Feature] | None,
        texts: Sequence[TextVectors],
        scratch: Path | None,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._plain, self._declared, self._texts = settings, features, tuple(texts)
        self._scratch, self._on_progress = scratch, on_progress or (lambda _: None)
        self._split: Split | None = None
        self._space: FeatureSpace | None = None
        self._network: FeatureNetwork | None = None
        self.name = settings.name
        self.curve: Curve = []

    def evidence(self, users: Whole, times: Whole) -> Whole:
        """Interaction rows whose item and rating the network sees, int64 [n, history].

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
    def network(self) -> FeatureNetwork:
        """The whole module: columns to `{"logits", "loss"}`."""
        return self._fitted()[2]

    @property
    def texts(self) -> tuple[TextVectors, ...]:
        """The text vectors that it reads."""
        return self._texts

    @property
    def min_count(self) -> int:
        """Training events a value needs for an embedding of its own."""
        return self._plain.min_count

    def logits(self, columns: Columns) -> NDArray[np.float32]:
        """What the network says of arrays of columns, float32."""
        network = self.network
        device = next(network.parameters()).device
        given = {name: torch.from_numpy(a) for name, a in columns.items() if name != "labels"}
        with torch.inference_mode():
            logits = network(**{name: value.to(device) for name, value in given.items()})["logits"]
        return logits.float().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write weights, vocabularies, settings and fused texts; read them back, compare scores.

        Raises:
            UserError: `fit` has not been called, or the model was loaded for serving.
            SaveCheckError: what was read back scores differently.
        """
        split, space, network = self._fitted()
        folder.mkdir(parents=True, exist_ok=True)
        if self._texts:
            save_file(self._fusion().tables(), folder / _PRESTORED)
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
        about = {
            "settings": asdict(self._plain),
            "space": space.to_dict(),
            "texts": told_texts(self._texts),
            "curve": self.curve,
            **self._more(),
        }
        (folder / _CONFIG).write_text(json.dumps(about, indent=1), encoding="utf-8")
        probe = self._probe(split)
        expected = self.logits(probe)
        device = next(network.parameters()).device  # another one would round otherwise
        again = type(self).load(folder, split=split, texts=self._texts)
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
        plan, adaptor = TrainingPlan(**settings["plan"]), AdaptorSizes(**settings["adaptor"])
        model = cls(**{**settings, "plan": plan, "adaptor": adaptor}, texts=texts)
        model._split, model.curve = split, about["curve"]
        model._space = FeatureSpace.from_dict(about["space"], split)
        model._recall(about)
        model._network = model._new_network()
        model._network.load_state_dict(load_file(folder / _WEIGHTS))
        if prestored and texts:
            tables = load_file(folder / _PRESTORED)
            model._network.features.texts = PrestoredTexts.of(tables, texts, dim=model._plain.dim)
        model._network.eval()
        return model

    @abstractmethod
    def _new_network(self) -> FeatureNetwork:
        """A network with fresh weights, the same ones at every call."""

    @abstractmethod
    def _probe(self, split: Split) -> Columns:
        """Some training rows, on which a saved model is compared with what is read back."""

    def _more(self) -> dict[str, Any]:
        """What else is saved, as plain values."""
        return {}

    def _recall(self, about: Mapping[str, Any]) -> None:
        """Take back what `_more` told."""
        del about

    def _features_of(self, split: Split) -> Sequence[Feature]:
        tables = split.tables
        return self._declared or default_features(tables.schema, tables)

    @contextlib.contextmanager
    def _seeded(self) -> Iterator[None]:
        """Modules draw their weights from global state, which is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._plain.plan.seed)
            yield

    def _embedding(self, *, reads_steps: bool, first_order: bool = False) -> FeatureEmbedding:
        """Fresh features and texts, inside `_seeded`."""
        settings, space = self._plain, self._space
        assert space is not None
        fusion = None
        if self._texts:
            fusion = TextFusion(self._texts, dim=settings.dim, sizes=settings.adaptor)
        return FeatureEmbedding(
            space,
            dim=settings.dim,
            texts=fusion,
            vectors=fusion.vectors if fusion else 0,
            wide=fusion.wide if fusion else 0,
            reads_steps=reads_steps,
            first_order=first_order,
        )

    def _fusion(self) -> TextFusion:
        fusion = self.network.features.texts
        if not isinstance(fusion, TextFusion):
            raise UserError(
                f"'{self.name}' was loaded for serving, without its adaptor.",
                remedy="Load it with prestored=False.",
            )
        return fusion

    def _fitted(self) -> tuple[Split, FeatureSpace, FeatureNetwork]:
        if self._split is None or self._space is None or self._network is None:
            raise UserError(
                f"'{self.name}' has not been fitted.", remedy="Call fit or load it first."
            )
        return self._split, self._space, self._network
