"""InstructRec's grid, against the list of its 39 templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tastemaker.methods.instructrec_grid import Aspects, aspects
from tastemaker.prompts.template import find_template, find_templates

ROWS = {
    "recommend-1": "P1 I0 T2",
    "recommend-2": "P1+P2 I0 T2",
    "recommend-3": "P1 I0 T2 thought",
    "recommend-4": "P1+P2 I0 T2",
    "recommend-5": "P1+P2 I0 T2",
    "recommend-6": "P1+P2 I0 T2",
    "recommend-7": "P1+P2 I0 T3",
    "recommend-8": "P1+P2 I0 T3",
    "recommend-9": "P1+P2 I0 T3",
    "recommend-10": "P1+P2 I0 T3",
    "recommend-11": "P1+P2 I0 T0",
    "recommend-12": "P1+P2 I0 T0",
    "recommend-13": "P1+P2 I0 T3",
    "recommend-14": "P1 I0 other turned",
    "recommend-15": "P1 I0 other turned",
    "recommend-16": "P2 I0 T2",
    "recommend-17": "P2 I0 T2",
    "search-1": "P0 I2 T2",
    "search-2": "P0 I2 T2",
    "search-3": "P0 I2 T2",
    "search-4": "P2 I0 T2",
    "search-5": "P0 I0 other turned",
    "search-6": "P0 I0 other turned",
    "search-7": "P0 I1 T3",
    "search-8": "P0 I1 T3",
    "search-9": "P0 I2 T3",
    "personal-1": "P1+P2 I0 T2",
    "personal-2": "P1 I1 T2",
    "personal-3": "P1 I1 T2",
    "personal-4": "P1 I2 T2",
    "personal-5": "P1 I0 other turned",
    "personal-6": "P1 I0 other turned",
    "personal-7": "P0 I1 other related",
    "personal-8": "P1 I0 T2 related",
    "personal-9": "P2 I0 T2 turned",
    "personal-10": "P1 I1 T3",
    "personal-11": "P1 I2 T3",
    "personal-12": "P1+P2 I1 T3",
    "personal-13": "P1+P2 I2 T3",
}
SCENARIOS = {
    "recommendation": {
        *(f"recommend-{number}" for number in range(1, 18) if number not in (14, 15)),
        "search-4",
        "personal-1",
    },
    "product_search": {f"search-{number}" for number in (1, 2, 3, 7, 8, 9)},
    "personal_search": {f"personal-{number}" for number in (2, 3, 4, 10, 11, 12, 13)},
    "other": {
        *("recommend-14", "recommend-15", "search-5", "search-6"),
        *(f"personal-{number}" for number in range(5, 10)),
    },
}


def written(found: Aspects) -> str:
    flags = {
        "turned": found.turned_around,
        "related": found.related,
        "thought": found.chain_of_thought,
    }
    parts = (found.preference, found.intention, found.form)
    return " ".join([*parts, *(name for name, there in flags.items() if there)])


def test_each_of_the_39_templates_has_its_place() -> None:
    found = {one.name: aspects(one) for one in find_templates(["instructrec/*"])}
    assert {name.removeprefix("instructrec/"): written(one) for name, one in found.items()} == ROWS
    for scenario, names in SCENARIOS.items():
        mine = {name.removeprefix("instructrec/") for name in found}
        assert {
            name for name in mine if found[f"instructrec/{name}"].scenario == scenario
        } == names, scenario


def test_oracles_are_those_that_show_an_intention_and_say_so() -> None:
    for template in find_templates(["instructrec/*"]):
        shows = bool({"intention", "vague_intention"} & template.asked)
        assert aspects(template).oracle == shows == ("oracle" in template.about), template.name
        if shows:
            assert aspects(template).scenario != "recommendation"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tallrec/movie", "P1 I0 T0"),
        ("p5/2-1", "P1 I0 T2"),
        ("openp5/straightforward-1", "P0 I0 T2"),
        ("p5/5-5", "P0 I0 T3"),
    ],
)
def test_templates_of_other_families_have_a_place_too(name: str, expected: str) -> None:
    assert written(aspects(find_template(name))) == expected


def test_an_own_template_is_read_by_its_fields(tmp_path: Path) -> None:
    own = tmp_path / "own.j2"
    own.write_text(
        "{#---\nfamily: own\ntask: selection\nabout: x\n"
        "fields: [liked, vague_intention, candidates, title]\n---#}\n"
        "{{ quoted(liked) }} {{ vague_intention }} {{ quoted(candidates) }}\n"
        "{#--- answer ---#}\n{{ title }}\n"
    )
    found = aspects(find_template(str(own)))
    assert (written(found), found.oracle, found.scenario) == ("P1 I1 T3", True, "personal_search")
