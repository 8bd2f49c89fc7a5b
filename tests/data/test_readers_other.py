import gzip

import polars as pl
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, disable_progress_bars

from tastemaker.data.readers import open_table
from tastemaker.errors import DataError, MissingError

disable_progress_bars()
SEQUENCES = "1 1 2 3 4 5\n2 6 7 8 9\n\n3 4 12\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_sequences_of_s3_rec(tmp_path):
    table = open_table(write(tmp_path / "Beauty.txt", SEQUENCES))
    assert table.columns() == ["user_id", "item_id", "position"]
    frame = table.read(typed=True)
    assert frame.schema == dict.fromkeys(table.columns(), pl.Int64)
    assert frame.filter(user_id=2).rows() == [(2, 6, 0), (2, 7, 1), (2, 8, 2), (2, 9, 3)]
    text = table.read(["item_id", "user_id"])
    assert text.rows()[-1] == ("3", "12")
    assert table.places([0, 5, 10]) == [
        "Beauty.txt, line 1, item 1",
        "Beauty.txt, line 2, item 1",
        "Beauty.txt, line 4, item 2",
    ]


def test_sequences_lose_nothing_and_name_lonely_users(tmp_path):
    packed = write(tmp_path / "s.txt.gz", gzip.compress(b"u1\t007 8\nu2  9 10 11\r\n"))
    rows = open_table(packed, format="sequences").read(typed=True)
    assert rows.schema["item_id"] == pl.String
    assert rows.rows()[0] == ("u1", "007", 0)
    lonely = write(tmp_path / "lonely.txt", "1 2 3\n4\n5 6\n7\n")
    with pytest.raises(DataError) as raised:
        open_table(lonely, format="sequences").read()
    assert "lonely.txt, line 2: user '4' has no items; line 4: user '7'" in str(raised.value)


@pytest.mark.parametrize(
    "text", ["1 2 3\n1 4\n", "1 2 3\n2 3 4\n", "a,b c\nd,e f g\n", "1::2 3\n2::4\n", "1\n2 3\n"]
)
def test_other_text_is_not_taken_for_sequences(tmp_path, text):
    with pytest.raises(DataError, match=r"format: sequences"):
        open_table(write(tmp_path / "x.txt", text))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    features = Features({"u": Value("string"), "n": Value("int32"), "c": ClassLabel(names=["a"])})
    whole = Dataset.from_dict({"u": ["007", "8", "9"], "n": [1, None, 3], "c": [0, 0, 0]}, features)
    whole.save_to_disk(folder / "alone")
    DatasetDict(train=whole, test=whole.select([2, 0])).save_to_disk(folder / "parts")
    return folder


def test_saved_data_sets(saved):
    alone = open_table(saved / "alone")
    assert alone.read().rows() == [("007", 1, 0), ("8", None, 0), ("9", 3, 0)]
    assert alone.columns() == ["u", "n", "c"]
    assert alone.places([1]) == ["alone, row 2"]
    assert {path.suffix for path in alone.files} == {".arrow", ".json"}

    inside = open_table(dataset=Dataset.from_dict({"u": ["007"], "n": [1]}))
    assert (inside.name, inside.read().rows(), inside.files) == ("data set", [("007", 1)], ())
    both = DatasetDict(train=Dataset.from_dict({"u": ["a"]}), test=Dataset.from_dict({"u": ["b"]}))
    assert open_table(dataset=both).read().rows() == [("a", "train"), ("b", "test")]
    assert open_table(dataset=both, part="test").read().rows() == [("b",)]

    parts = open_table(saved / "parts", format="dataset")
    assert parts.columns() == ["u", "n", "c", "split"]
    assert parts.read(["split", "u"]).rows()[2:] == [("9", "train"), ("9", "test"), ("007", "test")]
    assert parts.read(["n"]).height == 5
    assert parts.places([3, 0]) == ["parts test, row 1", "parts train, row 1"]

    test = open_table(saved / "parts", part="test")
    assert test.read().rows() == [("9", 3, 0), ("007", 1, 0)]
    with pytest.raises(DataError, match=r"no part 'valid'.\s+parts: train, test"):
        open_table(saved / "parts", part="valid").read()


def test_folders_and_ids_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    write(folder / "README.md", "# A card\n")
    frame = pl.DataFrame({"u": ["007"], "l": [["x", "y"]], "split": ["own"]})
    for part in ("train", "test"):
        frame.write_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")
    table = open_table(dataset=str(folder))
    assert table.read().rows() == [("007", ["x", "y"], "own")] * 2
    assert table.columns() == ["u", "l", "split"]
    with pytest.raises(MissingError, match=r"load_dataset\('nobody/nothing', 'Tiny'\)"):
        open_table(dataset="nobody/nothing", subset="Tiny").read()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be read as a data set"):
        open_table(tmp_path / "empty", format="dataset").columns()
