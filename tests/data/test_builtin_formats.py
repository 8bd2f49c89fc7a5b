"""Loaders read small files in the exact format of the originals."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from tastemaker.data.builtin.base import load_builtin
from tastemaker.errors import DataError


def write(folder: Path, encoding: str = "utf-8", **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_bytes(text.encode(encoding))
    return folder


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def rows(tables, *columns: str) -> list[tuple[object, ...]]:
    return tables.interactions.select(columns).rows()


def test_ml_100k_original(tmp_path):
    flags = {
        "unknown": "1|" + "0|" * 17 + "0",
        "animated": "0|0|0|1|1|1" + "|0" * 13,
        "none": "|".join("0" * 19),
    }
    films = (
        "1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)|"
        f"{flags['animated']}\n"
        f"267|unknown||||{flags['unknown']}\n"
        "543|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Mis%E9rables|"
        f"{flags['none']}\n"
    )
    write(
        tmp_path,
        "latin-1",
        u__data="196\t1\t3\t881250949\n22\t543\t4\t878887116\n196\t267\t5\t881250949\n",
        u__item=films,
        u__user="22|25|M|writer|40206\n196|49|M|writer|T8H1N\n",
    )
    tables = load_builtin("ml-100k", tmp_path)
    assert tables.items.select("item_id", "title", "genres").rows() == [
        (1, "Toy Story (1995)", ["Animation", "Children's", "Comedy"]),
        (267, "unknown", ["unknown"]),
        (543, "Misérables, Les (1995)", []),
    ]
    assert tables.users.drop("user").rows() == [
        (22, 25.0, "M", "writer", "40206"),
        (196, 49.0, "M", "writer", "T8H1N"),
    ]
    assert rows(tables, "user", "item", "time", "rating", "label") == [
        (0, 2, 878887116, 4.0, 1),
        (1, 0, 881250949, 3.0, 0),
        (1, 1, 881250949, 5.0, 1),
    ]
    assert tables.source == "ml-100k"


def test_ml_100k_as_recbole_writes_it(tmp_path):
    names = {
        "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t1\t3\t881250949\n22\t12\t4\t878887116\n",
        "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
        "class:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n"
        "12\tUsual Suspects, The\t1995\tCrime Thriller\n267\tunknown\t\tunknown\n",
        "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "22\t25\tM\twriter\t40206\n196\t49\tM\twriter\t55105\n",
    }
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    tables = load_builtin("ml-100k", tmp_path)
    assert tables.items.select("item_id", "title", "genres").rows() == [
        (1, "Toy Story (1995)", ["Animation", "Children's", "Comedy"]),
        (12, "Usual Suspects, The (1995)", ["Crime", "Thriller"]),
        (267, "unknown", ["unknown"]),
    ]
    assert rows(tables, "user", "item", "rating") == [(0, 1, 4.0), (1, 0, 3.0)]


def test_ml_1m(tmp_path):
    write(
        tmp_path,
        "latin-1",
        ratings__dat="1::1193::5::978300760\n2::73::3::978298413\n",
        movies__dat="73::Misérables, Les (1995)::Drama|Musical\n"
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"
        '2000::"Great" Film: A Story (1999)::Comedy\n',
        users__dat="1::F::1::10::48067\n2::M::56::16::70072-1234\n",
    )
    tables = load_builtin("ml-1m", tmp_path)
    assert tables.items.select("item_id", "title", "genres").rows() == [
        (73, "Misérables, Les (1995)", ["Drama", "Musical"]),
        (1193, "One Flew Over the Cuckoo's Nest (1975)", ["Drama"]),
        (2000, '"Great" Film: A Story (1999)', ["Comedy"]),
    ]
    assert tables.users.select("gender", "age", "occupation", "zip_code").rows() == [
        ("F", "under 18", "K-12 student", "48067"),
        ("M", "56 or older", "self-employed", "70072-1234"),
    ]
    assert rows(tables, "user", "item", "label") == [(1, 0, 0), (0, 1, 1)]


def test_ml_20m(tmp_path):
    write(
        tmp_path,
        ratings__csv="userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,3.0,1112484676\n",
        movies__csv="movieId,title,genres\n2,Jumanji (1995),Adventure|Children|Fantasy\n"
        '29,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",(no genres listed)\n',
    )
    tables = load_builtin("ml-20m", tmp_path)
    assert tables.items.select("title", "genres").rows() == [
        ("Jumanji (1995)", ["Adventure", "Children", "Fantasy"]),
        ("City of Lost Children, The (Cité des enfants perdus, La) (1995)", []),
    ]
    assert rows(tables, "item", "rating", "label") == [(1, 3.0, 0), (0, 3.5, 1)]
    write(tmp_path, ratings__csv="userId,movieId,rating,timestamp\n1,2,6,1112486027\n")
    with pytest.raises(DataError, match="outside the declared range"):
        load_builtin("ml-20m", tmp_path)


def amazon_2018(folder: Path, stem: str, asin: str) -> None:
    review = {
        "overall": 5.0,
        "verified": True,
        "vote": "3",
        "reviewTime": "11 17, 2014",
        "reviewerID": "A1",
        "asin": asin,
        "style": {"Gift Amount:": " 25"},
        "reviewerName": "Ann",
        "reviewText": "Great\ngift",
        "summary": "Five Stars",
        "unixReviewTime": 1416182400,
    }
    bare = {"overall": 3.0, "reviewerID": "A2", "asin": f"{asin}X", "unixReviewTime": 1416268800}
    write_lines(folder / f"{stem}.json.gz", [review, review, {**bare, "verified": False}])
    item = {
        "category": ["Gift Cards", "Gift Cards"],
        "description": ["A card.", ""],
        "title": "Amazon Gift Card",
        "also_buy": ["B005"],
        "brand": "Amazon",
        "rank": "100 in Gift Cards (",
        "price": "$25.00",
        "asin": asin,
        "details": {"Domestic Shipping: ": "yes"},
    }
    mixed = {"asin": "B776", "title": "Book", "description": "[Of 1]", "category": ["A", "B"]}
    script = {
        "asin": "B777",
        "title": "var aPageStart = (new Date()).getTime();",
        "price": "$5 - $9",
    }
    long = {"asin": "B778", "title": "x" * 10_000, "rank": ["1 in A", "2 in B"]}
    write_lines(
        folder / f"meta_{stem}.json.gz", [item, {**item, "title": "again"}, mixed, script, long]
    )


def test_amazon_2018(tmp_path):
    amazon_2018(tmp_path, "Gift_Cards", "B004")
    tables = load_builtin("amazon-2018:gift-cards", tmp_path)
    assert rows(tables, "rating", "label", "reviewText", "summary") == [
        (5.0, 1, "Great\ngift", "Five Stars"),
        (3.0, 0, None, None),
    ]
    assert tables.interactions["time"].to_list() == [1416182400, 1416268800]
    assert "domain" not in tables.interactions.columns
    items = tables.items.drop("item")
    assert set(items.columns) == {
        "item_id",
        *["title", "brand", "price", "category", "description"],
    }
    assert items.select("item_id", "title", "brand", "price", "category", "description").rows() == [
        ("B004", "Amazon Gift Card", "Amazon", 25.0, ["Gift Cards", "Gift Cards"], ["A card."]),
        ("B004X", "B004X", None, None, None, None),
        ("B776", "Book", None, None, ["A", "B"], ["[Of 1]"]),
        ("B777", "B777", None, None, [], []),
        ("B778", "B778", None, None, [], []),
    ]
    notes = " ".join(tables.notes)
    assert "1 repeated interactions are dropped" in notes
    assert "1 interactions whose asin is not in meta_Gift_Cards.json.gz are kept" in notes


def test_amazon_categories_are_domains(tmp_path):
    amazon_2018(tmp_path, "Gift_Cards", "B004")
    amazon_2018(tmp_path, "AMAZON_FASHION", "B100")
    tables = load_builtin("amazon-2018:fashion+gift-cards", tmp_path)
    assert tables.source == "amazon-2018:fashion+gift-cards"
    counts = tables.interactions["domain"].cast(pl.String).value_counts().sort("domain").rows()
    assert counts == [("Amazon Fashion", 2), ("Gift Cards", 2)]
    assert tables.n_items == 7  # the items that both files list are there once
    assert tables.schema.domain == "domain"


def test_amazon_2023(tmp_path):
    review = {
        "rating": 4.0,
        "title": "Pretty",
        "text": "Pretty locket<br />",
        "images": [{"small_image_url": "https://m.media-amazon.com/x.jpg"}],
        "asin": "B00LOPVX74",
        "parent_asin": "B00LOPVX7P",
        "user_id": "AGBF",
        "timestamp": 1578528394489,
        "helpful_vote": 3,
        "verified_purchase": True,
    }
    item = {
        "main_category": "AMAZON FASHION",
        "title": "YUEDGE 5 Pairs Socks",
        "average_rating": 4.6,
        "rating_number": 16,
        "features": ["Soft", "Warm"],
        "description": [],
        "price": 19.99,
        "images": [],
        "videos": [],
        "store": "GiveGift",
        "categories": [],
        "details": {"Item model number": "1"},
        "parent_asin": "B00LOPVX7P",
        "bought_together": None,
    }
    other = {**item, "parent_asin": "B2", "price": None, "title": None, "store": None}
    write_lines(tmp_path / "Amazon_Fashion.jsonl.gz", [review])
    write_lines(tmp_path / "meta_Amazon_Fashion.jsonl.gz", [item, other])
    tables = load_builtin("amazon-2023:fashion", tmp_path)
    assert rows(tables, "time", "rating", "label", "review_text", "review_title") == [
        (1578528394, 4.0, 1, "Pretty locket<br />", "Pretty")
    ]
    columns = ("item_id", "title", "store", "main_category", "price", "features", "categories")
    assert tables.items.select(columns).rows() == [
        ("B00LOPVX7P", item["title"], "GiveGift", "AMAZON FASHION", 19.99, ["Soft", "Warm"], []),
        ("B2", "B2", None, "AMAZON FASHION", None, ["Soft", "Warm"], []),
    ]
    assert not {"average_rating", "rating_number"} & set(tables.items.columns)


def yelp(folder: Path) -> None:
    review = {
        "review_id": "KU_O5udG6zpxOg-VcAEodg",
        "user_id": "mh_-eMZ6K5RLWhZyISBhwA",
        "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw",
        "stars": 3.0,
        "useful": 0,
        "funny": 0,
        "cool": 0,
        "text": "If you decide to eat here",
        "date": "2018-07-07 22:09:11",
    }
    business = {
        "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw",
        "name": "Turning Point of North Wales",
        "address": "1460 Bethlehem Pike",
        "city": "North Wales",
        "state": "PA",
        "postal_code": "19454",
        "latitude": 40.2101961875,
        "longitude": -75.2236385919,
        "stars": 3.0,
        "review_count": 169,
        "is_open": 1,
        "attributes": {"NoiseLevel": "u'average'", "HasTV": "False"},
        "categories": "Restaurants, Breakfast & Brunch, Food",
        "hours": None,
    }
    closed = {**business, "business_id": "b2", "attributes": None, "categories": None}
    write_lines(folder / "yelp_academic_dataset_review.json", [review])
    write_lines(folder / "yelp_academic_dataset_business.json", [business, closed])


def test_yelp(tmp_path):
    yelp(tmp_path)
    tables = load_builtin("yelp", tmp_path)
    assert rows(tables, "time", "rating", "label", "text") == [
        (1531001351, 3.0, 0, "If you decide to eat here")
    ]
    assert set(tables.items.columns) == {"item", "item_id", "title", "city", "state", "categories"}
    assert tables.items["categories"].to_list() == [
        ["Restaurants", "Breakfast & Brunch", "Food"],
        [],
    ]
    assert tables.users.columns == ["user", "user_id"]
    user = {
        "user_id": "mh_-eMZ6K5RLWhZyISBhwA",
        "name": "Walker",
        "review_count": 585,
        "yelping_since": "2007-01-25 16:47:26",
        "useful": 7217,
        "elite": "2007",
        "friends": "NSCy54eWehBJyZdG2iE84w, pe42u7DcCH2QmI81NX-8qA",
        "fans": 267,
        "average_stars": 3.91,
        "compliment_hot": 250,
    }
    write_lines(tmp_path / "yelp_academic_dataset_user.json", [user])
    users = load_builtin("yelp", tmp_path).users
    assert users.columns == ["user", "user_id", "yelping_since"]


def test_s3_rec(tmp_path):
    (tmp_path / "Yelp.txt").write_text("1 1 2 1\n2 3 2\n")
    tables = load_builtin("s3-rec:yelp", tmp_path)
    order = tables.interactions.sort("user", "time").select("user", "item", "label").rows()
    assert order == [(0, 0, 1), (0, 1, 1), (0, 0, 1), (1, 2, 1), (1, 1, 1)]
    assert tables.titles == ["1", "2", "3"]
    assert not tables.schema.is_clock
    assert any("Yelp.txt differs from the file" in note for note in tables.notes)
    about = [
        {"id": 1, "title": "The Great Greek", "categories": ["Diners", "Greek"]},
        {"id": 2, "title": "Sal's Pizza", "categories": []},
        {"id": 3, "title": "Bakery", "categories": ["Food"]},
    ]
    write_lines(tmp_path / "Yelp_items.jsonl", about)
    tables = load_builtin("s3-rec:yelp", tmp_path)
    assert tables.titles == ["The Great Greek", "Sal's Pizza", "Bakery"]
    assert tables.items["categories"].to_list() == [["Diners", "Greek"], [], ["Food"]]
    (tmp_path / "Beauty.txt").write_text("1 1 2\n")
    texts = [{"id": n, "asin": f"B{n}", "text_id": f"lacquer {n}"} for n in (1, 2)]
    write_lines(tmp_path / "Beauty_items.jsonl", texts)
    assert load_builtin("s3-rec:beauty", tmp_path).titles == ["lacquer 1", "lacquer 2"]
