from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.agents.questions import Cut, Question, item_questions, user_questions
from tastemaker.agents.reasoning import messages_of
from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import UserError
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import SCHEMA, checkerboard

USERS, ITEMS = find_template("kar/user_movies"), find_template("kar/item_movies")
TITLES = ["Usual Suspects, The (1995)", "Heat (1995)", '[REC] "x"', "Antz", "Big"]
# user a: five events, the third and fourth in one second; b: one event; c: two in one second
EVENTS = [
    ("a", 0, 10, 5.0),
    ("a", 1, 20, 3.5),
    ("a", 2, 30, 0.5),
    ("a", 3, 30, 4.0),
    ("a", 4, 40, 1.0),
    ("b", 0, 50, 2.0),
    ("c", 1, 60, 4.0),
    ("c", 2, 60, 4.0),
]


def world(people: pl.DataFrame | None = None) -> Tables:
    frame = pl.DataFrame(EVENTS, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    items = pl.DataFrame({"item_id": range(5), "title": TITLES, "genres": "x"})
    return build_tables(frame, items=items, users=people, schema=SCHEMA)


def of_users(
    tables: Tables, cut: Cut | None = None, *, factors: Sequence[str] = ()
) -> list[Question]:
    return list(
        user_questions(
            tables,
            Histories.from_interactions(tables.interactions),
            users=np.arange(tables.n_users),
            cut=cut or Cut(30),
            templates=[USERS],
            factors=factors,
        )
    )


def text(question: Question) -> str:
    template = USERS if question.kind == "user" else ITEMS
    return messages_of(template, question.values)[-1]["content"]


def test_the_oldest_half_is_shown_without_a_second_that_the_cut_would_part() -> None:
    questions = of_users(world())
    assert [question.entity_id for question in questions] == ["a", "b"]
    first = questions[0]
    # n = 5, so N = 3; the third event shares its second with the fourth and is left out
    assert (first.events, first.items, first.cut_time) == ((0, 1), (0, 1), 20)
    assert text(first).startswith(
        "A user has this movie viewing history over time: "
        '"The Usual Suspects (1995)", 5 stars; "Heat (1995)", 3.5 stars; \n'
    )
    assert (first.kind, first.entity) == ("user", 0)
    assert questions[1].events == (5,)


def test_the_cap_limits_what_is_shown() -> None:
    assert of_users(world(), Cut(1))[0].events == (0,)


def test_before_a_moment_the_newest_events_are_shown() -> None:
    assert [one.events for one in of_users(world(), Cut(30, before=30))] == [(0, 1)]
    assert [one.events for one in of_users(world(), Cut(2, before=41))] == [(3, 4)]
    assert [one.cut_time for one in of_users(world(), Cut(2, before=51))] == [40, 50]
    assert of_users(world(), Cut(30, before=10)) == []


def test_marked_rows_are_shown_up_to_the_first_that_is_not() -> None:
    marked = np.array([True, True, True, True, False, True, True, False])
    found = of_users(world(), Cut(30, rows=marked))
    # of c one event is marked, but the other shares its second
    assert [(one.entity_id, one.events) for one in found] == [("a", (0, 1, 2, 3)), ("b", (5,))]
    marked[2] = False
    assert of_users(world(), Cut(30, rows=marked))[0].events == (0, 1)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), cap=st.integers(1, 12), data=st.data())
def test_everything_not_shown_later_is_strictly_later(
    seed: int, cap: int, data: st.DataObject
) -> None:
    tables = checkerboard(5, 15, events=9, seed=seed)
    times = tables.interactions["time"].to_numpy()
    before = data.draw(st.none() | st.sampled_from(sorted(set(times.tolist()))))
    marks = data.draw(st.none() | st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    rows = None if marks is None else np.array(marks)
    events = tables.interactions.with_row_index()
    for question in of_users(tables, Cut(cap, before=before, rows=rows)):
        mine = events.filter(pl.col("user") == question.entity)
        shown = mine.filter(pl.col("index").is_in(question.events))
        rest = mine.filter(~pl.col("index").is_in(question.events))
        assert 0 < shown.height <= cap
        assert shown["time"].max() == question.cut_time
        oldest = shown["time"].min()
        # what is not shown came before the first shown, or is later than the cut
        between = (rest["time"] >= oldest) & (rest["time"] <= question.cut_time)
        if before is None and rows is None:
            assert (rest["time"] > question.cut_time).all()
            assert shown.height <= 5
        else:
            assert between.sum() == 0 or shown.height == cap
        if before is not None:
            assert question.cut_time is not None
            assert question.cut_time < before
        if rows is not None:
            assert rows[list(question.events)].all()
        asked = text(question)
        for item in set(rest["item"]) - set(shown["item"]):
            assert f'"{tables.titles[item]}"' not in asked


def test_a_profile_comes_from_the_users_table() -> None:
    people = pl.DataFrame(
        {"user_id": ["a", "b", "c"], "gender": ["F", None, "M"], "age": [25, 35, None]}
    )
    first, second = of_users(world(people))
    assert text(first).startswith("A user (gender F, age 25) has")
    assert text(second).startswith("A user (age 35) has")


def test_own_factors_replace_those_of_the_template() -> None:
    (first, _) = of_users(world(), factors=["mood; tone", "<|im_end|>"])
    assert "(consider mood, tone, ‹|im_end|>)" in text(first)
    assert "genre" not in text(first)


def test_item_questions() -> None:
    questions = list(item_questions(world(), items=[2, 0], templates=[ITEMS]))
    assert [question.entity_id for question in questions] == ["2", "0"]
    assert text(questions[0]).endswith("The movie is \"(REC) 'x'\".")
    assert text(questions[1]).endswith('"The Usual Suspects (1995)".')
    assert (questions[0].cut_time, questions[0].events) == (None, ())


def test_reviews_of_an_item_are_those_allowed_newest_first_and_cut_at_the_newest() -> None:
    frame = pl.DataFrame(
        {
            "user_id": ["a", "b", "c", "d"],
            "item_id": [0, 0, 0, 1],
            "timestamp": [10, 30, 20, 40],
            "rating": [4.0, 4.0, 4.0, 1.0],
            "review": ["first", "third", "second", ""],
        }
    )
    items = pl.DataFrame({"item_id": [0, 1], "title": ["Heat", "Big"], "genres": ["x", "y"]})
    schema = replace(SCHEMA, text=("review",))
    tables = build_tables(frame, items=items, schema=schema)
    template = find_template("rlmrec/item_items")
    asked = item_questions(
        tables, items=[0, 1], templates=[template], reviewed=np.array([0, 1, 3]), reviews=5
    )
    first, second = asked
    assert first.values["feedback"] == ["second", "first"]
    assert (first.cut_time, first.events) == (20, (1, 0))
    assert (second.values["feedback"], second.cut_time) == ([], None)
    system, user = messages_of(template, first.values)
    assert (system["role"], user["role"]) == ("system", "user")
    assert '"second", "first"' in user["content"]


def test_a_template_for_other_fields_is_refused() -> None:
    tables = world()
    with pytest.raises(UserError, match="needs profile, rated_history"):
        list(item_questions(tables, items=[0], templates=[USERS]))
    histories = Histories.from_interactions(tables.interactions)
    with pytest.raises(UserError, match="needs title"):
        list(user_questions(tables, histories, users=[0], cut=Cut(3), templates=[ITEMS]))


def test_a_million_users_are_asked_about_lazily() -> None:
    tables = world()
    histories = Histories.from_interactions(tables.interactions)
    many = np.zeros(1_000_000, dtype=np.int64)
    asked = user_questions(tables, histories, users=many, cut=Cut(30), templates=[USERS])
    assert next(asked).entity == 0
