"""Instructions made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tastemaker.data.history import Histories
from tastemaker.data.item_index import item_index
from tastemaker.data.tables import Tables
from tastemaker.prompts.audit import check_no_leak
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.columnar import render_rows
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource, Limit
from tastemaker.prompts.template import Template, find_template, find_templates
from tastemaker.testing.world import shop_split, tied_world

SPLIT = shop_split()
SHOP = SPLIT.tables
INDEX = item_index(SHOP, SPLIT.train, "random", seed=0).texts
BINDER = Binder(
    SPLIT.histories, Catalogue(SHOP, index=INDEX), candidates=6, train=SPLIT.train, seed=5
)
EXAMPLES = Examples.of_rows(SHOP, np.arange(SHOP.interactions.height))
MANY = find_templates(
    ["p5/[14]-[34]", "p5/2-[17]", "p5/3-12", "instructrec/recommend-[17]", "tallrec/*", "uni_ctr/*"]
)
BEFORE = SPLIT.boundaries["test"]


def source(
    *names: str, examples: Examples = EXAMPLES, binder: Binder = BINDER, **options: Any
) -> InstructionSource:
    mixture = Mixture.of(find_templates(names), per_example=options.pop("per_example", 1))
    return InstructionSource(binder, examples, mixture, "train", **options)


def characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def tied(rows: Sequence[int], *names: str, **options: Any) -> pl.DataFrame:
    tables = tied_world()
    binder = Binder(Histories.from_interactions(tables.interactions), Catalogue(tables))
    return source(*names, examples=Examples.of_rows(tables, rows), binder=binder, **options).frame()


def test_an_instruction_cell_by_cell() -> None:
    (record,) = tied([5], "tallrec/movie").to_dicts()
    assert record.pop("prompt").split("\n")[1:] == [
        'User Preference: "Film 1", "Film 3"',
        'User Unpreference: "Film 2", "Film 4"',
        'Will the user like the target movie "Film 5"?',
    ]
    assert record == {
        "system": "",
        "completion": "Yes.",
        "template": "tallrec/movie",
        "user_id": 7,
        "item_id": 5,
        "label": 1,
        "timestamp": 40,
        "domain": "",
        "split": "train",
        "row": 5,
        "candidates": None,
    }


def test_rows_keep_their_order_and_may_repeat() -> None:
    frame = tied([5, 0, 5, 1], "tallrec/movie")
    assert frame["row"].to_list() == [5, 0, 5, 1]
    assert frame["completion"].to_list() == ["Yes."] * 4
    assert frame["prompt"][0] == frame["prompt"][2]


def test_several_instructions_of_an_example_stand_together() -> None:
    names = ["tallrec/movie", "p5/2-1", "p5/1-1"]
    frame = tied([5, 2], *names, per_example=None)
    # Film 2 was not liked, so it is no answer to "what comes next".
    assert frame.select("row", "template").rows() == [
        (5, "tallrec/movie"),
        (5, "p5/2-1"),
        (5, "p5/1-1"),
        (2, "tallrec/movie"),
        (2, "p5/1-1"),
    ]


# Slices and epochs


@settings(max_examples=15)
@given(
    st.lists(st.integers(0, len(EXAMPLES)), max_size=4),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([None, 400]),
)
def test_any_partition_gives_the_same_instructions(
    cuts: list[int], epoch: int, pairs: bool, most: int | None
) -> None:
    limit = None if most is None else Limit(most, characters)
    rejected = np.where(EXAMPLES.rows % 3 == 0, -1, (EXAMPLES.items + 1) % 30)
    asked = InstructionSource(
        BINDER.in_epoch(epoch),
        EXAMPLES,
        Mixture.of(MANY, per_example=2),
        "train",
        limit=limit,
        pairs=pairs,
        rejected=rejected,
    )
    borders = [0, *sorted(cuts), len(EXAMPLES)]
    parts = [asked.frame(start, stop) for start, stop in pairwise(borders)]
    assert_frame_equal(pl.concat(parts), asked.frame())


def test_blocks_are_frames_one_after_another() -> None:
    asked = source("p5/1-1")
    assert_frame_equal(pl.concat(asked.blocks()), asked.frame())
    assert_frame_equal(pl.concat(asked.blocks(10, 1000)), asked.frame(10))
    assert list(asked.blocks(7, 7)) == []


def test_epochs_differ_and_come_again() -> None:
    asked = InstructionSource(BINDER, EXAMPLES, Mixture.of(MANY), "train")
    frames = [asked.in_epoch(epoch).frame() for epoch in range(3)]
    assert_frame_equal(frames[0], asked.frame())
    assert_frame_equal(frames[2], asked.in_epoch(2).frame())
    for one, two in pairwise(frames):
        same = one.join(two, on=["row", "template"])
        assert same.height < one.height / 10
    drawn = [source("p5/2-7").in_epoch(epoch).frame()["prompt"].to_list() for epoch in range(2)]
    assert sum(one == two for one, two in zip(*drawn, strict=True)) < len(drawn[0]) / 10


def test_some_of_the_places_under_another_name() -> None:
    rejected = (EXAMPLES.items + 1) % 30
    asked = source("p5/2-1", pairs=True, rejected=rejected)
    places = np.array([7, 3, 90])
    frame = asked.of_places(places, split="few").frame()
    assert set(frame["split"]) == {"few"}
    whole = asked.frame().filter(pl.col("row").is_in(places.tolist()))
    assert_frame_equal(frame.sort("row").drop("split"), whole.drop("split"))
    assert len(asked.of_places(places, split="few")) == 3


def test_no_examples_no_instructions() -> None:
    whole = source("p5/2-7")
    none = whole.frame(0, 0)
    assert none.height == 0
    assert none.schema == whole.frame().schema
    unfit = source("p5/2-1", examples=EXAMPLES.take(np.flatnonzero(EXAMPLES.labels == 0)[:3]))
    assert unfit.frame().schema == source("p5/2-1").frame().schema
    assert unfit.frame().height == 0


# Provenance


def test_provenance_of_interactions() -> None:
    frame = source("p5/2-7").frame()
    events = SHOP.interactions[frame["row"].to_numpy()]
    assert frame["timestamp"].to_list() == events["time"].to_list()
    assert frame["label"].to_list() == events["label"].to_list()
    assert frame["domain"].to_list() == events["domain"].cast(pl.String).to_list()
    assert frame["user_id"].to_list() == SHOP.users["user_id"].gather(events["user"]).to_list()
    assert frame["item_id"].to_list() == SHOP.items["item_id"].gather(events["item"]).to_list()
    numbers = dict(zip(SHOP.items["item_id"], INDEX, strict=True))
    for prompt, offered in frame.select("prompt", "candidates").iter_rows():
        assert prompt.endswith(" , ".join(numbers[item] for item in offered))


@pytest.mark.parametrize(
    ("name", "examples", "nothing"),
    [
        (
            "kar/user_items",
            Examples.of_users(range(24), before=BEFORE),
            {"item_id", "label", "timestamp", "row", "candidates"},
        ),
        (
            "kar/item_items",
            Examples.of_items(range(30), before=BEFORE),
            {"user_id", "label", "timestamp", "row", "candidates"},
        ),
        ("tallrec/item", EXAMPLES, {"candidates"}),
        ("p5/2-7", EXAMPLES, set()),
    ],
)
def test_provenance_is_null_where_there_is_none(
    name: str, examples: Examples, nothing: set[str]
) -> None:
    frame = source(name, examples=examples).frame()
    assert frame.height > 5
    assert {column for column in frame.columns if frame[column].null_count()} == nothing
    assert all(frame[column].null_count() == frame.height for column in nothing)
    expected = {"label": pl.Int8, "timestamp": pl.Int64, "row": pl.Int64, "item_id": pl.Int64}
    assert {column: frame.schema[column] for column in expected} == expected
    assert frame.schema["user_id"] == pl.String
    assert frame.schema["candidates"] == pl.List(pl.Int64)


def test_what_never_happened_keeps_the_moment_and_says_no() -> None:
    rows = SPLIT.test[:10]
    drawn = Examples.of_rows(SHOP, rows, items=(EXAMPLES.items[rows] + 1) % 30)
    frame = source("tallrec/item", "uni_ctr/full", "p5/1-1", examples=drawn).frame()
    assert set(frame["template"]) == {"tallrec/item", "uni_ctr/full"}
    assert set(frame["completion"]) == {"No.", "No"}
    assert set(frame["label"]) == {0}
    assert frame["timestamp"].to_list() == SHOP.interactions["time"][rows.tolist()].to_list()
    ids = SHOP.items["item_id"].gather(drawn.items)
    assert frame["item_id"].to_list() == ids.to_list()


# Limits


def longest(template: Template, examples: Examples, *, binder: Binder, most: int) -> dict[int, str]:
    """Row → the prompt with as long a history as fits, found by trying all lengths."""
    found: dict[int, str] = {}
    height, rows = len(examples), examples.rows.tolist()
    for length in range(max(binder.history, binder.likes) + 1):
        block = binder.block(examples, template, shown=np.full(height, length))
        parts = [
            render_rows(template, name, block, height=height).to_list()
            for name in ("system", "prompt", "answer")
        ]
        if template.answers_by_label:
            parts[2] = [template.choices[1 - label] for label in examples.labels.tolist()]
        for row, *texts in zip(rows, *parts, strict=True):
            if sum(map(len, texts)) <= most:
                found[row] = texts[1]
    return found


@pytest.mark.parametrize("most", [110, 250, 300, 400])
@pytest.mark.parametrize(
    ("name", "history", "likes"),
    [
        ("tallrec/item", 10, 5),
        ("p5/2-1", 8, 5),
        ("instructrec/personal-9", 10, 5),
        ("uni_ctr/full", 2, 7),
        ("flip/row", 10, 5),
    ],
)
def test_histories_are_as_long_as_fits(name: str, history: int, likes: int, most: int) -> None:
    binder, template = replace(BINDER, history=history, likes=likes), find_template(name)
    frame = source(name, binder=binder, limit=Limit(most, characters)).frame()
    parts = frame.select(
        pl.sum_horizontal(pl.col("system", "prompt", "completion").str.len_chars())
    )
    assert not frame.height or parts.to_series().max() <= most
    asked = EXAMPLES.take(binder.fits(EXAMPLES, template))
    found = dict(frame.select("row", "prompt").iter_rows())
    assert found == longest(template, asked, binder=binder, most=most)


def test_the_oldest_titles_go_first_and_none_is_cut() -> None:
    whole = source("tallrec/item").frame()
    short = source("tallrec/item", limit=Limit(330, characters)).frame()
    assert short.height == whole.height  # the question alone always fits
    cut = 0
    for one, two in zip(whole["prompt"], short["prompt"], strict=True):
        first, *labels, question = one.split("\n")
        assert two.split("\n")[0] == first
        assert two.split("\n")[-1] == question
        for line, shorter in zip(labels, two.split("\n")[1:-1], strict=True):
            titles, kept = line.split('"')[1::2], shorter.split('"')[1::2]
            assert kept == titles[len(titles) - len(kept) :]
            assert shorter.count('"') == 2 * len(kept)
            cut += len(titles) - len(kept)
    assert cut > 50
    check_no_leak(SHOP, short, history=10)


def test_what_cannot_fit_is_left_out() -> None:
    shortest = "Question only: Will the user like the target item"
    frame = source("tallrec/item", limit=Limit(len(shortest), characters)).frame()
    assert frame.height == 0
    assert frame.schema == source("tallrec/item").frame().schema
    lengths = [len(text) for text in source("p5/1-2").frame()["prompt"]]
    middle = int(np.median(lengths)) + 1  # and an answer of one letter
    kept = source("p5/1-2", limit=Limit(middle, characters)).frame()
    assert kept["row"].to_list() == [
        row for row, length in enumerate(lengths) if length + 1 <= middle
    ]


def test_the_limit_counts_system_prompt_and_answer_as_the_caller_does() -> None:
    people = Examples.of_users(range(24), before=BEFORE)
    asked = source("rlmrec/user_items", examples=people)
    (system,) = set(asked.frame()["system"])
    seen: list[str] = []

    def words(texts: Sequence[str]) -> list[int]:
        seen.extend(texts)
        return [len(text.split()) for text in texts]

    most = len(system.split()) + 40
    frame = replace(asked, limit=Limit(most, words)).frame()
    assert frame.height == 24
    assert frame["prompt"].str.split(" ").list.len().max() <= 40
    assert (frame["prompt"].str.len_chars() < asked.frame()["prompt"].str.len_chars()).any()
    assert {system, ""} <= set(seen)


def test_candidates_are_the_same_with_a_shorter_history() -> None:
    whole = source("instructrec/recommend-7").frame()
    short = source("instructrec/recommend-7", limit=Limit(420, characters)).frame()
    both = short.join(whole, on="row", suffix="_whole")
    assert (both["prompt"] != both["prompt_whole"]).any()
    assert both["candidates"].to_list() == both["candidates_whole"].to_list()
    check_no_leak(SHOP, short, history=10)


# Preference pairs


def test_the_other_choice_is_rejected() -> None:
    frame = source("tallrec/item", pairs=True).frame()
    assert frame.height == len(EXAMPLES)
    pairs = frame.select("label", "completion", "rejected").unique().sort("label").rows()
    assert pairs == [(0, "No.", "Yes."), (1, "Yes.", "No.")]
    asked = source("p5/1-3", pairs=True).frame()
    assert set(asked.select("completion", "rejected").rows()) == {("yes", "no"), ("no", "yes")}


def test_the_title_of_a_disliked_item_is_rejected() -> None:
    titles = BINDER.catalogue.titles
    rejected = np.where(EXAMPLES.rows % 4 == 0, -1, (EXAMPLES.items + 7) % 30)
    frame = source("instructrec/recommend-1", pairs=True, rejected=rejected).frame()
    for row, completion, other in frame.select("row", "completion", "rejected").iter_rows():
        assert row % 4
        assert completion == titles[int(EXAMPLES.items[row])]
        assert other == titles[int(rejected[row])]
    known = (EXAMPLES.labels == 1) & (rejected >= 0)
    assert frame["row"].to_list() == np.flatnonzero(known).tolist()
    numbered = source("openp5/straightforward-1", pairs=True, rejected=rejected).frame()
    assert numbered["rejected"].to_list() == [
        f"shop item_{INDEX[int(rejected[row])]}" for row in numbered["row"]
    ]


def test_an_answer_is_never_rejected_by_itself() -> None:
    book, game = (
        item for item, title in enumerate(BINDER.catalogue.titles) if title == "The Tower"
    )
    rejected = np.full(len(EXAMPLES), game)
    frame = source("instructrec/recommend-1", pairs=True, rejected=rejected).frame()
    towers = np.isin(EXAMPLES.items[frame["row"].to_numpy()], [book, game])
    assert not towers.any()
    assert (frame["completion"] != frame["rejected"]).all()


def test_without_a_rejected_answer_there_is_no_pair() -> None:
    assert source("instructrec/recommend-1", pairs=True).frame().height == 0
    assert source("p5/1-1", pairs=True).frame().height == 0
    assert "rejected" not in source("instructrec/recommend-1").frame().columns


def test_both_answers_of_a_pair_name_the_same_history() -> None:
    rejected = (EXAMPLES.items + 7) % 30
    limit = Limit(300, characters)
    frame = source("instructrec/personal-9", pairs=True, rejected=rejected, limit=limit).frame()
    assert frame.height > 50
    for completion, other in frame.select("completion", "rejected").iter_rows():
        assert completion.partition(" Next: ")[0] == other.partition(" Next: ")[0]


# Together with the tables


def test_a_source_reads_whatever_ids_the_tables_have() -> None:
    users = SHOP.users.with_columns(user_id=pl.int_range(24))
    items = SHOP.items.with_columns(item_id="i" + pl.col("item_id").cast(pl.String))
    tables: Tables = replace(SHOP, users=users, items=items)
    binder = replace(BINDER, catalogue=Catalogue(tables))
    frame = source("p5/2-7", binder=binder).frame()
    assert frame.schema["user_id"] == pl.Int64
    assert frame.schema["candidates"] == pl.List(pl.String)
    assert frame["item_id"][0].startswith("i1")
