"""Recommendations of a run: the top K of a user, and who answers in a conversation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.methods.base import load_split
from tastemaker.methods.training import best_recommender, is_served
from tastemaker.models.live import LiveRecommender, PopularItems, Similarity
from tastemaker.models.live_ctr import LiveCtr
from tastemaker.models.visitor import Visitor
from tastemaker.recipe import TrainConfig
from tastemaker.stage import Run

__all__ = ["Recommendation", "live_recommender", "offered_items", "recommend"]


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: External id.
        title: As in the items table.
        probability: That the user likes it, 0 to 1.
    """

    item_id: Any
    title: str
    probability: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def recommend(run: Run, user: str, *, count: int = 10) -> list[Recommendation]:
    """The items a user most probably likes, best first, as of the end of the data.

    The model is the one with the best validation AUC, with knowledge or without; adapted texts come
    from the table written after training.

    Only items seen in training are offered (the recommender knows nothing of others), and never one
    that the user has already rated.

    Args:
        run: A run with a finished train stage.
        user: External user id.
        count: How many at most.

    Raises:
        UserError: no trained recommender in the run, one that serves nobody, or an unknown user.
    """
    run.artefact("train")
    if not is_served(run):
        raise UserError(
            f"{run.folder}: the recommenders of its method are compared only, and serve nobody.",
            remedy="Train one that does: methods: [kar], as in examples/recommenders.yaml.",
        )
    split = load_split(run)
    visitor = Visitor(user=split.tables.user_index(user))
    live = live_recommender(run, split)
    items = np.setdiff1d(offered_items(split), live.met(visitor))
    scores = live.score(visitor, items)
    best = np.argsort(-scores, kind="stable")[:count]
    titles, ids = split.tables.titles, split.tables.items["item_id"].to_list()
    return [
        Recommendation(ids[item], titles[item], float(1 / (1 + np.exp(-scores[place]))))
        for place, item in ((place, int(items[place])) for place in best)
    ]


def live_recommender(
    run: Run, split: Split, *, similarity: Similarity | None = None
) -> LiveRecommender:
    """Who answers in conversations: the best trained recommender, else `PopularItems`.

    Args:
        run: Its data stage is finished; a finished train stage is used where it serves users.
        split: Of the run.
        similarity: Of contents, for `PopularItems`.
    """
    manifest = run.manifest("train")
    if manifest is None or not is_served(run):
        return PopularItems(split, similarity=similarity)
    config = TrainConfig.model_validate(manifest.config)
    return LiveCtr(best_recommender(run, split, config), split)


def offered_items(split: Split, *, trained: bool = True) -> NDArray[np.int64]:
    """Items that may be recommended without being asked for, ascending.

    A trained recommender knows nothing of items that its training has not seen: they are left out,
    and only a conversation whose conditions leave nothing else comes back to them.

    Args:
        split: Its train part has seen the items.
        trained: Whether a trained recommender chooses; otherwise all items are offered.
    """
    if not trained:
        return np.arange(split.tables.n_items)
    items = split.tables.interactions["item"].to_numpy()
    return np.unique(items[split.train_events]).astype(np.int64)
