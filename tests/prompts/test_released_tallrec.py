"""TALLRec's released rows against what our template makes of the same ratings."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import polars as pl
import pytest

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.builtin.tallrec_movie import windows
from tastemaker.prompts.render import display_titles
from tastemaker.prompts.template import find_template

pytestmark = pytest.mark.realdata


def said(text: str) -> list[list[str]]:
    """Titles of likes, of dislikes, and the target, in the order shown."""
    return [re.findall('"([^"]*)"', line) for line in text.split("\n")[-3:]]


def test_the_released_validation_rows_say_the_same() -> None:
    outside = os.environ.get("TASTEMAKER_DATA")
    if not outside:
        pytest.skip("TASTEMAKER_DATA is not set")
    folder = Path(outside)
    tables = load_builtin("ml-100k", folder / "ml-100k")
    titles = dict(zip(tables.items["item_id"], display_titles(tables), strict=True))
    ratings = pl.read_csv(folder / "ml-100k" / "ml-100k.inter", separator="\t")
    ratings = ratings.rename({name: name.partition(":")[0] for name in ratings.columns})
    rows = windows(ratings).filter(pl.col("part") == "valid")
    released = json.loads((folder / "tallrec_movie" / "valid.json").read_text("utf-8"))
    template = find_template("tallrec/movie")
    assert len(released) == rows.height == 1000
    for row, theirs in zip(rows.iter_rows(named=True), released, strict=True):
        seen = list(zip(row["history_item_ids"], row["history_labels"], strict=True))
        prompt = template.render(
            liked=[titles[item] for item, like in seen if like],
            disliked=[titles[item] for item, like in seen if not like],
            title=titles[row["item_id"]],
        )
        assert said(prompt) == said(theirs["input"])
        assert template.choices[1 - row["label"]] == theirs["output"]
