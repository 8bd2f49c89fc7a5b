"""A rule that ranks items by the categories of what a user liked before.

With a few random candidates it separates the target almost as popularity does; a model that reads
titles and genres must beat it before it may claim to have understood anything.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker.data.splits import Split
from tastemaker.errors import UserError

__all__ = ["FavouriteCategories"]

Rows = NDArray[np.int64]


class FavouriteCategories:
    """Cosine of an item's categories and those of the likes in the history.

    Args:
        offsets: Integers [items + 1]; item i has the categories from `offsets[i]` to
            `offsets[i + 1]`.
        codes: Integers [total], number of each category.
    """

    name = "Favourite categories"

    def __init__(self, offsets: ArrayLike, codes: ArrayLike) -> None:
        bounds, columns = np.asarray(offsets), np.asarray(codes)
        shape = (len(bounds) - 1, int(columns.max(initial=0)) + 1)
        cells = sparse.csr_array((np.ones(len(columns)), columns, bounds), shape=shape)
        norms = np.sqrt(cells.multiply(cells).sum(axis=1))
        self._items: Any = sparse.diags_array(1 / np.maximum(norms, 1e-12)) @ cells
        self._split: Split | None = None

    def fit(self, split: Split) -> Self:
        """Nothing is learnt; histories are those of the split."""
        self._split = split
        return self

    def catalogue_scores(self, rows: Rows) -> NDArray[np.float32]:
        """Scores of all items for each interaction row, float32 [n, items], 0 to 1.

        Raises:
            UserError: `fit` has not been called.
        """
        if self._split is None:
            raise UserError(f"'{self.name}' has not been fitted.", remedy="Call fit(split) first.")
        events = self._split.tables.interactions
        past = self._split.histories.before(rows)
        owners = np.repeat(np.arange(len(rows)), past.lengths)
        liked = events["label"].to_numpy()[past.events] == 1
        items = events["item"].to_numpy()[past.events][liked]
        cells = (np.ones(len(items)), (owners[liked], items))
        shape = (len(rows), self._items.shape[0])
        profile = (sparse.csr_array(cells, shape=shape) @ self._items).toarray()
        profile /= np.maximum(np.linalg.norm(profile, axis=1, keepdims=True), 1e-12)
        found: NDArray[np.float32] = (self._items @ profile.T).T.astype(np.float32)
        return found
