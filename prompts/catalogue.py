"""What prompts say of users and items, made plain once for each of them.

Titles, names, attributes and categories do not depend on the target, so they are cleaned and joined
here once, and prompts of any number only refer to them by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.tables import Tables
from tastemaker.errors import UserError, nearest
from tastemaker.prompts.columns import Column, Listing, borders, joined
from tastemaker.prompts.render import as_text, display_titles, profiles, quotable

__all__ = ["Catalogue", "Place", "Texts"]

Place = Literal["items", "users", "interactions"]
_PLACES: tuple[Place, ...] = ("items", "users", "interactions")
_OWN = frozenset({"user", "item", "user_id", "item_id", "title"})
_CATEGORIES = ("categories", "category", "genres", "genre", "tags", "main_category")
_NAMES = ("user_name", "name")
_SIGN = "|"
_OFTEN = 0.1  # a sentence holds one now and then


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of the data as text.

    Attributes:
        place: Table it is in.
        values: String, plain, empty where there is nothing; one per user, item or event.
    """

    place: Place
    values: pl.Series


class Catalogue:
    """Texts of the users and items of some tables.

    Args:
        tables: Users, items and interactions.
        index: String [n_items], what items are called by number; their place where not given.
        columns: Field → column that holds it, where the names differ.
        attributes: Item columns shown by `attributes` besides the title; all when empty.
        text_words: Words that are left of each text of an event, the first ones; None for all.
    """

    def __init__(
        self,
        tables: Tables,
        *,
        index: pl.Series | None = None,
        columns: Mapping[str, str] | None = None,
        attributes: Sequence[str] = (),
        text_words: int | None = None,
    ) -> None:
        self.tables = tables
        self._index, self._columns, self._chosen = index, dict(columns or {}), tuple(attributes)
        self._text_words = text_words
        self._texts: dict[str, Texts | None] = {}

    @cached_property
    def titles(self) -> pl.Series:
        """String [n_items], as `display_titles` shows them."""
        return pl.Series(display_titles(self.tables), dtype=pl.String)

    @cached_property
    def item_ids(self) -> pl.Series:
        """String [n_items]."""
        return _plain(self.tables.items["item_id"])

    @cached_property
    def user_ids(self) -> pl.Series:
        """String [n_users]."""
        return _plain(self.tables.users["user_id"])

    @cached_property
    def item_index(self) -> pl.Series:
        """String [n_items]."""
        if self._index is not None:
            return self._index
        return pl.Series(np.arange(1, self.tables.n_items + 1)).cast(pl.String)

    @cached_property
    def user_index(self) -> pl.Series:
        """String [n_users], from 1."""
        return pl.Series(np.arange(1, self.tables.n_users + 1)).cast(pl.String)

    @cached_property
    def user_names(self) -> pl.Series:
        """String [n_users], the id where there is no name (P5)."""
        for name in (self._columns.get("user_name", _NAMES[0]), *_NAMES):
            if name in self.tables.users.columns:
                found = _readable(self.tables.users[name])
                return found.set(found == "", None).fill_null(self.user_ids)
        return self.user_ids

    @cached_property
    def profiles(self) -> pl.Series:
        """String [n_users], empty where nothing is known."""
        return pl.Series(profiles(self.tables), dtype=pl.String)

    @cached_property
    def ratings(self) -> tuple[pl.Series, NDArray[np.int64]]:
        """Distinct ratings as text, ascending, and the place of each event's among them."""
        values, places = np.unique(
            self.tables.interactions["rating"].to_numpy(), return_inverse=True
        )
        return pl.Series([f"{value:g}" for value in values], dtype=pl.String), places

    @cached_property
    def scale(self) -> tuple[str, str]:
        """Lowest and highest rating, as declared, else as found."""
        values = self.tables.schema.rating_range
        if values is None:
            shown = self.ratings[0]
            return (shown[0], shown[-1]) if len(shown) else ("", "")
        return f"{values[0]:g}", f"{values[1]:g}"

    @cached_property
    def categories(self) -> Listing | None:
        """Categories of each item; None when no column holds them."""
        wanted = self._columns.get("category")
        for name in (wanted,) if wanted else _CATEGORIES:
            if name in self.tables.items.columns:
                return _split(self.tables.items[name])
        return None

    @cached_property
    def attributes(self) -> Listing:
        """(name, value) of each item: its title, then its columns that are not empty."""
        names = self._chosen or [
            name for name in self.tables.items.columns if name not in _OWN and name != "sampled"
        ]
        shown = [(name, self._needed(name, "items")) for name in names if name != "title"]
        return _pairs([("title", self.titles), *shown], height=self.tables.n_items)

    @cached_property
    def user_attributes(self) -> Listing:
        """(name, value) of each user's columns that are not empty."""
        names = [name for name in self.tables.users.columns if name not in _OWN]
        shown = [(name, self._needed(name, "users")) for name in names]
        return _pairs(shown, height=self.tables.n_users)

    def text(self, field: str) -> Texts | None:
        """The column a field names, as plain text; None when no table has it."""
        if field not in self._texts:
            self._texts[field] = self._read(self.column(field))
        return self._texts[field]

    def column(self, field: str) -> str:
        """Name of the column that a field names."""
        return self._columns.get(field, field)

    def has(self, column: str) -> bool:
        """Whether any table has this column."""
        return any(column in getattr(self.tables, place).columns for place in _PLACES)

    def missing(self, field: str) -> str:
        """What to say of a column that no table has."""
        known = sorted({name for place in _PLACES for name in getattr(self.tables, place).columns})
        close = nearest(self.column(field), known)
        return (
            f"no table has a column '{self.column(field)}'"
            + (f" (did you mean '{close}'?)" if close else "")
            + f"; there are {', '.join(known)}"
        )

    def _needed(self, name: str, place: Place) -> pl.Series:
        frame = getattr(self.tables, place)
        if name not in frame.columns:
            raise UserError(
                f"build.attributes: {place} have no column '{name}'.",
                allowed=f"columns: {', '.join(frame.columns)}",
            )
        return _readable(frame[name])

    def _read(self, column: str) -> Texts | None:
        for place in _PLACES:
            frame: pl.DataFrame = getattr(self.tables, place)
            if column in frame.columns:
                if place == "interactions" and frame[column].dtype == pl.String:
                    return Texts(place, _first_words(_plain(frame[column]), self._text_words))
                return Texts(place, _readable(frame[column]))
        return None


def _readable(values: pl.Series) -> pl.Series:
    """A column as text; lists are joined by commas, also those in texts parted by |."""
    if isinstance(values.dtype, pl.List) or _is_parted(values, least=_OFTEN):
        return joined(_split(values), ", ").series()
    return _plain(values)


def _is_parted(values: pl.Series, *, least: float = 0.0) -> bool:
    """Whether more than this share of the texts there are holds a |."""
    if values.dtype != pl.String:
        return False
    signs = values.str.contains(_SIGN, literal=True).sum()
    return bool(signs > least * int((values != "").sum()))


def _split(values: pl.Series) -> Listing:
    """Parts of a list, or of a text parted by | (else by commas)."""
    if not isinstance(values.dtype, pl.List):
        sign = _SIGN if _is_parted(values) else ","
        values = values.cast(pl.String).fill_null("").str.split(sign)
    frame = pl.DataFrame({"parts": values.cast(pl.List(pl.String))}).with_row_index("row")
    parts = frame.explode("parts").drop_nulls()
    parts = parts.with_columns(_plain(parts["parts"]).alias("parts")).filter(pl.col("parts") != "")
    lengths = np.bincount(parts["row"].to_numpy(), minlength=len(values))
    return Listing(borders(lengths), (_coded(parts["parts"]),))


def _pairs(columns: Sequence[tuple[str, pl.Series]], *, height: int) -> Listing:
    """(name, value) of each row, those without a value left out."""
    if not columns:
        nothing = Column(pl.Series([], dtype=pl.String))
        return Listing(np.zeros(height + 1, dtype=np.int64), (nothing, nothing), tuples=True)
    values = pl.concat([column for _, column in columns])
    rows = np.tile(np.arange(height), len(columns))
    names = np.repeat(np.arange(len(columns)), height)
    kept = (values != "").to_numpy()
    order = np.flatnonzero(kept)[np.argsort(rows[kept], kind="stable")]
    labels = pl.Series([quotable(name) for name, _ in columns], dtype=pl.String)
    return Listing(
        borders(np.bincount(rows[kept], minlength=height)),
        (Column(labels, names[order]), Column(values, order)),
        tuples=True,
    )


def _plain(values: pl.Series) -> pl.Series:
    """As text without anything a tokenizer could take for a special token, or for a title."""
    return pl.Series([quotable(text) for text in as_text(values).to_list()], dtype=pl.String)


def _first_words(texts: pl.Series, most: int | None) -> pl.Series:
    if most is None:
        return texts
    return texts.str.extract(rf"^((?:\S+\s+){{0,{most - 1}}}\S+)").fill_null("")


def _coded(values: pl.Series) -> Column:
    distinct = values.unique(maintain_order=True)
    numbers = pl.DataFrame({"value": distinct}).with_row_index("code")
    found = pl.DataFrame({"value": values}).join(numbers, on="value", maintain_order="left")
    return Column(distinct, found["code"].to_numpy().astype(np.int64))
