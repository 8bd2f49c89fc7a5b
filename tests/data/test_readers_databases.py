import sqlite3
import sys

import polars as pl
import pytest

from tastemaker.data.readers import open_table
from tastemaker.errors import DataError, MissingError

SQL = "SELECT * FROM ratings ORDER BY rating DESC -- best first"


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop é?#.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE ratings (user_id TEXT, item_id, rating REAL, n INTEGER)")
    rows = [("007", 5, 1.5, 2**60), ("8", "x", 4.0, None), ("9", None, 3.0, 1)]
    connection.executemany("INSERT INTO ratings VALUES (?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return path


def test_sqlite(shop):
    table = open_table(database=str(shop), query=SQL)
    assert table.columns() == ["user_id", "item_id", "rating", "n"]
    frame = table.read()
    assert frame.rows() == [("8", "x", 4.0, None), ("9", None, 3.0, 1), ("007", "5", 1.5, 2**60)]
    assert table.read(["n", "user_id"], typed=True).schema == {"user_id": pl.String, "n": pl.Int64}
    assert table.places([2]) == ["shop é?#.db (query), row 3"]
    assert table.files == (shop,)
    nothing = open_table(database=str(shop), query="SELECT * FROM ratings WHERE rating > 9;")
    assert nothing.read().is_empty()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM nope", "no such table: nope"),
        ("SELEC 1", "syntax error"),
        ("DELETE FROM ratings", "readonly database"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT rating, rating FROM ratings", "gives the column 'rating' twice"),
        ("PRAGMA user_version = 3", "readonly|no table"),
        ("  ", "query: is empty"),
    ],
)
def test_queries_that_cannot_be(shop, query, message):
    with pytest.raises(DataError, match=message):
        open_table(database=str(shop), query=query).read()


def test_files_that_are_no_databases(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        open_table(database=str(tmp_path / "wrong.db"), query="SELECT 1")
    (tmp_path / "notes.db").write_text("some words")
    with pytest.raises(DataError, match="neither a SQLite nor a DuckDB file"):
        open_table(database=str(tmp_path / "notes.db"), query="SELECT 1")
    assert not (tmp_path / "wrong.db").exists()


def test_duckdb(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "shop.db"
    with duckdb.connect(str(path)) as connection:
        connection.sql("CREATE TABLE ratings AS SELECT range AS user_id, 'é' AS item FROM range(3)")
    query = "SELECT item, user_id, SUM(1) AS n FROM ratings GROUP BY ALL ORDER BY user_id DESC;"
    table = open_table(database=str(path), query=query)
    assert table.columns() == ["item", "user_id", "n"]
    assert table.read(["n", "user_id"]).rows() == [(2, 1), (1, 1), (0, 1)]
    assert table.read().schema == {"item": pl.String, "user_id": pl.Int64, "n": pl.Int64}
    for wrong, message in [
        ("SELECT * FROM nope", "nope does not exist"),
        ("DROP TABLE ratings", "read-only"),
        ("-- nothing", "gives no table"),
    ]:
        with pytest.raises(DataError, match=message):
            open_table(database=str(path), query=wrong).read()
    (tmp_path / "x.csv").write_text("user_id,item_id\n007,b\n")
    csv = f"SELECT * FROM read_csv('{tmp_path}/x.csv', all_varchar=true)"
    assert open_table(database=":memory:", query=csv).read().rows() == [("007", "b")]


def test_duckdb_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingError, match=r"pip install 'tastemaker\[duckdb\]'"):
        open_table(database=":memory:", query="SELECT 1")
