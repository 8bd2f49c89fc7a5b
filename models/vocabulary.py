"""From values of a column to rows of an embedding table, fixed by the train part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

__all__ = ["MISSING", "PADDING", "UNSEEN", "Levels", "Scale", "Vocabulary"]

PADDING, UNSEEN, MISSING = 0, 1, 2
_FIRST = 3
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Values with an embedding of their own; all others share one, missing values another.

    Attributes:
        values: Texts, the most frequent ones first; value i has the code i + 3.
    """

    values: tuple[str, ...]

    @classmethod
    def of(cls, values: pl.Series, counts: ArrayLike, *, min_count: int) -> Self:
        """Values that stand for at least `min_count` training events.

        Args:
            values: Any type, or lists; nulls are left out.
            counts: Integers [n], training events behind each entry.
            min_count: Events that a value needs.
        """
        frame = pl.DataFrame({"value": values, "count": np.asarray(counts)})
        if isinstance(values.dtype, pl.List):
            frame = frame.explode("value", empty_as_null=True)
        total = (
            frame.with_columns(pl.col("value").cast(pl.String))
            .drop_nulls()
            .group_by("value")
            .agg(pl.col("count").sum())
            .filter(pl.col("count") >= max(min_count, 1))
            .sort("count", "value", descending=[True, False])
        )
        return cls(tuple(total["value"].to_list()))

    def __len__(self) -> int:
        """Rows of the embedding table, those of padding, unseen and missing values included."""
        return _FIRST + len(self.values)

    def codes(self, values: pl.Series) -> Whole:
        """Code of each value, int64 [n]."""
        texts = pl.DataFrame({"value": values.cast(pl.String)})
        found = texts.join(self._table, on="value", how="left", maintain_order="left")["code"]
        codes = found.fill_null(UNSEEN).to_numpy(writable=True)
        codes[values.is_null().to_numpy()] = MISSING
        return codes

    def list_codes(self, values: pl.Series) -> Whole:
        """Codes of the values of each list, int64 [n, longest], padding behind them.

        A null or empty list is one missing value. Repeated values count once.
        """
        lists = values.cast(pl.List(pl.String)).list.drop_nulls().list.unique(maintain_order=True)
        lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
        codes = np.zeros((len(values), max(1, int(lengths.max(initial=0)))), dtype=np.int64)
        codes[:, 0] = MISSING
        rows = np.repeat(np.arange(len(values)), lengths)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        some = lists.filter(pl.Series(lengths > 0))
        if len(some):
            codes[rows, places] = self.codes(some.explode())
        return codes

    @cached_property
    def _table(self) -> pl.DataFrame:
        codes = np.arange(_FIRST, _FIRST + len(self.values), dtype=np.int64)
        return pl.DataFrame({"value": pl.Series(self.values, dtype=pl.String), "code": codes})


@dataclass(frozen=True)
class Levels:
    """Ratings: numbers of which few are distinct; a number takes the code of the nearest.

    Attributes:
        values: The distinct numbers of the train part, ascending; level i has the code i + 3.
    """

    values: tuple[float, ...]

    def __len__(self) -> int:
        """Rows of the embedding table."""
        return _FIRST + len(self.values)

    def codes(self, numbers: NDArray[np.floating[Any]]) -> Whole:
        """Code of the nearest level, int64 [n]."""
        levels = np.asarray(self.values, dtype=np.float32)
        middles = (levels[1:] + levels[:-1]) / 2
        return _FIRST + np.searchsorted(middles, numbers).astype(np.int64)


@dataclass(frozen=True)
class Scale:
    """How a number is brought to mean 0 and variance 1, as it was in training.

    Attributes:
        mean: Over training rows.
        deviation: Their standard deviation; 1 where all are equal.
        low: Smallest number of the training rows; smaller ones are raised to it.
        high: Largest, likewise.
    """

    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: NDArray[np.floating[Any]], weights: ArrayLike | None = None) -> Self:
        """Of the finite numbers [n], each standing for `weights` training rows; 1 when None."""
        values = np.asarray(numbers, dtype=np.float64)
        counts = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
        known = np.isfinite(values) & (counts > 0)
        if not known.any():
            return cls(0.0, 1.0, 0.0, 0.0)
        values, counts = values[known], counts[known]
        mean = float(np.average(values, weights=counts))
        deviation = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
        return cls(mean, deviation or 1.0, float(values.min()), float(values.max()))

    def apply(self, numbers: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Float32 of the same shape; NaN stays NaN."""
        inside = np.clip(np.asarray(numbers, np.float64), self.low, self.high)
        return ((inside - self.mean) / self.deviation).astype(np.float32)
