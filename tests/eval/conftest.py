from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import ArrayLike, NDArray

from tastemaker.eval.protocol import Requests


def _asked(users: ArrayLike, labels: ArrayLike) -> Requests:
    groups, liked = np.asarray(users), np.asarray(labels)
    rows = np.arange(len(groups))
    return Requests(
        pl.DataFrame(
            {
                "row": pl.Series(rows, dtype=pl.Int64),
                "user": pl.Series(groups, dtype=pl.Int32),
                "item": pl.Series(rows % 7, dtype=pl.Int32),
                "time": pl.Series(rows, dtype=pl.Int64),
                "cut": pl.Series(rows, dtype=pl.Int64),
                "label": pl.Series(liked, dtype=pl.Int8),
                "group": pl.Series(groups, dtype=pl.Int64),
                "split": ["test"] * len(rows),
            }
        )
    )


@pytest.fixture
def asked() -> Callable[[ArrayLike, ArrayLike], Requests]:
    """Builds requests from users and labels."""
    return _asked


@pytest.fixture(scope="session")
def taste() -> tuple[dict[str, NDArray[Any]], Requests]:
    """Seven models on 60 users, from noise to nearly the truth."""
    random = np.random.default_rng(5)
    users = random.integers(0, 60, 1500)
    bias, truth = random.normal(0, 1, 60)[users], random.normal(0, 1, 1500)
    labels = random.random(1500) < 1 / (1 + np.exp(-bias - 2 * truth))
    noise = random.normal(0, 1, (7, 1500))
    weights = {
        "Item mean": (0.0, 0.6),
        "Liked share": (1.0, 0.0),
        "Liked share + item mean": (1.0, 0.6),
        "SmolLM2-135M, not tuned": (0.0, 0.0),
        "TALLRec (SmolLM2-135M, 64 shots)": (0.3, 0.2),
        "DIN": (1.0, 0.9),
        "KAR (DIN + knowledge)": (1.0, 2.0),
    }
    scores = {
        name: (own * bias + right * truth + 0.5 * noise[place]).astype(np.float32)
        for place, (name, (own, right)) in enumerate(weights.items())
    }
    return scores, _asked(users, labels)
