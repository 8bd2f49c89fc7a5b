"""Texts that a chat model wrote for single interactions, in place of what the data says.

They are looked up by interaction row; where there is none, the field keeps the value it has from
the data. What a model wrote is data like any other: it is made plain before it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.prompts.columns import Column
from tastemaker.prompts.render import quotable

__all__ = ["WrittenTexts"]

Rows = NDArray[np.int64]


class WrittenTexts:
    """A text for each of some interaction rows.

    Args:
        rows: Integers [n], interaction row indices, each once.
        texts: n texts, made plain here, without double quotes; empty ones count as not written.
    """

    def __init__(self, rows: ArrayLike, texts: Iterable[str]) -> None:
        wanted = np.asarray(rows, dtype=np.int64)
        plain = pl.Series([quotable(text) for text in texts], dtype=pl.String)
        kept = np.flatnonzero((plain != "").to_numpy()) if len(plain) else np.empty(0, np.int64)
        order = kept[np.argsort(wanted[kept], kind="stable")]
        self._rows, self._texts = wanted[order], plain.gather(order)

    @classmethod
    def none(cls) -> Self:
        """For no row at all."""
        return cls(np.empty(0, dtype=np.int64), ())

    def __len__(self) -> int:
        return len(self._rows)

    def over(self, column: Column, rows: Rows, *, where: NDArray[np.bool_] | None = None) -> Column:
        """A column with the written texts in place of its own.

        Args:
            column: Text, one a row.
            rows: int64 [n], the interaction row of each; -1 for none.
            where: Bool [n], which may be replaced; all when None.
        """
        if not len(self) or not len(rows):
            return column
        places = np.minimum(np.searchsorted(self._rows, rows), len(self) - 1)
        found = self._rows[places] == rows
        if where is not None:
            found &= where
        mine = np.flatnonzero(found)
        return Column(column.series().scatter(pl.Series(mine), self._texts.gather(places[mine])))
