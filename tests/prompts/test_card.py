"""The card of a data set: its head for the hub, its numbers, and text that breaks neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.card import CardFacts, dataset_card
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import PROVENANCE, format_names
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_template, find_templates
from tastemaker.prompts.writing import Layout, write_parts
from tastemaker.stage import Silent
from tastemaker.testing.world import checkerboard, tied_world

TABLES = checkerboard(6, 8, events=6)
RECIPE = "name: world\nseed: 8"


def characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def facts(
    folder: Path,
    parts: dict[str, Any],
    *,
    tables: Tables = TABLES,
    templates: Sequence[str] = ("tallrec/movie",),
    **options: Any,
) -> CardFacts:
    """Facts of parts that were written; a part is given by its rows."""
    histories = Histories.from_interactions(tables.interactions)
    binder = Binder(histories, Catalogue(tables), history=4, candidates=3)
    found = find_templates(templates)
    sources = {
        part: InstructionSource(
            binder, Examples.of_rows(tables, rows), Mixture.of(found, per_example=None), part
        )
        for part, rows in parts.items()
    }
    form = options.pop("format", "trl")
    layout = Layout(form, "parquet", shard_rows=7)
    written = write_parts(folder, sources, layout=layout, scratch=folder / "s", report=Silent())
    known: dict[str, Any] = {
        "checked": 1.0,
        "near_duplicates": 0,
        "recipe": RECIPE,
        "counters": {"characters": characters},
        **options,
    }
    return CardFacts(written, sources, found, form, **known)


def head_of(card: str) -> dict[str, Any]:
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def table(card: str, section: str) -> list[list[str]]:
    """Cells of the first table of a section, without its header."""
    lines = card.split(f"\n## {section}\n")[1].split("\n## ")[0].strip().split("\n")
    rows = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def test_the_head_tells_the_hub_where_the_parts_are(tmp_path: Path) -> None:
    card = dataset_card(facts(tmp_path, {"train": range(20), "test": range(30, 36), "none": []}))
    head = head_of(card)
    (config,) = head["configs"]
    assert config["data_files"] == [
        {"split": "train", "path": "data/train-*.parquet"},
        {"split": "test", "path": "data/test-*.parquet"},
    ]
    assert [one["name"] for one in config["features"]][:2] == ["prompt", "completion"]
    assert head["size_categories"] == ["n<1K"]
    assert head["pretty_name"] == "checkerboard as instructions"


@pytest.mark.parametrize("form", format_names())
def test_every_format_names_its_columns(tmp_path: Path, form: str) -> None:
    card = dataset_card(facts(tmp_path, {"train": range(6)}, format=form))
    (config,) = head_of(card)["configs"]
    listed = [row[0].strip("`") for row in table(card, "Columns")]
    assert listed == [one["name"] for one in config["features"]]
    assert set(PROVENANCE).issubset(listed) == (form != "openai")
    assert f"in the form `{form}`" in card


def test_the_counts_are_those_of_the_frames(tmp_path: Path) -> None:
    counters = {"characters": characters, "tokens": lambda texts: [7] * len(texts)}
    found = facts(tmp_path, {"train": range(20)}, counters=counters)
    card, frame = dataset_card(found), found.sources["train"].frame()
    liked = f"{frame['label'].sum() / 20:.1%}"
    users, items = (str(frame[name].n_unique()) for name in ("user_id", "item_id"))
    (row,) = table(card, "Parts")
    assert row[:6] == ["train", "20", "20", users, items, liked]
    assert row[6:] == ["2017-07-14", "2017-07-14"]
    texts = [
        f"{prompt}\n{answer}" for prompt, answer in frame.select("prompt", "completion").rows()
    ]
    lengths = table(card, "Lengths of question and answer")
    assert lengths[0][:2] == ["train", "characters"]
    assert lengths[0][2:] == [
        f"{value:,.0f}" for value in np.percentile(characters(texts), [50, 95, 100])
    ]
    assert lengths[1] == ["train", "tokens", "7", "7", "7"]
    assert table(card, "Answers") == [
        ["`No.`", f"{1 - frame['label'].mean():.1%}"],
        ["`Yes.`", liked],
    ]
    assert f"~~~~text\n{texts[0]}\n~~~~" in card
    for line in (
        "CC0-1.0",
        "arXiv 2305.00447",
        "tastemaker build recipe.yaml",
        RECIPE,
        "`rating > 3`",
        "`tallrec/movie`",
    ):
        assert line in card


def test_instructions_are_counted_by_template(tmp_path: Path) -> None:
    names = ("tallrec/movie", "instructrec/recommend-1", "instructrec/recommend-11")
    found = facts(tmp_path, {"train": range(12), "test": range(12, 15)}, templates=names)
    card = dataset_card(found)
    liked = int(TABLES.interactions["label"][:15].sum())
    counts = {row[0].strip("`"): row[2] for row in table(card, "Templates")}
    assert counts == dict(zip(names, ["15", str(liked), "15"], strict=True))
    parts = {row[0]: row[1:3] for row in table(card, "Parts")}
    assert parts["train"][1] == "12"
    assert int(parts["train"][0]) + int(parts["test"][0]) == 30 + liked


def test_more_templates_than_one_reads_are_summed_up(tmp_path: Path) -> None:
    names = ("openp5/*", "p5/2-*", "p5/5-*", "p5_yelp/2-*", "p5_yelp/5-*", "tallrec/*")
    found = facts(tmp_path, {"train": range(10)}, templates=names)
    rows = table(dataset_card(found), "Templates")
    assert len(rows) == 61
    assert rows[-1][0] == f"… and {len(found.templates) - 60} more"
    assert sum(int(row[2]) for row in rows) == found.parts["train"].rows


def test_repeats_and_near_duplicates(tmp_path: Path) -> None:
    found = facts(tmp_path, {"train": [3, 4, 3, 5], "test": [6, 7]}, near_duplicates=1234)
    card = dataset_card(found)
    assert "prompt and answer: 25.00% of train, 0.00% of test." in card
    assert "1,234 near-duplicate training examples were left out." in card
    assert "near-duplicate" not in dataset_card(replace(found, near_duplicates=0))


@pytest.mark.parametrize(
    ("checked", "promise"),
    [
        (1.0, "every finished prompt was read back"),
        (0.25, "25% of the finished prompts were read back"),
        (0.0, "no finished prompt was read back"),
    ],
)
def test_the_card_promises_no_more_than_was_checked(
    tmp_path: Path, checked: float, promise: str
) -> None:
    assert promise in dataset_card(facts(tmp_path, {"train": range(3)}, checked=checked))


def test_lengths_are_those_of_some_instructions(tmp_path: Path) -> None:
    found = facts(tmp_path, {"train": range(20)})
    asked: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        asked.append(len(texts))
        return characters(texts)

    card = dataset_card(replace(found, sample=5, counters={"characters": count}))
    assert asked == [5]
    assert "Of at most 5 evenly spaced instructions" in card


def test_a_card_of_nothing_and_of_hostile_names(tmp_path: Path) -> None:
    tables = replace(TABLES, source="x\n---\nlicense: mit <img>", licence="")
    card = dataset_card(facts(tmp_path, {"train": []}, tables=tables))
    assert head_of(card)["license"] == "other"
    assert head_of(card)["pretty_name"] == "x --- license: mit ‹img> as instructions"
    assert table(card, "Parts") == [["train", "0", "0", "0", "0", "–", "–", "–"]]
    assert "states no licence" in card
    assert "~~~~text" not in card


def test_titles_break_neither_table_nor_fence(tmp_path: Path) -> None:
    tables = tied_world({5: "A | B\n| C", 3: "~~~~ # Not a heading"})
    row = tables.interactions.height - 1
    found = facts(tmp_path, {"train": [row]}, tables=tables, templates=["instructrec/recommend-1"])
    card = dataset_card(found)
    assert "| `A \\| B \\| C` | 100.0% |" in card
    fence = "~" * 5
    assert f"\n{fence}text\n" in card
    assert card.count(f"\n{fence}\n") == 1
    assert '"~~~~ # Not a heading"' in card


def test_times_that_only_count_are_no_days(tmp_path: Path) -> None:
    tables = tied_world()
    steps = replace(tables, schema=replace(tables.schema, time_unit="step"))
    (row,) = table(dataset_card(facts(tmp_path, {"train": range(6)}, tables=steps)), "Parts")
    assert row[-2:] == ["step 10", "step 40"]


def test_prompts_about_users_have_neither_label_nor_day(tmp_path: Path) -> None:
    found = facts(tmp_path, {"train": [0]})
    template = find_template("kar/user_movies")
    mixture = Mixture.of([template])
    users = Examples.of_users([0, 1, 2], before=2**33)
    source = replace(found.sources["train"], examples=users, mixture=mixture)
    layout = Layout("trl", "parquet")
    written = write_parts(
        tmp_path / "users",
        {"train": source},
        layout=layout,
        scratch=tmp_path / "users",
        report=Silent(),
    )
    card = dataset_card(
        replace(found, parts=written, sources={"train": source}, templates=[template])
    )
    assert table(card, "Parts") == [["train", "3", "3", "3", "0", "–", "–", "–"]]


def test_types_of_columns_are_told(tmp_path: Path) -> None:
    card = dataset_card(facts(tmp_path, {"train": range(4)}))
    kinds = {row[0].strip("`"): row[1] for row in table(card, "Columns")}
    assert kinds["prompt"] == "list of messages"
    assert kinds["label"] == str(pl.Int8())
    assert kinds["template"] == "text"
