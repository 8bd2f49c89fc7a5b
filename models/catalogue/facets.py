"""What items can be asked by: lists, categories and numbers among the columns of a catalogue.

declared lists, texts parted by |          → list        genres: Comedy|Drama
declared categories, texts that repeat     → category    publisher: Kite Press
numbers that are no ids                    → number      year: 1995
any other text                             → text        searched, but no facet
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import polars as pl

from tastemaker.data.schema import Schema
from tastemaker.data.tables import Tables

__all__ = ["Attribute", "AttributeKind", "Facet", "attributes_of", "facet_of", "facets_of"]

AttributeKind = Literal["list", "category", "number", "text"]
_OWN = frozenset({"item", "item_id", "title"})
_SIGN = "|"
_PARTED = 0.2  # of the texts there are, so many hold the sign in a column of lists
_MOST_VALUES = 200  # distinct ones of a list or category that nobody has declared
_LEAST_REPEATED = 2.0  # times each value of such a category stands there, on average
_LONGEST_VALUE = 80  # characters
_NUMBER = r"^-?(0|[1-9]\d{0,14})(\.\d{1,15})?$"  # no code such as 00123
_WORDLESS = frozenset({"", "-", "?", "n/a", "nan", "none", "null", "unknown"})
_BRACKETED = re.compile(r"[(\[<]\s*(no\b.*|none|null|n/a|unknown|empty)\s*[)\]>]")


@dataclass(frozen=True)
class Facet:
    """A column that conditions may name.

    Attributes:
        name: As in the tables.
        kind: `list`: several texts an item. `category`: one text. `number`: one number.
        values: Distinct texts of lists and categories, the most frequent first.
        low: Smallest number; None of other kinds.
        high: Largest number; None of other kinds.
    """

    name: str
    kind: Literal["list", "category", "number"]
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Attribute:
    """A column of the items, made plain.

    Attributes:
        name: As in the tables.
        kind: `text` where it is searched but no facet.
        values: One per dense item, null where missing: List(String), String, or for numbers
            Float64 without NaN and infinity.
        whole: Whether the numbers are integers in the tables.
    """

    name: str
    kind: AttributeKind
    values: pl.Series
    whole: bool = False


def facets_of(tables: Tables) -> tuple[Facet, ...]:
    """What the items of these tables can be asked by, in the order of their columns."""
    found = (facet_of(attribute) for attribute in attributes_of(tables))
    return tuple(facet for facet in found if facet is not None)


def attributes_of(tables: Tables) -> tuple[Attribute, ...]:
    """Every column of the items beside ids and title that holds anything readable."""
    columns = (column for column in tables.items.get_columns() if column.name not in _OWN)
    found = (_attribute(column, tables.schema) for column in columns)
    return tuple(
        one for one in found if one is not None and one.values.null_count() < len(one.values)
    )


def facet_of(attribute: Attribute) -> Facet | None:
    """The facet that a column makes; None of a mere text."""
    name, values = attribute.name, attribute.values
    if attribute.kind == "text":
        return None
    if attribute.kind == "number":
        known = values.drop_nulls().to_list()
        return Facet(name, "number", low=min(known, default=None), high=max(known, default=None))
    single = values.explode(empty_as_null=True) if attribute.kind == "list" else values
    counted = (
        single.drop_nulls().alias("value").to_frame().group_by("value").agg(pl.len().alias("count"))
    )
    ordered = counted.sort("count", "value", descending=[True, False])
    return Facet(name, attribute.kind, values=tuple(ordered["value"].to_list()))


def _attribute(column: pl.Series, schema: Schema) -> Attribute | None:
    name, dtype = column.name, column.dtype
    if isinstance(dtype, pl.List | pl.Array):
        return _listed(column)
    if dtype.is_numeric() and name not in schema.categorical:
        return _numbers(column)
    try:
        texts = column.cast(pl.String)
    except pl.exceptions.PolarsError:
        return None  # bytes and objects say nothing to people
    texts = _without_placeholders(texts)
    if name in schema.categorical or isinstance(dtype, pl.Enum | pl.Categorical | pl.Boolean):
        return Attribute(name, "category", texts)
    separator = schema.lists.get(name) or (_SIGN if _is_parted(texts) else None)
    if separator:
        return _listed(texts.str.split(separator).alias(name))
    if name not in schema.text and _are_numbers(texts):
        return _numbers(texts)
    return Attribute(name, "category" if _repeats(texts) else "text", texts)


def _numbers(column: pl.Series) -> Attribute:
    """Numbers, or texts that are; what is not finite is missing."""
    numbers = column.cast(pl.Float64, strict=False)
    finite = numbers.set(~numbers.is_finite().fill_null(False), None)
    whole = column.dtype.is_integer() or (
        column.dtype == pl.String and not column.str.contains(".", literal=True).any()
    )
    return Attribute(column.name, "number", finite.alias(column.name), whole=whole)


def _are_numbers(texts: pl.Series) -> bool:
    """Whether all texts are numbers: an undeclared column of a text file is read as text."""
    known = texts.drop_nulls()
    return bool(len(known)) and bool(known.str.contains(_NUMBER).all())


def _listed(column: pl.Series) -> Attribute | None:
    """A column of lists; each value once an item, stripped, placeholders left out."""
    try:
        lists = column.cast(pl.List(pl.String)).to_list()
    except pl.exceptions.PolarsError:
        return None
    values = [_told(parts) for parts in lists]
    return Attribute(column.name, "list", pl.Series(column.name, values, dtype=pl.List(pl.String)))


def _told(parts: Iterable[str | None] | None) -> list[str] | None:
    stripped = (part.strip() for part in parts or () if part is not None)
    return [part for part in dict.fromkeys(stripped) if not _is_placeholder(part)] or None


def _without_placeholders(texts: pl.Series) -> pl.Series:
    distinct = texts.drop_nulls().unique().to_list()
    empty = [text for text in distinct if _is_placeholder(text)]
    return texts.set(texts.is_in(empty).fill_null(False), None)


def _is_placeholder(text: str) -> bool:
    plain = text.strip().casefold()
    return plain in _WORDLESS or _BRACKETED.fullmatch(plain) is not None


def _is_parted(texts: pl.Series) -> bool:
    """Whether enough of the texts there are hold the sign, and few different ones around it."""
    known = texts.drop_nulls()
    signs = int(known.str.contains(_SIGN, literal=True).sum())
    if not signs or signs < _PARTED * len(known):
        return False
    return known.str.split(_SIGN).explode(empty_as_null=True).n_unique() <= _MOST_VALUES


def _repeats(texts: pl.Series) -> bool:
    """Whether the texts are short and come again and again."""
    known = texts.drop_nulls()
    if not len(known) or int(known.str.len_chars().max() or 0) > _LONGEST_VALUE:  # type: ignore[arg-type]
        return False
    distinct = known.n_unique()
    return distinct <= _MOST_VALUES and len(known) >= _LEAST_REPEATED * distinct
