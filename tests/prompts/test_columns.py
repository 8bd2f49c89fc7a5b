"""Columns and lists of them against plain Python lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.prompts.columns import Column, Listing, glued, joined

ODD = ["", " ", '"', "a|b", "a\nb", "ü", "😀", "{{ x }}", "$1", "\\"]
TEXTS = st.sampled_from(ODD) | st.text(max_size=5)
LISTS = st.lists(st.lists(TEXTS, max_size=4), max_size=5)
BOUNDS = st.none() | st.integers(-5, 5)


def column(values: list[Any], *, coded: bool) -> Column:
    """The values, one a row, or each of them once and their places, one of them unused."""
    if not coded:
        # A part of a longer series does not begin where its memory does.
        return Column(
            pl.Series([*values[:1], *values], dtype=_dtype(values)).slice(len(values[:1]))
        )
    distinct = [*dict.fromkeys(values)]
    codes = np.array([distinct.index(value) for value in values], dtype=np.int32)
    spare = [values[0]] if values else []
    return Column(pl.Series([*distinct, *spare], dtype=_dtype(values)), codes)


def _dtype(values: list[Any]) -> Any:
    kinds = {bool: pl.Boolean, int: pl.Int64, str: pl.String}
    return kinds[type(values[0])] if values else pl.String


def listing(rows: list[list[Any]], *, coded: bool) -> Listing:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Listing(offsets, (column([one for row in rows for one in row], coded=coded),))


def pairs(rows: list[list[tuple[str, str]]], *, coded: bool) -> Listing:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    flat = [pair for row in rows for pair in row]
    places = (column([pair[place] for pair in flat], coded=coded) for place in (0, 1))
    return Listing(offsets, tuple(places), tuples=True)


@given(st.lists(TEXTS), st.booleans())
def test_a_column_has_one_value_a_row(values: list[str], coded: bool) -> None:
    found = column(values, coded=coded)
    assert found.height == len(values)
    assert found.dtype == pl.String
    assert found.to_list() == found.series().to_list() == values
    assert found.truth().to_list() == [bool(value) for value in values]


@given(st.lists(TEXTS, min_size=1), st.booleans(), st.data())
def test_rows_are_taken_in_the_order_given(
    values: list[str], coded: bool, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(values) - 1)))
    taken = column(values, coded=coded).take(np.array(rows, dtype=np.int64))
    assert taken.to_list() == [values[row] for row in rows]
    assert taken.take(np.arange(len(rows))[::-1]).to_list() == taken.to_list()[::-1]


@given(st.lists(TEXTS), st.booleans())
def test_a_change_is_made_once_for_each_distinct_value(values: list[str], coded: bool) -> None:
    seen: list[int] = []

    def changed(series: pl.Series) -> pl.Series:
        seen.append(len(series))
        return series + "!"

    found = column(values, coded=coded)
    assert found.map(changed).to_list() == [value + "!" for value in values]
    assert seen == [len(found.values)]


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("values", [[0, 1, -7, 1], [True, False, True], ["0", "", "False"]])
def test_texts_and_truths_are_those_of_python(values: list[Any], coded: bool) -> None:
    found = column(values, coded=coded)
    assert found.text().to_list() == [str(value) for value in values]
    assert found.truth().to_list() == [bool(value) for value in values]


@given(LISTS, st.booleans())
def test_a_listing_has_a_list_a_row(rows: list[list[str]], coded: bool) -> None:
    found = listing(rows, coded=coded)
    assert found.height == len(rows)
    assert found.to_list() == rows
    assert found.lengths.tolist() == [len(row) for row in rows]
    assert found.rows.tolist() == [place for place, row in enumerate(rows) for _ in row]
    assert found.places.tolist() == [place for row in rows for place in range(len(row))]


@given(LISTS, BOUNDS, BOUNDS, st.booleans())
def test_slices_are_those_of_python(
    rows: list[list[str]], start: int | None, stop: int | None, coded: bool
) -> None:
    found = listing(rows, coded=coded).sliced(start, stop)
    assert found.to_list() == [row[start:stop] for row in rows]
    assert joined(found, "-").to_list() == ["-".join(row[start:stop]) for row in rows]


@given(st.lists(st.lists(st.tuples(TEXTS, TEXTS), max_size=3), max_size=4), BOUNDS, st.booleans())
def test_tuples_stay_together(
    rows: list[list[tuple[str, str]]], start: int | None, coded: bool
) -> None:
    found = pairs(rows, coded=coded)
    assert found.to_list() == rows
    assert found.sliced(start, None).to_list() == [row[start:] for row in rows]


@given(LISTS, st.sampled_from(["", ", ", '", "', "ü"]), st.booleans())
def test_joining_with_one_separator(rows: list[list[str]], separator: str, coded: bool) -> None:
    found = joined(listing(rows, coded=coded), separator)
    assert found.to_list() == [separator.join(row) for row in rows]


@given(LISTS, st.booleans(), st.data())
def test_joining_with_the_separator_of_the_row(
    rows: list[list[str]], coded: bool, data: st.DataObject
) -> None:
    signs = data.draw(st.lists(TEXTS, min_size=len(rows), max_size=len(rows)))
    found = joined(listing(rows, coded=coded), column(signs, coded=not coded))
    assert found.to_list() == [sign.join(row) for sign, row in zip(signs, rows, strict=True)]


def test_joining_numbers() -> None:
    found = joined(listing([[1, 2], [], [30]], coded=True), " + ")
    assert found.to_list() == ["1 + 2", "", "30"]


@given(st.lists(st.tuples(TEXTS, TEXTS)), TEXTS, st.booleans())
def test_parts_are_glued_row_by_row(
    rows: list[tuple[str, str]], constant: str, coded: bool
) -> None:
    first, second = (column([row[place] for row in rows], coded=coded) for place in (0, 1))
    found = glued([constant, first, constant, second])
    assert found.to_list() == [constant + one + constant + two for one, two in rows]


def test_constants_alone_need_a_height() -> None:
    assert glued(["a", "b"], height=3).to_list() == ["ab"] * 3
    assert glued([], height=2).to_list() == ["", ""]
    assert glued(["a"]).to_list() == []


def test_numbers_and_truths_are_glued_as_jinja_prints_them() -> None:
    found = glued([column([1, 2], coded=False), ":", column([True, False], coded=True)])
    assert found.to_list() == ["1:True", "2:False"]


def test_few_elements_of_many_values_are_joined() -> None:
    many = Column(pl.Series([str(number) for number in range(1000)]), np.array([7, 999]))
    found = joined(Listing(np.array([0, 2]), (many,)), "-")
    assert found.to_list() == ["7-999"]
