import polars as pl
import pytest

from tastemaker.data.readers import open_table
from tastemaker.errors import DataError

RATINGS = "user_id,item_id,rating\n2,b,4\n10,a,1.5\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_parquet_keeps_its_types_and_counts_rows(tmp_path):
    frame = pl.DataFrame({"u": [1, 2], "x": [1.5, None], "t": ["a", "b"]})
    frame.write_parquet(tmp_path / "r[1].parquet")
    table = open_table(tmp_path / "r[1].parquet")
    assert table.columns() == ["u", "x", "t"]
    assert table.read().equals(frame)
    assert table.read(["t", "u", "absent"]).equals(frame.select("u", "t"))
    assert table.read(["absent"]).columns == ["u"]
    assert table.places([0, 4]) == ["r[1].parquet, row 1", "r[1].parquet, row 5"]
    assert table.files == (tmp_path / "r[1].parquet",)
    assert table.hints == {}


@pytest.mark.parametrize("form", ["glob", "folder", "list"])
def test_shards_are_one_table_in_the_order_of_their_names(tmp_path, form):
    folder = tmp_path / "shards"
    write(folder / "part-2.csv", "item_id,user_id\nx,3\n\n\n")
    write(folder / "part-1.csv", "user_id,item_id\n1,007\n2,8\n")
    write(folder / "_SUCCESS", "")
    write(folder / ".part-1.csv.crc", "x")
    path = {
        "glob": folder / "part-*.csv",
        "folder": folder,
        "list": [folder / "part-1.csv", folder / "part-?.csv"],
    }[form]
    table = open_table(path)
    assert table.columns() == ["user_id", "item_id"]
    assert table.places([2, 0]) == ["part-2.csv, line 2", "part-1.csv, line 2"]
    frame = table.read(typed=True)
    assert frame.rows() == [("1", "007"), ("2", "8"), ("3", "x")]  # 007 keeps part-1 as text
    assert table.places([2, 0]) == ["part-2.csv, line 2", "part-1.csv, line 2"]
    assert table.read(["item_id"]).columns == ["item_id"]
    assert [path.name for path in table.files] == ["part-1.csv", "part-2.csv"]
    assert table.name == {"glob": "part-*.csv", "folder": "shards"}.get(
        form, "part-1.csv and 1 more"
    )


def test_shards_of_different_types_lose_nothing(tmp_path):
    pl.DataFrame({"a": [1], "b": [2], "c": [2**60], "d": ["x"]}).write_parquet(
        tmp_path / "1.parquet"
    )
    pl.DataFrame({"a": [2.5], "b": [None], "c": [0.5], "d": [7]}).write_parquet(
        tmp_path / "2.parquet"
    )
    frame = open_table(tmp_path).read()
    assert frame.rows() == [(1.0, 2, "1152921504606846976", "x"), (2.5, None, "0.5", "7")]
    pl.DataFrame({"a": [[1]], "b": [1], "c": [1], "d": ["x"]}).write_parquet(tmp_path / "3.parquet")
    with pytest.raises(DataError, match=r"3\.parquet: column 'a' holds List\(Int64\)"):
        open_table(tmp_path).read()


def test_shards_with_other_columns_are_named(tmp_path):
    write(tmp_path / "a.csv", RATINGS)
    write(tmp_path / "b.csv", "user_id,item_id,stars\n1,2,3\n")
    with pytest.raises(DataError) as raised:
        open_table(tmp_path / "*.csv").read()
    message = "b.csv: has other columns than a.csv: it lacks rating and adds stars."
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one source; nothing says where it is"),
        ({"path": "x.csv", "dataset": "y"}, "path and dataset are all given"),
        ({"path": "x.xlsx"}, r"'.xlsx' is not a known kind of table.\s+files ending in .csv, .tsv"),
        ({"path": "ratings"}, "'ratings' is not a known kind of table"),
        ({"path": "absent.csv"}, "there is no such file"),
        ({"path": "absent-*.csv"}, "no file matches"),
        ({"path": "~/absent/x.csv"}, "^/.*absent/x.csv: there is no such file"),
        ({"path": "r.parquet", "separator": ";"}, "separator: ';' says nothing about a parquet"),
        ({"path": "r.jsonl", "header": ["a"]}, "header: .* says nothing about a jsonl file"),
        ({"path": "r.jsonl", "encoding": "latin-1"}, "encoding: .* says nothing about a jsonl"),
        ({"path": "r.csv", "query": "SELECT 1"}, "query: 'SELECT 1' says nothing about a path"),
        ({"path": "r.csv", "part": "train"}, "part: 'train' says nothing about a path"),
        ({"dataset": "x", "header": ["a"]}, "header: .* says nothing about a data set"),
        ({"database": "x", "query": "SELECT 1", "format": "csv"}, "format: 'csv' says nothing"),
        ({"path": "r.csv", "format": "dataset"}, "r.csv: there is no such folder"),
        ({"path": "r.csv", "format": "excel"}, "format: 'excel' is unknown"),
        ({"path": "r.csv", "encoding": "klingon"}, "encoding: 'klingon' is unknown"),
        ({"path": "r.csv", "encoding": "utf-16"}, "cannot be read line by line"),
        ({"path": "notes.txt"}, "what separates the cells of a .txt file is not known"),
        ({"path": "."}, "holds csv and jsonl and parquet files"),
        ({"path": "empty"}, "empty: holds no tables"),
    ],
)
def test_what_cannot_be_opened(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    for name in ("r.csv", "r.jsonl", "r.parquet", "notes.txt"):
        write(tmp_path / name, "some words, and more\nothers\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        open_table(**options)
