from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.guess import Guess, guess
from tastemaker.data.readers import TableSource
from tastemaker.errors import UserError

START = 1_500_000_000
ROWS = 1200


class Memory(TableSource):
    """A table that lies in memory."""

    def __init__(
        self, frame: pl.DataFrame, name: str = "x.csv", hints: Mapping[str, str] | None = None
    ) -> None:
        self.frame, self.name, self._hints = frame, name, hints or {}

    @property
    def hints(self) -> Mapping[str, str]:
        return self._hints

    def columns(self) -> list[str]:
        return self.frame.columns

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        return self.frame if columns is None else self.frame.select(columns)


def events(**columns: object) -> dict[str, object]:
    """Twenty users meet thirty items in turn, one event a minute."""
    return {
        "userId": [row % 20 for row in range(ROWS)],
        "movieId": [row // 20 % 30 for row in range(ROWS)],
        **columns,
    }


def seconds(step: int = 60) -> list[int]:
    return [START + step * row for row in range(ROWS)]


def stars() -> list[float]:
    return [1.0 + row * 7 % 5 for row in range(ROWS)]


def films(**columns: object) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "movieId": range(30),
            "title": [f"Film {row}, part one" for row in range(30)],
            "genres": [("Drama|War", "Comedy", "War|Comedy|Crime")[row % 3] for row in range(30)],
            **columns,
        }
    )


def seen(
    frame: Mapping[str, object] | pl.DataFrame, items: pl.DataFrame | None = None, **given: str
) -> Guess:
    table = None if items is None else Memory(items, "items.csv")
    return guess(Memory(pl.DataFrame(frame)), items=table, **given)


def doubts(found: Guess, *words: str) -> list[str]:
    return [one for one in found.doubts if all(word in one for word in words)]


def test_movielens_leaves_no_doubt() -> None:
    found = seen(events(rating=stars(), timestamp=seconds()), films(year=[1990] * 15 + [2000] * 15))
    assert found.columns == {
        "user": "userId",
        "item": "movieId",
        "time": "timestamp",
        "time_unit": "s",
        "rating": "rating",
        "rating_range": [1, 5],
        "label": "rating > 3",
        "title": "title",
        "lists": {"genres": "|"},
        "numeric": ["year"],
    }
    assert found.settings == {
        "split": "global_time",
        "requests.min_history": 10,
        "build.history": 10,
        "requests.per_user": 4,
    }
    assert found.doubts == []


@pytest.mark.parametrize(
    ("unit", "values"),
    [
        ("ms", [1000 * second for second in seconds()]),
        ("us", [10**6 * second for second in seconds()]),
        ("ns", [str(10**9 * second) for second in seconds()]),
        ("iso", [(datetime.fromtimestamp(one, UTC)).isoformat(sep=" ") for one in seconds()]),
        ("iso", [datetime.fromtimestamp(one, UTC) for one in seconds()]),
        ("step", range(ROWS)),
    ],
)
def test_the_unit_of_time_is_told_by_the_values(unit: str, values: object) -> None:
    found = seen(events(timestamp=values))
    assert (found.columns["time"], found.columns["time_unit"]) == ("timestamp", unit)
    assert found.settings["split"] == ("leave_one_out" if unit == "step" else "global_time")


def test_without_time_the_order_counts() -> None:
    found = seen(events(rating=stars()))
    assert found.columns["time"] is None
    assert "time_unit" not in found.columns
    assert found.settings["split"] == "leave_one_out"
    assert doubts(found, "order of the rows", "--time")


def test_two_times_and_whole_days() -> None:
    days = [START // 86400 * 86400 + row // 100 * 86400 for row in range(ROWS)]
    found = seen(events(date=days, created_at=seconds()))
    assert doubts(found, "'date'", "'created_at'", "could each be the time")
    plain = seen(events(date=days))
    assert plain.columns["time"] == "date"
    assert doubts(plain, "whole days")


def test_a_release_date_is_no_time_of_events() -> None:
    found = seen(events(release_date=["1999-01-01"] * ROWS, ts=seconds()))
    assert found.columns["time"] == "ts"
    assert not doubts(found, "could each be the time")


@pytest.mark.parametrize(
    ("name", "values", "label", "span", "unsure"),
    [
        ("overall", [1, 2, 3, 4, 5], "overall > 3", [1, 5], False),
        ("stars", [0.5, 1, 4.5, 5], "stars > 3", [0.5, 5], False),
        ("rating", [0, 1, 4, 5], "rating > 3", [0, 5], True),
        ("score", [1, 5, 8, 10], "score > 5", [1, 10], True),
        ("book_rating", [0, 5, 8, 10], "book_rating > 5", [0, 10], True),
        ("rating", [10, 40, 80, 99], "rating > 60", [0, 100], True),
        ("clicked", [0, 1], "clicked == 1", [0, 1], False),
        ("like", [-1, 0, 1], "like > 0", [-1, 1], False),
        ("rating", [-9.5, 3, 9.5], "rating > 3", [-9.5, 9.5], True),
        ("rating", [5, 5, 5, 4], "rating > 3", [1, 5], True),
    ],
)
def test_what_counts_as_a_like(
    name: str, values: list[float], label: str, span: list[float], unsure: bool
) -> None:
    given_by_all = [float(values[row % len(values)]) for row in range(ROWS)]
    found = seen(events(**{name: given_by_all, "timestamp": seconds()}))
    assert found.columns["label"] == label
    assert found.columns["rating_range"] == span
    assert bool(doubts(found, "like", "check")) == unsure
    assert "negatives.per_positive" not in found.settings


@pytest.mark.parametrize("extra", [{}, {"rating": [4.0] * ROWS}, {"plays": range(1, ROWS + 1)}])
def test_implicit_data_get_negatives(extra: dict[str, object]) -> None:
    found = seen(events(timestamp=seconds(), **extra))
    assert found.columns["rating"] is None
    assert found.columns["label"] == "implicit"
    assert found.settings["negatives.per_positive"] == 1
    assert len(doubts(found, *extra)) == len(extra) or extra == {}


def test_amazon_reviews() -> None:
    frame = events(rating=stars(), timestamp=[1000 * one for one in seconds()])
    frame["user_id"], frame["parent_asin"] = frame.pop("userId"), frame.pop("movieId")
    frame |= {"asin": frame["parent_asin"], "title": "Good", "helpful_vote": 3, "text": "It works."}
    meta = pl.DataFrame(
        {
            "parent_asin": range(30),
            "main_category": ["Books", "Toys", "Games"] * 10,
            "title": [f"Thing {row}" for row in range(30)],
            "average_rating": [4.0 + row / 100 for row in range(30)],
            "rating_number": range(30),
            "description": [["A long text about what this thing is for and how"]] * 30,
            "categories": [["A", "B"], ["A"]] * 15,
            "images": [[{"large": "x"}]] * 30,
            "store": [f"S{row % 4}" for row in range(30)],
            "link": ["https://shop.example/x"] * 30,
        }
    )
    found = seen(pl.DataFrame(frame), meta)
    assert found.columns["item"] == "parent_asin"
    assert found.columns["domain"] == "main_category"
    assert found.columns["lists"] == {"categories": "json"}
    assert found.columns["categorical"] == ["store"]
    assert "numeric" not in found.columns
    assert doubts(found, "'average_rating' and 'rating_number'", "future")
    assert doubts(found, "'helpful_vote'", "tells its outcome")
    assert {name.split(": ")[1] for name in found.unused} == {
        *("average_rating", "rating_number", "description", "images", "link"),
        *("asin", "helpful_vote", "text"),
    }


def test_features_of_people() -> None:
    people = pl.DataFrame(
        {
            "userId": range(20),
            "gender": ["F", "M"] * 10,
            "age": range(20, 40),
            "zip_code": [f"{10000 + 7 * row}" for row in range(20)],
            "fans": range(20),
            "about": ["likes films about the sea and long walks"] * 10
            + ["and many more words"] * 10,
            "empty": [None] * 20,
        }
    )
    found = guess(
        Memory(pl.DataFrame(events(rating=stars(), timestamp=seconds()))), users=Memory(people)
    )
    assert found.columns["categorical"] == ["gender"]
    assert found.columns["numeric"] == ["age"]
    assert found.columns["text"] == ["about"]
    assert set(found.unused) == {"users: zip_code", "users: fans", "users: empty"}


def test_recbole_hints() -> None:
    items = pl.DataFrame(
        {
            "item_id": [str(row) for row in range(30)],
            "movie_title": [f"Film {row}" for row in range(30)],
            "class": ["Drama War", "Comedy"] * 15,
            "studio": ["1", "2", "30"] * 10,
        }
    )
    hints = {"movie_title": "token_seq", "class": "token_seq", "studio": "token"}
    frame = pl.DataFrame(events(rating=stars(), timestamp=seconds()))
    found = guess(
        Memory(frame.rename({"userId": "user_id", "movieId": "item_id"})),
        items=Memory(items, "ml.item", hints),
    )
    assert found.columns["title"] == "movie_title"
    assert found.columns["lists"] == {"class": " "}
    assert found.columns["categorical"] == ["studio"]


def test_unknown_ids_repeated_rows_and_unreadable_cells() -> None:
    frame = pl.DataFrame(events(rating=stars(), timestamp=seconds())).cast(pl.String)
    frame = pl.concat([frame, frame.head(7), frame.tail(2).with_columns(timestamp=pl.lit("soon"))])
    few = seen(frame, films().filter(pl.col("movieId") != 3))
    assert few.settings["policies.unknown_items"] == "drop"
    assert doubts(few, "1 items of 40 interactions")
    assert few.settings["policies.duplicates"] == "drop"
    assert doubts(few, "7 interactions repeat")
    assert doubts(few, "2 interactions", "cannot be read")
    many = seen(frame, films().head(20))
    assert many.settings["policies.unknown_items"] == "keep"
    twice = seen(frame, pl.concat([films(), films().head(4)]))
    assert doubts(twice, "4 rows", "movieId")


def test_a_table_with_another_name_for_the_id_is_left_out() -> None:
    found = seen(events(timestamp=seconds()), films().rename({"movieId": "film"}))
    assert found.left_out == ["items"]
    assert doubts(found, "no column 'movieId'", "same name")
    assert found.columns["title"] is None


def test_reserved_names_are_told() -> None:
    found = seen(events(timestamp=seconds()), films(item_id=range(30)))
    assert doubts(found, "'item_id'", "rename it")


def test_short_histories_and_many_users() -> None:
    frame = pl.DataFrame(
        {
            "user": [row // 4 for row in range(20_000)],
            "item": [row % 50 for row in range(20_000)],
            "time": [START + 60 * (row * 7919 % 20_000) for row in range(20_000)],
        }
    )
    found = seen(frame)
    assert found.settings["requests.min_history"] == 3
    assert found.settings["build.history"] == 3
    assert doubts(found, "Histories are short")
    assert found.settings["filters.users"] < 5000
    assert doubts(found, "5,000 users", "filters.users")
    once = seen({"user": range(100), "item": [1] * 100, "time": range(START, START + 100)})
    assert once.settings["requests.min_history"] == 0
    assert doubts(once, "Hardly any user comes back")
    same = seen(events(timestamp=[START] * ROWS))
    assert same.settings["requests.min_history"] == 0


def test_given_columns_override() -> None:
    frame = {"a": [1, 2], "b": [3, 4], "c": [START, START + 1], "d": [1, 5]}
    with pytest.raises(UserError, match=r"a, b, c, d") as caught:
        seen(frame)
    assert "--user COLUMN --item COLUMN --time COLUMN --rating COLUMN" in str(caught.value)
    found = seen(frame, user="a", item="b", time="c", rating="d")
    assert list(found.columns.values())[:5] == ["a", "b", "c", "s", "d"]
    with pytest.raises(UserError, match=r"--user aa.*did you mean 'a'"):
        seen(frame, user="aa", item="b")
    with pytest.raises(UserError, match="no rows"):
        seen(pl.DataFrame(frame).clear())


CELLS = st.one_of(
    st.none(), st.text(max_size=5), st.integers(-(2**40), 2**40).map(str), st.just("[1,2]")
)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=8))
@settings(max_examples=30)
def test_any_text_gets_a_guess(rows: list[tuple[str | None, ...]]) -> None:
    names = ["user_id", "item_id", "rating", "timestamp"]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
    try:
        found = guess(Memory(frame), items=Memory(frame.drop("user_id")))
    except UserError:  # an id column may be empty
        return
    assert all(doubt.isprintable() for doubt in found.doubts)


def test_dates_without_a_time_of_day() -> None:
    day = datetime(2020, 1, 1, tzinfo=UTC).date()
    found = seen(events(date=[day + timedelta(days=row // 4) for row in range(ROWS)]))
    assert found.columns["time_unit"] == "iso"


def test_users_who_met_everything_are_told() -> None:
    found = seen(events(timestamp=seconds()))
    assert doubts(found, "met all 30 items")
    assert not doubts(seen(events(timestamp=seconds(), rating=stars())), "met all")
