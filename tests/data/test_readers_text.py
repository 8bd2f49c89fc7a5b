import gzip

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tastemaker.data.readers import open_table
from tastemaker.errors import DataError

ITEMS = 'item_id\ttitle\tyear\na\t"Alien\nagain"\t1979\nb\tBrazil\t\n'
MOVIES = '1::Toy Story (1995)::Animation|Comedy\n3::"Great" Misérables, Les::Drama\n'


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_cells_are_text_and_empty_ones_null(tmp_path):
    table = open_table(write(tmp_path / "items.tsv", ITEMS))
    assert table.read().rows() == [("a", "Alien\nagain", "1979"), ("b", "Brazil", None)]
    assert table.read(["year", "item_id"]).rows() == [("a", "1979"), ("b", None)]
    upper = write(tmp_path / "BOM.CSV", b"\xef\xbb\xbfuser_id,x\r\n1,2\r\n\r\n\r\n")
    assert open_table(upper).read().to_dicts() == [{"user_id": "1", "x": "2"}]
    only = write(tmp_path / "only.csv", "a,b\n\n\n")
    assert open_table(only).read().is_empty()
    short = write(tmp_path / "short.csv", "a,b,c\n1\n1,2,3\n")
    assert open_table(short).read(["c"]).to_series().to_list() == [None, "3"]


@pytest.mark.parametrize("packed", [False, True])
def test_lines_are_counted_as_an_editor_counts_them(tmp_path, packed):
    text = ("\ufeff" + ITEMS + "\nb\tBrazil\t\n\n").encode()
    path = write(tmp_path / "items.tsv.gz", gzip.compress(text) if packed else text)
    table = open_table(path)
    assert table.columns() == ["item_id", "title", "year"]
    assert table.read()["item_id"].to_list() == ["a", "b", None, "b"]
    # The title of line 2 spans two lines; line 5 is blank.
    lines = [2, 4, 5, 6]
    assert table.places(range(4)) == [f"items.tsv.gz, line {line}" for line in lines]


def test_a_blank_tail_is_no_row_whatever_is_read(tmp_path):
    table = open_table(write(tmp_path / "x.csv", "a,b\n1,2\n,3\n\n\n"))
    assert table.read(["a"]).height == table.read().height == 2


def test_recbole_headers_name_and_type_columns(tmp_path):
    header = "item_id:token\tmovie_title:token_seq\trelease_year:float\n"
    path = write(tmp_path / "ml.item", header + '1\t"Toy" Story\t1995\n2\t12" disc\t\n')
    table = open_table(path)
    assert table.columns() == ["item_id", "movie_title", "release_year"]
    assert table.hints["movie_title"] == "token_seq"
    assert table.read().rows() == [("1", '"Toy" Story', "1995"), ("2", '12" disc', None)]
    assert table.places([1]) == ["ml.item, line 3"]


def test_movielens_files(tmp_path):
    path = write(tmp_path / "movies.dat", MOVIES.encode("latin-1"))
    options = {"separator": "::", "header": ["item_id", "title", "genres"]}
    table = open_table(path, encoding="latin-1", **options)
    assert table.read()["title"].to_list() == ["Toy Story (1995)", '"Great" Misérables, Les']
    assert table.places([1]) == ["movies.dat, line 2"]
    # In the wrong encoding the bad characters are marked, for the checks to name.
    assert open_table(path, **options).read()["title"][1] == '"Great" Mis\ufffdrables, Les'
    old = write(tmp_path / "u.item", '1|"Toy" Story||0\n2|"GoldenEye"||1\n')
    films = open_table(old, separator="|", header=["i", "t", "d", "f"])
    assert films.read(["t"])["t"].to_list() == ['"Toy" Story', '"GoldenEye"']
    data = write(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    rated = open_table(data, separator="\t", header=["u", "i", "r", "t"]).read(typed=True)
    assert rated.row(0) == (196, 242, 3, 881250949)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", "x.csv: the file is empty."),
        ("x.csv", "\n\n", "x.csv, empty CSV"),
        ("x.csv", "a,b,a\n1,2,3\n", "x.csv: column 'a' is there twice"),
        ("x.csv", "a,b\n1,2\n1,2,3\n", "x.csv, line 3: 3 cells, the header has 2"),
        ("x.csv", 'a,b\n1,2\n1,"2\n3"\n1,2,3\n', "x.csv, line 5: 3 cells, the header has 2"),
        ("x.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-12], "x.csv.gz: cannot be read"),
        ("x.tsv", 'a\tb\n1\t"x\n2\ty\n', "x.tsv, line 2: unexpected end of data"),
        ("x.csv", 'a,b\n1,"x" y\n', "x.csv, line 2: ',' expected after '\"'"),
        ("x.parquet", "PAR1", "x.parquet: cannot be read as Parquet"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as raised:
        open_table(path).read(typed=True)
    assert f"{tmp_path}/{message}" in str(raised.value)


def test_what_is_left_out_is_still_checked(tmp_path):
    wide = write(tmp_path / "wide.csv", "id,title,year\n1,Alien, the,1979\n")
    broken = write(tmp_path / "lost.csv", 'id,title\n1,2\n2,7" x\n3,4\n5,6\n')
    with pytest.raises(DataError, match=r"wide.csv, line 2: 4 cells"):
        open_table(wide).read(["id"])
    assert open_table(broken).read(["id"])["id"].to_list() == ["1", "2", "3", "5"]
    assert open_table(broken).read()["title"].to_list() == ["2", '7" x', "4", "6"]


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        (["1", "-20", "", "0"], pl.Int64),
        (["1.0", "-20.5", "", "0.5"], pl.Float64),
        (["999999999999999999", "1"], pl.Int64),
        (["9999999999999999999", "1"], pl.String),
        (["007", "7"], pl.String),
        (["00", "0"], pl.String),
        (["+5", "5"], pl.String),
        ([" 5", "5"], pl.String),
        (["-0", "0"], pl.String),
        (["1e5", "5"], pl.String),
        (["4", "4.5"], pl.String),
        (["4.50", "4.5"], pl.String),
        (["nan", "4.5"], pl.String),
        ([".5", "5.0"], pl.String),
        (["true", "false"], pl.String),
        (["2015-01-01", "2016-01-01"], pl.String),
        (['"007"', "7"], pl.String),
        (['"7"', "8"], pl.Int64),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_numbers_are_typed_only_when_nothing_is_lost(tmp_path, cells, dtype, late):
    plain = ["1.5"] * 1500 if cells[0].startswith(("1.", ".5", "4.", "nan")) else ["1"] * 1500
    rows = [*(plain if late else []), *cells]
    text = "user,x\n" + "".join(f"{row},{cell}\n" for row, cell in enumerate(rows))
    table = open_table(write(tmp_path / "x.csv", text))
    frame = table.read(typed=True)
    assert frame["x"].dtype == dtype
    assert frame.select(pl.all().cast(pl.String)).equals(table.read())


NUMBERS = st.from_regex(r"[ +-]?[0-9]{1,20}(\.[0-9]{0,2})?(e[0-9])?", fullmatch=True)
CELLS = st.one_of(
    st.integers(-(10**19), 10**19).map(str),
    st.decimals(-100, 100, places=1).map(str),
    NUMBERS,
    st.text(st.characters(codec="utf-8", exclude_characters='\r\n",'), max_size=3),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["1", "2.5"]), CELLS, CELLS), min_size=1, max_size=5),
    st.sampled_from([0, 1100]),
)
def test_typed_cells_say_what_text_says(tmp_path, rows, before):
    head = "a,b,c\n" + "1.5,1,2.5\n" * before
    path = write(tmp_path / "x.csv", head + "".join(",".join(row) + "\n" for row in rows))
    table = open_table(path)
    text = table.read()
    assert table.read(typed=True).select(pl.all().cast(pl.String)).equals(text)
    assert table.read(["b"], typed=True)["b"].cast(pl.String).equals(text["b"])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("typed", [True, False])
def test_what_is_not_text_is_marked_in_its_cell(tmp_path, pack, typed):
    name = "x.csv" if pack is bytes else "x.csv.gz"
    table = open_table(write(tmp_path / name, pack(b"a,b\n1,\xe9t\xe9\n2,ok\n")))
    assert table.read(typed=typed)["b"].to_list() == ["\ufffdt\ufffd", "ok"]
