from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.tables import Tables
from tastemaker.models.catalogue.facets import Facet, attributes_of, facets_of
from tastemaker.testing.world import checkerboard, shop_world


def facet(tables: Tables, name: str) -> Facet | None:
    return next((one for one in facets_of(tables) if one.name == name), None)


def with_column(values: list[Any], dtype: Any = None) -> Tables:
    tables = checkerboard(n_users=4, n_items=len(values), events=2)
    column = pl.Series("extra", values, dtype=dtype, strict=False)
    return replace(tables, items=tables.items.with_columns(column))


def test_films_are_asked_by_genre_and_year_though_neither_is_declared() -> None:
    year, genres = facets_of(load_builtin("movielens-small"))
    assert (year.kind, year.low, year.high, year.values) == ("number", 1902, 2016, ())
    assert (genres.kind, genres.values[:2]) == ("list", ("Drama", "Comedy"))
    assert not [value for value in genres.values if "(" in value or "|" in value]


def test_declared_columns_and_undeclared_lists_of_a_shop() -> None:
    tables = shop_world()
    kinds = {one.name: one.kind for one in facets_of(tables)}
    assert kinds == {
        "categories": "list",
        "brand": "category",
        "price": "number",
        "author": "category",
        "publisher": "category",
        "city": "category",
        "tags": "list",
    }
    texts = [one.name for one in attributes_of(tables) if one.kind == "text"]
    assert texts == ["description"]
    counts = tables.items["brand"].value_counts(sort=True).drop_nulls()
    brand = facet(tables, "brand")
    assert brand is not None
    assert set(brand.values) == set(counts["brand"].to_list())
    most = counts["count"].max()
    assert brand.values[0] in counts.filter(pl.col("count") == most)["brand"].to_list()


@pytest.mark.parametrize(
    "placeholder", ["(no genres listed)", "N/A", " ", "None", "[unknown]", "(No Category)"]
)
def test_a_placeholder_is_no_value(placeholder: str) -> None:
    parted = facet(with_column([placeholder, "War|Drama", "War", "Drama|War"]), "extra")
    assert parted is not None
    assert parted.values == ("War", "Drama")
    single = facet(with_column([placeholder, placeholder, "War", "War"]), "extra")
    assert single is not None
    assert single.values == ("War",)


def test_values_that_merely_look_like_one_stay() -> None:
    kept = ["Non-fiction", "Nonsense", "The Unknown", "(Noir)"]
    found = facet(with_column(kept * 3), "extra")
    assert found is not None
    assert set(found.values) == set(kept)


def test_numbers_are_finite_and_keep_their_kind() -> None:
    tables = with_column([1.5, float("nan"), float("inf"), None])
    found = facet(tables, "extra")
    assert found is not None
    assert (found.low, found.high) == (1.5, 1.5)
    (values,) = [one.values for one in attributes_of(tables) if one.name == "extra"]
    assert values.to_list() == [1.5, None, None, None]


def test_undeclared_texts_that_are_all_numbers_are_numbers_but_codes_are_not() -> None:
    years = facet(with_column(["1990", "2001", None, "1990"]), "extra")
    assert years == Facet("extra", "number", low=1990, high=2001)
    prices = attributes_of(with_column(["1.5", "2", "3", "-4"]))[-1]
    assert (prices.kind, prices.whole, prices.values.to_list()) == (
        "number",
        False,
        [1.5, 2, 3, -4],
    )
    codes = facet(with_column(["0042", "0042", "0017", "0017"]), "extra")
    assert codes == Facet("extra", "category", ("0017", "0042"))
    tables = with_column(["1990", "1990"])
    declared = replace(tables, schema=replace(tables.schema, text=("extra",)))
    assert facet(declared, "extra") == Facet("extra", "category", ("1990",))


def test_booleans_and_lists_of_numbers_become_texts() -> None:
    flags = facet(with_column([True, False, True, None]), "extra")
    assert flags == Facet("extra", "category", ("true", "false"))
    lists = facet(with_column([[1, 2, 2], [2], [], None]), "extra")
    assert lists == Facet("extra", "list", ("2", "1"))


@pytest.mark.parametrize(
    "values",
    [
        [f"a story told in {number} parts" for number in range(8)],  # nothing repeats
        ["x" * 100] * 8,  # too long to be chosen from
        [f"a|{number}" for number in range(300)],  # a | that parts no list
    ],
)
def test_other_texts_are_no_facets(values: list[str]) -> None:
    tables = with_column(values)
    assert facet(tables, "extra") is None
    assert "extra" in [one.name for one in attributes_of(tables)]


def test_bytes_and_empty_columns_say_nothing() -> None:
    for tables in (with_column([b"\xff", b"\x00"]), with_column([None, None], pl.String)):
        assert "extra" not in [one.name for one in attributes_of(tables)]
