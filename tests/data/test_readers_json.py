import gzip
import json

import polars as pl
import pytest

from tastemaker.data.readers import open_table
from tastemaker.errors import DataError

# In the exact formats of the published files.
AMAZON_2018 = (
    '{"overall": 5.0, "vote": "2", "verified": true, "reviewTime": "02 28, 2014", '
    '"reviewerID": "A1D4G1SNUZWQOT", "asin": "0000007106", "style": {"Size:": " Large"}, '
    '"reviewerName": "Tracy", "reviewText": "Exactly what I needed.", "summary": "perfect", '
    '"unixReviewTime": 1393545600}\n'
    '{"overall": 2.0, "verified": false, "reviewTime": "09 25, 2017", '
    '"reviewerID": "A3IJ8Q1T8ZS7V7", "asin": "7106116521", "style": {"Color:": 7}, '
    '"reviewText": "Agh", "summary": "meh", "unixReviewTime": 1506297600, '
    '"image": ["https://x/a.jpg"]}\n'
)
AMAZON_2023 = (
    '{"rating": 5.0, "title": "Such", "text": "Nice\\nhair", "images": [], "asin": "B00YQ6X8EO", '
    '"parent_asin": "B00YQ6X8EO", "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", '
    '"timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": true}\n'
)
AMAZON_2023_META = (
    '{"main_category": "All Beauty", "title": "Spray", "average_rating": 4.8, "rating_number": 10, '
    '"features": [], "description": [], "price": null, "images": [{"thumb": "a", "hi_res": null}], '
    '"videos": [], "store": "Howard", "categories": ["Beauty", "Hair"], '
    '"details": {"Package Dimensions": "7.1 x 5.5", "UPC": "617390882781"}, '
    '"parent_asin": "B01CUPMQZE", "bought_together": null}\n'
    '{"title": "Comb", "price": 12.5, "categories": [], "details": {}, "parent_asin": "076146"}\n'
    '{"title": "Soap", "price": "—", "categories": ["Bath"], "parent_asin": "B07"}\n'
)
YELP_BUSINESS = (
    '{"business_id":"Pns2l4eNsfO8kk83dixA6A","name":"Abby Rappoport","city":"Santa Barbara",'
    '"latitude":34.4266787,"stars":5.0,"review_count":7,"is_open":0,'
    '"attributes":{"ByAppointmentOnly":"True"},"categories":"Doctors, Health","hours":null}\n'
)
YELP_REVIEW = (
    '{"review_id":"KU_O5udG6zpxOg-VcAEodg","user_id":"mh_-eMZ6K5RLWhZyISBhwA",'
    '"business_id":"XQfwVwDr-v0ZS3_CbbE5Xw","stars":3.0,"useful":0,"funny":0,"cool":0,'
    '"text":"If you decide \\u00e9","date":"2018-07-07 22:09:11"}\n'
)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_amazon_2018(tmp_path):
    table = open_table(write(tmp_path / "Gift.json.gz", gzip.compress(AMAZON_2018.encode())))
    frame = table.read(["asin", "overall", "unixReviewTime", "style", "image", "vote", "absent"])
    assert frame.schema == {
        "overall": pl.Float64,
        "vote": pl.String,
        "asin": pl.String,
        "style": pl.String,
        "unixReviewTime": pl.Int64,
        "image": pl.List(pl.String),
    }
    assert frame["asin"].to_list() == ["0000007106", "7106116521"]
    assert frame["style"].to_list() == ['{"Size:": " Large"}', '{"Color:": 7}']
    assert frame["image"].to_list() == [None, ["https://x/a.jpg"]]
    assert table.columns()[:3] == ["overall", "vote", "verified"]
    assert table.places([1]) == ["Gift.json.gz, line 2"]


def test_amazon_2023(tmp_path):
    review = open_table(write(tmp_path / "All_Beauty.jsonl", AMAZON_2023)).read()
    assert review["timestamp"].to_list() == [1588687728923]
    assert review["rating"].dtype == pl.Float64
    meta = open_table(write(tmp_path / "meta_All_Beauty.jsonl", AMAZON_2023_META)).read()
    assert meta["price"].to_list() == [None, "12.5", "—"]
    assert meta["parent_asin"].to_list() == ["B01CUPMQZE", "076146", "B07"]
    assert meta["categories"].to_list() == [["Beauty", "Hair"], [], ["Bath"]]
    assert json.loads(meta["details"][0])["UPC"] == "617390882781"
    assert json.loads(meta["images"][0]) == [{"thumb": "a", "hi_res": None}]
    assert meta["main_category"].to_list() == ["All Beauty", None, None]


def test_yelp(tmp_path):
    business = open_table(write(tmp_path / "business.json", YELP_BUSINESS)).read()
    assert business.select("stars", "is_open", "categories").row(0) == (5.0, 0, "Doctors, Health")
    review = open_table(write(tmp_path / "review.json", YELP_REVIEW)).read(["date", "text"])
    assert review.row(0) == ("If you decide é", "2018-07-07 22:09:11")


LATE = '{"x": 1, "s": "007", "l": ["a"]}\n' * 1200


@pytest.mark.parametrize(
    ("name", "late", "dtype", "last"),
    [
        ("x", "2.5", pl.Float64, 2.5),
        ("x", '"—"', pl.String, "—"),
        ("x", '"007"', pl.String, "007"),
        ("x", "true", pl.String, "true"),
        ("x", "null", pl.Int64, None),
        ("x", "9223372036854775807", pl.Int64, 2**63 - 1),
        ("x", "9223372036854775808", pl.String, "9223372036854775808"),
        ("x", "1" + "0" * 50, pl.String, "1" + "0" * 50),
        ("x", '{"a": [1]}', pl.String, '{"a": [1]}'),
        ("s", "7", pl.String, "7"),
        ("s", '["é"]', pl.String, '["é"]'),
        ("l", '["b", null]', pl.List(pl.String), ["b", None]),
        ("l", '"b"', pl.String, "b"),
        ("l", "[1]", pl.List(pl.String), ["1"]),
        ("new", '"z"', pl.String, "z"),
        ("new", "8", pl.String, "8"),
    ],
)
def test_a_late_change_of_type_loses_nothing(tmp_path, name, late, dtype, last):
    path = write(tmp_path / "x.jsonl", LATE + f'{{"{name}": {late}}}\n')
    column = open_table(path).read([name, "s"])[name]
    first = {"x": 1, "s": "007", "l": ["a"]}.get(name)
    if dtype == pl.String and name != "s" and first is not None:
        first = json.dumps(first)
    assert column.dtype == dtype
    assert (column[0] if name != "l" or dtype == pl.String else column[0].to_list()) == first
    assert column.to_list()[-1] == last


def test_whole_numbers_beside_fractions_stay_exact(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"x": 0.5}\n{"x": 9007199254740993}\n')
    assert open_table(path).read()["x"].to_list() == ["0.5", "9007199254740993"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n\n{"a": \n', "x.jsonl, line 3: not valid JSON"),
        ('{"a": 1}\n[1]\n', "x.jsonl, line 2: not an object"),
        ('{"a": 1}\n"b"\n', "x.jsonl, line 2: not an object"),
        ("{'a': 1}\n", "x.jsonl, line 1: not valid JSON"),
        ('{"a": 1}{"a": 2}\n', "x.jsonl, line 1: not valid JSON"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', "x.jsonl, line 2: not UTF-8 text"),
        ('[{"a": 1}, 3]', "x.jsonl, row 2: not an object"),
        ('[{"a": 1}, ', "x.jsonl: not valid JSON"),
        ("\n\n", "x.jsonl: has no rows"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_malformed_lines_are_named(tmp_path, content, message, late):
    if late and not message.startswith("x.jsonl, line"):
        return  # there is no line to be named
    content = content.encode() if isinstance(content, str) else content
    path = write(tmp_path / "x.jsonl", (b'{"a": 1}\n' * 1200 if late else b"") + content)
    if late:
        message = message.replace("line ", "line 120")
    with pytest.raises(DataError) as raised:
        open_table(path).read(["a"])
    assert message in str(raised.value)


def test_arrays_blank_lines_and_byte_order_marks(tmp_path):
    array = open_table(write(tmp_path / "a[1].json", '\n[{"a": 1},\n {"a": "x"}]'))
    assert array.read()["a"].to_list() == ["1", "x"]
    assert array.places([1]) == ["a[1].json, row 2"]
    lines = open_table(write(tmp_path / "b[1].json", '\ufeff{"a": 1}\n\n{"a": 2}\n\n'))
    assert lines.read()["a"].to_list() == [1, 2]
    assert lines.places([1, 0]) == ["b[1].json, line 3", "b[1].json, line 1"]


def test_shards_may_lack_fields(tmp_path):
    write(tmp_path / "1.jsonl", '{"a": 1, "b": "x"}\n')
    write(tmp_path / "2.jsonl", '{"a": 2.5, "c": "y"}\n')
    table = open_table(tmp_path)
    assert table.columns() == ["a", "b", "c"]
    assert table.read().rows() == [(1.0, "x", None), (2.5, None, "y")]
    assert table.read(["c"]).to_series().to_list() == [None, "y"]
    assert table.places([1]) == ["2.jsonl, line 1"]


def test_the_slow_way_gives_what_the_fast_one_gives(tmp_path, monkeypatch):
    monkeypatch.setattr("tastemaker.data.readers.jsonl._CHUNK", 2)
    rows = '{"n": 1, "f": 0.5, "l": []}\n' * 2 + '{"l": [{"a": 1}]}\n{"f": 2}\n{"w": "x"}\n'
    table = open_table(write(tmp_path / "x.jsonl", rows))
    fast = table.read()
    monkeypatch.setattr(type(table), "_read_fast", lambda *_: None)
    assert table.read().equals(fast)
    assert fast.schema == {"n": pl.Int64, "f": pl.Float64, "l": pl.String, "w": pl.String}
    assert fast["l"].to_list() == ["[]", "[]", '[{"a": 1}]', None, None]
