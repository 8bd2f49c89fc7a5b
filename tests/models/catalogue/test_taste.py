"""On the checkerboard, vectors of taste part even items from odd ones."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.models.catalogue.taste import taste_vectors
from tastemaker.models.live import Acquaintance, Influence
from tastemaker.models.visitor import Visitor
from tastemaker.testing.world import checkerboard_split


class Parity(Acquaintance):
    """Knows that even users like even items, and that some items are liked by all."""

    name = "parity"

    def __init__(self, split: Split, *, strength: float) -> None:
        super().__init__(split)
        self._strength = strength

    def score(self, visitor: Visitor, items: NDArray[np.int64]) -> NDArray[np.float32]:
        assert visitor.user is not None
        same = np.where(items % 2 == visitor.user % 2, 1.0, -1.0)
        return (self._strength * same + items / 10).astype(np.float32)

    def influences(self, visitor: Visitor, item: int) -> list[Influence]:
        return []


@pytest.fixture(scope="module")
def split() -> Split:
    return checkerboard_split()


def test_items_liked_by_the_same_people_lie_together(split: Split) -> None:
    items, vectors = taste_vectors(Parity(split, strength=1.0), split, seed=0)
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == len(items) == split.tables.n_items
    assert vectors.shape[1] <= 32
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = unit @ unit.T
    same = items[:, None] % 2 == items % 2
    assert alike[same].min() > 0.99
    assert alike[~same].max() < -0.99
    again = taste_vectors(Parity(split, strength=1.0), split, seed=0)[1]
    np.testing.assert_array_equal(vectors, again)


def test_who_likes_everything_alike_tells_nothing(split: Split) -> None:
    items, vectors = taste_vectors(Parity(split, strength=0.0), split, seed=0)
    assert len(items) == len(vectors) == 0
