"""The templates that query understanding is tuned on say what the chat says and reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import polars as pl
import pytest

from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.reading import Reading, read
from tastemaker.agents.dialogue.understanding import _messages
from tastemaker.agents.dialogue.wish import State
from tastemaker.agents.dialogue.wish_json import json_of, parts_of, wish_from_json
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
SETTLED = [name for name in NAMES if "/understand-" in name]
OPEN = [name for name in NAMES if "/open-" in name]
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


def reader(split: Split) -> tuple[Lexicon, Callable[[str], Reading]]:
    """The words of the catalogue, and what reads a message with them."""
    lexicon = Lexicon.of(facets_of(split.tables))
    index = TitleIndex(split.tables.items["title"].to_list())

    def reading_of(message: str) -> Reading:
        return read(
            message,
            lexicon=lexicon,
            catalogue_mentions=index.mentions,
            state=State(),
            values_of=lambda items: [{} for _ in items],
        )

    return lexicon, reading_of


def test_there_are_these_wordings() -> None:
    assert [f"wishes/understand-{number}" for number in range(1, 5)] == SETTLED
    assert [f"wishes/open-{number}" for number in range(1, 9)] == OPEN
    assert len(NAMES) == len(SETTLED) + len(OPEN)


@pytest.mark.parametrize("name", NAMES)
def test_they_ask_as_the_chat_does(name: str) -> None:
    template = find_template(name)
    system, user = (one["content"] for one in _messages('a "comedy"'))
    assert template.render_section("system", {}) == system
    assert user == SAID + 'a "comedy"'
    assert ("oracle" in template.about) == ("category" in template.asked)


@pytest.mark.parametrize("name", SETTLED)
def test_the_answer_is_what_reading_the_message_gives(name: str, split: Split) -> None:
    titles = display_titles(split.tables)
    lexicon, reading_of = reader(split)

    def find(title: str) -> list[int]:
        return [titles.index(title)] if title in titles else []

    frame = instructions(split, name)
    assert frame.height > 50
    shown: set[str] = set()
    for prompt, answer in frame.select("prompt", "completion").iter_rows():
        assert prompt.startswith(SAID)
        message = prompt.removeprefix(SAID)
        wish = reading_of(message).wish
        assert wish_from_json(answer, lexicon=lexicon, find=find) == wish, message
        assert json_of(wish, titles=titles) == answer
        shown.add(message)
    assert len(shown) > 40


# Template → what it decides, in every message but one without a title to name.
DECIDED: dict[str, dict[str, str]] = {
    "wishes/open-1": {"title": "similar", "topic": "ignore"},
    "wishes/open-2": {"title": "like", "topic": "ignore"},
    "wishes/open-3": {"title": "about", "topic": "ignore"},
    "wishes/open-4": {"title": "seen", "topic": "ignore"},
    "wishes/open-5": {"topic": "search"},
    "wishes/open-6": {"topic": "ignore"},
    "wishes/open-7": {"topic": "search", "act": "recommend"},
    "wishes/open-8": {"topic": "ignore", "act": "small_talk"},
}


@pytest.mark.parametrize("name", OPEN)
def test_the_answer_decides_what_the_message_leaves_open(name: str, split: Split) -> None:
    titles = display_titles(split.tables)
    _, reading_of = reader(split)
    found: Counter[str] = Counter()
    for prompt, answer in instructions(split, name).select("prompt", "completion").iter_rows():
        message = prompt.removeprefix(SAID)
        reading = reading_of(message)
        if message == "Hello.":
            assert json_of(reading.wish, titles=titles) == answer
            continue
        assert [question.kind for question in reading.open] == list(DECIDED[name]), message
        parts = [[one] if isinstance(one, str) else one for one in parts_of(reading, titles=titles)]
        ways = ["".join(way) for way in product(*parts)]
        assert answer in ways, message
        for kind, decision in DECIDED[name].items():
            written = f': "{decision}"'
            if kind == "topic":
                words = next(one.text for one in reading.open if one.kind == "topic")
                written = f'"topic": "{words if decision == "search" else ""}"'
            assert written in answer, message
        found[message] += 1
    assert len(found) > 30
    assert sum(found.values()) > 50
