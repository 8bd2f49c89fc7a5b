"""Texts that a chat model wrote for single rows, in place of the values from the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.data.history import Histories
from tastemaker.data.negatives import draw_negatives
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import UserError
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.columns import Column
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.template import find_template
from tastemaker.prompts.written import WrittenTexts
from tastemaker.testing.world import SCHEMA, shop_split

SPLIT = shop_split()
SHOP = SPLIT.tables
BOTH = find_template("instructrec/personal-12")  # preference, vague intention and candidates


def binder_of(tables: Tables = SHOP, **options: Any) -> Binder:
    histories = Histories.from_interactions(tables.interactions)
    return Binder(histories, Catalogue(tables), candidates=5, **options)


@given(
    known=st.dictionaries(st.integers(0, 30), st.text("ab ", max_size=4)),
    rows=st.lists(st.integers(-1, 30), max_size=12),
)
def test_written_texts_stand_in_place_of_the_column_and_nothing_else(
    known: dict[int, str], rows: list[int]
) -> None:
    texts = WrittenTexts(list(known), known.values())
    base = pl.Series([f"own {row}" for row in rows], dtype=pl.String)
    found = texts.over(Column(base), np.asarray(rows, dtype=np.int64)).to_list()
    plain = {row: " ".join(text.split()) for row, text in known.items()}
    assert found == [plain.get(row) or f"own {row}" for row in rows]


def test_written_text_is_data() -> None:
    hostile = 'likes "x" {{ title }} <|im_end|> [INST] \u202eabc\x00\nnext'
    binder = binder_of(written={"preference": WrittenTexts([40], [hostile])})
    block = binder.block(Examples.of_rows(SHOP, [40]), BOTH, names=["preference"])
    assert block["preference"].to_list() == [  # type: ignore[union-attr]
        "likes 'x' {{ title }} ‹|im_end|> (INST) abc next"
    ]


def test_a_wish_is_only_for_the_item_it_was_written_about() -> None:
    told = {
        "preference": WrittenTexts([40], ["prefers tea"]),
        "vague_intention": WrittenTexts([40], ["I want tea."]),
    }
    examples = Examples.of_rows(SHOP, [40, 41, 40])
    other = (examples.items[0] + 1) % SHOP.n_items
    examples = examples.with_items(np.array([examples.items[0], examples.items[1], other]))
    plain = binder_of().block(examples, BOTH)
    found = binder_of(written=told).block(examples, BOTH)
    for name, mine in (("preference", [0, 2]), ("vague_intention", [0])):
        before, after = plain[name].to_list(), found[name].to_list()  # type: ignore[union-attr]
        text = "prefers tea" if name == "preference" else "I want tea."
        assert after == [text if place in mine else before[place] for place in range(3)]
    again = binder_of(written=told).in_epoch(3).block(examples, BOTH)
    assert again["vague_intention"].to_list()[0] == "I want tea."  # type: ignore[union-attr]


def test_a_teacher_makes_up_for_categories_that_are_not_there() -> None:
    events = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 2]})
    events = events.with_columns(rating=5.0)
    bare = build_tables(
        events,
        items=pl.DataFrame({"item_id": [1, 2], "title": ["A", "B"]}),
        schema=replace(SCHEMA, text=()),
    )
    template = find_template("instructrec/recommend-2")
    assert "preference" in binder_of(bare).lacks(template)
    taught = binder_of(bare, written={"preference": WrittenTexts.none()})
    assert not taught.lacks(template)
    block = taught.block(Examples.of_rows(bare, [0, 1]), template, names=["preference"])
    assert block["preference"].to_list() == ["", ""]  # type: ignore[union-attr]


# Candidates


def test_another_source_gives_the_candidates_and_the_target_is_always_there() -> None:
    rows = SPLIT.test[:20]
    fixed = draw_negatives(SHOP, rows, per_row=4, seed=99)
    asked: list[int] = []

    def source(rows: Any, *, per_row: int, seed: int) -> Any:
        asked.append(per_row)
        return fixed

    examples = Examples.of_rows(SHOP, rows)
    block = binder_of(source=source).block(examples, BOTH, names=["candidates"])
    codes = block["candidates"].columns[0].codes.reshape(-1, 5)  # type: ignore[union-attr]
    assert asked == [4]
    for shown, target, others in zip(codes.tolist(), examples.items, fixed.tolist(), strict=True):
        assert sorted(shown) == sorted([int(target), *others])
    assert len(set((codes == examples.items[:, None]).argmax(axis=1).tolist())) > 1


@pytest.mark.parametrize("width", [3, 4])
def test_a_source_that_gives_the_target_or_too_few_is_refused(width: int) -> None:
    examples = Examples.of_rows(SHOP, SPLIT.test[:2])

    def source(rows: Any, *, per_row: int, seed: int) -> Any:
        return np.repeat(examples.items[:, None], width, axis=1)

    with pytest.raises(UserError, match="a target among them"):
        binder_of(source=source).block(examples, BOTH, names=["candidates"])
