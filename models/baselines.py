"""Two numbers that any recommender must beat, and the logistic regression on both.

How much an item is liked by everyone, and how much a user liked what came just before, already
outrank several published methods (TALLRec's movie test: AUC .726 for the liked share alone).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.eval.protocol import Requests
from tastemaker.models.statistics import Statistics, smoothed_log_odds

__all__ = ["ItemMean", "LikedShare", "LikedShareAndItemMean"]

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"

Floats = NDArray[np.float64]


class ItemMean:
    """Share of likes among the training events of the item, drawn towards the overall share.

    Args:
        strength: Number of average events added to every item; at least 0.
    """

    name = "Item mean"

    def __init__(self, *, strength: float = 10.0) -> None:
        self._strength = strength
        self._likes: Floats = np.empty(0)
        self._counts: Floats = np.empty(0)
        self._share = np.nan

    def fit(self, split: Split) -> Self:
        """Count the training events and likes of every item."""
        items, labels = _train_column(split, "item"), _train_column(split, "label")
        likes = np.bincount(items, weights=labels, minlength=split.tables.n_items)
        self._likes = likes.astype(np.float64)
        self._counts = np.bincount(items, minlength=split.tables.n_items).astype(np.float64)
        self._share = float(labels.mean())
        return self

    def score(self, requests: Requests) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n]; unseen items get the overall share."""
        return self.log_odds(requests.items).astype(np.float32)

    def log_odds(self, items: ArrayLike, *, without: ArrayLike | None = None) -> Floats:
        """Log-odds of a like for dense items [n].

        Args:
            items: Integers [n].
            without: Labels [n] of training events that are taken out, each of its own row only
                (leave one out); None takes nothing out.

        Raises:
            UserError: `fit` has not been called.
        """
        _require_fitted(self.name, len(self._counts))
        wanted = np.asarray(items, dtype=np.int64)
        likes, counts = self._likes[wanted], self._counts[wanted]
        if without is not None:
            likes, counts = likes - np.asarray(without, dtype=np.float64), counts - 1
        return smoothed_log_odds(likes, counts, share=self._share, strength=self._strength)

    def save(self, folder: Path) -> None:
        """Write counts and settings."""
        arrays = {"likes": self._likes, "counts": self._counts, "share": np.array([self._share])}
        _write(folder, arrays, {"strength": self._strength})

    @classmethod
    def load(cls, folder: Path, *, split: Split) -> Self:
        """Read what `save` wrote."""
        arrays, config = _read(folder)
        model = cls(strength=config["strength"])
        model._likes, model._counts = arrays["likes"], arrays["counts"]
        model._share = float(arrays["share"][0])
        return model


class LikedShare:
    """Share of likes among the user's last events before the request.

    Args:
        history: Most recent events looked at; TALLRec: 10.
        strength: Number of average events added to every history; at least 0.
    """

    name = "Liked share"

    def __init__(self, *, history: int = 10, strength: float = 1.0) -> None:
        self._history = history
        self._strength = strength
        self._share = np.nan
        self._split: Split | None = None

    def fit(self, split: Split) -> Self:
        """Take the overall share of likes from the train part."""
        self._share = float(_train_column(split, "label").mean())
        self._split = split
        return self

    def score(self, requests: Requests) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n]; an empty history gets the overall share."""
        return self.log_odds(requests.users, requests.times).astype(np.float32)

    def log_odds(self, users: ArrayLike, times: ArrayLike) -> Floats:
        """Log-odds of a like for dense users [n] at moments [n] (unix seconds).

        Raises:
            UserError: `fit` has not been called.
        """
        if self._split is None:
            raise _not_fitted(self.name)
        statistics = Statistics(
            self._split, share=self._share, length=self._history, user_strength=self._strength
        )
        return statistics.liked_share(users, times)

    def save(self, folder: Path) -> None:
        """Write the share and settings."""
        config = {"history": self._history, "strength": self._strength}
        _write(folder, {"share": np.array([self._share])}, config)

    @classmethod
    def load(cls, folder: Path, *, split: Split) -> Self:
        """Read what `save` wrote."""
        arrays, config = _read(folder)
        model = cls(history=int(config["history"]), strength=config["strength"])
        model._share, model._split = float(arrays["share"][0]), split
        return model


class LikedShareAndItemMean:
    """Logistic regression on the log-odds of `LikedShare` and `ItemMean`.

    The item mean of a training row leaves the row's own label out, so the regression does not learn
    to read the label from it.

    Args:
        history: Most recent events looked at; TALLRec: 10.
        strength: Number of average events added to every history.
        item_strength: Number of average events added to every item.
    """

    name = "Liked share + item mean"

    def __init__(
        self, *, history: int = 10, strength: float = 1.0, item_strength: float = 10.0
    ) -> None:
        self._liked_share = LikedShare(history=history, strength=strength)
        self._item_mean = ItemMean(strength=item_strength)
        self._weights: Floats = np.empty(0)

    def fit(self, split: Split) -> Self:
        """Fit both numbers, then three weights."""
        self._liked_share.fit(split)
        self._item_mean.fit(split)
        users, times = _train_column(split, "user"), _train_column(split, "time")
        labels = _train_column(split, "label")
        item_mean = self._item_mean.log_odds(_train_column(split, "item"), without=labels)
        features = np.column_stack([self._liked_share.log_odds(users, times), item_mean])
        regression = LogisticRegression().fit(features, labels)
        self._weights = np.append(regression.coef_[0], regression.intercept_)
        return self

    def score(self, requests: Requests) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n]."""
        _require_fitted(self.name, len(self._weights))
        share_weight, mean_weight, intercept = self._weights
        share = self._liked_share.log_odds(requests.users, requests.times)
        mean = self._item_mean.log_odds(requests.items)
        return (share_weight * share + mean_weight * mean + intercept).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write both parts and the weights."""
        self._liked_share.save(folder / "liked_share")
        self._item_mean.save(folder / "item_mean")
        _write(folder, {"weights": self._weights}, {})

    @classmethod
    def load(cls, folder: Path, *, split: Split) -> Self:
        """Read what `save` wrote."""
        model = cls()
        model._liked_share = LikedShare.load(folder / "liked_share", split=split)
        model._item_mean = ItemMean.load(folder / "item_mean", split=split)
        model._weights = _read(folder)[0]["weights"]
        return model


def _train_column(split: Split, column: str) -> NDArray[np.int64]:
    values = split.tables.interactions[column].to_numpy()[split.train]
    return values.astype(np.int64)


def _require_fitted(name: str, size: int) -> None:
    if size == 0:
        raise _not_fitted(name)


def _not_fitted(name: str) -> UserError:
    return UserError(f"'{name}' has not been fitted.", remedy="Call fit(split) or load it first.")


def _write(folder: Path, arrays: dict[str, Floats], config: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def _read(folder: Path) -> tuple[dict[str, Floats], dict[str, float]]:
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return load_file(folder / _WEIGHTS), config
