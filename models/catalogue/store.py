"""The catalogue that conversations search, in a folder: rows and indexes by LanceDB.

    words ─ full text (BM25) ─┐
    words ─ encoder ─ vectors ─┴─ reciprocal rank fusion ─ hits
    items ─ means of their vectors, by text and by who likes them ─ hits

Conditions are SQL, applied before anything is ranked. Reading never writes, and works from any
number of threads. Equal scores are ordered by item, so equal questions get equal answers.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.models.catalogue.conditions import Condition, to_sql
from tastemaker.models.catalogue.documents import COLLABORATIVE, TEXT, Layout, LayoutColumn
from tastemaker.models.catalogue.facets import Attribute, Facet, facet_of
from tastemaker.models.catalogue.titles import Mention, TitleIndex
from tastemaker.models.catalogue.writing import (
    CURRENT,
    TABLE,
    Written,
    lancedb_module,
    write_catalogue,
)
from tastemaker.models.encoders import Encoder

__all__ = ["Catalogue", "Hit", "Item", "Mode", "Similarity"]

Mode = Literal["hybrid", "text", "vector"]
Similarity = Literal["text", "collaborative", "both"]
_RANKED_WHOLE = 20_000  # up to so many rows, all that match are ranked, so that ties are exact
_LEAST_RANKED, _RANKED_TIMES = 200, 4
_FUSION = 60  # constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)
_LONGEST_QUERY = 2000  # characters
_BOUNDS = ("at_least", "at_most")
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Hit:
    """An item that was found.

    Attributes:
        item: Dense number.
        score: Higher is better; comparable within one answer only.
    """

    item: int
    score: float


@dataclass(frozen=True)
class Item:
    """What the catalogue says of an item.

    Attributes:
        item: Dense number.
        item_id: External id.
        title: As in the tables.
        values: Column → list of texts (empty where missing), text, number, or None.
        knowledge: What a model has written about it; None without.
    """

    item: int
    item_id: Any
    title: str
    values: Mapping[str, Any]
    knowledge: str | None = None


class Catalogue:
    """A catalogue that is open for reading.

    Args:
        table: LanceDB table at the version to read.
        encoder: That of its text vectors; without one, words are searched by full text only.

    Attributes:
        facets: What its items can be asked by.
        titles: By dense number.
        encoder: Name of the encoder of its text vectors; None without them.

    Raises:
        UserError: the encoder is not that of the vectors.
        DataError: the table is not whole.
    """

    def __init__(self, table: Any, *, encoder: Encoder | None = None) -> None:
        self._table, self._encoder = table, encoder
        self._encoding = threading.Lock()  # tokenizers are not made for several threads
        schema = table.schema
        self._layout, self._spaces = Layout.of(schema), {TEXT, COLLABORATIVE} & {*schema.names}
        self.encoder: str | None = self._layout.encoder
        if encoder is not None and self.encoder not in (None, encoder.name):
            raise UserError(
                f"the catalogue has text vectors by {self.encoder}, not by {encoder.name}.",
                remedy=f"Give the encoder {self.encoder}, or build the catalogue again.",
            )
        places = [column.place for column in self._layout.columns]
        wanted = ["item", "item_id", "title", "knowledge", *places]
        found = table.search(None).select(wanted).to_arrow()
        self._frame = pl.DataFrame(found).sort("item")
        if self._frame["item"].to_list() != list(range(self._frame.height)):
            raise DataError(
                "the catalogue is not whole.", remedy="Build it again: --force catalogue."
            )
        self.titles: list[str] = self._frame["title"].to_list()
        self.facets: tuple[Facet, ...] = tuple(self._facets())

    def __len__(self) -> int:
        """Number of items."""
        return len(self.titles)

    @classmethod
    def open(cls, folder: Path, *, encoder: Encoder | None = None) -> Self:
        """Open what `update` wrote, at the version that is current now.

        Args:
            folder: Where it is.
            encoder: Of its text vectors; without one, words are searched by full text only.

        Raises:
            MissingError: LanceDB is not installed.
            DataError: the folder holds no catalogue that can be read.
            UserError: the encoder is not that of the vectors.
        """
        lancedb = lancedb_module()
        try:
            if not folder.is_dir():
                raise FileNotFoundError(folder)
            table = lancedb.connect(str(folder)).open_table(TABLE)
            table.checkout(CURRENT)
            return cls(table, encoder=encoder)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise DataError(
                f"{folder}: holds no readable catalogue ({type(error).__name__}).",
                remedy="Build it: tastemaker run RECIPE --until catalogue",
            ) from None

    @classmethod
    def update(
        cls, folder: Path, rows: pa.Table, *, keep: timedelta = timedelta(hours=1)
    ) -> Written:
        """Create the catalogue of a folder or bring it up to date; see `write_catalogue`."""
        return write_catalogue(folder, rows, keep=keep)

    @property
    def spaces(self) -> tuple[Similarity, ...]:
        """The kinds of vectors that there are: `text`, `collaborative`."""
        kinds: tuple[Similarity, ...] = ("text", "collaborative")
        return tuple(kind for kind in kinds if f"{kind}_vector" in self._spaces)

    def item(self, number: int) -> Item:
        """What is known of one item; see `items`."""
        return self.items([number])[0]

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """What is known of some items, in the order given.

        Raises:
            UserError: there is no such item.
        """
        places = [int(number) for number in numbers]
        self._check_items(places)
        rows = self._frame[places].iter_rows(named=True)
        return [
            Item(
                row["item"],
                int(row["item_id"]) if self._layout.whole_ids else row["item_id"],
                row["title"],
                {column.name: _value(row[column.place], column) for column in self._layout.columns},
                row["knowledge"],
            )
            for row in rows
        ]

    def satisfying(self, conditions: Sequence[Condition]) -> Whole:
        """Dense items that satisfy all conditions, ascending, int64.

        Raises:
            UserError: a condition on no facet, or one that does not fit its kind.
        """
        if not conditions:
            return np.arange(len(self), dtype=np.int64)
        query = self._table.search(None).where(self._filter(conditions)).select(["item"])
        return np.sort(query.to_arrow()["item"].to_numpy().astype(np.int64))

    def search(
        self,
        text: str,
        *,
        conditions: Sequence[Condition] = (),
        count: int = 50,
        mode: Mode = "hybrid",
    ) -> list[Hit]:
        """Items whose documents are about something, best first.

        Args:
            text: Words; nothing in them is read as a query language.
            conditions: What every hit satisfies.
            count: At most so many hits.
            mode: `text`: BM25. `vector`: cosine of the encoder's vectors. `hybrid`: both, fused by
                rank. Without an encoder, or vectors, all of them are `text`.

        Raises:
            UserError: a condition on no facet, or one that does not fit its kind.
        """
        where, words = self._filter(conditions), text[:_LONGEST_QUERY]
        encoded = self._encoder is not None and TEXT in self._spaces
        rankings = []
        if mode != "vector" or not encoded:
            rankings.append(self._by_words(words, where, count=count))
        if mode != "text" and encoded:
            vector = self._encoded(words)
            rankings.append(self._by_vector(TEXT, vector, where, count=count))
        return _fused(rankings)[:count]

    def similar(
        self,
        items: Sequence[int],
        *,
        conditions: Sequence[Condition] = (),
        count: int = 50,
        by: Similarity = "both",
        without: Collection[int] = (),
    ) -> list[Hit]:
        """Items that resemble others on average, best first; never these themselves.

        Args:
            items: Dense items; those without a vector are left out.
            conditions: What every hit satisfies.
            count: At most so many hits.
            by: `text`: what is said of them. `collaborative`: who likes them. `both`, by rank.
            without: Further items that are no hits.

        Raises:
            UserError: no such item, a condition on no facet, or one that does not fit its kind.
        """
        self._check_items(items)
        where, hidden = self._filter(conditions), {*items, *without}
        rankings = []
        for kind in self.spaces if by == "both" else (by,):
            column = f"{kind}_vector"
            if column not in self._spaces or not items:
                continue
            mean = self._mean(column, items)
            near = self._by_vector(column, mean, where, count=count + len(hidden))
            rankings.append([hit for hit in near if hit.item not in hidden])
        return _fused(rankings)[:count]

    def lookup(self, name: str, *, count: int = 5) -> list[Hit]:
        """Items whose title resembles a name, best first; scores from 0 to 100."""
        return [Hit(item, score) for item, score in self._title_index.lookup(name, count=count)]

    def mentions(self, text: str) -> list[Mention]:
        """Titles named inside a text, in the order of the text."""
        return self._title_index.mentions(text)

    @cached_property
    def _title_index(self) -> TitleIndex:
        return TitleIndex(self.titles)

    def _facets(self) -> list[Facet]:
        found = []
        for column in self._layout.columns:
            values = self._frame[column.place]
            facet = facet_of(Attribute(column.name, column.kind, values, column.whole))
            if facet is not None:
                found.append(facet)
        return found

    def _filter(self, conditions: Sequence[Condition]) -> str:
        columns = {column.name: column for column in self._layout.columns if column.kind != "text"}
        placed = []
        for condition in conditions:
            column = columns.get(condition.column)
            if column is None:
                raise UnknownNameError("facet", condition.column, columns)
            if (condition.operator in _BOUNDS) != (column.kind == "number"):
                raise UserError(
                    f"condition '{condition}' does not fit {column.name}, a {column.kind}.",
                    allowed="at_least and at_most for numbers, any_of and none_of for the others",
                )
            placed.append(replace(condition, column=column.place))
        lists = (column.place for column in columns.values() if column.kind == "list")
        return to_sql(placed, lists=lists)

    def _check_items(self, items: Sequence[int]) -> None:
        for item in items:
            if not 0 <= item < len(self):
                raise UserError(
                    f"the catalogue has no item {item}.", allowed=f"0 to {len(self) - 1}"
                )

    def _by_words(self, text: str, where: str, *, count: int) -> list[Hit]:
        match = lancedb_module("lancedb.query").MatchQuery(text, "document")
        query = self._table.search(match, query_type="fts").select(["item", "_score"])
        return self._ranked(query, where, count=count, column="_score")

    def _by_vector(
        self, column: str, vector: NDArray[np.float32], where: str, *, count: int
    ) -> list[Hit]:
        """Nearest by cosine; nothing is near to a vector of zeros."""
        if not vector.any():
            return []
        query = self._table.search(vector, vector_column_name=column).distance_type("cosine")
        query = query.select(["item", "_distance"])
        known = f"{column} IS NOT NULL"
        where = f"{known} AND {where}" if where else known
        near = self._ranked(query, where, count=count, column="_distance")
        return [Hit(hit.item, 1 - hit.score) for hit in near]

    def _ranked(self, query: Any, where: str, *, count: int, column: str) -> list[Hit]:
        """The best of a query, by score, then by item."""
        limit = max(_LEAST_RANKED, _RANKED_TIMES * count)
        query = query.limit(len(self) if len(self) <= _RANKED_WHOLE else min(limit, len(self)))
        found = (query.where(where, prefilter=True) if where else query).to_arrow()
        items = found["item"].to_numpy().astype(np.int64)
        scores = found[column].to_numpy().astype(np.float64)
        order = np.lexsort((items, scores if column == "_distance" else -scores))
        kept = order[: max(count, _LEAST_RANKED)]
        pairs = zip(items[kept].tolist(), scores[kept].tolist(), strict=True)
        return [Hit(item, score) for item, score in pairs]

    def _encoded(self, text: str) -> NDArray[np.float32]:
        assert self._encoder is not None
        with self._encoding:
            return np.asarray(self._encoder.encode([text])[0], dtype=np.float32)

    def _mean(self, column: str, items: Sequence[int]) -> NDArray[np.float32]:
        """Mean of the vectors of the items that have one; zeros without any."""
        numbers = ", ".join(str(int(item)) for item in sorted(set(items)))
        query = self._table.search(None).where(f"item IN ({numbers}) AND {column} IS NOT NULL")
        vectors = query.select(["item", column]).to_arrow().sort_by("item")[column]
        size = self._table.schema.field(column).type.list_size
        flat: ArrayLike = vectors.combine_chunks().flatten().to_numpy()
        matrix = np.asarray(flat, dtype=np.float32).reshape(-1, size)
        return matrix.mean(axis=0) if len(matrix) else np.zeros(size, dtype=np.float32)


def _value(value: Any, column: LayoutColumn) -> Any:
    if column.kind == "list":
        return list(value or ())
    return int(value) if column.whole and value is not None else value


def _fused(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """One ranking as it is; several by the sum of 1 / (60 + rank)."""
    if len(rankings) == 1:
        return list(rankings[0])
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.item] = scores.get(hit.item, 0.0) + 1 / (_FUSION + rank)
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Hit(item, score) for item, score in ordered]
