"""Domains cut from a column of the items, and the domain of any request."""

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tastemaker.data.describe import describe
from tastemaker.data.domains import domains_of, item_domains, with_domains
from tastemaker.data.negatives import with_negatives
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError, RecipeError, UserError
from tastemaker.methods.prepare import check, prepared
from tastemaker.recipe import Recipe
from tastemaker.recipe_data import DataConfig, DomainsConfig
from tastemaker.stage import digest
from tastemaker.testing.world import checkerboard, shop_world

SCHEMA = Schema(
    *("u", "i", "t", "r"), LabelRule("r", ">", 3.0), "title", lists={"kinds": ";"}, numeric=("n",)
)
KINDS = {"a": "War;Drama", "b": "Drama", "c": " Comedy ;War", "d": "", "e": None, "f": "Comedy"}
EVENTS = [("u1", "a"), ("u1", "b"), ("u2", "c"), ("u2", "d"), ("u3", "e"), ("u1", "c")]


def built(*, schema=SCHEMA, **cells):
    users, items = zip(*EVENTS, strict=True)
    times = range(10, 10 + len(EVENTS))
    frame = pl.DataFrame({"u": users, "i": items, "t": times, "r": [4.0] * len(EVENTS)})
    frame = frame.with_columns(n=pl.int_range(pl.len()))
    catalogue = {"i": list(KINDS), "title": list("ABCDEF"), "kinds": list(KINDS.values())}
    return build_tables(frame, items=pl.DataFrame(catalogue | cells), schema=schema)


def by_id(tables):
    """Events as (user, item, feature, domain) of external ids; checks that the numbers hold."""
    assert tables.users["user"].to_list() == list(range(tables.n_users))
    assert tables.items["item"].to_list() == list(range(tables.n_items))
    assert tables.items["item_id"].is_sorted()
    assert tables.users["user_id"].is_sorted()
    events = tables.interactions.drop("domain").join(tables.users, on="user", maintain_order="left")
    events = events.join(tables.items, on="item", maintain_order="left")
    assert events["domain"].to_list() == tables.interactions["domain"].to_list()
    return events.select("user_id", "item_id", "n", "domain").rows()


def test_the_first_group_that_has_a_value_counts_and_the_rest_leaves():
    tables = with_domains(built(), "kinds", groups={"Fights": ["War"], "Plays": ["Drama"]})
    events = tables.interactions
    assert events.schema["domain"] == pl.Enum(["Fights", "Plays"])
    assert events.columns == ["user", "item", "time", "rating", "label", "domain", "n"]
    assert by_id(tables) == [
        ("u1", "a", 0, "Fights"),
        ("u1", "b", 1, "Plays"),
        ("u2", "c", 2, "Fights"),
        ("u1", "c", 5, "Fights"),
    ]
    assert tables.items.select("item_id", "title", "domain").rows() == [
        ("a", "A", "Fights"),
        ("b", "B", "Plays"),
        ("c", "C", "Fights"),
    ]
    assert tables.users["user_id"].to_list() == ["u1", "u2"]
    assert tables.schema.domain == "domain"
    assert tables.notes[-2:] == (
        "Domains cut from 'kinds': Fights 3 events of 2 items, Plays 1 events of 1 items.",
        "2 events of 3 items in none of these domains are left out.",
    )
    assert {name: one["events"] for name, one in describe(tables)["domains"].items()} == {
        "Fights": 3,
        "Plays": 1,
    }
    turned = with_domains(built(), "kinds", groups={"Plays": ["Drama"], "Fights": ["War"]})
    assert dict(turned.items.select("item_id", "domain").rows())["a"] == "Plays"
    assert turned.interactions.schema["domain"] == pl.Enum(["Plays", "Fights"])


def test_others_may_stay_in_a_domain_of_their_own():
    groups = {"Comedy": ["Comedy"]}
    tables = with_domains(built(), "kinds", groups=groups, others="keep")
    assert tables.interactions["domain"].dtype == pl.Enum(["Comedy", "other"])
    assert tables.interactions["domain"].to_list() == [
        *("other", "other", "Comedy", "other", "other", "Comedy")
    ]
    assert (tables.n_users, tables.n_items) == (3, 6)
    assert tables.items["domain"].to_list() == ["other"] * 2 + ["Comedy"] + ["other"] * 2 + [
        "Comedy"
    ]
    whole = {"Comedy": ["Comedy"], "Rest": ["War", "Drama"]}
    left = with_domains(built(), "kinds", groups=whole)
    kept = with_domains(left_without_domains(left), "kinds", groups=whole, others="keep")
    assert kept.interactions.schema["domain"] == pl.Enum(["Comedy", "Rest"])
    assert by_id(kept) == by_id(left)


def left_without_domains(tables):
    return replace(
        tables,
        items=tables.items.drop("domain"),
        interactions=tables.interactions.drop("domain"),
        schema=replace(tables.schema, domain=None),
    )


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["x", "y"])])
def test_columns_of_one_word(dtype):
    kinds = pl.Series(["x", "y", "x", None, "y", "y"], dtype=dtype)
    tables = with_domains(built(kinds2=kinds), "kinds2", groups={"y": ["y"], "x": ["x"]})
    assert tables.items["domain"].to_list() == ["x", "y", "x", "y", "y"]


def test_texts_are_parted_at_the_bar_unless_they_are_categories():
    kinds = ["War|Drama", "Drama", "Comedy | War", "", None, "Comedy"]
    tables = built(genres=kinds)
    found = with_domains(tables, "genres", groups={"War": ["War"]})
    assert found.items["item_id"].to_list() == ["a", "c"]
    whole = built(schema=replace(SCHEMA, categorical=("genres",)), genres=kinds)
    found = with_domains(whole, "genres", groups={"both": ["War|Drama"]})
    assert found.items["item_id"].to_list() == ["a"]
    years = with_domains(
        built(year=[1990, 1991, 1990, 2000, 2000, 2000]), "year", groups={"old": ["1990"]}
    )
    assert years.items["item_id"].to_list() == ["a", "c"]


def test_what_is_wrong_is_named():
    tables = built()

    def message(*groups, column="kinds", on=tables):
        with pytest.raises(DataError) as raised:
            with_domains(on, column, groups={name: [name] for name in groups})
        return str(raised.value)

    assert message("War", column="kind").startswith(
        "data.domains.column: the items have no column 'kind'; did you mean 'kinds'?\n"
        "columns of the items: item_id, title, kinds"
    )
    told = message("War", "Dramas")
    assert "no item has 'Dramas' in 'kinds'; did you mean 'Drama'?" in told
    assert "the most frequent of 3 values: Comedy, Drama, War" in told
    assert "data.columns.lists" in told
    assert "no item is left for 'War'" in with_message({"all": ["Drama", "War"], "War": ["War"]})
    assert "'Dramas' (group 'Plays')" in with_message({"Plays": ["Drama", "Dramas"]})
    assert "'price' holds Float64" in message("1.5", column="price", on=built(price=[1.5] * 6))
    cut = with_domains(tables, "kinds", groups={"War": ["War"]})
    assert "has domains already (column 'domain')" in message("War", on=cut)
    taken = built(domain=["x"] * 6)
    assert "the items have a column 'domain' already" in message("War", on=taken)
    eventless = built(kinds=["", "", "", "", "", "Noir"])
    assert "no event is left" in message("Noir", on=eventless)
    assert "columns of the items" in message("0", column="item")
    with pytest.raises(ValueError, match="before negatives are drawn"):
        with_domains(with_negatives(tables, per_positive=1, seed=0), "kinds", groups={})


def with_message(groups):
    with pytest.raises(DataError) as raised:
        with_domains(built(), "kinds", groups=groups)
    return str(raised.value)


def small(events, kinds, **more):
    """Tables of (user, item, domain number, drawn) with ids that are the dense numbers."""
    users, items, domains, drawn = zip(*events, strict=True)
    names = pl.Series([kinds[number] for number in domains], dtype=pl.Enum(kinds))
    frame = pl.DataFrame(
        {"user": users, "item": items, "time": range(len(events))},
        schema={"user": pl.Int32, "item": pl.Int32, "time": pl.Int64},
    ).with_columns(
        rating=pl.lit(1.0), label=pl.lit(1, pl.Int8), domain=names, sampled=pl.Series(drawn)
    )
    n_items = 6
    ids = np.arange(n_items, dtype=np.int32)
    catalogue = {"item": ids, "item_id": ids, "title": ["x"] * n_items} | more
    return Tables(
        pl.DataFrame({"user": np.arange(3, dtype=np.int32), "user_id": [0, 1, 2]}),
        pl.DataFrame(catalogue),
        frame,
        schema=replace(SCHEMA, domain="shop"),
        source="test",
    )


@settings(max_examples=40)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    data=st.data(),
)
def test_an_item_has_the_domain_of_most_of_its_events(events, data):
    kinds = ["z", "a", "m"]
    tables = small(events, kinds)
    expected = []
    for item in range(6):
        counts = [
            sum((one[1], one[2], one[3]) == (item, code, False) for one in events)
            for code in range(3)
        ]
        expected.append(kinds[int(np.argmax(counts))] if max(counts) else None)
    found = item_domains(tables)
    assert found.to_list() == expected
    assert found.dtype == pl.Enum(kinds)
    assert found.name == "domain"
    rows = data.draw(st.lists(st.integers(-1, len(events) - 1), max_size=8))
    items = [events[row][1] if row >= 0 else data.draw(st.integers(0, 5)) for row in rows]
    asked = domains_of(tables, items, rows=rows)
    assert asked.dtype == pl.Enum(kinds)
    assert asked.to_list() == [
        kinds[events[row][2]] if row >= 0 else expected[item]
        for row, item in zip(rows, items, strict=True)
    ]


def test_items_without_an_event_keep_the_domain_of_their_column():
    shops = ["z", "z", " a", "elsewhere", None, "m"]
    tables = small([(0, 0, 1, False), (1, 1, 0, True)], ["z", "a", "m"], shop=shops)
    assert item_domains(tables).to_list() == ["a", "z", "a", None, None, "m"]
    cut = with_domains(built(), "kinds", groups={"Comedy": ["Comedy"]})
    assert cut.items["item_id"].to_list() == ["c", "f"]
    assert domains_of(cut, [1, 0], rows=[-1, -1]).to_list() == ["Comedy", "Comedy"]


def test_tables_without_domains_say_how_to_get_some():
    with pytest.raises(UserError, match=r"data\.columns\.domain.*\n?.*data\.domains"):
        domains_of(checkerboard(), [0], rows=[0])
    with pytest.raises(UserError, match="the interactions have none"):
        item_domains(checkerboard())


def test_the_shop_names_every_request():
    tables = shop_world()
    events = tables.interactions
    rows = np.arange(events.height)
    assert domains_of(tables, events["item"].to_numpy(), rows=rows).equals(events["domain"])
    of_items = domains_of(tables, events["item"].to_numpy(), rows=np.full(len(rows), -1))
    assert of_items.equals(events["domain"])


def test_the_recipe_cuts_domains_before_it_filters():
    config = DataConfig(
        source="movielens-small",
        domains={"column": "genres", "groups": {"Fun": "Comedy", "Fights": ["Action", "War"]}},
        filters={"k_core": 20, "users": 100},
        negatives={"per_positive": 1},
    )
    split, steps = prepared(config, seed=1)
    tables = split.tables
    assert list(describe(tables)["domains"]) == ["Fun", "Fights"]
    counts = tables.happened.group_by("item").len()["len"]
    assert counts.min() >= 1
    told = re.findall(r"([\d,]+) events", tables.notes[0])
    assert len(told) == 2
    assert steps[0].events_before == sum(int(count.replace(",", "")) for count in told)
    likes = tables.interactions.filter(pl.col("label") == 1)["domain"].value_counts().sort("domain")
    drawn = tables.interactions.filter("sampled")["domain"].value_counts().sort("domain")
    assert likes.equals(drawn)
    named = dict(tables.items.select("item", "domain").rows())
    pairs = tables.interactions.select("item", pl.col("domain").cast(pl.String)).unique()
    assert dict(pairs.rows()).items() <= named.items()
    assert pairs.height == pairs["item"].n_unique()


def test_groups_are_written_in_three_ways_and_keep_their_order():
    told = DomainsConfig(column="c", groups={"B": "b", "A": ["a", "x"]})
    assert told.groups == (("B", ("b",)), ("A", ("a", "x")))
    assert DomainsConfig(column="c", groups=["B", "A"]).groups == (("B", ("B",)), ("A", ("A",)))
    dumped = told.model_dump(mode="json")
    assert DomainsConfig.model_validate(dumped) == told
    turned = DomainsConfig(column="c", groups={"A": ["a", "x"], "B": "b"})
    assert digest(turned.model_dump(mode="json")) != digest(dumped)


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"groups": ["A"]}, "column"),
        ({"column": "c", "groups": []}, "at least 1"),
        ({"column": "c", "groups": {"A": []}}, "at least 1"),
        ({"column": "c", "groups": {"": ["a"]}}, "at least 1"),
        ({"column": "c", "groups": "A"}, "tuple"),
        ({"column": "c", "groups": ["A", "B", "A"]}, "names a group twice"),
        ({"column": "c", "groups": ["other"], "others": "keep"}, "a group called other"),
        ({"column": "c", "groups": ["A"], "others": "hide"}, "'drop' or 'keep'"),
    ],
)
def test_sections_that_cannot_be(domains, message):
    with pytest.raises(ValidationError, match=message):
        DomainsConfig.model_validate(domains)


def test_domains_come_from_one_place(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,item_id,timestamp,rating\n1,1,1,4\n")
    data = {
        "interactions": str(tmp_path / "r.csv"),
        "columns": {"domain": "shop"},
        "domains": {"column": "kinds", "groups": ["War"]},
    }
    recipe = Recipe.model_validate({"name": "x", "data": data})
    with pytest.raises(RecipeError, match=r"data\.columns\.domain names 'shop' already"):
        check(recipe)
