"""Every packaged template on two worlds: the shop, which has all columns, and MovieLens.

What each of them asks first in the test part of the shop is kept in `snapshots/FAMILY.txt`, to be
read by people and compared by the letter. `TASTEMAKER_SNAPSHOTS=write` writes these files anew.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from jinja2 import meta

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.item_index import item_index
from tastemaker.data.negatives import draw_negatives
from tastemaker.data.splits import Split
from tastemaker.data.splitters import global_time
from tastemaker.errors import LeakError, UserError
from tastemaker.prompts.audit import check_no_leak
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.columnar import is_columnar, render_column
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.leaks import LeakSearch
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import Template, find_template, shared_macros, template_names
from tastemaker.testing.world import shop_split, shop_world

NAMES = template_names()
BUILT = [name for name in NAMES if not find_template(name).of_a_chain]
OF_CHAINS = [name for name in NAMES if find_template(name).of_a_chain]
FAMILIES = sorted({name.partition("/")[0] for name in NAMES})
SNAPSHOTS = Path(__file__).parent / "snapshots"
WRITE = "TASTEMAKER_SNAPSHOTS"
SECTIONS = ("system", "prompt", "answer")
# They need texts that people wrote, and MovieLens has none.
NOT_ON_MOVIELENS = {
    *(f"p5/{part}-{end}" for part, ends in (("3", 12), ("4", 4)) for end in range(1, ends + 1)),
    *(
        f"p5_yelp/{part}-{end}"
        for part, ends in (("3", 10), ("4", 3))
        for end in range(1, ends + 1)
    ),
    *("p5/z-5", "p5/z-6", "p5/z-7", "instructrec_teacher/intention"),
}
FROM_A_CHAIN: dict[str, Any] = {
    "profile": "gender F",
    "rated_history": [("Blue Kite", "5"), ("Dry Season", "2")],
    "title": "Blue Kite",
    "brand": "Acme",
    "factors": ["genre", "mood"],
    "factor": "genre",
    "findings": [("genre", "Stories for children."), ("mood", "Calm and bright.")],
    "members": ["Blue Kite", "Amber Road"],
    "things": "books and games",
    "examples": ["Blue Kite", "Amber Road"],
    "corrections": [("Blue Kite is a crime novel.", "categories of 'Blue Kite': Children")],
}


@dataclass(frozen=True)
class World:
    """A data set, and what is asked in it."""

    split: Split
    binder: Binder
    index: pl.Series
    rows: Any
    before: int
    made: dict[str, pl.DataFrame] = field(default_factory=dict)

    def examples(self, template: Template) -> Examples:
        """Interactions (and for each like an item that was not met), users or items."""
        tables = self.split.tables
        if template.per == "user":
            return Examples.of_users(range(min(tables.n_users, 24)), before=self.before)
        if template.per == "item":
            return Examples.of_items(range(min(tables.n_items, 60)), before=self.before)
        own = Examples.of_rows(tables, self.rows)
        liked = self.rows[own.labels == 1]
        others = draw_negatives(tables, liked, per_row=1, seed=0).ravel()
        return own.followed_by(Examples.of_rows(tables, liked, items=others))

    def fitting(self, template: Template) -> Examples:
        examples = self.examples(template)
        return examples.take(self.binder.fits(examples, template))

    def instructions(self, template: Template) -> pl.DataFrame:
        if template.name not in self.made:
            mixture, examples = Mixture.of([template]), self.examples(template)
            source = InstructionSource(self.binder, examples, mixture, "train")
            self.made[template.name] = source.frame()
        return self.made[template.name]

    @cached_property
    def search(self) -> LeakSearch:
        """What `check_no_leak` does, with the events sorted once for all templates."""
        tables, history = self.split.tables, self.binder.history
        return LeakSearch(tables, history=history, before=self.before, index=self.index)


def world_of(split: Split, rows: Any) -> World:
    tables = split.tables
    index = item_index(tables, split.train, "random", seed=0).texts
    catalogue = Catalogue(tables, index=index)
    binder = Binder(split.histories, catalogue, candidates=6, train=split.train)
    return World(split, binder, index, np.asarray(rows), split.boundaries["test"])


@pytest.fixture(scope="module")
def shop() -> World:
    split = shop_split()
    return world_of(split, np.arange(split.tables.interactions.height))


@pytest.fixture(scope="module")
def movielens() -> World:
    split = global_time(load_builtin("movielens-small"), valid_from=0.8, test_from=0.9)
    return world_of(split, np.sort(np.concatenate([split.train[::2000], split.test[::200]])))


CASES = [("shop", name) for name in BUILT]
CASES += [("movielens", name) for name in BUILT if name not in NOT_ON_MOVIELENS]
EVERYWHERE = pytest.mark.parametrize(("world", "name"), CASES)


@pytest.fixture
def asked(world: str, request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(world)
    return found


# What holds of the files


@pytest.mark.parametrize("name", NAMES)
def test_declared_fields_are_the_variables_used(name: str) -> None:
    template = find_template(name)
    used = {
        variable
        for section in template.sections.values()
        for variable in meta.find_undeclared_variables(section.tree)
    }
    assert used - shared_macros().keys() == set(template.meanings) == template.fields()


@pytest.mark.parametrize("name", NAMES)
def test_all_sections_render_by_the_column(name: str) -> None:
    assert is_columnar(find_template(name))


# What holds of the prompts


def test_the_shop_is_as_it_says(shop: World) -> None:
    tables = shop.split.tables
    events = tables.interactions
    assert (tables.n_users, tables.n_items, events.height) == (24, 30, 283)
    assert set(events["rating"]) == {1, 2, 3, 4, 5}
    assert set(events["domain"]) == {"Books", "Games"}
    assert events.select("user", "time").is_duplicated().any()
    assert events.select("user", "item").is_duplicated().any()
    assert events.group_by("user").agg(pl.col("item").n_unique())["item"].max() == 11
    assert tables.items["title"].is_duplicated().sum() == 2
    whole = {"user", "user_id", "item", "item_id", "title", "time", "rating", "label", "domain"}
    for frame in (tables.users, tables.items, events):
        for column in set(frame.columns) - whole:
            values = frame[column]
            listed = isinstance(values.dtype, pl.List)
            texts = values.list.join("") if listed else values.cast(pl.String).fill_null("")
            missing = texts == ""
            assert 0 < missing.sum() < 0.6 * frame.height
    assert tables.interactions.equals(shop_world().interactions)


def test_the_shop_has_what_any_template_needs(shop: World) -> None:
    assert {name: shop.binder.lacks(find_template(name)) for name in BUILT} == {
        name: {} for name in BUILT
    }


@pytest.mark.parametrize("name", OF_CHAINS)
def test_a_template_of_a_chain_cannot_be_built(name: str, shop: World) -> None:
    template = find_template(name)
    fields = sorted(one for one in template.fields() if field_named(one).role == "chain")
    lacking = shop.binder.lacks(template)
    assert sorted(lacking) == fields
    assert all("only a reasoning chain has it (tastemaker reason)" in it for it in lacking.values())
    with pytest.raises(UserError) as caught:
        shop.binder.block(shop.examples(template), template)
    assert f"'{name}': field '{fields[0]}': only a reasoning chain" in str(caught.value)
    assert "Ask it with: tastemaker reason RECIPE" in str(caught.value)


def test_movielens_has_what_most_templates_need(movielens: World) -> None:
    lacking = {name for name in BUILT if movielens.binder.lacks(find_template(name))}
    assert lacking == NOT_ON_MOVIELENS
    whole = {name.partition("/")[0] for name in NAMES} - {"p5", "p5_yelp", "instructrec_teacher"}
    assert whole == {
        *("clickprompt", "flip", "hllm", "instructrec", "kar", "learn", "notellm", "openp5"),
        *("recformer", "rlmrec", "tallrec", "uni_ctr", "wishes"),
    }


@EVERYWHERE
def test_columns_give_what_jinja_gives_row_by_row(world: str, name: str, asked: World) -> None:
    template = find_template(name)
    examples = asked.fitting(template)
    assert len(examples) > 5
    block = asked.binder.block(examples, template)
    constants = {name: it for name, it in block.items() if isinstance(it, str | list)}
    lists = {name: it.to_list() for name, it in block.items() if name not in constants}
    for section in template.sections.values():
        found = render_column(section, block, height=len(examples))
        assert found.to_list() == [
            section.render(constants | {name: values[row] for name, values in lists.items()})
            for row in range(len(examples))
        ]


@EVERYWHERE
def test_nothing_from_the_future_is_shown(world: str, name: str, asked: World) -> None:
    frame = asked.instructions(find_template(name))
    assert frame.height > 5
    assert (frame["prompt"] != "").all()
    asked.search(frame).refuse()


def test_instructions_of_all_templates_are_checked_together(shop: World) -> None:
    frame = pl.concat([shop.instructions(find_template(name)) for name in BUILT])
    options: dict[str, Any] = {"before": shop.before, "index": shop.index}
    check_no_leak(shop.split.tables, frame, history=10, **options)
    with pytest.raises(LeakError):
        check_no_leak(shop.split.tables, frame, history=9, **options)


@EVERYWHERE
def test_an_item_that_is_the_answer_is_not_in_the_prompt(
    world: str, name: str, asked: World
) -> None:
    template = find_template(name)
    if not template.names_item or template.offers:
        return
    examples = asked.fitting(template)
    assert (examples.labels == 1).all()
    titles, index = asked.binder.catalogue.titles, asked.index
    past = asked.split.histories.before(examples.rows)
    items = asked.split.tables.interactions["item"].to_numpy()
    checked = 0
    for row, (text, item) in enumerate(
        zip(asked.instructions(template)["prompt"], examples.items.tolist(), strict=True)
    ):
        if titles[item] in {titles[int(one)] for one in items[past[row]]}:
            continue
        checked += 1
        assert f'"{titles[item]}"' not in text
        assert not re.search(rf"\b(item_)?{index[item]}\b", text)
    assert checked > 5


@EVERYWHERE
def test_a_question_has_its_answer(world: str, name: str, asked: World) -> None:
    template = find_template(name)
    frame = asked.instructions(template)
    assert bool((frame["completion"] != "").all()) == template.has_answer
    if template.choices:
        assert set(frame["completion"]) == set(template.choices)
    if template.answers_by_label:
        like, other = template.choices
        assert frame["completion"].to_list() == [
            like if label == 1 else other for label in frame["label"]
        ]
    if template.offers:
        assert (frame["label"] == 1).all()
        assert all(
            said in prompt and item in offered
            for said, prompt, item, offered in frame.select(
                "completion", "prompt", "item_id", "candidates"
            ).iter_rows()
        )


# What they look like


def shown(shop: World, template: Template) -> str:
    """What is asked first in the test part, or of the first user or item that fits.

    Of templates that only a chain can ask, what they make of `FROM_A_CHAIN`.
    """
    if template.of_a_chain:
        told = {name: FROM_A_CHAIN[name] for name in template.asked}
        return f"=== {template.name} ===\n--- prompt ---\n{template.render(**told)}\n"
    examples = shop.fitting(template)
    if template.per == "interaction":
        examples = examples.take(np.isin(examples.rows, shop.split.test))
    source = InstructionSource(
        shop.binder, examples.take(slice(0, 1)), Mixture.of([template]), "test"
    )
    (row,) = source.frame().to_dicts()
    texts = {"system": row["system"], "prompt": row["prompt"], "answer": row["completion"]}
    parts = [f"--- {part} ---\n{text}" for part, text in texts.items() if text]
    return "\n".join([f"=== {template.name} ===", *parts, ""])


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_say_what_they_said(family: str, shop: World) -> None:
    names = [name for name in NAMES if name.partition("/")[0] == family]
    found = "\n".join(shown(shop, find_template(name)) for name in names)
    path = SNAPSHOTS / f"{family}.txt"
    if os.environ.get(WRITE) == "write":
        path.write_text(found, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.is_file() else ""
    assert found == kept, (
        f"templates of '{family}' say something else than {path.name}. If that is wanted, run "
        f"{WRITE}=write python -m pytest {Path(__file__).name} and read the difference."
    )


def test_there_is_no_snapshot_of_a_family_that_is_gone() -> None:
    assert sorted(path.stem for path in SNAPSHOTS.glob("*.txt")) == FAMILIES
