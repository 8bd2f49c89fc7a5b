from __future__ import annotations

from dataclasses import replace

import polars as pl
import yaml

from tastemaker.data.history import Histories
from tastemaker.prompts.build import instructions
from tastemaker.prompts.card import dataset_card
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import checkerboard

TALLREC = find_template("tallrec/movie")
TABLES = checkerboard(6, 8, events=6)
COMMAND = "tastemaker build recipe.yaml"


def frame(rows: range) -> pl.DataFrame:
    histories = Histories.from_interactions(TABLES.interactions)
    return instructions(TABLES, histories, rows, template=TALLREC, history=4, split="train")


def test_the_head_tells_the_hub_where_the_parts_are() -> None:
    card = dataset_card(
        {"train": frame(range(20)), "test": frame(range(30, 36))},
        tables=TABLES,
        template=TALLREC,
        command=COMMAND,
    )
    head = yaml.safe_load(card.split("---")[1])
    (config,) = head["configs"]
    assert [file["split"] for file in config["data_files"]] == ["train", "test"]
    assert config["data_files"][0]["path"] == "data/train-*.parquet"
    assert head["size_categories"] == ["n<1K"]


def test_the_counts_are_those_of_the_frames() -> None:
    train = frame(range(20))
    card = dataset_card(
        {"train": train},
        tables=TABLES,
        template=TALLREC,
        command=COMMAND,
        count_tokens=lambda texts: [7] * len(texts),
    )
    liked = train["label"].sum() / 20
    users, items = train["user_id"].n_unique(), train["item_id"].n_unique()
    assert f"| train | 20 | {users} | {items} | {liked:.1%} | 2017-07-14 |" in card
    texts = [
        f"{row['prompt'][0]['content']}\n{row['completion'][0]['content']}"
        for row in train.to_dicts()
    ]
    assert f"| {max(map(len, texts)):,} |" in card
    assert texts[0] in card
    assert "| train | tokens | 7 | 7 | 7 |" in card
    for line in ("CC0-1.0", "arXiv 2305.00447", COMMAND, "`rating > 3`", "`tallrec/movie`"):
        assert line in card
    assert all(f"| `{column}` |" in card for column in train.columns)


def test_a_card_of_nothing_and_of_hostile_names() -> None:
    tables = replace(TABLES, source="x\n---\nlicense: mit", licence="")
    card = dataset_card(
        {"train": frame(range(0))}, tables=tables, template=TALLREC, command=COMMAND
    )
    assert yaml.safe_load(card.split("\n---\n")[0].removeprefix("---"))["license"] == "other"
    assert "| train | 0 | 0 | 0 | – | – | – |" in card
    assert "states no licence" in card
