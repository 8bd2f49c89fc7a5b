"""A re-ranker as a recommender of lists: features, training, scoring, saving."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.errors import DataError, SaveCheckError, UnknownNameError, UserError
from tastemaker.eval.lists import map_at
from tastemaker.models.ctr.options import checked_options, known_options
from tastemaker.models.feature_embedding import FeatureEmbedding
from tastemaker.models.feature_space import Columns, FeatureSpace
from tastemaker.models.features import Feature, Layout, default_features
from tastemaker.models.layers.experts import AdaptorSizes
from tastemaker.models.rerank.lists import RankingLists
from tastemaker.models.rerank.network import ListNetwork
from tastemaker.models.text_vectors import (
    PrestoredTexts,
    TextFusion,
    TextVectors,
    require_same_texts,
    text_columns,
    told_texts,
)
from tastemaker.models.training import Curve, Metric, TrainingPlan, train_columns

__all__ = ["LIST_PLAN", "MAP", "ListRecommender", "reranker_options"]

LIST_PLAN = TrainingPlan(learning_rate=1e-3, batch_size=256, epochs=50, patience=3)
"""From KAR's grid: learning rate 5e-4 or 1e-3, 64 to 512 lists a step, at most 50 epochs."""

MAP = Metric("map", lambda logits, labels: float(np.nanmean(map_at(logits, labels, k=5))))
"""MAP@5 over the lists with a like, as KAR chooses; scores need not compare across lists for it."""

_WEIGHTS, _CONFIG, _PRESTORED = "model.safetensors", "config.json", "prestored.safetensors"
_SCORED_ROWS = 8192
_CHECKED_LISTS = 32
_GIVEN = ("step", "length")  # options of every re-ranker that follow from the features and lists
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Settings:
    """What the recommender was asked to be."""

    name: str
    reranker: str
    dim: int
    min_count: int
    options: Mapping[str, Any]
    adaptor: AdaptorSizes
    plan: TrainingPlan


class ListRecommender:
    """Scores all items of a list in the light of each other.

    The epoch is chosen by MAP@5 on the lists of `valid`. Every item of a list is described at the
    moment of the list, for which the future of the user is not there yet.

    Args:
        name: Shown to people.
        reranker: A file of `models/rerank`.
        features: What it reads; None: `default_features`, those of KAR, which has no user id.
            Columns of the interactions may stand in steps only: drawn items have none, which would
            tell them from real ones.
        dim: Width of a field; KAR: 32. Also of the fields that MIR compares, unless told otherwise.
        min_count: Training events that a value needs for an embedding of its own.
        plan: How to train; a row is a list. None: `LIST_PLAN`.
        options: Keyword arguments of the re-ranker, such as `hidden`.
        adaptor: Experts for texts that are fused by the adaptor.
        texts: Text vectors; they become part of every item of a list.
        scratch: Where checkpoints survive a killed process; nowhere when None.
        on_progress: Called with 1 after each epoch.

    Attributes:
        name: Shown to people.
        curve: One entry per epoch: `epoch`, `loss`, `valid_loss`, `valid_map`.

    Raises:
        UnknownNameError: no such re-ranker, or no such option of it.
    """

    def __init__(
        self,
        name: str,
        reranker: str = "prm",
        *,
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
        self._reranker = registry.load("re-ranker", reranker)
        self._settings = _Settings(
            name,
            reranker,
            dim,
            min_count,
            _checked(self._reranker, options or {}, reranker=reranker),
            adaptor or AdaptorSizes(),
            plan or LIST_PLAN,
        )
        self._features, self._texts = features, tuple(texts)
        self._scratch, self._on_progress = scratch, on_progress or (lambda _: None)
        self._split: Split | None = None
        self._space: FeatureSpace | None = None
        self._network: ListNetwork | None = None
        self._length = 0
        self.name = name
        self.curve: Curve = []

    def fit(self, split: Split, train: RankingLists, valid: RankingLists) -> Self:
        """Train on `train`, keep the epoch with the best MAP@5 on `valid`.

        Args:
            split: Gives vocabularies (its train part), histories and the columns of the tables.
            train: Lists of its train part.
            valid: Lists of its valid part.

        Raises:
            DataError: there are no lists, or those of `valid` do not hold both labels.
            UserError: a feature that these tables cannot give, or that would tell drawn items.
        """
        if not (len(train) and len(valid)):
            raise DataError(f"{len(train)} lists to train and {len(valid)} to choose the epoch.")
        tables = split.tables
        features = self._features or default_features(tables.schema, tables)
        self._checked_layout(Layout.of(features, tables))
        self._split = split
        self._space = FeatureSpace.fit(split, features, min_count=self._settings.min_count)
        self._length = max(train.items.shape[1], valid.items.shape[1])
        self._network = self._new_network()
        self.curve = train_columns(
            self._network,
            self.list_columns(train),
            valid=self.list_columns(valid),
            plan=self._settings.plan,
            metric=MAP,
            scratch=self._scratch,
            on_epoch=lambda: self._on_progress(1),
        )
        return self

    def score(self, lists: RankingLists) -> NDArray[np.float32]:
        """Scores to sort each list by, float32 [n, K]; larger is better.

        They are log-odds of a like for re-rankers with the pointwise loss; otherwise only those of
        one list compare.

        Raises:
            UserError: `fit` has not been called.
        """
        found = [np.empty((0, lists.items.shape[1]), np.float32)]
        step = max(1, _SCORED_ROWS // max(1, lists.items.shape[1]))
        for start in range(0, len(lists), step):
            part = slice(start, start + step)
            found.append(
                self.logits(self.columns(lists.user[part], lists.items[part], lists.moment[part]))
            )
        return np.concatenate(found)

    def evidence(self, users: Whole, times: Whole) -> Whole:
        """Interaction rows whose item and rating the re-ranker sees, int64 [n, history].

        Args:
            users: Dense users [n].
            times: Moments [n] of their lists.

        Returns:
            Newest at the right end; -1 to the left of shorter histories.
        """
        return self.space.evidence(users, times)

    @property
    def space(self) -> FeatureSpace:
        """The features, fixed by the train part."""
        return self._fitted()[1]

    @property
    def network(self) -> ListNetwork:
        """Features and re-ranker as a module: columns to `{"logits", "loss"}`."""
        return self._fitted()[2]

    @property
    def texts(self) -> tuple[TextVectors, ...]:
        """The text vectors that it reads."""
        return self._texts

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
            "settings": asdict(self._settings),
            "length": self._length,
            "space": space.to_dict(),
            "texts": told_texts(self._texts),
            "curve": self.curve,
        }
        (folder / _CONFIG).write_text(json.dumps(about, indent=1), encoding="utf-8")
        probe = self._probe(split)
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
        plan, adaptor = TrainingPlan(**settings["plan"]), AdaptorSizes(**settings["adaptor"])
        model = cls(**{**settings, "plan": plan, "adaptor": adaptor}, texts=texts)
        model._split, model.curve, model._length = split, about["curve"], about["length"]
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

    def columns(self, users: NDArray[Any], items: NDArray[Any], moments: NDArray[Any]) -> Columns:
        """Arguments of the network for n lists of K items each.

        Args:
            users: Dense users [n].
            items: Dense items [n, K].
            moments: Moments [n]; nothing at or after them is looked at.

        Returns:
            Per item, [n, K, ...]: `item`, `numbers` and texts of items. Per list, [n, ...]: `user`,
            texts of users, and sequences; see `FeatureSpace.columns`.
        """
        users, items, moments = (part.astype(np.int64) for part in (users, items, moments))
        found = self.space.columns(users, items[:, 0], moments)
        if "numbers" in found:  # statistics: of the item, at the moment
            places = [self.space.columns(users, column, moments) for column in items.T]
            found["numbers"] = np.stack([place["numbers"] for place in places], axis=1)
        found["item"] = (items + 1).astype(np.int32)
        of_users = [text for text in self._texts if text.of == "user"]
        of_items = [text for text in self._texts if text.of == "item"]
        found |= text_columns(of_users, users=users, items=items, times=moments)
        return found | text_columns(of_items, users=users, items=items, times=moments[:, None])

    def list_columns(self, lists: RankingLists) -> Columns:
        """The same for lists, with their `labels` float32 [n, K]."""
        found = self.columns(lists.user, lists.items, lists.moment)
        return found | {"labels": lists.labels.astype(np.float32)}

    def logits(self, columns: Columns) -> NDArray[np.float32]:
        """Scores for arrays of `columns`, float32 [n, K]."""
        network = self.network
        device = next(network.parameters()).device
        given = {name: torch.from_numpy(a) for name, a in columns.items() if name != "labels"}
        with torch.inference_mode():
            logits = network(**{name: value.to(device) for name, value in given.items()})["logits"]
        return logits.float().cpu().numpy()

    def _checked_layout(self, layout: Layout) -> None:
        of_events = [feature.name for feature in layout.context if feature.source == "event"]
        if of_events:
            raise UserError(
                f"train.features.{of_events[0]}: is a column of the interactions; drawn items have "
                "none, so it would tell them from real ones.",
                remedy="Let only the steps of a sequence carry it.",
            )
        if self._reranker.reads_steps and not layout.sequences:
            raise UserError(
                f"train.features: {self._settings.reranker} reads a history, and none is declared.",
                remedy="Declare for example `history: {sequence: [item, rating]}`.",
            )

    def _probe(self, split: Split) -> Columns:
        """Some lists of training events, whoever met them."""
        events = split.tables.interactions
        rows = np.resize(split.train, (_CHECKED_LISTS, self._length))
        users, items, times = (events[name].to_numpy() for name in ("user", "item", "time"))
        return self.columns(users[rows[:, 0]], items[rows], times[rows[:, 0]])

    def _fusion(self) -> TextFusion:
        fusion = self.network.features.texts
        if not isinstance(fusion, TextFusion):
            raise UserError(
                f"'{self.name}' was loaded for serving, without its adaptor.",
                remedy="Load it with prestored=False.",
            )
        return fusion

    def _fitted(self) -> tuple[Split, FeatureSpace, ListNetwork]:
        if self._split is None or self._space is None or self._network is None:
            raise UserError(
                f"'{self.name}' has not been fitted.",
                remedy="Call fit(split, train, valid) or load it first.",
            )
        return self._split, self._space, self._network

    def _new_network(self) -> ListNetwork:
        settings, space = self._settings, self._space
        assert space is not None
        options = dict(settings.options)
        if "field" in known_options(self._reranker):
            options.setdefault("field", settings.dim)
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
                reads_steps=True,
            )
            return ListNetwork(
                features,
                functools.partial(self._reranker, length=self._length, **options),
                reads_steps=self._reranker.reads_steps,
                loss=self._reranker.loss,
                per_item=["item", "numbers", *(t.name for t in self._texts if t.of == "item")],
                per_list=["user", *(t.name for t in self._texts if t.of == "user")],
            )


def reranker_options(reranker: str) -> dict[str, Any]:
    """Names and defaults of a re-ranker's own options.

    Raises:
        UnknownNameError: no such re-ranker.
    """
    options = known_options(registry.load("re-ranker", reranker))
    return {name: default for name, default in options.items() if name not in _GIVEN}


def _checked(
    make: Callable[..., Any], options: Mapping[str, Any], *, reranker: str
) -> dict[str, Any]:
    """The options, lists as tuples."""
    for name in _GIVEN:
        if name in options:
            raise UnknownNameError(f"option of {reranker}", name, reranker_options(reranker))
    return checked_options(make, options, backbone=reranker)
