"""What a target stands among where a prompt lists candidates: drawn items, or a matcher's best."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.negatives import draw_negatives
from tastemaker.data.splits import Split
from tastemaker.models.hard_items import HardItems
from tastemaker.models.ranking_baselines import ItemKNN
from tastemaker.prompts.binding import DrawsItems

__all__ = ["candidate_source", "matcher"]

_POPULARITY = 0.1  # of the most popular item, beside a sum of cosines


def candidate_source(split: Split, name: Literal["uniform", "popularity", "hard"]) -> DrawsItems:
    """What finds the other candidates of a row: `build.candidates_from`.

    None of the three ever gives the row's own item or one that its user had met by then; what the
    user meets later may be given.

    Args:
        split: Popularity and neighbours are counted in its training events.
        name: `uniform` or `popularity` draw; `hard` takes what `matcher` ranks highest.
    """
    if name == "hard":
        return matcher(split)
    if name == "uniform":
        return partial(draw_negatives, split.tables)
    return partial(
        draw_negatives, split.tables, strategy="popularity", counts_from=split.train_events
    )


def matcher(split: Split) -> HardItems:
    """Nearest neighbours of the history's items with a little popularity, learnt when first asked.

    InstructRec (§4.3) trains a two-tower model for it; counts need no training.
    """
    learnt: list[ItemKNN] = []

    def score(rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        if not learnt:
            learnt.append(ItemKNN(popularity=_POPULARITY).fit(split))
        return learnt[0].catalogue_scores(rows)

    return HardItems(split, score)
