"""The templates that query understanding is tuned on say what the chat says and reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.reading import read
from tastemaker.agents.dialogue.understanding import _messages
from tastemaker.agents.dialogue.wish import State
from tastemaker.agents.dialogue.wish_json import json_of, wish_from_json
from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.splits import Split
from tastemaker.data.splitters import global_time
from tastemaker.models.catalogue.facets import facets_of
from tastemaker.models.catalogue.titles import TitleIndex
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.render import display_titles
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_template, template_names

NAMES = [name for name in template_names() if name.startswith("wishes/")]
SAID = "The visitor says: "


@pytest.fixture(scope="module")
def split() -> Split:
    return global_time(load_builtin("movielens-small"), valid_from=0.8, test_from=0.9)


def instructions(split: Split, name: str) -> pl.DataFrame:
    tables = split.tables
    binder = Binder(split.histories, Catalogue(tables), train=split.train)
    examples = Examples.of_rows(tables, np.sort(split.train[::400]))
    fitting = examples.take(binder.fits(examples, find_template(name)))
    return InstructionSource(binder, fitting, Mixture.of([find_template(name)]), "train").frame()


def test_there_are_four_wordings() -> None:
    assert [f"wishes/understand-{number}" for number in range(1, 5)] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_they_ask_as_the_chat_does(name: str) -> None:
    template = find_template(name)
    system, user = (one["content"] for one in _messages('a "comedy"'))
    assert template.render_section("system", {}) == system
    assert user == SAID + 'a "comedy"'
    assert "oracle" in template.about


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_what_reading_the_message_gives(name: str, split: Split) -> None:
    tables = split.tables
    titles = display_titles(tables)
    lexicon, index = Lexicon.of(facets_of(tables)), TitleIndex(tables.items["title"].to_list())

    def find(title: str) -> list[int]:
        return [titles.index(title)] if title in titles else []

    def values_of(items: Any) -> list[dict[str, Any]]:
        return [{} for _ in items]

    frame = instructions(split, name)
    assert frame.height > 50
    shown: set[str] = set()
    for prompt, answer in frame.select("prompt", "completion").iter_rows():
        assert prompt.startswith(SAID)
        message = prompt.removeprefix(SAID)
        wish = read(
            message,
            lexicon=lexicon,
            catalogue_mentions=index.mentions,
            state=State(),
            values_of=values_of,
        ).wish
        assert wish_from_json(answer, lexicon=lexicon, find=find) == wish, message
        assert json_of(wish, titles=titles) == answer
        shown.add(message)
    assert len(shown) > 40
