"""A re-ranker as a recommender of lists: features, training, scoring, saving."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.eval.lists import map_at
from tastemaker.models.ctr.options import checked_options, known_options
from tastemaker.models.feature_recommender import FeatureRecommender, Settings
from tastemaker.models.feature_space import Columns, FeatureSpace
from tastemaker.models.features import Feature, Layout
from tastemaker.models.layers.experts import AdaptorSizes
from tastemaker.models.rerank.lists import RankingLists
from tastemaker.models.rerank.network import ListNetwork
from tastemaker.models.text_vectors import TextVectors, text_columns
from tastemaker.models.training import Metric, TrainingPlan, train_columns

__all__ = ["LIST_PLAN", "MAP", "ListRecommender", "reranker_options"]

LIST_PLAN = TrainingPlan(learning_rate=1e-3, batch_size=256, epochs=50, patience=3)
"""From KAR's grid: learning rate 5e-4 or 1e-3, 64 to 512 lists a step, at most 50 epochs."""

MAP = Metric("map", lambda logits, labels: float(np.nanmean(map_at(logits, labels, k=5))))
"""MAP@5 over the lists with a like, as KAR chooses; scores need not compare across lists for it."""

_SCORED_ROWS = 8192
_CHECKED_LISTS = 32
_GIVEN = ("step", "length")  # options of every re-ranker that follow from the features and lists
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Settings(Settings):
    reranker: str


class ListRecommender(FeatureRecommender):
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
            name=name,
            dim=dim,
            min_count=min_count,
            options=_checked(self._reranker, options or {}, reranker=reranker),
            adaptor=adaptor or AdaptorSizes(),
            plan=plan or LIST_PLAN,
            reranker=reranker,
        )
        super().__init__(
            self._settings,
            features=features,
            texts=texts,
            scratch=scratch,
            on_progress=on_progress,
        )
        self._length = 0

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
        features = self._features_of(split)
        self._checked_layout(Layout.of(features, split.tables))
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

    def _more(self) -> dict[str, Any]:
        return {"length": self._length}

    def _recall(self, about: Mapping[str, Any]) -> None:
        self._length = about["length"]

    def _new_network(self) -> ListNetwork:
        make, options = self._reranker, dict(self._settings.options)
        if "field" in known_options(make):
            options.setdefault("field", self._settings.dim)
        with self._seeded():
            return ListNetwork(
                self._embedding(reads_steps=True),
                functools.partial(make, length=self._length, **options),
                reads_steps=make.reads_steps,
                loss=make.loss,
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
