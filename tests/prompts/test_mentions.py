"""What prompts name, read back from their text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.prompts.mentions import (
    Shape,
    constants_of,
    mentioned,
    own_words,
    prompt_texts,
    quoted_titles,
    shape_of,
)
from tastemaker.prompts.template import Template, find_template, template_names

TITLES = pl.Series(["Alien", "Heat", "Antz", "Heat"])
NAMES = pl.DataFrame({"code": [0, 1, 2], "title": ["Alien", "Antz", "Heat"]}).cast(
    {"code": pl.UInt32}
)
CODES = np.array([0, 2, 1, 2])
NUMBERS = pl.Series(["1001", "1002", "1003", "1004"])
TOKENS = pl.Series(["<CI0><CI5>", "<CI0><CI6>", "<CI1><CI5>", "<CI1><CI6><CI0>"])


def own(folder: Path, body: str, fields: str) -> Template:
    path = folder / "own.j2"
    head = f"family: own\ntask: click\nabout: Try.\nfields: [{fields}]\n"
    path.write_text(f"{{#---\n{head}choices: [a, b]\n---#}}\n{body}\n")
    return find_template(str(path))


def named(template: Template, *prompts: str, index: pl.Series | None = None) -> list[list[str]]:
    """Titles that each prompt names, in alphabetical order."""
    frame = pl.DataFrame({"template": [template.label] * len(prompts)})
    found = mentioned(
        frame,
        pl.Series(prompts),
        names=NAMES,
        codes=CODES,
        index=index,
        known={template.label: template},
    )
    titles = found.join(NAMES, on="code").sort("place", "title")
    return [titles.filter(pl.col("place") == one)["title"].to_list() for one in range(len(prompts))]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tallrec/movie", (1, 1, False, False, False)),
        ("tallrec/book", (1, 1, False, False, True)),
        ("p5/2-1", (0, 1, True, False, False)),
        ("p5/2-11", (1, 1, True, False, False)),
        ("p5/2-8", (0, 1, True, True, False)),
        ("p5/5-5", (0, 0, True, True, False)),
        ("p5/5-1", (0, 0, False, False, False)),
        ("p5/1-1", (0, 0, False, False, False)),
        ("openp5/sequential-1", (0, 1, True, False, False)),
        ("uni_ctr/full", (1, 1, False, False, True)),
        ("uni_ctr/full_ids", (2, 1, True, False, True)),
        ("uni_ctr/names", (1, 1, True, False, False)),
        ("uni_ctr/ids", (1, 1, True, False, False)),
        ("instructrec/recommend-7", (0, 1, False, True, False)),
        ("flip/row", (0, 0, False, False, True)),
        ("kar/user_movies", (0, 1, False, False, False)),
        ("rlmrec/user_items", (0, 1, False, False, False)),
    ],
)
def test_shapes_of_packaged_templates(name: str, shape: tuple[int, int, bool, bool, bool]) -> None:
    assert shape_of(find_template(name)) == Shape(*shape)


@pytest.mark.parametrize("name", template_names())
def test_every_packaged_template_has_a_shape(name: str) -> None:
    template = find_template(name)
    # Its target goes by title and by number.
    assert shape_of(template).own <= 1 + (name == "uni_ctr/full_ids")
    assert all(word.isprintable() for word in own_words(template).split("\n"))


def test_own_words_and_their_quotes() -> None:
    tallrec = find_template("tallrec/movie")
    assert constants_of(tallrec) == ['"Yes."', '"No."']
    assert own_words(tallrec).split("\n")[2:] == [
        "User Preference:",
        "User Unpreference:",
        'Will the user like the target movie ""?',
    ]
    assert constants_of(find_template("p5/2-1")) == []


@pytest.mark.parametrize(
    "body",
    [
        '{{ history[-1] }} {{ history[2] }} "{{ title }}"?',
        'After "{{ history | last }}" "{{ title }}"?',
        '{{ history | first | upper }} {{ title[0] }} "{{ title }}"?',
    ],
)
def test_a_template_that_takes_single_elements_has_a_shape(tmp_path: Path, body: str) -> None:
    template = own(tmp_path, body, "history, title")
    assert shape_of(template) == Shape(1, 1, False, False, False)
    assert constants_of(template) == []


def test_system_part_and_prompt_are_one_text() -> None:
    frame = pl.DataFrame({"system": ["Be brief.", ""], "prompt": ["A\nB", "\nC"]})
    assert prompt_texts(frame).to_list() == ["Be brief.\nA\nB", "C"]


def test_titles_are_read_from_double_quotes() -> None:
    texts = pl.Series(
        [
            'Seen "Heat", "Alien" and "Heat"; then "Antz"?',
            'Heat, \'Alien\', "Heat 2", "alien"',
            '"Heat\n" "Alien',
            "",
        ]
    )
    found = quoted_titles(texts, titles=TITLES, constants=[])
    assert found.select("place", "title").rows() == [
        (0, "Heat"),
        (0, "Alien"),
        (0, "Heat"),
        (0, "Antz"),
    ]


def test_constants_count_once_each() -> None:
    texts = pl.Series(['Say "Heat" or "Antz". "Heat"?'])
    found = quoted_titles(texts, titles=TITLES, constants=['"Heat"', '"Antz"'])
    assert found.rows() == [(0, "Heat")]


def test_titles_are_counted_once_for_items_that_share_one() -> None:
    (found,) = named(find_template("tallrec/movie"), 'Preference: "Heat", "Alien", "Heat"\n"Antz"?')
    assert found == ["Alien", "Antz", "Heat", "Heat"]


def test_numbers_are_read_where_items_have_numbers() -> None:
    history = "Given what user_1003 has purchased so far:\n{}\nPredict which item this user may"
    found = named(
        find_template("p5/2-1"),
        history.format("1002 , 1001"),
        history.format("item_1002 -> item_1003"),
        history.format("10021 , x1001 , 1001x , product_1003"),
        history.format('"1002" , "Alien 1003"'),
        history.format("1004"),
        index=NUMBERS,
    )
    assert found == [["Alien", "Heat"], ["Antz", "Heat"], [], [], ["Heat"]]


def test_no_numbers_are_read_without_an_index_or_where_titles_stand() -> None:
    assert named(find_template("p5/2-1"), "1001 , 1002") == [[]]
    assert named(find_template("tallrec/movie"), "1001 , 1002", index=NUMBERS) == [[]]


def test_tokens_are_read_as_a_whole() -> None:
    found = named(
        find_template("openp5/sequential-1"),
        "items item_<CI0><CI6> , item_<CI1><CI6><CI0>, what",
        "<CI0><CI5> -> <CI1><CI5>",
        "<CI0> <CI5> , <CI0><CI5><CI0>",
        index=TOKENS,
    )
    assert found == [["Heat", "Heat"], ["Alien", "Antz"], []]


@pytest.mark.parametrize("user", ["1001", "Ann 1001", "item_1001", "1001, 1002", "$1 1001", ""])
def test_the_place_of_a_name_is_not_read(user: str) -> None:
    template = find_template("p5/2-5")
    text = f"Based on the items that {user} has bought:\n1003 , 1002\nCan you determine 1001?"
    assert named(template, text, index=NUMBERS) == [["Alien", "Antz", "Heat"]]


def test_the_name_of_the_data_is_not_read() -> None:
    template = find_template("openp5/sequential-1")
    before, after = "Considering the interactions of", "what should this user be shown next?"
    found = named(
        template,
        f"{before} Shop 1001 user_1002 with Shop 1001 items item_1003 , item_1004, {after}",
        f"{before} Shop 1001 user_1002 with Shop 1001 items , {after}",
        f"{before} Shop 1001 user_1002 with Shop 1001 items item_1003, {after} 1001",
        index=NUMBERS,
    )
    assert found[:2] == [["Antz", "Heat"], []]
    assert "Alien" in found[2]


def test_numbers_of_the_templates_own_words_count_once_each(tmp_path: Path) -> None:
    body = "One of 1001: {{ history_index | join(', ') }}. {{ item_index }}?"
    template = own(tmp_path, body, "history_index, item_index")
    assert shape_of(template) == Shape(1, 1, True, False, False)
    found = named(template, "One of 1001: 1002, 1001. 1003?", "1002. 1003?", index=NUMBERS)
    assert found == [["Alien", "Antz", "Heat"], ["Antz", "Heat"]]


@pytest.mark.parametrize("film", ["None", "title", "review"])
def test_what_a_template_quotes_for_every_element_is_no_title(film: str) -> None:
    event = '{"title": "Heat", "description": "None", "review": "None"}'
    template = find_template("rlmrec/user_items")
    text = f"CHOSEN ITEMS: [{event}, {event}]"
    known = pl.DataFrame({"code": [0, 1], "title": [film, "Heat"]}).cast({"code": pl.UInt32})
    found = mentioned(
        pl.DataFrame({"template": [template.label]}),
        pl.Series([text]),
        names=known,
        codes=np.array([0, 1]),
        index=None,
        known={template.label: template},
    )
    assert found["code"].to_list() == [1, 1]


def test_descriptions_and_reviews_are_no_titles() -> None:
    event = '{"title": "Heat", "description": "Alien", "review": "Antz"}'
    (found,) = named(find_template("rlmrec/user_items"), f"CHOSEN ITEMS: [{event}, {event}]")
    assert found == ["Heat", "Heat"]


def test_other_values_in_quotes_are_no_titles(tmp_path: Path) -> None:
    template = own(tmp_path, 'Seen "{{ title }}" by the maker "{{ maker }}"?', "title, maker")
    (found,) = named(template, 'Seen "Heat" by the maker "Alien"?')
    assert found == ["Heat"]
    # What stands before titles, too, tells nothing.
    alike = own(tmp_path, 'Seen "{{ title }}" or\nSeen "{{ maker }}"?', "title, maker")
    (found,) = named(alike, 'Seen "Heat" or\nSeen "Alien"?')
    assert found == ["Alien", "Heat"]


@given(
    shown=st.lists(st.sampled_from(range(4)), max_size=6),
    separator=st.sampled_from([" , ", " -> ", "\n"]),
    scheme=st.sampled_from([NUMBERS, TOKENS]),
    prefix=st.sampled_from(["", "item_"]),
)
def test_every_number_of_a_list_is_read_back(
    shown: list[int], separator: str, scheme: pl.Series, prefix: str
) -> None:
    listed = separator.join(prefix + scheme[item] for item in shown)
    (found,) = named(find_template("p5/2-2"), f"Bought by user_1:\n{listed}\nNext?", index=scheme)
    assert found == sorted(TITLES[item] for item in shown)
