"""Amazon's dump of 2014: JSON lines of reviews, and products as Python literals."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tastemaker.data.builtin.base import find_builtin, load_builtin
from tastemaker.errors import DataError

REVIEW = {
    "reviewerID": "A1",
    "asin": "B1",
    "helpful": [2, 3],
    "reviewText": "It's <br /> good",
    "overall": 5.0,
    "summary": "Good",
    "unixReviewTime": 1252800000,
    "reviewTime": "09 13, 2009",
}
PRODUCT = {
    "asin": "B1",
    "title": 'Girl\'s "Tutu" – pink',
    "price": 3.17,
    "imUrl": "http://ecx.images-amazon.com/images/I/51f.jpg",
    "related": {"also_bought": ["B2"]},
    "salesRank": {"Toys & Games": 211836},
    "brand": "Coxlures",
    "categories": [["Beauty", "Skin Care"], ["Beauty", "Gifts"]],
}


def dump(folder: Path, products: str, stem: str = "Beauty") -> Path:
    named = {**REVIEW, "reviewerName": "Ann", "asin": "B2", "unixReviewTime": 1252800001}
    renamed = {**named, "reviewerName": "Anna", "asin": "B3", "unixReviewTime": 1352800001}
    other = {**REVIEW, "reviewerID": "A2", "overall": 3.0}
    lines = "".join(json.dumps(one) + "\n" for one in (renamed, REVIEW, named, other))
    (folder / f"reviews_{stem}_5.json.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / f"meta_{stem}.json.gz").write_bytes(gzip.compress(products.encode()))
    return folder


@pytest.mark.parametrize("write", [repr, json.dumps])
def test_products_are_literals_or_json(tmp_path: Path, write: Any) -> None:
    bare = {"asin": "B2", "categories": [["Beauty"]], "title": "x" * 10_000}
    tables = load_builtin(
        "amazon-2014:beauty", dump(tmp_path, f"{write(PRODUCT)}\n{write(bare)}\n")
    )
    items = tables.items.select("item_id", "title", "brand", "price", "categories").rows()
    assert items == [
        ("B1", PRODUCT["title"], "Coxlures", 3.17, ["Beauty", "Skin Care", "Gifts"]),
        ("B2", "B2", None, None, ["Beauty"]),
        ("B3", "B3", None, None, None),
    ]
    assert not {"related", "salesRank", "imUrl"} & set(tables.items.columns)
    assert tables.interactions.select("time", "rating", "label", "reviewText", "summary")[0].rows()
    assert tables.interactions["reviewText"].to_list() == ["It's <br /> good"] * 4
    # The earliest name, wherever it stands; whoever has none stays without.
    assert tables.users.select("user_id", "user_name").rows() == [("A1", "Ann"), ("A2", None)]


def test_a_product_that_is_neither_is_named_by_its_line(tmp_path: Path) -> None:
    dump(tmp_path, f"{PRODUCT!r}\n{{'asin': __import__('os')}}\n")
    with pytest.raises(DataError, match="line 2: neither an object nor a Python literal"):
        load_builtin("amazon-2014:beauty", tmp_path)


def test_categories_join_and_keep_their_names(tmp_path: Path) -> None:
    for stem in ("Beauty", "Toys_and_Games"):
        dump(tmp_path, f"{PRODUCT!r}\n", stem)
    tables = load_builtin("amazon-2014:beauty+toys-and-games", tmp_path)
    assert set(tables.interactions["domain"].cast(str)) <= {"Beauty", "Toys and Games"}
    assert tables.schema.domain == "domain"
    (file, _) = find_builtin("amazon-2014:toys-and-games").files
    assert str(file.url).endswith("/categoryFiles/reviews_Toys_and_Games_5.json.gz")
