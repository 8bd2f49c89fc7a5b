from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tastemaker.data.describe import describe
from tastemaker.eval.data_page import render_data_page, write_data_page
from tastemaker.testing.world import checkerboard_split

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'>{{ 7*7 }}</style> עברית\x00"


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    split = checkerboard_split()
    return describe(split.tables, split)


@pytest.fixture(scope="module")
def page(facts: dict[str, Any]) -> str:
    return render_data_page(facts, title="The checkerboard")


def test_it_shows_the_numbers(page: str, facts: dict[str, Any]) -> None:
    text = _Page(page).text
    for part in (
        "The checkerboard", "800", "Share of likes", "Parts", "Spread", "Texts", "items.genres",
        "Validation begins at", "CC0-1.0", "Events by rating", *facts["remarks"], *facts["notes"],
    ):  # fmt: skip
        assert part in text
    labels = [attributes["aria-label"] for tag, attributes in _Page(page).tags if tag == "svg"]
    assert labels == [
        "Events over time",
        "Lengths of histories",
        "Events of an item by its rank",
        "Events by rating",
    ]


def test_it_stands_alone(page: str) -> None:
    parsed = _Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
        for name in {"src", "href", "xlink:href"} & attributes.keys():
            assert str(attributes[name]).startswith("#")
    assert page.count("default-src 'none'") == 1


def test_hostile_text_stays_text(facts: dict[str, Any], page: str) -> None:
    one = {"events": 3, "users": 2, "items": 1, "liked_share": None}
    hostile = {
        **facts,
        "source": HOSTILE,
        "notes": [HOSTILE],
        "remarks": [HOSTILE],
        "licence": HOSTILE,
        "domains": {HOSTILE: one, "Books": one},
        "texts": {HOSTILE: facts["texts"]["items.title"]},
    }
    found = _Page(render_data_page(hostile, title=HOSTILE))
    assert {tag for tag, _ in found.tags} - {tag for tag, _ in _Page(page).tags} <= {"ul", "li"}
    assert found.text.count(HOSTILE.replace("\x00", "\ufffd")) == 8


def test_steps_little_and_nothing(facts: dict[str, Any], tmp_path: Path) -> None:
    steps = {
        **{key: value for key, value in facts.items() if key not in ("parts", "ratings")},
        "clock": False,
        "first": 0,
        "last": 12000,
        "timeline": [[0, 3], [6000, 0]],
        "valid_from": 6000,
        "test_from": 9000,
        "popularity": [[1, 4]],
    }
    text = _Page(render_data_page(steps, title="Steps")).text
    assert "steps 0 to 12,000" in text
    assert "all events" in text
    empty = {**steps, "events": 0, "first": None, "notes": [], "remarks": [], "liked_share": None}
    assert "Read first" not in render_data_page(empty, title="Nothing")
    write_data_page(steps, tmp_path / "page.html", title="Steps")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert render_data_page(steps, title="Steps") == render_data_page(steps, title="Steps")
