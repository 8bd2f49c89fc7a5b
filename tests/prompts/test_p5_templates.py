"""The P5 and OpenP5 prompts against their papers: numbers, slots and their order, answers."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tastemaker.prompts.columnar import is_columnar
from tastemaker.prompts.template import Template, find_template, find_templates

FAMILIES = ("p5", "p5_yelp", "openp5")
HELD_OUT = {
    "p5": {"1-10", "2-13", "3-12", "4-4", "5-8", *(f"z-{number}" for number in range(1, 8))},
    "p5_yelp": {"1-10", "2-13", "3-10", "4-3", "5-8"},
    "openp5": {"sequential-11", "straightforward-11"},
}
TASKS = {"1": "rating", "2": "sequential", "3": "explanation", "4": "review", "5": "direct"}
# Slots in the order of the paper, one word per prompt: U user's number, N user's name, I item's
# number, T title, S star asked about or given, H history, C candidates, F feature word, L headline,
# R review.
SHARED_SLOTS = {
    "1": "UI UT UIS UI UIT NI NT NST NT NT",
    "2": "UH UH UH NH NH NH UHC NHC UHC NHC UHI NHI NH",
    "5": "UI IN NT UT NC NC UC UC",
}
SLOTS = {
    "p5": SHARED_SLOTS
    | {
        "3": "UT LUI UST NT LNT NSI FUI NI FUT FNT FSUI FSNI",
        "4": "UR UR NR NR",
        "z": "UT TN UT NT NT FSUT NT",
    },
    "p5_yelp": SHARED_SLOTS
    | {
        "3": "UT UST NT NSI FUI NI FUT FNT FSUI FSNI",
        "4": "UR UR NR",
    },
}
VALUES = {
    "user_index": "11",
    "user_name": "Ann Lee",
    "item_index": "22",
    "title": "Blue Kite",
    "asked_rating": "3",
    "rating": "4",
    "history_index": ["7", "8", "9"],
    "separator": " -> ",
    "candidates_index": ["31", "22", "33"],
    "feature": "colour",
    "headline": "What a flight",
    "review": "It flew well.",
    "explanation": "The colour is bright.",
    "lowest": "1",
    "highest": "5",
    "brand": "Windy",
    "price": "9.99",
    "source": "Toys",
}
SHOWN = {
    "U": "user_11",
    "N": "Ann Lee",
    "I": "item_22",
    "T": '"Blue Kite"',
    "H": "7 -> 8 -> 9",
    "C": "31 , 22 , 33",
    "F": "colour",
    "L": "What a flight",
    "R": "It flew well.",
}
SCALE = "(1 being the lowest and 5 the highest)"
NUMBERED = [
    (f"{family}/{part}-{place}", slots)
    for family, parts in SLOTS.items()
    for part, words in parts.items()
    for place, slots in enumerate(words.split(), 1)
]


def number(template: Template) -> str:
    return template.name.partition("/")[2]


def section(template: Template, name: str, **changed: str) -> str:
    values = VALUES | changed
    wanted = {field: values[field] for field in template.fields(name)}
    return template.render_section(name, wanted)


def answer(name: str, **changed: str) -> str:
    return section(find_template(name), "answer", **changed)


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("p5", {"1": 10, "2": 13, "3": 12, "4": 4, "5": 8, "z": 7}),
        ("p5_yelp", {"1": 10, "2": 13, "3": 10, "4": 3, "5": 8}),
        ("openp5", {"sequential": 11, "straightforward": 11}),
    ],
)
def test_as_many_as_in_the_paper(family: str, counts: dict[str, int]) -> None:
    numbers = [number(template).rpartition("-") for template in find_templates([f"{family}/*"])]
    assert Counter(part for part, _, _ in numbers) == counts
    for part, count in counts.items():
        assert sorted(int(end) for own, _, end in numbers if own == part) == [*range(1, count + 1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_each_says_of_itself(family: str) -> None:
    for template in find_templates([f"{family}/*"]):
        assert (template.family, template.id) == (family, number(template))
        assert template.has_answer
        assert "arXiv" in template.reference
        assert is_columnar(template), template.name
        if template.id[0] in TASKS:
            assert template.task == TASKS[template.id[0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_wordings(family: str) -> None:
    templates = find_templates([f"{family}/*"])
    assert {number(template) for template in templates if not template.seen} == HELD_OUT[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_wordings_are_the_same(family: str) -> None:
    worded: dict[str, str] = {}
    for template in find_templates([f"{family}/*"]):
        words = re.sub(r"\W+", " ", section(template, "prompt").lower()).strip()
        # Neither how a user or an item is called nor their place makes a wording of its own.
        bare = re.sub(r"\b(user_11|ann lee|(product |business )?(item_22|blue kite))\b", "…", words)
        assert bare not in worded, (template.name, worded[bare])
        worded[bare] = template.name


@pytest.mark.parametrize(("name", "slots"), NUMBERED)
def test_slots_in_the_order_of_the_paper(name: str, slots: str) -> None:
    template = find_template(name)
    star = VALUES["asked_rating" if "asked_rating" in template.asked else "rating"]
    text = section(template, "prompt").replace(SCALE, "")
    shown = SHOWN | {"S": f"star rating of {star}"}
    places = {slot: text.find(value) for slot, value in shown.items() if value in text}
    assert "".join(sorted(places, key=places.__getitem__)) == slots


@pytest.mark.parametrize("family", ["p5", "p5_yelp"])
def test_scale_hint_in_all_rating_prompts_but_three(family: str) -> None:
    hinted = {
        number(template)
        for template in find_templates([f"{family}/*"])
        if SCALE in section(template, "prompt")
    }
    assert hinted == {f"1-{end}" for end in (1, 2, 3, 6, 7, 8, 10)}


@pytest.mark.parametrize("family", ["p5", "p5_yelp"])
def test_histories_use_the_separator_of_the_row(family: str) -> None:
    for template in find_templates([f"{family}/*"]):
        has_history = template.id.startswith("2-")
        assert ("history_index" in template.asked) == has_history
        assert ("separator" in template.asked) == has_history


def test_yelp_has_no_headlines_and_speaks_of_businesses() -> None:
    for template in find_templates(["p5_yelp/*"]):
        assert "headline" not in template.fields()
        text = section(template, "prompt").lower()
        assert not re.search(r"\b(product|item|purchas\w*|buy|bought)\b", text), template.name
        if "title" not in template.fields():
            assert re.search(r"\b(business|businesses|visit\w*|places)\b", text), template.name


@pytest.mark.parametrize("family", ["p5", "p5_yelp"])
@pytest.mark.parametrize("name", ["1-3", "1-8"])
def test_a_wrong_star_is_answered_with_no(family: str, name: str) -> None:
    assert answer(f"{family}/{name}", asked_rating="4") == "yes"
    assert answer(f"{family}/{name}", asked_rating="3") == "no"


@pytest.mark.parametrize("family", ["p5", "p5_yelp"])
def test_choices(family: str) -> None:
    chosen = {number(it): it.choices for it in find_templates([f"{family}/*"]) if it.choices}
    likes = dict.fromkeys(["1-4", "1-9"], ("like", "dislike"))
    if family == "p5":
        likes |= dict.fromkeys(["z-1", "z-4"], ("like", "dislike"))
    asked = ["1-3", "1-8", "2-11", "2-12", "5-1", "5-2", "5-3", "5-4"]
    assert chosen == likes | dict.fromkeys(asked, ("yes", "no"))
    by_label = {name for name in chosen if find_template(f"{family}/{name}").answers_by_label}
    assert by_label == chosen.keys() - {"1-3", "1-8"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p5*/1-[1267]", "4"),
        ("p5*/2-[1-9]", "22"),
        ("p5/3-[1-69]", "The colour is bright."),
        ("p5/3-1?", "The colour is bright."),
        ("p5/3-[78]", "4 , The colour is bright."),
        ("p5_yelp/3-[1-4789]", "The colour is bright."),
        ("p5_yelp/3-[56]", "4 , The colour is bright."),
        ("p5/4-[13]", "What a flight"),
        ("p5/4-[24]", "4"),
        ("p5_yelp/4-*", "4"),
        ("p5*/5-[5-8]", "22"),
        ("p5/z-[23]", "4"),
        ("p5/z-[56]", "The colour is bright."),
        ("openp5/*", "Toys item_22"),
    ],
)
def test_answers(pattern: str, expected: str) -> None:
    for template in find_templates([pattern]):
        assert section(template, "answer") == expected, template.name


def test_five_options_on_lines_of_their_own() -> None:
    for name in ("p5/1-5", "p5_yelp/1-5", "p5/z-2"):
        text = section(find_template(name), "prompt")
        assert text.split("\n")[-5:] == ["-1", "-2", "-3", "-4", "-5"]


def test_new_products_with_and_without_brand_and_price() -> None:
    for template in find_templates(["p5/z-*"]):
        assert template.optional == {"brand", "price"}
        assert '"Blue Kite", brand Windy, price 9.99' in section(template, "prompt")
        bare = section(template, "prompt", brand="", price="")
        assert not re.search(r'brand|price|" ?,', bare)


def test_love_is_explained_and_its_lack_is_not() -> None:
    assert answer("p5/z-7", rating="5") == "yes , The colour is bright."
    assert answer("p5/z-7", rating="4") == "yes , The colour is bright."
    assert answer("p5/z-7", rating="3") == "no"


@pytest.mark.parametrize("template", find_templates(["openp5/*"]), ids=number)
def test_openp5_names_the_data_before_users_and_items(template: Template) -> None:
    text = section(template, "prompt")
    assert "Toys user_11" in text
    has_history = template.id.startswith("sequential")
    assert ("Toys items item_7 , item_8 , item_9" in text) == has_history
    assert template.task == ("sequential" if has_history else "direct")
    fields = {"source", "user_index", "item_index"}
    assert template.fields() == (fields | {"history_index"} if has_history else fields)
