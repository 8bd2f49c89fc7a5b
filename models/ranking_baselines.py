"""Rankings of the whole catalogue that any recommender must beat, and one that none should know.

How many took an item, and what those took who also took the items of a history, are honest rules.
The number that follows the numbers of a history is a probe: where it finds the next item, the
numbering was made from complete sequences and tells a model that reads numbers what comes next.

Each class scores the catalogue for `tastemaker.eval.ranking.full_ranking` (`catalogue_scores`) and
listed candidates (`score`) with the same numbers. They order items and are no probabilities.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file
from scipy import sparse

from tastemaker.data.history import Only, Past
from tastemaker.data.splits import Split
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.eval.protocol import Requests

__all__ = ["ItemKNN", "NextNumber", "PopularItems"]

NumberRule = Literal["largest", "last"]
Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
_Sparse = Any  # scipy.sparse.csr_array
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_BLOCK = 1024  # items, or moments, worked on at once


class PopularItems:
    """How often each item was taken in the train part, the same for everyone.

    A score is the log-odds that a training event is of the item, half an event added on both sides.

    Args:
        liked_only: Count likes; else all events that happened.
    """

    name = "Popularity"

    def __init__(self, *, liked_only: bool = True) -> None:
        self._liked_only = liked_only
        self._scores: Floats = np.empty(0, dtype=np.float32)

    def fit(self, split: Split) -> Self:
        """Count the training events of every item."""
        items = _column(split, "item")[_taught(split, liked_only=self._liked_only)]
        counts = np.bincount(items, minlength=split.tables.n_items)
        others = counts.sum() - counts
        self._scores = np.log((counts + 0.5) / (others + 0.5)).astype(np.float32)
        return self

    def catalogue_scores(self, rows: Rows) -> Floats:
        """Scores of all items for each interaction row, float32 [n, n_items]; read only."""
        scores = self._known()
        return np.broadcast_to(scores, (len(rows), len(scores)))

    def score(self, requests: Requests) -> Floats:
        """Scores of the requested items, float32 [n]."""
        return self._known()[requests.items]

    def save(self, folder: Path) -> None:
        """Write scores and settings."""
        _write(folder, {"scores": self._known()}, {"liked_only": self._liked_only})

    @classmethod
    def load(cls, folder: Path, *, split: Split) -> Self:
        """Read what `save` wrote."""
        arrays, config = _read(folder)
        model = cls(**config)
        model._scores = arrays["scores"]
        return model

    def _known(self) -> Floats:
        if not len(self._scores):
            raise _not_fitted(self.name)
        return self._scores


class ItemKNN:
    """Items that were taken by those who took what is in the history (Deshpande and Karypis, 2004).

    The similarity of two items is c / (√(a b) + shrinkage), where a and b users took either and c
    took both. A score is the sum of the similarities to the items of the history, each of which
    speaks for its nearest `k` only, plus a little popularity: it orders what nothing speaks for.
    Items and users are counted in the train part; what a training row is told has seen the row.

    Args:
        k: Nearest items of each item, 1 or more.
        shrinkage: Draws similarities that rest on few users towards 0; at least 0.
        history: Most recent events that speak; all when None.
        popularity: Weight of an item's count over the largest count. As small as it is, it decides
            between all but equal sums only.
        liked_only: Learn from likes and look at the likes of a history; else at all events.
    """

    name = "Item kNN"

    def __init__(
        self,
        *,
        k: int = 100,
        shrinkage: float = 0.0,
        history: int | None = None,
        popularity: float = 0.001,
        liked_only: bool = True,
    ) -> None:
        _check_at_least(1, "k", k)
        _check_at_least(0, "shrinkage", shrinkage)
        self._k, self._shrinkage, self._history = k, shrinkage, history
        self._popularity, self._liked_only = popularity, liked_only
        self._similar: _Sparse | None = None
        self._prior: Floats = np.empty(0, dtype=np.float32)
        self._split: Split | None = None

    def fit(self, split: Split) -> Self:
        """Count who took what, and find the nearest items of each."""
        rows = _taught(split, liked_only=self._liked_only)
        users, items = _column(split, "user")[rows], _column(split, "item")[rows]
        shape = (split.tables.n_users, split.tables.n_items)
        taken = _flags(users, items, shape=shape)
        counts = np.asarray(taken.sum(axis=0), dtype=np.float32)
        self._prior = self._popularity * counts / max(float(counts.max(initial=0)), 1.0)
        self._similar = _nearest(taken, counts, k=self._k, shrinkage=self._shrinkage)
        self._split = split
        return self

    def catalogue_scores(self, rows: Rows) -> Floats:
        """Scores of all items before the moment of each interaction row, float32 [n, n_items]."""
        split, similar = self._known()
        past = split.histories.before(rows, max_length=self._history, only=self._only)
        scores = (_met(past, split) @ similar).toarray()
        scores += self._prior
        return scores

    def score(self, requests: Requests) -> Floats:
        """Scores of the requested items, float32 [n]."""
        split, similar = self._known()
        pairs = np.stack([requests.users.astype(np.int64), requests.times], axis=1)
        moments, places = np.unique(pairs, axis=0, return_inverse=True)
        scores = self._prior[requests.items]
        for start in range(0, len(moments), _BLOCK):
            block = moments[start : start + _BLOCK]
            past = split.histories.at(
                block[:, 0], block[:, 1], max_length=self._history, only=self._only
            )
            mine = np.flatnonzero((places >= start) & (places < start + _BLOCK))
            sums = (_met(past, split) @ similar)[places[mine] - start, requests.items[mine]]
            scores[mine] += np.asarray(sums)
        return scores

    def save(self, folder: Path) -> None:
        """Write similarities and settings."""
        _, similar = self._known()
        arrays = {"prior": self._prior, "similar": similar.data}
        arrays |= {"items": similar.indices, "starts": similar.indptr}
        _write(
            folder,
            arrays,
            {
                "k": self._k,
                "shrinkage": self._shrinkage,
                "history": self._history,
                "popularity": self._popularity,
                "liked_only": self._liked_only,
            },
        )

    @classmethod
    def load(cls, folder: Path, *, split: Split) -> Self:
        """Read what `save` wrote; `split` gives histories back."""
        arrays, config = _read(folder)
        model = cls(**config)
        size = len(arrays["prior"])
        model._prior, model._split = arrays["prior"], split
        model._similar = sparse.csr_array(
            (arrays["similar"], arrays["items"], arrays["starts"]), shape=(size, size)
        )
        return model

    @property
    def _only(self) -> Only | None:
        return "liked" if self._liked_only else None

    def _known(self) -> tuple[Split, _Sparse]:
        if self._split is None or self._similar is None:
            raise _not_fitted(self.name)
        return self._split, self._similar


class NextNumber:
    """The next larger numbers: a probe of numberings that needs no learning.

    Items whose number lies above that of the history come first, nearest first. The others share
    the last place, and so does everything without a history. Numbers are compared by their order
    in the catalogue, so gaps in it do not matter.

    Args:
        numbers: Integers [n_items], or a Series of them or of their texts.
        rule: Counted from the `largest` number of the history, or from that of its `last` event.

    Raises:
        DataError: texts that are no whole numbers, such as those of collaborative indexing.
        UnknownNameError: another rule.
    """

    name = "Next number"

    def __init__(self, numbers: pl.Series | ArrayLike, *, rule: NumberRule = "largest") -> None:
        if rule not in get_args(NumberRule):
            raise UnknownNameError("number rule", rule, get_args(NumberRule))
        _, places = np.unique(_whole(numbers), return_inverse=True)
        self._places: NDArray[np.int64] = places.astype(np.int64)
        self._rule = rule
        self._split: Split | None = None

    def fit(self, split: Split) -> Self:
        """Keep the histories; nothing is learned.

        Raises:
            DataError: the catalogue has another number of items.
        """
        if len(self._places) != split.tables.n_items:
            raise DataError(
                f"{len(self._places):,} numbers for a catalogue of {split.tables.n_items:,} items.",
                remedy="Give one number per item, in the order of tables.items.",
            )
        self._split = split
        return self

    def catalogue_scores(self, rows: Rows) -> Floats:
        """Scores of all items before the moment of each interaction row, float32 [n, n_items]."""
        split = self._known()
        reached = self._reached(split.histories.before(rows), split)
        return self._scores(self._places, reached[:, None])

    def score(self, requests: Requests) -> Floats:
        """Scores of the requested items, float32 [n]."""
        split = self._known()
        reached = self._reached(split.histories.at(requests.users, requests.times), split)
        return self._scores(self._places[requests.items], reached)

    def save(self, folder: Path) -> None:
        """Write the numbers' order and the rule."""
        _write(folder, {"numbers": self._places}, {"rule": self._rule})

    @classmethod
    def load(cls, folder: Path, *, split: Split) -> Self:
        """Read what `save` wrote; `split` gives histories back."""
        arrays, config = _read(folder)
        return cls(arrays["numbers"], **config).fit(split)

    def _known(self) -> Split:
        if self._split is None:
            raise _not_fitted(self.name)
        return self._split

    def _reached(self, past: Past, split: Split) -> NDArray[np.int64]:
        """The place counted from, int64 [n]; behind all items without a history."""
        reached = np.full(len(past), len(self._places))
        some = past.lengths > 0
        met = self._places[_column(split, "item")[past.events]]
        if self._rule == "last":
            reached[some] = met[past.offsets[1:][some] - 1]
        elif some.any():
            reached[some] = np.maximum.reduceat(met, past.offsets[:-1][some])
        return reached

    def _scores(self, places: NDArray[np.int64], reached: NDArray[np.int64]) -> Floats:
        ahead = places - reached
        return np.where(ahead > 0, -ahead, -len(self._places) - 1).astype(np.float32)


def _nearest(taken: _Sparse, counts: Floats, *, k: int, shrinkage: float) -> _Sparse:
    """Similarities of each item (row) to its nearest `k` others, float32 CSR; ties: lower item."""
    n_items = taken.shape[1]
    by_item, roots = taken.T.tocsr(), np.sqrt(counts)
    lengths, nearest, values = [], [], []
    for start in range(0, n_items, _BLOCK):
        shared = (by_item[start : start + _BLOCK] @ taken).tocoo()
        owners, others = shared.coords[0].astype(np.int64), shared.coords[1].astype(np.int64)
        apart = owners + start != others
        owners, others, both = owners[apart], others[apart], shared.data[apart]
        found = both / (roots[owners + start] * roots[others] + np.float32(shrinkage))
        order = np.lexsort((others, -found, owners))
        sizes = np.bincount(owners, minlength=min(_BLOCK, n_items - start))
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        kept = order[place < k]
        lengths.append(np.minimum(sizes, k))
        nearest.append(others[kept])
        values.append(found[kept].astype(np.float32))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    whole = (np.concatenate(values), np.concatenate(nearest), starts)
    similar = sparse.csr_array(whole, shape=(n_items, n_items))
    similar.sort_indices()
    return similar


def _met(past: Past, split: Split) -> _Sparse:
    """Which items are in each past, CSR float32 [n, n_items]."""
    owners = np.repeat(np.arange(len(past)), past.lengths)
    items = _column(split, "item")[past.events]
    return _flags(owners, items, shape=(len(past), split.tables.n_items))


def _flags(
    owners: NDArray[np.integer[Any]], items: NDArray[np.integer[Any]], *, shape: tuple[int, int]
) -> _Sparse:
    """1 where a pair is there, once or more often; CSR float32."""
    flags = sparse.csr_array((np.ones(len(owners), np.float32), (owners, items)), shape=shape)
    flags.sum_duplicates()
    flags.data[:] = 1
    return flags


def _taught(split: Split, *, liked_only: bool) -> Rows:
    rows = split.train_events
    return rows[_column(split, "label")[rows] == 1] if liked_only else rows


def _column(split: Split, name: str) -> NDArray[Any]:
    return split.tables.interactions[name].to_numpy()


def _whole(numbers: pl.Series | ArrayLike) -> NDArray[np.int64]:
    values = numbers if isinstance(numbers, pl.Series) else pl.Series(np.asarray(numbers))
    whole = values.cast(pl.Int64, strict=False)
    if values.dtype.is_float() or whole.null_count():
        wrong = values.filter(whole.is_null())
        shown = f"'{wrong[0]}'" if len(wrong) else f"{values.dtype}"
        raise DataError(
            f"item numbers hold {shown}, which is no whole number.",
            allowed="whole numbers, or texts of them",
            remedy="Probe random or sequential indexing; other texts have no next number.",
        )
    return whole.to_numpy()


def _check_at_least(least: int, option: str, value: float) -> None:
    if value < least:
        raise UserError(f"{option} = {value} is too small.", allowed=f"{least} or more")


def _not_fitted(name: str) -> UserError:
    return UserError(f"'{name}' has not been fitted.", remedy="Call fit(split) or load it first.")


def _write(folder: Path, arrays: dict[str, NDArray[Any]], config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(one) for name, one in arrays.items()}, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def _read(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return load_file(folder / _WEIGHTS), config
