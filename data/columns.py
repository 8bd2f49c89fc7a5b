"""From columns of foreign tables to columns of `Tables`, by what the schema says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tastemaker.data.cells import as_lists, as_numbers, as_words, check_text
from tastemaker.data.checks import Problems, RawTable
from tastemaker.data.schema import DomainRules, Implicit, Schema, TimeUnit
from tastemaker.data.times import as_times
from tastemaker.errors import nearest

__all__ = ["RawTables", "check_columns", "entity_features", "event_features", "event_values"]

RESERVED = ("user", "item", "time", "rating", "label", "domain", "sampled", "row")


@dataclass(frozen=True)
class RawTables:
    """What was read: interactions always, items and users where there are such tables."""

    interactions: RawTable
    items: RawTable | None = None
    users: RawTable | None = None

    def holding(self, column: str) -> list[RawTable]:
        """The tables that have `column`."""
        tables = (self.interactions, self.items, self.users)
        return [one for one in tables if one is not None and column in one.columns]


def check_columns(raw: RawTables, *, schema: Schema, problems: Problems) -> None:
    """Note columns that are missing, unusable or called like one of ours."""
    needed = [schema.user, schema.item, schema.time, schema.rating, *schema.label.columns]
    problems.need(raw.interactions, [name for name in needed if name is not None])
    if not raw.interactions.frame.height:
        problems.add(f"{raw.interactions.name}: has no rows.", table=raw.interactions.name)
    if raw.items is not None:
        problems.need(raw.items, [schema.item, *([schema.title] if schema.title else [])])
        taken = {"item", "item_id", "title"} - {schema.item, schema.title}
        problems.avoid(raw.items, taken)
    if raw.users is not None:
        problems.need(raw.users, (schema.user,))
        problems.avoid(raw.users, {"user", "user_id"} - {schema.user})
    for table in (raw.items, raw.users):
        if table is not None and not table.frame.height:
            problems.add(f"{table.name}: has no rows.", table=table.name)
    features = set(schema.features) & set(raw.interactions.columns)
    problems.avoid(raw.interactions, features & set(RESERVED))
    named = [*schema.features, *([schema.domain] if schema.domain else [])]
    for column in dict.fromkeys(named):
        if not raw.holding(column):
            _note_absent(raw, column, problems=problems)
    if isinstance(schema.label, DomainRules) and schema.domain is None:
        problems.add(
            "label has rules by domain, but no column of domains is named.",
            remedy="Name it as data.columns.domain.",
        )


def event_values(
    raw: RawTables,
    *,
    schema: Schema,
    spread: Callable[[pl.Series], pl.Series],
    problems: Problems,
) -> tuple[list[pl.Series], Schema]:
    """Columns time, rating, label and, where declared, domain of the interactions.

    Args:
        raw: The tables.
        schema: Names of the columns.
        spread: Turns a column of the items into one of the interactions.
        problems: Gets what is wrong.

    Returns:
        The columns, and the schema with the unit of time that was found.
    """
    events = raw.interactions
    unit: TimeUnit = "step"
    if schema.time is None:
        times = pl.int_range(events.frame.height, dtype=pl.Int64, eager=True)
    else:
        times, unit = as_times(events, schema.time, unit=schema.time_unit, problems=problems)
    if schema.rating is None:
        ratings = pl.repeat(1.0, events.frame.height, dtype=pl.Float64, eager=True)
    else:
        ratings = as_numbers(events, schema.rating, problems=problems, span=schema.rating_range)
    domains = _domains(raw, schema=schema, spread=spread, problems=problems)
    labels = _labels(events, ratings, domains, schema=schema, problems=problems)
    columns = [times.alias("time"), ratings.cast(pl.Float32).alias("rating"), labels]
    if domains is not None:
        columns.append(domains.cast(pl.Enum(domains.drop_nulls().unique().sort())).alias("domain"))
    return columns, replace(schema, time_unit=unit)


def event_features(raw: RawTables, *, schema: Schema, problems: Problems) -> list[pl.Series]:
    """Declared feature columns that stand in the interactions."""
    own = {schema.user, schema.item, schema.time, schema.rating, *RESERVED}
    return [
        _feature(raw.interactions, name, schema=schema, problems=problems)
        for name in schema.features
        if name not in own and name in raw.interactions.frame.columns
    ]


def entity_features(
    table: RawTable | None, noun: str, *, schema: Schema, problems: Problems
) -> list[pl.Series]:
    """Title (of items), declared features, and what else the table holds as it was read."""
    if table is None:
        return []
    own = schema.item if noun == "item" else schema.user
    columns: list[pl.Series] = []
    if noun == "item":
        columns.append(_titles(table, schema.title, problems=problems))
    for name in table.frame.columns:
        if name == own or (noun == "item" and name == schema.title):
            continue
        if name in schema.features:
            columns.append(_feature(table, name, schema=schema, problems=problems))
        elif table.has(name):
            if name != schema.domain:
                check_text(table, name, problems=problems, quiet=True)
            columns.append(table.cells(name))
    return columns


def _domains(
    raw: RawTables,
    *,
    schema: Schema,
    spread: Callable[[pl.Series], pl.Series],
    problems: Problems,
) -> pl.Series | None:
    column = schema.domain
    if column is None or not raw.holding(column):
        return None
    remedy = "Fill it in, or remove the row."
    for holder in raw.holding(column):
        check_text(holder, column, problems=problems, quiet=True)
    if column in raw.interactions.frame.columns:
        words = as_words(raw.interactions, column)
        problems.add_cells(
            raw.interactions,
            column,
            bad=words.is_null(),
            complaint="names no domain",
            remedy=remedy,
        )
        return words
    table = raw.items
    if table is None or column not in table.frame.columns:
        problems.add(
            f"column '{column}' of domains is in the table of users.",
            remedy="A domain belongs to interactions or items.",
        )
        return None
    words = as_words(table, column)
    problems.add_cells(
        table, column, bad=words.is_null(), complaint="names no domain", remedy=remedy
    )
    # Unknown items are noted elsewhere, or kept by policy: then they stand apart.
    return spread(words).fill_null("unknown")


def _labels(
    events: RawTable,
    ratings: pl.Series,
    domains: pl.Series | None,
    *,
    schema: Schema,
    problems: Problems,
) -> pl.Series:
    rule = schema.label
    numbers = [
        (ratings if name == schema.rating else as_numbers(events, name, problems=problems)).alias(
            name
        )
        for name in rule.columns
    ]
    frame = pl.DataFrame(numbers) if numbers else events.frame
    if isinstance(rule, DomainRules):
        if domains is None:
            return pl.repeat(0, events.frame.height, dtype=pl.Int8, eager=True).alias("label")
        unruled = domains.filter(rule.unruled(domains)).unique().sort().to_list()
        if unruled:
            problems.add(
                f"no label rule for the domain(s) {', '.join(map(repr, unruled[:10]))}.",
                remedy="Add them to data.columns.label, or a rule called other.",
            )
    labels = rule.apply(frame, domains).fill_null(0)
    if not isinstance(rule, Implicit) and len(labels) and labels.n_unique() == 1:
        problems.notes.append(
            f"by '{rule}' {'every' if labels[0] else 'no'} interaction is a like; "
            "look at data.columns.label."
        )
    return labels


def _feature(table: RawTable, name: str, *, schema: Schema, problems: Problems) -> pl.Series:
    check_text(table, name, problems=problems, quiet=name not in schema.text, missing="is empty")
    if name in schema.lists:
        separator = schema.lists[name]
        return as_lists(table, name, separator=separator, problems=problems)
    if name in schema.numeric:
        return as_numbers(table, name, problems=problems, optional=True).alias(name)
    if name in schema.text:
        return table.cells(name).cast(pl.String, strict=False)
    return as_words(table, name)


def _titles(table: RawTable, column: str | None, *, problems: Problems) -> pl.Series:
    """Titles; null where there is none."""
    if column is None:
        return pl.Series("title", [None] * table.frame.height, dtype=pl.String)
    check_text(
        table, column, problems=problems, missing="is no title; the item is called by its id"
    )
    given = table.cells(column).cast(pl.String)
    named = (given.str.strip_chars() != "").fill_null(False)
    return given.zip_with(named, pl.Series([None], dtype=pl.String)).alias("title")


def _note_absent(raw: RawTables, column: str, *, problems: Problems) -> None:
    tables: Sequence[RawTable | None] = (raw.interactions, raw.items, raw.users)
    have = [name for table in tables if table is not None for name in table.columns]
    close = nearest(column, have)
    hint = f"; did you mean '{close}'?" if close else "."
    problems.add(
        f"no table has a column '{column}'{hint} There are: {', '.join(dict.fromkeys(have))}.",
        column=column,
        remedy="Name the right column in data.columns.",
    )
