"""Films and a shop to talk about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.reading import Reading, read
from tastemaker.agents.dialogue.wish import State
from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.tables import Tables
from tastemaker.models.catalogue.facets import attributes_of, facets_of
from tastemaker.models.catalogue.titles import TitleIndex
from tastemaker.testing.world import shop_world

Values = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Talk:
    """What messages about a catalogue are read with."""

    lexicon: Lexicon
    titles: list[str]
    index: TitleIndex
    columns: dict[str, list[Any]]

    def __repr__(self) -> str:
        return f"Talk about {len(self.titles)} items"  # hypothesis shows it when a case fails

    def values_of(self, items: Sequence[int]) -> Values:
        return [{name: values[item] for name, values in self.columns.items()} for item in items]

    def read(self, message: str, state: State | None = None) -> Reading:
        return read(
            message,
            lexicon=self.lexicon,
            catalogue_mentions=self.index.mentions,
            state=state or State(),
            values_of=self.values_of,
        )

    def number(self, title: str) -> int:
        return self.titles.index(title)


def talk_about(tables: Tables) -> Talk:
    titles = tables.items["title"].to_list()
    columns = {one.name: one.values.to_list() for one in attributes_of(tables)}
    return Talk(Lexicon.of(facets_of(tables)), titles, TitleIndex(titles), columns)


@pytest.fixture(scope="session")
def films() -> Talk:
    return talk_about(load_builtin("movielens-small"))


@pytest.fixture(scope="session")
def shop() -> Talk:
    return talk_about(shop_world())
