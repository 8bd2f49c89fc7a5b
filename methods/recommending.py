"""Top-K recommendation from the trained recommender of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.eval.protocol import candidates
from tastemaker.methods.base import load_split
from tastemaker.methods.training import best_recommender
from tastemaker.recipe import TrainConfig
from tastemaker.stage import Run

__all__ = ["Recommendation", "recommend"]


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
        UserError: no trained recommender in the run, or an unknown user.
    """
    run.artefact("train")
    manifest = run.manifest("train")
    if manifest is None:
        raise UserError(f"{run.folder} has no trained recommender.")
    split = load_split(run)
    dense = split.tables.user_index(user)
    recommender = best_recommender(run, split, TrainConfig.model_validate(manifest.config))
    now = int(split.tables.interactions["time"].max()) + 1  # type: ignore[arg-type]
    asked = candidates(split, dense, items=_offered(split, dense), time=now)
    scores = recommender.score(asked)
    best = np.argsort(-scores, kind="stable")[:count]
    titles, ids = split.tables.titles, split.tables.items["item_id"].to_list()
    return [
        Recommendation(ids[item], titles[item], float(1 / (1 + np.exp(-scores[place]))))
        for place, item in ((place, int(asked.items[place])) for place in best)
    ]


def _offered(split: Split, user: int) -> Any:
    """Items of the training part that the user has not met."""
    items = split.tables.interactions["item"].to_numpy()
    met = split.histories.at([user], [np.iinfo(np.int64).max])
    return np.setdiff1d(np.unique(items[split.train_events]), items[met.events])
