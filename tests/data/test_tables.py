from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.numbering import in_order
from tastemaker.data.schema import LabelRule, Policies, Schema, parse_label
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError, UserError

SCHEMA = Schema("userId", "movieId", "when", "stars", LabelRule("stars", ">", 3.0), "name")
NAMES = {"interactions": "ratings.csv", "items": "movies.csv", "users": "people.csv"}
KEEP = Policies(duplicates="keep")
# Blanks around an id do not count, so they are not generated.
CHARACTERS = st.characters(exclude_categories=("C", "Z"), exclude_characters="\ufffd")
ID_TEXT = st.text(CHARACTERS, min_size=1, max_size=6)


def ratings(**columns):
    return pl.DataFrame(
        {
            "userId": ["7", "7", "12"],
            "movieId": ["b", "a", "a"],
            "when": ["30", "10", "20"],
            "stars": ["4.5", "3", "1"],
            **columns,
        }
    )


def movies(**columns):
    return pl.DataFrame(
        {"movieId": ["b", "a", "c"], "name": ["Brazil", "Alien", "Cube"], **columns}
    )


def complaints(interactions, **options):
    with pytest.raises(DataError) as raised:
        build_tables(interactions, **{"schema": SCHEMA, "names": NAMES} | options)
    return str(raised.value)


def test_an_example_checked_by_eye():
    tables = build_tables(
        ratings(), items=movies(year=[1985, 1979, None]), schema=SCHEMA, source="films"
    )
    assert tables.interactions.rows() == [
        (0, 0, 10, 3.0, 0),
        (1, 0, 20, 1.0, 0),
        (0, 1, 30, 4.5, 1),
    ]
    assert tables.interactions.schema == {
        "user": pl.Int32,
        "item": pl.Int32,
        "time": pl.Int64,
        "rating": pl.Float32,
        "label": pl.Int8,
    }
    assert tables.users.rows() == [(0, 7), (1, 12)]
    assert tables.items.columns == ["item", "item_id", "title", "year"]
    assert tables.items.rows() == [
        (0, "a", "Alien", 1979),
        (1, "b", "Brazil", 1985),
        (2, "c", "Cube", None),
    ]
    assert tables.items["item"].dtype == tables.users["user"].dtype == pl.Int32
    assert (tables.n_users, tables.n_items) == (2, 3)
    assert tables.titles == ["Alien", "Brazil", "Cube"]


def test_without_a_table_of_items_the_id_is_the_title():
    tables = build_tables(ratings(name=["x", "y", "z"]), schema=SCHEMA)
    assert tables.titles == ["a", "b"]
    assert tables.items.columns == ["item", "item_id", "title"]


def test_an_item_without_a_title_is_called_by_its_id():
    tables = build_tables(ratings(), items=movies(name=[None, " ", "Cube"]), schema=SCHEMA)
    assert tables.titles == ["a", "b", "Cube"]
    numbers = build_tables(ratings(), items=movies(name=[1985, 1979, None]), schema=SCHEMA)
    assert numbers.titles == ["1979", "1985", "c"]


@settings(deadline=None)
@given(st.data())
def test_shuffling_input_rows_changes_nothing(data):
    row = st.tuples(ID_TEXT, ID_TEXT, st.integers(0, 5), st.integers(1, 5))
    rows = data.draw(st.lists(row, min_size=1, max_size=20))
    shuffled = data.draw(st.permutations(rows))
    columns = ["userId", "movieId", "when", "stars"]
    first, second = (
        build_tables(
            pl.DataFrame(table, schema=columns, orient="row"), schema=SCHEMA, policies=KEEP
        )
        for table in (rows, shuffled)
    )
    for name in ("users", "items", "interactions"):
        assert getattr(first, name).equals(getattr(second, name))


@settings(deadline=None)
@given(st.lists(ID_TEXT, min_size=1, max_size=20) | st.lists(st.integers(), min_size=1))
def test_ids_round_trip(ids):
    if isinstance(ids[0], int):
        ids = [number % 2**63 - 2**62 for number in ids]
    n = len(ids)
    frame = pl.DataFrame({"userId": ids, "movieId": ids, "when": [0] * n, "stars": [1] * n})
    tables = build_tables(frame, schema=SCHEMA, policies=KEEP)
    assert tables.n_users == tables.n_items == len(set(ids))
    for name in ids:
        assert str(tables.users["user_id"][tables.user_index(str(name))]) == str(name)
        assert str(tables.items["item_id"][tables.item_index(f" {name} ")]) == str(name)
    assert tables.users["user_id"].is_sorted()
    pairs = tables.interactions.join(tables.users, on="user")["user_id"].cast(pl.String)
    assert sorted(pairs) == sorted(map(str, ids))


def test_ids_are_numbers_only_when_all_of_them_are():
    assert build_tables(ratings(), schema=SCHEMA).users["user_id"].to_list() == [7, 12]
    zeros = build_tables(ratings(userId=["07", "7", "12"]), schema=SCHEMA)
    assert zeros.users["user_id"].to_list() == ["07", "12", "7"]
    # The table of users decides with the interactions.
    people = pl.DataFrame({"userId": ["7", "12", "guest"], "age": [30, None, 9]})
    mixed = build_tables(ratings(userId=[7, 7, 12]), users=people, schema=SCHEMA)
    assert mixed.users.rows() == [(0, "12", None), (1, "7", 30), (2, "guest", 9)]
    floats = build_tables(ratings(userId=[7.0, 7.0, 12.0]), schema=SCHEMA)
    assert floats.users["user_id"].to_list() == [7, 12]
    huge = pl.Series([2**63, 2**63, 1], dtype=pl.UInt64)
    assert build_tables(ratings(userId=huge), schema=SCHEMA).users["user_id"][1] == str(2**63)
    words = pl.Series(["u", "u", "v"], dtype=pl.Categorical)
    assert build_tables(ratings(userId=words), schema=SCHEMA).users["user_id"].to_list() == [
        "u",
        "v",
    ]


@pytest.mark.parametrize(
    "moments",
    [
        [0, 1.9, 3600],
        ["0", "1.9", "3600.0"],
        ["1970-01-01", "1970-01-01 00:00:01.9", " 1970-01-01T01:00:00Z"],
        ["1970-01-01T02:00+02:00", "1970-01-01T00:00:01", "1970-01-01T01:00"],
        [datetime(1970, 1, 1), datetime(1970, 1, 1, 0, 0, 1, 900_000), datetime(1970, 1, 1, 1)],
        pl.Series(
            [
                datetime(1970, 1, 1, 2, 0, second, tzinfo=timezone(timedelta(hours=2)))
                for second in (0, 1)
            ]
            + [datetime(1970, 1, 1, 1, tzinfo=UTC)]
        ),
    ],
)
def test_moments_in_every_accepted_form(moments):
    frame = ratings().with_columns(pl.Series("when", moments, strict=False))
    assert build_tables(frame, schema=SCHEMA).interactions["time"].to_list() == [0, 1, 3600]


def test_days_and_moments_before_1970():
    days = [date(1970, 1, 2), date(1969, 12, 31), date(1970, 1, 1)]
    tables = build_tables(ratings(when=days), schema=SCHEMA)
    assert tables.interactions["time"].to_list() == [-86400, 0, 86400]
    early = build_tables(ratings(when=["-0.5", "-1", "-0.001"]), schema=SCHEMA)
    assert early.interactions["time"].to_list() == [-1, -1, -1]


def test_the_label_may_stand_in_another_column():
    rule = LabelRule("clicked", "==", 1.0)
    schema = Schema("userId", "movieId", "when", "stars", rule, "name")
    tables = build_tables(ratings(clicked=["1", "0", "1"]), schema=schema)
    assert tables.interactions["label"].to_list() == [0, 1, 1]
    assert build_tables(ratings(clicked=[True, False, True]), schema=schema).interactions.equals(
        tables.interactions
    )
    assert "ratings.csv, line 3, column 'clicked': 'no' is not a finite number" in complaints(
        ratings(clicked=["1", "no", "1"]), schema=schema
    )


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("userId", ["7", None, "12"], "line 3, column 'userId': an empty cell is not an id"),
        ("movieId", ["b", "a", "  "], "line 4, column 'movieId': an empty cell is not an id"),
        ("userId", [7.0, 7.5, 1.0], "line 3, column 'userId': 7.5 is not a whole number"),
        ("stars", ["4", "", "1"], "line 3, column 'stars': an empty cell is not a finite number"),
        ("stars", ["4", "good", "1"], "line 3, column 'stars': 'good' is not a finite number"),
        ("stars", ["4", "1", "inf"], "line 4, column 'stars': 'inf' is not a finite number"),
        ("stars", [4.0, float("nan"), 1.0], "line 3, column 'stars': nan is not a finite number"),
        ("stars", ["1e39", "1", "1"], "line 2, column 'stars': '1e39' is not a finite number"),
        ("stars", [date(2020, 1, 1)] * 3, "datetime.date(2020, 1, 1) is not a finite number"),
        ("when", ["1", "soon", "1"], "line 3, column 'when': 'soon' is not a time"),
        ("when", ["1", "2015-02-30", "1"], "line 3, column 'when': '2015-02-30' is not a time"),
        ("when", ["1", None, "1"], "line 3, column 'when': an empty cell is not a time"),
        ("when", [1, 1_422_662_400_000, 1], "1422662400000 is finer than seconds, the unit of"),
        ("when", [1.0, float("inf"), 1.0], "line 3, column 'when': inf is not a time"),
        ("when", [True, False, True], "line 2, column 'when': True is not a time"),
        ("stars", [[1], [2], [3]], "ratings.csv: column 'stars' holds List(Int64), not words"),
        ("userId", [b"a", b"b", b"c"], "ratings.csv: column 'userId' holds Binary, not words"),
        ("when", ["9" * 99, "1", "1"], "column 'when': '" + "9" * 59 + "… is not a time"),
    ],
)
def test_a_bad_cell_is_named_by_file_line_column_and_value(column, cells, message):
    frame = ratings().with_columns(pl.Series(column, cells))
    found = complaints(frame)
    assert message in found
    assert "ratings.csv" in found
    assert "Correct the files" in found


def test_frames_that_are_no_text_files_count_rows_from_one():
    bad = ratings(stars=["4", "good", "1"])
    assert "interactions, row 2, column 'stars': 'good'" in complaints(bad, names=None)


def test_missing_columns_name_the_file_and_the_nearest_column():
    found = complaints(ratings().rename({"userId": "user_id"}), items=movies().drop("name"))
    assert "2 problem(s) in the tables" in found
    assert "ratings.csv: no column 'userId'; did you mean 'user_id'? It has: user_id," in found
    assert "movies.csv: no column 'name'. It has: movieId." in found
    schema = Schema(**{**SCHEMA.__dict__, "text": ("genres",)})
    found = complaints(ratings(), items=movies(genre=["a", "b", "c"]), schema=schema)
    assert "no table has a column 'genres'; did you mean 'genre'?" in found
    assert "no table has a column 'genres'" in complaints(ratings(), schema=schema)


def test_ids_missing_from_the_other_table_and_ids_there_twice():
    found = complaints(
        ratings(movieId=["z", "a", "z"]),
        items=movies(movieId=["b", "a", "b"]),
        users=pl.DataFrame({"userId": [7]}),
    )
    assert "ratings.csv, line 2, column 'movieId': 'z' is not in movies.csv" in found
    assert "movies.csv, line 4, column 'movieId': 'b' is there twice" in found
    assert "ratings.csv, line 4, column 'userId': '12' is not in people.csv" in found
    assert "3 problem(s)" in found


def test_all_problems_are_counted_and_the_first_of_each_kind_shown():
    many = pl.DataFrame(
        {"userId": ["u"] * 50, "movieId": ["a"] * 50, "when": ["soon"] * 50, "stars": ["x"] * 50}
    )
    found = complaints(many)
    assert "100 problem(s) in the tables" in found
    assert found.count("is not a") == 20
    assert found.count("… and 40 more of this kind") == 2


def test_problems_of_all_kinds_come_in_one_message():
    found = complaints(
        ratings(when=["1", "soon", "1"]).drop("stars"), users=pl.DataFrame({"userId": []})
    )
    assert "no column 'stars'" in found
    assert "people.csv: has no rows." in found
    assert "'soon' is not a time" in found
    assert "'7' is not in people.csv" in found


def test_no_rows_at_all():
    assert "ratings.csv: has no rows." in complaints(ratings().clear())


def test_columns_whose_names_are_taken():
    found = complaints(ratings(), items=movies(item_id=[1, 2, 3]))
    assert "movies.csv: column 'item_id' has a name that tastemaker gives" in found


def test_unknown_users_and_items_are_answered_with_what_there_is():
    tables = build_tables(ratings(userId=["anna", "anna", "bert"]), schema=SCHEMA)
    assert tables.user_index("bert") == 1
    with pytest.raises(UserError) as raised:
        tables.user_index("bart")
    assert str(raised.value) == (
        "unknown user 'bart'; did you mean 'bert'?\n2 users are known, from 'anna' to 'bert'."
    )
    with pytest.raises(UserError, match=r"unknown item '99'\.\n2 items are known"):
        tables.item_index("99")


def test_save_and_load(tmp_path):
    schema = Schema(**{**SCHEMA.__dict__, "text": ("year",)})
    tables = build_tables(
        ratings(),
        items=movies(year=[1985, 1979, None]),
        schema=schema,
        source="Zwölf Filme",
        licence="CC0-1.0",
    )
    tables.save(tmp_path / "tables")
    again = Tables.load(tmp_path / "tables")
    for name in ("users", "items", "interactions"):
        assert getattr(again, name).equals(getattr(tables, name))
        assert getattr(again, name).schema == getattr(tables, name).schema
    assert again.schema == replace(schema, time_unit="s")
    assert (again.source, again.licence) == ("Zwölf Filme", "CC0-1.0")
    assert again.notes == tables.notes


def test_loading_what_is_not_there_or_broken(tmp_path):
    with pytest.raises(DataError, match="holds no readable tables"):
        Tables.load(tmp_path)
    build_tables(ratings(), schema=SCHEMA).save(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="Run the data stage again"):
        Tables.load(tmp_path)


def test_policies_for_unknown_ids():
    people = pl.DataFrame({"userId": ["7"], "age": ["30"]})
    options = {"users": people, "schema": SCHEMA, "names": NAMES}
    found = complaints(ratings(), users=people)
    assert "line 4, column 'userId': '12' is not in people.csv" in found
    assert "drop or keep for data.policies.unknown_users" in found

    dropped = build_tables(ratings(), **options, policies=Policies(unknown_users="drop"))
    assert dropped.users.rows() == [(0, 7, "30")]
    assert dropped.interactions["time"].to_list() == [10, 30]
    assert dropped.notes == ("1 interactions whose userId is not in people.csv are dropped.",)

    kept = build_tables(ratings(), **options, policies=Policies(unknown_users="keep"))
    assert kept.users.rows() == [(0, 7, "30"), (1, 12, None)]
    assert kept.interactions.height == 3
    assert "are kept; the unknown ids have empty features" in kept.notes[0]

    films = movies().head(1)
    known = build_tables(
        ratings(), items=films, schema=SCHEMA, policies=Policies(unknown_items="keep")
    )
    assert known.titles == ["a", "Brazil"]
    nobody = Policies(unknown_items="drop")
    with pytest.raises(DataError, match="no interaction is left"):
        build_tables(
            ratings().filter(pl.col("movieId") == "a"), items=films, schema=SCHEMA, policies=nobody
        )


def test_policies_for_repeated_events():
    twice = pl.concat([ratings(), ratings().tail(1)])
    found = complaints(twice)
    assert "1 problem(s)" in found
    assert "line 5, column 'userId': '12' begins a row that repeats user, item, time" in found
    dropped = build_tables(twice, schema=SCHEMA, policies=Policies(duplicates="drop"))
    assert dropped.interactions.equals(build_tables(ratings(), schema=SCHEMA).interactions)
    assert dropped.notes == ("1 repeated interactions are dropped.",)
    kept = build_tables(twice, schema=SCHEMA, policies=KEEP)
    assert kept.interactions.height == 4
    # Another rating at the same moment is no repetition.
    other = twice.with_columns(stars=pl.Series(["4.5", "3", "1", "2"]))
    assert build_tables(other, schema=SCHEMA).interactions["rating"].to_list() == [3, 1, 2, 4.5]


def test_implicit_feedback_needs_neither_rating_nor_time():
    schema = replace(SCHEMA, time=None, rating=None, label=parse_label("implicit"))
    tables = build_tables(ratings().drop("when", "stars"), schema=schema)
    assert tables.interactions.rows() == [(0, 1, 0, 1.0, 1), (0, 0, 1, 1.0, 1), (1, 0, 2, 1.0, 1)]
    assert not tables.schema.is_clock
    assert tables.notes == ()


def test_domains_and_their_rules():
    rule = parse_label({"film": "stars > 3", "other": "stars > 0"})
    schema = replace(SCHEMA, domain="kind", label=rule)
    own = build_tables(ratings(kind=["film", "book", "film"]), schema=schema)
    assert own.interactions["domain"].to_list() == ["book", "film", "film"]
    assert own.interactions["domain"].dtype == pl.Enum(["book", "film"])
    assert own.interactions["label"].to_list() == [1, 0, 1]
    of_items = build_tables(
        ratings(), items=movies(kind=["book", "film", "film"]), schema=schema, names=NAMES
    )
    assert of_items.interactions["domain"].to_list() == ["film", "film", "book"]

    strict = replace(schema, label=parse_label({"film": "stars > 3"}))
    found = complaints(ratings(kind=["film", "book", None]), schema=strict)
    assert "no label rule for the domain(s) 'book'" in found
    assert "line 4, column 'kind': an empty cell names no domain" in found
    assert "no column of domains is named" in complaints(
        ratings(), schema=replace(SCHEMA, label=rule)
    )


def test_declared_features_have_their_types():
    schema = replace(
        SCHEMA,
        lists={"genres": "|", "tags": "json"},
        numeric=("year", "price"),
        categorical=("studio",),
        text=("review",),
    )
    films = movies(
        genres=[" Drama|War ", None, "|"],
        tags=['["a", "b"]', "[]", None],
        year=["1985", "", "1997.5"],
        studio=[" MGM ", "", None],
        unused=[[1], [2], [3]],
    )
    events = ratings(price=["1", None, "3"], review=["good", "bad", "fair"], other=["x", "y", "z"])
    tables = build_tables(events, items=films, schema=schema)
    assert tables.items.drop("item", "title").to_dicts() == [
        {"item_id": "a", "genres": [], "tags": [], "year": None, "studio": None},
        {"item_id": "b", "genres": ["Drama", "War"], "tags": ["a", "b"], "year": 1985.0}
        | {"studio": "MGM"},
        {"item_id": "c", "genres": [], "tags": [], "year": 1997.5, "studio": None},
    ]
    assert tables.interactions["price"].to_list() == [None, 3.0, 1.0]
    assert tables.interactions["review"].to_list() == ["bad", "fair", "good"]
    assert "other" not in tables.interactions.columns
    found = complaints(
        events, items=films.with_columns(tags=pl.lit("a, b"), year=pl.lit("old")), schema=schema
    )
    assert "column 'tags': 'a, b' is not a JSON list" in found
    assert "column 'year': 'old' is not a finite number" in found
    taken = replace(SCHEMA, text=("label",))
    assert "column 'label' has a name" in complaints(ratings(label=["a", "b", "c"]), schema=taken)


def test_odd_text_is_told_and_broken_text_stops():
    names = ["Bra\u202ezil", "Alien<|im_end|>", " "]
    tables = build_tables(ratings(), items=movies(name=names), schema=SCHEMA, names=NAMES)
    told = "\n".join(tables.notes)
    assert "movies.csv, line 2, column 'name': 'Bra\\u202ezil' holds invisible or control" in told
    assert "line 3, column 'name': 'Alien<|im_end|>' holds a chat-template token" in told
    assert "line 4, column 'name': an empty cell is no title; the item is called by its" in told
    broken = movies(name=["Bra\ufffdil", "Alien", "Cube"], kind=["\ufffd", "b", "c"], x="\ufffd")
    schema = replace(SCHEMA, domain="kind")
    found = complaints(ratings(movieId=["b", "a", "z"]), items=broken, schema=schema)
    for column in ("name", "kind", "x"):
        assert f"line 2, column '{column}': '" in found
    assert found.count("was not valid text in its encoding") == 5
    assert "'z' is not in movies.csv" in found


@pytest.mark.parametrize(
    ("unit", "cells", "message"),
    [
        ("auto", [1_422_662_400, 1_422_662_400_123, 1_422_662_401], "finer than seconds"),
        ("auto", [1_422_662_400_000, 1_422_662_400, 1_422_662_401_000], "coarser than millis"),
        ("auto", ["1422662400", "2015-01-31", "1422662400"], "'2015-01-31' is not a time"),
        ("auto", ["2015-02-01", "2015-01-31", "1422662400"], "'1422662400' is a number"),
        ("s", [1_422_662_400_000] * 3, "finer than seconds"),
        ("step", ["0", "one", "2"], "'one' is not a step"),
        ("iso", ["2015-01-31", "31.1.2015", "2015-01-31"], "'31.1.2015' is not a time"),
    ],
)
def test_times_in_several_units_cannot_all_be_right(unit, cells, message):
    found = complaints(ratings(when=cells), schema=replace(SCHEMA, time_unit=unit))
    assert message in found


def test_the_unit_of_time_is_found_and_kept():
    for unit, factor in {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}.items():
        moments = [1_422_662_400 * factor, 1_422_662_401 * factor, 1_422_662_402 * factor]
        tables = build_tables(ratings(when=moments), schema=SCHEMA)
        assert tables.schema.time_unit == unit
        assert sorted(tables.interactions["time"]) == [1_422_662_400, 1_422_662_401, 1_422_662_402]
    steps = build_tables(ratings(), schema=replace(SCHEMA, time_unit="step"))
    assert steps.interactions["time"].to_list() == [10, 20, 30]
    zero = build_tables(ratings(when=[1_422_662_400, 0, 1_422_662_402]), schema=SCHEMA)
    assert "first second of 1970, which often stands for a missing time" in zero.notes[0]


def test_ratings_outside_the_declared_range_and_labels_that_tell_nothing():
    found = complaints(ratings(), schema=replace(SCHEMA, rating_range=(1, 4)))
    assert "'4.5' is outside the declared range 1 to 4" in found
    everything = replace(SCHEMA, label=parse_label("stars > 0"))
    assert "every interaction is a like" in build_tables(ratings(), schema=everything).notes[0]


@settings(deadline=None)
@given(st.data())
def test_wide_and_narrow_keys_give_the_same_order(data):
    """The packed sort, the sort by columns and plain Python agree."""
    wide = data.draw(st.booleans())
    moment = st.integers(0, 3).map(lambda step: step * (2**61 if wide else 1))
    row = st.tuples(moment, st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
    rows = data.draw(st.lists(row, min_size=1, max_size=30))
    types = {"time": pl.Int64, "user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}
    events = pl.DataFrame(rows, schema=types, orient="row")
    found, order, again = in_order(events)
    assert found.rows() == events[order].rows() == sorted(rows)
    assert again.tolist() == [
        place > 0 and found == sorted(rows)[place - 1] for place, found in enumerate(sorted(rows))
    ]
