"""Domains of events and items: cut from a column of the items, and looked up for any request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.filters import subset
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, nearest

__all__ = ["domain_names", "domains_of", "item_domains", "with_domains"]

_SIGN = "|"
_OTHER = "other"
_MOST_VALUES = 24  # listed in a message
Others = Literal["drop", "keep"]
Numbers = NDArray[np.int64]


def with_domains(
    tables: Tables, column: str, *, groups: Mapping[str, Sequence[str]], others: Others = "drop"
) -> Tables:
    """Cut the data into domains by what a column of the items says.

    An item is in the first group that holds one of its values, so in one domain only, and its
    events are with it. The result is as if the items had a column `domain` that the schema names.

    Args:
        tables: Without domains; before negatives are drawn.
        column: Of the items: lists, or words. Texts are parted at `|`, unless the schema declares
            them categorical.
        groups: Domain → values of the column. Their order decides, and is that of the categories.
        others: What happens to items in no group: with `drop` they leave the catalogue, their
            events and then users without an event leave, too; with `keep` they are in the domain
            `other`, the last one.

    Returns:
        Tables whose interactions have `domain` (Enum) and whose items have `domain` (String), with
        a note of how large each domain is.

    Raises:
        DataError: no such column, or one of other things; a value that no item has; a group whose
            items are all in groups before it; no event left; tables that have domains already.
        ValueError: the tables hold sampled events.
    """
    _check_free(tables)
    values = _values(tables, column)
    _check_values(values["value"], groups, column=column)
    codes = _first_groups(values, groups, n_items=tables.n_items)
    names = list(groups)
    _check_sizes(codes, names)
    if others == "keep" and (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names.append(_OTHER)
    domains = _named(codes, pl.Enum(names))
    kept, places = codes >= 0, tables.interactions["item"].to_numpy()
    rows = np.flatnonzero(kept[places])
    if not len(rows):
        raise DataError(
            f"data.domains: no event is left, since no item of the groups {', '.join(names)} "
            "has one.",
            remedy="Name other groups, or write others: keep.",
        )
    events = tables.interactions.clone()
    events.insert_column(events.columns.index("label") + 1, domains.gather(places))
    whole = replace(
        tables,
        items=tables.items.with_columns(domains.cast(pl.String)),
        interactions=events,
        schema=replace(tables.schema, domain="domain"),
        notes=(*tables.notes, *_sizes(codes, codes[places], names=names, column=column)),
    )
    if kept.all():
        return whole
    users = np.zeros(tables.n_users, dtype=bool)
    users[events["user"].to_numpy()[rows]] = True
    return subset(whole, rows, users=users, items=kept)


def domains_of(tables: Tables, items: ArrayLike, *, rows: ArrayLike) -> pl.Series:
    """The domain of each request: that of its event, or that of its item where it is no event.

    Args:
        tables: Whose interactions have a domain.
        items: Integers [n], dense items.
        rows: Integers [n], interaction row indices; -1 where the request is no event.

    Returns:
        Enum [n], named `domain`, with the categories of the interactions; null where unknown. See
        `item_domains` for the domain of an item.

    Raises:
        DataError: the tables have no domain.
    """
    wanted, events = (np.asarray(values, dtype=np.int64) for values in (items, rows))
    own = events < 0
    if not own.any():
        return _column(tables).gather(events)
    asked = np.zeros(tables.n_items, dtype=bool)
    asked[wanted[own]] = True
    found = item_domains(tables, asked=asked).gather(wanted)
    if own.all():
        return found
    return found.zip_with(pl.Series(own), _column(tables).gather(np.maximum(events, 0)))


def domain_names(tables: Tables) -> list[str]:
    """Names of all domains, in the order of the categories.

    Raises:
        DataError: the tables have no domain.
    """
    kind = _column(tables).dtype
    assert isinstance(kind, pl.Enum)
    return kind.categories.to_list()


def item_domains(tables: Tables, *, asked: NDArray[np.bool_] | None = None) -> pl.Series:
    """The one domain of each item: that of most of its events.

    As many events in two domains: the one that stands first among the categories. An item without
    an event has the domain that the table of items names for it, where the domain comes from there.

    Args:
        tables: Whose interactions have a domain; sampled ones do not count.
        asked: bool [n_items], items that matter; the others may come out as null. All when None.

    Returns:
        Enum [n_items], named `domain`, with the categories of the interactions; null where unknown.

    Raises:
        DataError: the tables have no domain.
    """
    kind = _column(tables).dtype
    events = tables.happened.select("item", "domain")
    if asked is not None:
        events = events.filter(pl.Series(asked[events["item"].to_numpy()]))
    most = (
        events.drop_nulls()
        .group_by("item", pl.col("domain").to_physical().alias("code"))
        .len()
        .sort(["item", "len", "code"], descending=[False, True, False])
        .unique("item", keep="first")
    )
    codes = np.full(tables.n_items, -1, dtype=np.int64)
    codes[most["item"].to_numpy()] = most["code"].to_numpy()
    found = _named(codes, kind)
    column = tables.schema.domain
    if column is None or column not in tables.items.columns:
        return found
    told = tables.items[column].cast(pl.String).str.strip_chars().cast(kind, strict=False)
    return found.zip_with(found.is_not_null(), told).alias("domain")


def _check_free(tables: Tables) -> None:
    if "sampled" in tables.interactions.columns:
        raise ValueError("domains are cut before negatives are drawn")
    if "domain" in tables.interactions.columns:
        raise DataError(
            f"data.domains: {tables.source} has domains already "
            f"(column '{tables.schema.domain or 'domain'}').",
            remedy="Leave out data.domains, or data.columns.domain.",
        )
    if "domain" in tables.items.columns:
        raise DataError(
            "data.domains: the items have a column 'domain' already.",
            remedy="Name it as data.columns.domain in place of data.domains, or rename it.",
        )


def _values(tables: Tables, column: str) -> pl.DataFrame:
    """`item` and `value`, each pair once, without empty values.

    Raises:
        DataError: no such column, or one of other things than words.
    """
    known = [name for name in tables.items.columns if name != "item"]
    if column not in known:
        close = nearest(column, known)
        raise DataError(
            f"data.domains.column: the items have no column '{column}'"
            + (f"; did you mean '{close}'?" if close else "."),
            allowed=f"columns of the items: {', '.join(known)}",
        )
    cells = tables.items[column]
    kind = cells.dtype
    if isinstance(kind, pl.List | pl.Array):
        cells = cells.cast(pl.List(pl.String), strict=False)
    elif kind.is_integer() or kind in (pl.String, pl.Boolean, pl.Enum, pl.Categorical):
        is_parted = kind == pl.String and column not in tables.schema.categorical
        cells = cells.str.split(_SIGN) if is_parted else cells.cast(pl.String)
    else:
        raise DataError(
            f"data.domains.column: '{column}' holds {kind}.",
            allowed="lists, words or whole numbers",
        )
    pairs = tables.items.select("item", cells.alias("value"))
    if isinstance(cells.dtype, pl.List):
        pairs = pairs.explode("value")
    stripped = pairs.with_columns(pl.col("value").str.strip_chars())
    return stripped.filter(pl.col("value") != "").unique(maintain_order=True)


def _check_values(values: pl.Series, groups: Mapping[str, Sequence[str]], *, column: str) -> None:
    counts = values.value_counts(sort=True).sort(["count", "value"], descending=[True, False])
    known = counts["value"].to_list()
    there = set(known)
    for name, wanted in groups.items():
        for value in wanted:
            if value in there:
                continue
            close = nearest(value, known)
            shown = ", ".join(known[:_MOST_VALUES])
            group = "" if name == value else f" (group '{name}')"
            raise DataError(
                f"data.domains.groups: no item has '{value}'{group} in '{column}'"
                + (f"; did you mean '{close}'?" if close else "."),
                allowed=f"the most frequent of {len(known):,} values: {shown}",
                remedy=f"Where the cells of '{column}' hold several values, say what parts them "
                "in data.columns.lists.",
            )


def _first_groups(
    values: pl.DataFrame, groups: Mapping[str, Sequence[str]], *, n_items: int
) -> Numbers:
    """Number of the first group that holds a value of each item, int64 [n_items]; -1 for none."""
    first: dict[str, int] = {}
    for code, wanted in enumerate(groups.values()):
        for value in wanted:
            first.setdefault(value, code)
    found = values["value"].replace_strict(first, default=None, return_dtype=pl.Int64)
    held = found.is_not_null().to_numpy()
    codes = np.full(n_items, len(groups), dtype=np.int64)
    np.minimum.at(codes, values["item"].to_numpy()[held], found.drop_nulls().to_numpy())
    return np.where(codes == len(groups), -1, codes)


def _check_sizes(codes: Numbers, names: Sequence[str]) -> None:
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"data.domains.groups: no item is left for '{empty[0]}'; all that have its values are "
            "in groups before it.",
            allowed="an item is in the first group that holds one of its values",
            remedy=f"Write '{empty[0]}' further up, or leave it out.",
        )


def _sizes(
    of_items: Numbers, of_events: Numbers, *, names: Sequence[str], column: str
) -> list[str]:
    """Sentences on how many events and items each domain has, and how many none."""
    items, events = (
        np.bincount(np.where(codes < 0, len(names), codes), minlength=len(names) + 1)
        for codes in (of_items, of_events)
    )
    told = [f"{events[n]:,} events of {items[n]:,} items" for n in range(len(names) + 1)]
    listed = ", ".join(f"{name} {size}" for name, size in zip(names, told, strict=False))
    notes = [f"Domains cut from '{column}': {listed}."]
    if items[-1]:
        notes.append(f"{told[-1]} in none of these domains are left out.")
    return notes


def _named(codes: Numbers, kind: pl.DataType) -> pl.Series:
    """Categories by their number; null for -1."""
    assert isinstance(kind, pl.Enum)
    names = pl.concat([kind.categories.cast(kind), pl.Series([None], dtype=kind)])
    return names.gather(np.where(codes < 0, len(kind.categories), codes)).alias("domain")


def _column(tables: Tables) -> pl.Series:
    if "domain" not in tables.interactions.columns:
        raise DataError(
            "domains are needed, but the interactions have none.",
            remedy="Name their column as data.columns.domain, or cut them from a column of the "
            "items with data.domains.",
        )
    return tables.interactions["domain"]
