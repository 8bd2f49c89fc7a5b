"""What every recommender can do, whether a language model is behind it or not."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests

__all__ = ["Recommender"]


@runtime_checkable
class Recommender(Protocol):
    """Learns from a split and scores requests.

    Everything a score depends on lies strictly before the moment of its request; a score depends
    neither on the other requests nor on their order.

    Attributes:
        name: Shown to people, in tables and reports.
    """

    name: str

    def fit(self, split: Split) -> Self:
        """Learn from the train part; the valid part may choose, the test part is not looked at."""

    def score(self, requests: Requests) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n]; NaN where the model cannot answer."""

    def save(self, folder: Path) -> None:
        """Write everything `load` needs into `folder`, which is created when missing."""

    @classmethod
    def load(cls, folder: Path, *, split: Split) -> Self:
        """Read what `save` wrote; `split` gives histories and titles back."""
