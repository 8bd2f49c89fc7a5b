"""From tables to the rows of a catalogue: one text per item, its values, its vectors.

The names of columns are foreign and may be anything, so the store has names of its own
(`value_0`, …); what they stand for is kept beside the rows. A digest of all that a row holds tells
whether it has to be written again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tastemaker.data.tables import Tables
from tastemaker.errors import DataError
from tastemaker.models.catalogue.facets import Attribute, AttributeKind, attributes_of

_YEAR = re.compile(r"\s*\(\d{4}\)$")
__all__ = ["COLLABORATIVE", "TEXT", "Documents", "Layout", "LayoutColumn", "Space"]

TEXT, COLLABORATIVE = "text_vector", "collaborative_vector"
_FORMAT = 1
_KEY = b"tastemaker"
_TYPES: dict[AttributeKind, pa.DataType] = {
    "list": pa.list_(pa.string()),
    "category": pa.string(),
    "number": pa.float64(),
    "text": pa.string(),
}


@dataclass(frozen=True)
class LayoutColumn:
    """A column of the tables and where the store has it.

    Attributes:
        name: As in the tables.
        kind: See `Attribute`.
        whole: Whether numbers are integers.
        place: Name in the store.
    """

    name: str
    kind: AttributeKind
    whole: bool
    place: str


@dataclass(frozen=True)
class Layout:
    """What the columns of the store stand for.

    Attributes:
        columns: Those of the tables.
        encoder: Name of the encoder of the text vectors; None without them.
        whole_ids: Whether external ids are integers.
    """

    columns: tuple[LayoutColumn, ...]
    encoder: str | None
    whole_ids: bool

    def metadata(self) -> dict[bytes, bytes]:
        """As metadata of an Arrow schema."""
        columns = [column.__dict__ for column in self.columns]
        told = {**self.__dict__, "columns": columns, "format": _FORMAT}
        return {_KEY: json.dumps(told).encode()}

    @classmethod
    def of(cls, schema: pa.Schema) -> Self:
        """Inverse of `metadata`.

        Raises:
            ValueError: the schema is that of no catalogue, or of one of another version.
        """
        told = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
        if told.pop("format", None) != _FORMAT:
            raise ValueError("not the rows of a catalogue, or of another version")
        columns = tuple(LayoutColumn(**column) for column in told.pop("columns"))
        return cls(columns=columns, **told)


@dataclass(frozen=True, eq=False)
class Space:
    """Vectors of some items.

    Attributes:
        items: Dense items, int64 [n], each once.
        matrix: float32 [n, dim]; a row of zeros counts as none.
    """

    items: NDArray[np.int64]
    matrix: NDArray[np.float32]

    def column(self, height: int) -> tuple[pa.Array, NDArray[np.float32]]:
        """One vector of length 1 per dense item, null without one; and the same as a matrix.

        Raises:
            DataError: a number is not finite.
        """
        if not np.isfinite(self.matrix).all():
            raise DataError("a vector of the catalogue holds a number that is not finite.")
        lengths = np.linalg.norm(self.matrix, axis=1, keepdims=True)
        dim = self.matrix.shape[1]
        whole = np.zeros((height, dim), dtype=np.float32)
        whole[self.items] = np.divide(
            self.matrix, lengths, out=np.zeros_like(self.matrix), where=lengths > 0
        )
        missing = pa.array(~whole.any(axis=1))
        return pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), dim, mask=missing), whole


@dataclass(frozen=True, eq=False)
class Documents:
    """The items as texts and values.

    Attributes:
        ids: External ids, one per dense item.
        titles: As in the tables.
        attributes: Further columns.
        knowledge: What a model has written about each item; None without.
        texts: One per item, to be searched by its words.
        meanings: One per item, to be encoded: without numbers, since an encoder takes films of one
            year for alike (MovieLens, MiniLM: a liked film is told from any other by its nearness
            to another liked one with an AUC of .64, with years .57).
    """

    ids: pl.Series
    titles: list[str]
    attributes: tuple[Attribute, ...]
    knowledge: list[str | None]
    texts: list[str]
    meanings: list[str]

    @classmethod
    def of(cls, tables: Tables, *, knowledge: Mapping[int, str] | None = None) -> Self:
        """Read the items of some tables.

        Args:
            tables: Whose items.
            knowledge: Dense item → text about it.
        """
        attributes = attributes_of(tables)
        about = [(knowledge or {}).get(item) or None for item in range(tables.n_items)]
        said = [_said(attribute) for attribute in attributes]
        parts = zip(tables.titles, *said, about, strict=True)
        texts = [". ".join(part for part in row if part) for row in parts]
        words = [told for told, one in zip(said, attributes, strict=True) if one.kind != "number"]
        bare = zip(map(_without_year, tables.titles), *words, about, strict=True)
        meanings = [". ".join(part for part in row if part) for row in bare]
        return cls(tables.items["item_id"], tables.titles, attributes, about, texts, meanings)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.titles)

    def rows(
        self,
        *,
        text: Space | None = None,
        collaborative: Space | None = None,
        encoder: str | None = None,
    ) -> pa.Table:
        """Rows for the store, one per dense item, its layout in the metadata.

        Args:
            text: Vectors of `meanings`.
            collaborative: Vectors of the items that a recommender knows.
            encoder: Name of the encoder of the former.

        Raises:
            DataError: a number of a vector is not finite.
        """
        layout = self._layout(encoder if text is not None else None)
        columns: dict[str, Any] = {
            "item": pa.array(range(len(self)), pa.int64()),
            "item_id": pa.array(self.ids.cast(pl.String).to_list(), pa.string()),
            "title": pa.array(self.titles, pa.string()),
            "knowledge": pa.array(self.knowledge, pa.string()),
            "document": pa.array(self.texts, pa.string()),
        }
        for column, attribute in zip(layout.columns, self.attributes, strict=True):
            columns[column.place] = pa.array(attribute.values.to_list(), _TYPES[column.kind])
        marks = _marks(columns, height=len(self))
        for name, space in ((TEXT, text), (COLLABORATIVE, collaborative)):
            if space is not None:
                columns[name], matrix = space.column(len(self))
                for mark, vector in zip(marks, matrix, strict=True):
                    mark.update(vector.tobytes())
        columns["digest"] = pa.array([mark.hexdigest() for mark in marks], pa.string())
        return pa.table(columns).replace_schema_metadata(layout.metadata())

    def _layout(self, encoder: str | None) -> Layout:
        columns = tuple(
            LayoutColumn(one.name, one.kind, one.whole, f"value_{place}")
            for place, one in enumerate(self.attributes)
        )
        return Layout(columns, encoder, whole_ids=self.ids.dtype.is_integer())


def _without_year(title: str) -> str:
    return _YEAR.sub("", title) or title


def _said(attribute: Attribute) -> Sequence[str]:
    """The column in words, one per item, empty where missing."""
    values = attribute.values.to_list()
    if attribute.kind == "text":
        return [value or "" for value in values]
    if attribute.kind == "list":
        told = [", ".join(value or ()) for value in values]
    elif attribute.kind == "number":
        told = ["" if value is None else f"{value:.15g}" for value in values]
    else:
        told = [value or "" for value in values]
    return [f"{attribute.name}: {text}" if text else "" for text in told]


def _marks(columns: Mapping[str, pa.Array], *, height: int) -> list[Any]:
    """The beginning of each row's digest: of everything but its vectors."""
    rows = zip(*(column.to_pylist() for column in columns.values()), strict=True)
    marks = [hashlib.blake2b(json.dumps(row).encode(), digest_size=16) for row in rows]
    assert len(marks) == height
    return marks
