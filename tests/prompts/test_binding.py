"""The value of every field, by eye on the tied world and against plain Python in the shop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.history import Histories
from tastemaker.data.schema import Implicit
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import UserError
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.render import plain
from tastemaker.prompts.template import Template, find_template
from tastemaker.testing.world import SCHEMA, shop_split, tied_world

TALLREC = find_template("tallrec/movie")
TIED, SPLIT = tied_world(), shop_split()
SHOP = SPLIT.tables
EVENTS = SHOP.interactions.with_row_index("row").to_dicts()
ALL = range(len(EVENTS))
ROWS = st.lists(st.integers(0, len(EVENTS) - 1), min_size=1, max_size=6)


def binder_of(tables: Tables, *, catalogue: Any = None, **options: Any) -> Binder:
    histories = Histories.from_interactions(tables.interactions)
    return Binder(histories, Catalogue(tables, **(catalogue or {})), **options)


SHOP_BINDER = binder_of(SHOP, candidates=6, train=SPLIT.train)


def value(
    field: str,
    rows: Sequence[int],
    *,
    binder: Binder = SHOP_BINDER,
    template: Template = TALLREC,
    shown: Sequence[int] | None = None,
) -> list[Any]:
    """The field's value for each row, as Python has it."""
    examples = Examples.of_rows(binder.tables, list(rows))
    return listed(field, examples, binder=binder, template=template, shown=shown)


def listed(
    field: str,
    examples: Examples,
    *,
    binder: Binder = SHOP_BINDER,
    template: Template = TALLREC,
    shown: Sequence[int] | None = None,
) -> list[Any]:
    cut = None if shown is None else np.array(shown)
    found = binder.block(examples, template, names=[field], shown=cut)[field]
    return [found] * len(examples) if isinstance(found, str) else found.to_list()


def past(row: int) -> list[dict[str, Any]]:
    """What the row's user had done strictly before it, oldest first."""
    own = EVENTS[row]
    earlier = [e for e in EVENTS if e["user"] == own["user"] and e["time"] < own["time"]]
    return sorted(earlier, key=lambda event: (event["time"], event["row"]))


def titles(events: Sequence[dict[str, Any]], binder: Binder = SHOP_BINDER) -> list[str]:
    return [binder.catalogue.titles[event["item"]] for event in events]


def own(folder: Path, fields: str, *, keys: str = "") -> Template:
    names = [name.strip() for name in fields.split(",")]
    head = f"{{#---\nfamily: own\ntask: try\nabout: Try.\nfields: [{fields}]\n{keys}\n---#}}\n"
    path = folder / "own.j2"
    path.write_text(head + "".join(f"{{{{ {name} }}}}" for name in names), encoding="utf-8")
    return find_template(str(path))


# The tied world: user 7 met films 1 to 5 at 10, 20, 30, 30, 40; rows 0, 2, 3, 4, 5. User 8: row 1.


@pytest.mark.parametrize(
    ("field", "first", "tied", "last"),
    [
        ("history", [], ["Film 1", "Film 2"], ["Film 1", "Film 2", "Film 3", "Film 4"]),
        ("liked", [], ["Film 1"], ["Film 1", "Film 3"]),
        ("disliked", [], ["Film 2"], ["Film 2", "Film 4"]),
        ("liked_before", [], ["Film 1"], ["Film 1", "Film 3"]),
        ("history_index", [], ["1", "2"], ["1", "2", "3", "4"]),
        (
            "rated_history",
            [],
            [("Film 1", "5"), ("Film 2", "1")],
            [("Film 1", "5"), ("Film 2", "1"), ("Film 3", "4"), ("Film 4", "2")],
        ),
        (
            "reviewed_history",
            [],
            [("Film 1", "", ""), ("Film 2", "", "")],
            [(f"Film {number}", "", "") for number in range(1, 5)],
        ),
        ("liked_works", [], [("Film 1", "")], [("Film 1", ""), ("Film 3", "")]),
        ("disliked_works", [], [("Film 2", "")], [("Film 2", ""), ("Film 4", "")]),
        ("preference", "", "mostly likes x", "mostly likes x"),
        ("rating", "5", "4", "3.5"),
        ("title", "Film 1", "Film 3", "Film 5"),
        ("user_id", "7", "7", "7"),
        ("user_index", "1", "1", "1"),
        ("user_name", "7", "7", "7"),
        ("item_id", "1", "3", "5"),
        ("item_index", "1", "3", "5"),
        ("profile", "", "", ""),
        ("user_attributes", [], [], []),
        ("attributes", *[[("title", f"Film {n}"), ("genres", "x")] for n in (1, 3, 5)]),
        ("category", "x", "x", "x"),
        ("topics", [], [], []),
        ("topic_count", "0", "0", "0"),
        ("intention", "x", "x", "x"),
        ("vague_intention", *["I am in the mood for something in x."] * 3),
        ("feedback", [], [], []),
        ("lowest", "1", "1", "1"),
        ("highest", "5", "5", "5"),
        ("source", "tables", "tables", "tables"),
        ("domain", "", "", ""),
        ("genres", "x", "x", "x"),
    ],
)
def test_fields_of_the_tied_world(field: str, first: Any, tied: Any, last: Any) -> None:
    binder = binder_of(TIED)
    assert value(field, [0, 3, 5], binder=binder) == [first, tied, last]
    assert value(field, [], binder=binder) == []


def test_events_of_one_second_are_no_past_of_each_other() -> None:
    binder = binder_of(TIED)
    assert value("history", [3, 4], binder=binder) == [["Film 1", "Film 2"]] * 2


def test_only_the_newest_events_are_shown() -> None:
    binder = binder_of(TIED, history=2, likes=1)
    assert value("history", [5], binder=binder) == [["Film 3", "Film 4"]]
    assert value("liked", [5], binder=binder) == [["Film 3"]]
    assert value("disliked", [5], binder=binder) == [["Film 4"]]
    assert value("liked_before", [5], binder=binder) == [["Film 3"]]
    assert value("history", [5], binder=binder_of(TIED, history=0)) == [[]]


def test_histories_that_must_be_shorter_lose_their_oldest_events() -> None:
    binder = binder_of(TIED)
    rows, shown = [5, 3, 5, 5], [1, 1, 0, 9]
    assert value("history", rows, binder=binder, shown=shown) == [
        ["Film 4"],
        ["Film 2"],
        [],
        ["Film 1", "Film 2", "Film 3", "Film 4"],
    ]
    assert value("liked", rows, binder=binder, shown=shown)[:2] == [[], []]
    # Of the likes alone the newest stays.
    assert value("liked_before", rows, binder=binder, shown=shown)[:2] == [["Film 3"], ["Film 1"]]
    assert value("title", rows, binder=binder, shown=shown) == value("title", rows, binder=binder)


def test_users_are_shown_up_to_a_moment() -> None:
    binder, template = binder_of(TIED), find_template("kar/user_movies")
    people = Examples.of_users([0, 1], before=30)
    found = listed("rated_history", people, binder=binder, template=template)
    assert found == [[("Film 1", "5"), ("Film 2", "1")], [("Film 2", "4")]]
    nobody = Examples.of_users([], before=30)
    assert listed("rated_history", nobody, binder=binder, template=template) == []


# The shop


@pytest.mark.parametrize("length", [1, 4, 10])
def test_pasts_are_those_of_plain_python(length: int) -> None:
    binder = replace(SHOP_BINDER, history=length, likes=3)
    newest = [past(row)[-length:] for row in ALL]
    likes = [[event for event in events if event["label"]] for events in newest]
    others = [[event for event in events if not event["label"]] for events in newest]
    assert value("history", ALL, binder=binder) == [titles(events) for events in newest]
    assert value("liked", ALL, binder=binder) == [titles(events) for events in likes]
    assert value("disliked", ALL, binder=binder) == [titles(events) for events in others]
    assert value("rated_history", ALL, binder=binder) == [
        [(title, f"{event['rating']:g}") for title, event in zip(titles(it), it, strict=True)]
        for it in newest
    ]
    assert value("liked_before", ALL, binder=binder) == [
        titles([event for event in past(row) if event["label"]][-3:]) for row in ALL
    ]


def test_likes_before_come_from_all_domains_and_from_beyond_the_history() -> None:
    binder = replace(SHOP_BINDER, history=1, likes=5)
    before = value("liked_before", ALL, binder=binder)
    assert max(map(len, before)) == 5
    domains = [{event["domain"] for event in past(row) if event["label"]} for row in ALL]
    assert {"Books", "Games"} in domains
    row = next(row for row in ALL if len(domains[row]) == 2 and len(before[row]) > 3)
    assert EVENTS[row]["domain"] in domains[row]


def test_works_and_reviews_of_the_past() -> None:
    items = SHOP.items.with_columns(pl.col("author", "description").fill_null("")).to_dicts()
    for row, works, reviewed in zip(
        ALL, value("liked_works", ALL), value("reviewed_history", ALL), strict=True
    ):
        events = past(row)[-10:]
        likes = [event for event in events if event["label"]]
        assert works == [
            (title, items[event["item"]]["author"])
            for title, event in zip(titles(likes), likes, strict=True)
        ]
        told = [(items[event["item"]]["description"], event["review"] or "") for event in events]
        assert reviewed == [
            (title, *(plain(text).replace('"', "'") for text in texts))
            for title, texts in zip(titles(events), told, strict=True)
        ]


def test_preference_names_the_commonest_categories_of_past_likes() -> None:
    categories = SHOP.items["categories"].to_list()
    known = [*dict.fromkeys(one for some in categories for one in some)]
    found = value("preference", ALL)
    for row, text in zip(ALL, found, strict=True):
        likes = [event for event in past(row)[-10:] if event["label"]]
        counts = Counter(one for event in likes for one in categories[event["item"]])
        best = sorted(counts, key=lambda one: (-counts[one], known.index(one)))[:3]
        assert text == (f"mostly likes {enumerated(best)}" if best else "")
    assert len({text.count(",") for text in found}) == 2  # up to three of them


def enumerated(words: list[str]) -> str:
    *front, last = words
    return f"{', '.join(front)} and {last}" if front else last


@settings(max_examples=25)
@given(ROWS)
def test_a_row_shows_the_same_whichever_others_are_asked(rows: list[int]) -> None:
    for field in ("history", "preference", "candidates", "asked_rating", "separator", "feedback"):
        together = value(field, rows)
        assert together == [value(field, [row])[0] for row in rows]


def test_candidates_hold_the_target_once_among_items_not_met() -> None:
    rows = [row for row in ALL if EVENTS[row]["label"]]
    for row, offered in zip(rows, value("candidates_index", rows), strict=True):
        items = [int(number) - 1 for number in offered]
        own = EVENTS[row]
        met = {
            event["item"]
            for event in EVENTS
            if event["user"] == own["user"] and event["time"] <= own["time"]
        }
        assert len(set(items)) == 6
        assert items.count(own["item"]) == 1
        assert met & set(items) == {own["item"]}


def test_candidates_are_the_same_items_by_title_and_by_number() -> None:
    numbers = value("candidates_index", ALL)
    shown = [[SHOP_BINDER.catalogue.titles[int(one) - 1] for one in row] for row in numbers]
    assert value("candidates", ALL) == shown


def test_the_target_may_stand_anywhere_among_the_candidates() -> None:
    numbers = value("candidates_index", ALL)
    places = Counter(row.index(str(EVENTS[i]["item"] + 1)) for i, row in enumerate(numbers))
    assert set(places) == set(range(6))
    assert max(places.values()) < 2 * len(EVENTS) / 6


def test_another_seed_or_epoch_draws_anew() -> None:
    for field in ("candidates", "asked_rating", "separator", "vague_intention"):
        first = value(field, ALL)
        assert first == value(field, ALL, binder=replace(SHOP_BINDER))
        others = (SHOP_BINDER.in_epoch(1), replace(SHOP_BINDER, seed=1))
        changed = [value(field, ALL, binder=binder) for binder in others]
        assert first != changed[0]
        assert first != changed[1]
        assert changed[0] != changed[1]


def test_another_epoch_offers_other_items() -> None:
    offered = [
        [set(row) for row in value("candidates_index", ALL, binder=SHOP_BINDER.in_epoch(epoch))]
        for epoch in (0, 1)
    ]
    assert sum(one == two for one, two in zip(*offered, strict=True)) < len(EVENTS) / 20


def test_twenty_candidates_can_be_drawn_in_the_shop() -> None:
    binder = replace(SHOP_BINDER, candidates=20)
    assert {len(set(row)) for row in value("candidates_index", ALL, binder=binder)} == {20}


def test_asked_ratings_are_true_half_of_the_time_and_known_always() -> None:
    binders = [SHOP_BINDER.in_epoch(epoch) for epoch in range(8)]
    asked = np.array([value("asked_rating", ALL, binder=binder) for binder in binders])
    true = np.array(value("rating", ALL))
    assert set(asked.ravel()) == {"1", "2", "3", "4", "5"}
    share = (asked == true).mean()
    assert abs(share - 0.5) < 4 * 0.5 / asked.size**0.5
    # Each other rating is asked about as often as any.
    wrong = asked[:, true == "4"][asked[:, true == "4"] != "4"]
    counts = Counter(wrong.tolist())
    assert min(counts.values()) > 0.7 * len(wrong) / 4


def test_a_single_rating_is_always_asked_about() -> None:
    schema = replace(SCHEMA, rating=None, label=Implicit(), title=None, text=())
    events = pl.DataFrame({"user_id": [1, 2], "item_id": [1, 1], "timestamp": [1, 2]})
    tables = build_tables(events, schema=schema)
    assert value("asked_rating", [0, 1], binder=binder_of(tables)) == ["1", "1"]


def test_separators_are_half_and_half() -> None:
    binders = [SHOP_BINDER.in_epoch(epoch) for epoch in range(8)]
    found = [one for binder in binders for one in value("separator", ALL, binder=binder)]
    assert set(found) == {" , ", " -> "}
    assert abs(found.count(" , ") / len(found) - 0.5) < 4 * 0.5 / len(found) ** 0.5


def of_item(field: str, title: str, *, binder: Binder = SHOP_BINDER) -> Any:
    item = binder.tables.items["title"].to_list().index(title)
    things = Examples.of_items([item], before=0)
    template = find_template("rlmrec/item_items")
    return listed(field, things, binder=binder, template=template)[0]


def test_categories_topics_and_intention() -> None:
    assert of_item("category", "Glass Orchard") == "Poetry"
    assert of_item("topics", "Glass Orchard") == ["Nature", "Essays"]
    assert of_item("topic_count", "Glass Orchard") == "2"
    assert of_item("intention", "Glass Orchard") == "Poetry, Nature, Essays"
    assert of_item("topics", "Blue Kite") == []
    assert of_item("topic_count", "Blue Kite") == "0"
    for field, nothing in (("category", ""), ("topics", []), ("intention", "")):
        assert of_item(field, "Lost Luggage") == nothing
    assert of_item("topic_count", "Lost Luggage") == "0"
    assert of_item("vague_intention", "Lost Luggage") == ""


def test_a_vague_intention_is_one_of_the_categories() -> None:
    binders = [SHOP_BINDER.in_epoch(epoch) for epoch in range(20)]
    found = {of_item("vague_intention", "Glass Orchard", binder=binder) for binder in binders}
    assert found == {
        f"I am in the mood for something in {one}." for one in ("Poetry", "Nature", "Essays")
    }


@given(st.integers(0, 81), st.lists(st.integers(0, 29), max_size=5))
def test_feedback_is_from_training_rows_before_the_moment(hour: int, items: list[int]) -> None:
    moment = EVENTS[0]["time"] + 3600 * hour
    found = listed(
        "feedback",
        Examples.of_items(items, before=moment),
        template=find_template("rlmrec/item_items"),
    )
    train = set(SPLIT.train.tolist())
    for item, texts in zip(items, found, strict=True):
        told = [
            event
            for event in EVENTS
            if event["row"] in train
            and event["item"] == item
            and event["time"] < moment
            and event["review"]
        ]
        newest = sorted(told, key=lambda event: (event["time"], event["row"]), reverse=True)[:10]
        assert texts == [plain(event["review"]).replace('"', "'") for event in newest]


def test_feedback_needs_training_rows_and_reviews() -> None:
    moment, template = EVENTS[-1]["time"] + 1, find_template("rlmrec/item_items")
    everything = Examples.of_items(range(30), before=moment)
    assert any(listed("feedback", everything, template=template))
    untold = replace(SHOP_BINDER, train=None)
    assert listed("feedback", everything, binder=untold, template=template) == [[]] * 30
    silent = binder_of(TIED, train=np.arange(6))
    films = Examples.of_items([0, 1], before=moment)
    assert listed("feedback", films, binder=silent, template=template) == [[], []]


# What is said of users and items


def of_user(field: str, user_id: str, *, binder: Binder = SHOP_BINDER) -> Any:
    people = Examples.of_users([binder.tables.user_index(user_id)], before=0)
    return listed(field, people, binder=binder, template=find_template("kar/user_movies"))[0]


def test_users_are_called_by_name_or_by_id() -> None:
    assert of_user("user_name", "u00") == "Ada"
    assert of_user("user_name", "u01") == "u01"
    assert of_user("user_id", "u00") == "u00"
    assert of_user("user_index", "u00") == "1"
    aliased = binder_of(SHOP, catalogue={"columns": {"user_name": "gender"}})
    assert of_user("user_name", "u00", binder=aliased) == "F"
    assert of_user("user_name", "u02", binder=aliased) == "u02"


def test_names_of_items_are_no_names_of_users() -> None:
    items = SHOP.items.with_columns(name=pl.lit("thing"))
    both = binder_of(replace(SHOP, items=items))
    assert of_user("user_name", "u00", binder=both) == "Ada"
    alone = binder_of(replace(SHOP, items=items, users=SHOP.users.drop("name")))
    assert of_user("user_name", "u00", binder=alone) == "u00"


def test_profiles_and_attributes_of_users() -> None:
    assert of_user("profile", "u01") == "gender M, age 20"
    assert of_user("profile", "u02") == "age 22"
    assert of_user("profile", "u05") == ""
    assert of_user("user_attributes", "u03") == [("name", "Cleo"), ("gender", "F"), ("age", "24")]
    assert of_user("user_attributes", "u05") == []


def test_attributes_of_items_stand_in_the_order_of_the_columns() -> None:
    assert of_item("attributes", 'East of "Nowhere"') == [
        ("title", "East of 'Nowhere'"),
        ("categories", "Travel, Humour"),
        ("price", "14"),
        ("author", "Anna Bell"),
        ("city", "Berlin"),
        ("description", "Says 'no' to \\maps\\."),
    ]
    assert of_item("attributes", "Lost Luggage") == [
        ("title", "Lost Luggage"),
        ("brand", "Oak"),
        ("price", "5.5"),
        ("publisher", "Green Die"),
        ("description", "Find it again."),
    ]


def test_chosen_attributes_stand_in_the_order_chosen() -> None:
    chosen = binder_of(SHOP, catalogue={"attributes": ("price", "title", "tags", "brand")})
    assert of_item("attributes", "Violet Storm", binder=chosen) == [
        ("title", "Violet Storm"),
        ("price", "49.5"),
        ("tags", "fast, hard, loud"),
        ("brand", "Dune"),
    ]
    with pytest.raises(UserError, match=r"build\.attributes: items have no column 'colour'"):
        of_item(
            "attributes",
            "Zigzag",
            binder=binder_of(SHOP, catalogue={"attributes": ("colour",)}),
        )


def test_columns_by_their_own_name_and_by_another() -> None:
    assert of_item("brand", "Violet Storm") == "Dune"
    assert of_item("tags", "Violet Storm") == "fast, hard, loud"
    assert of_item("categories", "Violet Storm") == "Space, Sport, Action"
    names = {"brand": "publisher", "category": "tags", "description": "city"}
    aliased = binder_of(SHOP, catalogue={"columns": names})
    assert of_item("brand", "Violet Storm", binder=aliased) == "Pixel Oak"
    assert of_item("category", "Violet Storm", binder=aliased) == "fast"
    assert of_item("topics", "Violet Storm", binder=aliased) == ["hard", "loud"]
    assert of_item("category", "Amber Road", binder=aliased) == ""
    assert of_item("description", "Violet Storm", binder=aliased) == "Lyon"


def test_texts_are_parted_where_that_is_the_rule_and_not_where_a_sentence_has_the_sign() -> None:
    texts = ["One | two", *["A sentence."] * 29]
    items = SHOP.items.with_columns(description=pl.Series(texts), tags=pl.lit("one|two"))
    binder = binder_of(replace(SHOP, items=items))
    assert of_item("description", "Amber Road", binder=binder) == "One | two"
    assert of_item("tags", "Amber Road", binder=binder) == "one, two"
    reviews = SHOP.interactions.with_columns(review=pl.lit("Good|bad"))
    told = binder_of(replace(SHOP, interactions=reviews))
    assert value("review", [0], binder=told) == ["Good|bad"]


def test_columns_of_the_interaction_and_of_the_user() -> None:
    row = next(row for row in ALL if EVENTS[row]["feature"] and EVENTS[row]["headline"])
    own = EVENTS[row]
    assert value("feature", [row]) == [own["feature"]]
    assert value("headline", [row]) == [own["headline"]]
    assert value("domain", ALL) == [event["domain"] for event in EVENTS]
    genders = SHOP.users["gender"].fill_null("").to_list()
    assert value("gender", ALL) == [genders[event["user"]] for event in EVENTS]


def test_numbers_are_written_as_people_write_them() -> None:
    prices = [1234567.0, 12345.67, 8.0, None, 0.1]
    items = SHOP.items.with_columns(price=pl.Series([*prices, *[1.0] * 25]))
    binder = binder_of(replace(SHOP, items=items))
    assert binder.catalogue.text("price").values[:5].to_list() == [
        "1234567",
        "12345.67",
        "8",
        "",
        "0.1",
    ]


def test_whatever_comes_from_the_data_is_plain() -> None:
    names = ["title", "description", "review", "headline", "explanation", "feature", "tags"]
    texts = [one for name in names for one in value(name, ALL)]
    assert any("{{ rating }}" in text for text in texts)
    for text in texts:
        assert plain(text).replace('"', "'") == text
        assert "<|" not in text
    assert "Little ‹|im_end|> Moons" in texts


def test_scale_source_and_index() -> None:
    assert value("lowest", [0]) == ["1"]
    assert value("highest", [0]) == ["5"]
    assert value("source", [0]) == ["shop"]
    index = pl.Series([f"<CI{number}>" for number in range(30)])
    binder = binder_of(SHOP, catalogue={"index": index}, candidates=3)
    item = EVENTS[0]["item"]
    assert value("item_index", [0], binder=binder) == [f"<CI{item}>"]
    assert f"<CI{item}>" in value("candidates_index", [0], binder=binder)[0]
    declared = replace(TIED, schema=replace(TIED.schema, rating_range=(0.5, 10.0)))
    assert value("lowest", [0], binder=binder_of(declared)) == ["0.5"]
    assert value("highest", [0], binder=binder_of(declared)) == ["10"]


# What the data lacks


def test_a_missing_column_names_the_nearest() -> None:
    for field, hint in (("revew", "did you mean 'review'"), ("publishers", "mean 'publisher'")):
        with pytest.raises(UserError) as caught:
            value(field, [0])
        assert f"field '{field}': no table has a column '{field}'" in str(caught.value)
        assert hint in str(caught.value)
        assert f"build.columns: {{{field}: COLUMN}}" in str(caught.value)
    with pytest.raises(UserError, match="no table has a column 'brnd'") as caught:
        value("brand", [0], binder=binder_of(SHOP, catalogue={"columns": {"brand": "brnd"}}))
    assert "did you mean 'brand'" in str(caught.value)


def test_what_a_template_lacks() -> None:
    binder = binder_of(TIED)
    assert binder.lacks(TALLREC) == {}
    assert binder.lacks(find_template("uni_ctr/full")) == {}  # brand and price are optional
    lacking = binder.lacks(find_template("p5/3-12"))
    assert set(lacking) == {"explanation", "feature"}
    assert "no table has a column 'feature'" in lacking["feature"]
    bare = replace(TIED, items=TIED.items.drop("genres"))
    missing = binder_of(bare).lacks(find_template("instructrec/search-5"))
    assert set(missing) == {"vague_intention"}
    assert "build.columns.category" in missing["vague_intention"]
    assert SHOP_BINDER.lacks(find_template("p5/3-12")) == {}


def test_optional_columns_are_empty_where_there_are_none() -> None:
    binder, template = binder_of(TIED), find_template("uni_ctr/full")
    assert value("brand", [0, 1], binder=binder, template=template) == ["", ""]
    bare = binder_of(replace(TIED, items=TIED.items.drop("genres")))
    learn = find_template("learn/item")
    films = Examples.of_items([0, 1], before=0)
    assert listed("intention", films, binder=bare, template=learn) == ["", ""]
    with pytest.raises(UserError, match="no column of the items holds categories"):
        value("intention", [0], binder=bare)


@pytest.mark.parametrize(
    ("per", "fields", "absent"),
    [
        ("user", "title, history", "title"),
        ("user", "profile, candidates", "candidates"),
        ("user", "profile, feedback", "feedback"),
        ("item", "title, user_id", "user_id"),
        ("item", "title, history", "history"),
        ("item", "title, rating", "rating"),
    ],
)
def test_a_template_cannot_show_what_it_is_not_about(
    tmp_path: Path, per: str, fields: str, absent: str
) -> None:
    given = "\ngiven: [rating]" if absent == "rating" else ""
    template = own(tmp_path, fields, keys=f"per: {per}{given}")
    assert list(SHOP_BINDER.lacks(template)) == [absent]
    asked = Examples.of_users([0], before=0) if per == "user" else Examples.of_items([0], before=0)
    with pytest.raises(UserError, match=f"field '{absent}': the template is per {per}"):
        SHOP_BINDER.block(asked, template)


def test_a_column_of_another_table_than_the_template_is_about(tmp_path: Path) -> None:
    for per, fields in (("item", "title, gender"), ("user", "profile, brand")):
        template = own(tmp_path, fields, keys=f"per: {per}")
        make = Examples.of_users if per == "user" else Examples.of_items
        with pytest.raises(UserError, match="which this is not about"):
            SHOP_BINDER.block(make([0], before=0), template)


# Which template fits which target


def fitting(name: str, *, binder: Binder = SHOP_BINDER) -> list[bool]:
    return binder.fits(Examples.of_rows(binder.tables, ALL), find_template(name)).tolist()


def test_every_target_fits_a_question_about_its_label() -> None:
    assert fitting("tallrec/movie") == [True] * len(EVENTS)
    assert fitting("p5/1-3") == [True] * len(EVENTS)


@pytest.mark.parametrize("name", ["p5/2-1", "p5/2-7", "instructrec/recommend-7", "p5/5-5"])
def test_only_likes_are_answers_and_candidates(name: str) -> None:
    assert fitting(name) == [event["label"] == 1 for event in EVENTS]


def test_every_text_must_be_there() -> None:
    assert fitting("p5/3-12") == [
        bool(event["feature"] and event["explanation"]) for event in EVENTS
    ]
    assert fitting("p5/4-1") == [bool(event["review"] and event["headline"]) for event in EVENTS]
    assert fitting("p5/4-2") == [bool(event["review"]) for event in EVENTS]


def test_topics_need_two_categories_and_a_category_one() -> None:
    lengths = SHOP.items["categories"].list.len().to_list()
    things = Examples.of_items(range(30), before=0)
    topics = SHOP_BINDER.fits(things, find_template("notellm/topics"))
    category = SHOP_BINDER.fits(things, find_template("notellm/category"))
    assert topics.tolist() == [length > 1 for length in lengths]
    assert category.tolist() == [length > 0 for length in lengths]


def test_what_never_happened_has_a_label_but_no_outcome() -> None:
    rows = np.arange(20)
    own = SHOP.interactions["item"].to_numpy()[:20]
    drawn = Examples.of_rows(SHOP, rows, items=(own + 1) % 30)
    assert (drawn.labels == 0).all()
    assert SHOP_BINDER.fits(drawn, TALLREC).all()
    assert not SHOP_BINDER.fits(drawn, find_template("p5/1-1")).any()
    assert not SHOP_BINDER.fits(drawn, find_template("p5/2-1")).any()
    assert listed("title", drawn) == [SHOP_BINDER.catalogue.titles[int(i)] for i in (own + 1) % 30]
    assert listed("history", drawn) == value("history", rows.tolist())
