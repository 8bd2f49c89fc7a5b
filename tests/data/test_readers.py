import gzip

import polars as pl
import pytest

from tastemaker.data.readers import read_frame, read_tables
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.errors import DataError

SCHEMA = Schema("user_id", "item_id", "time", "rating", LabelRule("rating", ">", 3.0), "title")
RATINGS = "user_id,item_id,time,rating\n2,b,10,4\n10,a,20,1.5\n"
ITEMS = 'item_id\ttitle\tyear\na\t"Alien\nagain"\t1979\nb\tBrazil\t\n'


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_text_files_stay_text_and_parquet_keeps_types(tmp_path):
    frame = read_frame(write(tmp_path / "ratings.csv", RATINGS))
    assert frame.rows()[0] == ("2", "b", "10", "4")
    assert read_frame(write(tmp_path / "items.tsv", ITEMS))["title"][0] == "Alien\nagain"
    pl.DataFrame({"rating": [1.5]}).write_parquet(tmp_path / "ratings.parquet")
    assert read_frame(tmp_path / "ratings.parquet").schema == {"rating": pl.Float64}
    upper = write(tmp_path / "BOM.CSV", b"\xef\xbb\xbfuser_id,x\r\n1,2\r\n\r\n\r\n")
    assert read_frame(upper).to_dicts() == [{"user_id": "1", "x": "2"}]


def test_tables_from_files_are_the_tables_of_typed_frames(tmp_path):
    ratings = write(tmp_path / "ratings.csv", RATINGS)
    items = write(tmp_path / "items.tsv", ITEMS)
    tables = read_tables(ratings, items=items, schema=SCHEMA)
    assert tables.source == "ratings"
    assert tables.users["user_id"].to_list() == [2, 10]
    assert tables.titles == ["Alien\nagain", "Brazil"]
    assert tables.items["year"].to_list() == ["1979", None]

    typed = {"user_id": [2, 10], "item_id": ["b", "a"], "time": [10, 20], "rating": [4.0, 1.5]}
    pl.DataFrame(typed).write_parquet(tmp_path / "ratings.parquet")
    same = read_tables(tmp_path / "ratings.parquet", items=items, schema=SCHEMA)
    assert same.interactions.equals(tables.interactions)
    assert same.users.equals(tables.users)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.json", "{}", "ratings.json: '.json' is not a known kind of table."),
        ("ratings", "{}", "ratings: 'ratings' is not a known kind of table."),
        ("ratings.csv.gz", gzip.compress(b"a,b"), "'.gz' is not a known kind of table."),
        ("ratings.csv", "", "ratings.csv: the file is empty."),
        ("ratings.csv", "\n\n", "ratings.csv, empty CSV"),
        ("ratings.csv", "a,b\n1,2\n1,2,3\n", "ratings.csv, line 3: 3 cells, the header has 2"),
        ("ratings.csv", b"a,b\n1,\xe9\n", "ratings.csv, line 2: not UTF-8 text"),
        ("ratings.tsv", 'a\tb\n1\t"x\n2\ty\n', "ratings.tsv, could not parse"),
        ("ratings.parquet", "PAR1", "ratings.parquet: cannot be read as Parquet"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as raised:
        read_frame(path)
    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_known_kinds_are_listed_and_missing_files_named(tmp_path):
    with pytest.raises(DataError, match=r"files ending in \.csv, \.tsv, \.parquet"):
        read_frame(tmp_path / "x.xlsx")
    with pytest.raises(DataError, match="there is no such file"):
        read_frame(tmp_path / "x.csv")


def test_a_header_without_rows(tmp_path):
    ratings = write(tmp_path / "ratings.csv", "user_id,item_id,time,rating\n")
    with pytest.raises(DataError, match=r"ratings\.csv: has no rows"):
        read_tables(ratings, schema=SCHEMA)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    ratings = write(tmp_path / "ratings.csv", RATINGS)
    items = write(tmp_path / "items.tsv", ITEMS + "\nb\tBrazil\t\n")
    with pytest.raises(DataError) as raised:
        read_tables(ratings, items=items, schema=SCHEMA)
    message = str(raised.value)
    assert "2 problem(s)" in message
    # The title of line 2 spans two lines; line 5 is blank.
    assert "items.tsv, line 5, column 'item_id': an empty cell is not an id" in message
    assert "items.tsv, line 6, column 'item_id': 'b' is there twice" in message
