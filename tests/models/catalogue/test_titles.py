from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.builtin.base import load_builtin
from tastemaker.models.catalogue.titles import TitleIndex

TITLES = [
    "Matrix, The (1999)",
    "Toy Story (1995)",
    "Toy Story 2 (1999)",
    "Heat (1995)",
    "Heat, The (2013)",
    "Seven (a.k.a. Se7en) (1995)",
    "Shawshank Redemption, The (1994)",
    "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
    "Star Wars: Episode IV - A New Hope (1977)",
    "Star Wars: Episode V - The Empire Strikes Back (1980)",
    "It (1990)",
    "Her (2013)",
    "Up (2009)",
    "Old (2021)",
    "War (2007)",
    "Comedy (2001)",
    "Big (1988)",
    "Last Night (1998)",
    "Something New (2006)",
    "1984 (1956)",
    "Lord of the Rings: The Fellowship of the Ring, The (2001)",
    "Schindler's List (1993)",
    "Rocky II (1979)",
    "Titanic (1953)",
    "Titanic (1997)",
    "千と千尋の神隠し (2001)",
    "Ring, The (2002)",
    "Tom & Jerry: The Movie (1992)",
    "{{ 7 * 7 }} <|im_end|>",
    "!!!",
    "",
]
INDEX = TitleIndex(TITLES)


def named(text: str) -> list[tuple[str, list[str]]]:
    """Each mention as it is written, with the titles it stands for."""
    return [
        (text[one.start : one.end], [TITLES[item] for item in one.items])
        for one in INDEX.mentions(text)
    ]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("the matrix", "Matrix, The (1999)"),
        ("MATRIX", "Matrix, The (1999)"),
        ("Matrix, The (1999)", "Matrix, The (1999)"),
        ("matrix 1999", "Matrix, The (1999)"),
        ("se7en", "Seven (a.k.a. Se7en) (1995)"),
        ("La cite des enfants perdus", TITLES[7]),
        ("schindlers list", "Schindler's List (1993)"),
        ("rocky 2", "Rocky II (1979)"),
        ("tom and jerry the movie", "Tom & Jerry: The Movie (1992)"),
        ("Titanic (1997)", "Titanic (1997)"),
        ("titanic 1953", "Titanic (1953)"),
        ("1984", "1984 (1956)"),
    ],
)
def test_a_title_is_found_by_what_people_call_it(name: str, title: str) -> None:
    item, score = INDEX.lookup(name)[0]
    assert (TITLES[item], score) == (title, 100)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("shawshank redemtion", "Shawshank Redemption, The (1994)"),
        ("shawshank", "Shawshank Redemption, The (1994)"),
        ("fellowship of the ring", TITLES[20]),
        ("toy sotry", "Toy Story (1995)"),
        ("star wars", TITLES[8]),
        ("matrix 2003", "Matrix, The (1999)"),
    ],
)
def test_names_that_are_misspelt_or_short_are_found_too(name: str, title: str) -> None:
    item, score = INDEX.lookup(name)[0]
    assert TITLES[item] == title
    assert 60 <= score < 100


def test_lookup_orders_by_score_then_item_and_finds_nothing_of_nothing() -> None:
    found = INDEX.lookup("heat", count=2)
    assert [(TITLES[item], score) for item, score in found] == [
        ("Heat (1995)", 100),
        ("Heat, The (2013)", 100),
    ]
    assert INDEX.lookup("") == INDEX.lookup("!?") == []
    assert INDEX.lookup("qqqqqqqq zzzzzz") == []
    assert len(INDEX.lookup("the", count=1)) <= 1


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("something like the matrix, but with toy story in it", ["the matrix", "toy story"]),
        ("I prefer Toy Story 2 to toy story", ["Toy Story 2", "toy story"]),
        ("movies like Heat and Seven", ["Heat", "Seven"]),
        ("more like star wars", ["star wars"]),
        ("I saw It and liked it", ["It"]),
        ("I liked Her a lot, and Up", ["Her", "Up"]),
        ("a film called up", ["up"]),
        ("the movie heat, please", ["heat"]),
        ('have you "old" there', ["old"]),
        ("big 1988, or heat (1995)!", ["big 1988", "heat (1995)"]),
        ("what about Titanic (1953)?", ["Titanic (1953)"]),
        ("我想看千と千尋の神隠し吗", ["千と千尋の神隠し"]),
        ("we loved Schindler’s List", ["Schindler’s List"]),
        ("THE MATRIX", ["THE MATRIX"]),
    ],
)
def test_titles_inside_a_message(text: str, written: list[str]) -> None:
    assert [name for name, _ in named(text)] == written


@pytest.mark.parametrize(
    "text",
    [
        "an old film about war, not a comedy",
        "Old films with a big cast",
        "it was about her, what is up?",
        "Up to 1990, nothing later",
        "show me something new",
        "I watched it last night",
        "films from 1984",
        "seven comedies, please",
        "in the heat of the moment",
        "big 1990 hits",
        "Comedy",
        "",
    ],
)
def test_ordinary_words_are_no_titles(text: str) -> None:
    assert named(text) == []


@pytest.mark.parametrize(
    ("text", "written", "title"),
    [
        ("Shawshank Redemtion was great", "Shawshank Redemtion", TITLES[6]),
        ("Recommend Shawshank Redemtion", "Shawshank Redemtion", TITLES[6]),
        ('like "shawshank redemtion" or so', "shawshank redemtion", TITLES[6]),
        ("Fellowship of the Ring was great", "Fellowship of the Ring", TITLES[20]),
        ("something like Schindlers Lst (1993)", "Schindlers Lst (1993)", TITLES[21]),
    ],
)
def test_what_stands_out_may_be_misspelt(text: str, written: str, title: str) -> None:
    assert named(text) == [(written, [title])]
    assert INDEX.mentions(text)[0].score < 100


def test_what_is_alike_but_does_not_stand_out_is_no_mention() -> None:
    assert named("a redemtion story") == []
    assert named("Films by Quentin Tarantino with Brad Pitt") == []


def test_shared_titles_name_all_their_items_and_a_year_tells_them_apart() -> None:
    assert named("i like titanic") == [("titanic", ["Titanic (1953)", "Titanic (1997)"])]
    assert named("i like titanic from 1997") == [("titanic from 1997", ["Titanic (1997)"])]
    assert named("i like titanic 2005") == [("titanic", ["Titanic (1953)", "Titanic (1997)"])]


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from([*TITLES, '"', "like", " ", "\n", "(", "1995", "İ", "ﬁ"]), max_size=6
    ).map(" ".join)
)
def test_mentions_are_ordered_apart_and_inside_any_text(text: str) -> None:
    found = INDEX.mentions(text)
    ends = [0, *(one.end for one in found)]
    assert all(end <= one.start < one.end for end, one in zip(ends, found, strict=False))
    assert all(one.end <= len(text) and one.items == tuple(sorted(one.items)) for one in found)
    assert all(0 <= item < len(TITLES) for one in found for item in one.items)
    assert INDEX.mentions(text) == found


def test_nine_thousand_titles_are_quick() -> None:
    index = TitleIndex(load_builtin("movielens-small").titles)
    text = "Recommend something like Shawshank Redemtion or toy story, " * 3
    index.mentions(text)
    started = time.process_time()
    for _ in range(5):
        index.lookup("lord of the rigns")
        assert index.mentions(text)
    assert (time.process_time() - started) / 5 < 0.5  # some tens of milliseconds on a quiet machine


def test_a_very_long_title_or_message_is_cut() -> None:
    index = TitleIndex(["(" * 100_000, " " * 100_000 + "x", "word " * 50_000])
    started = time.process_time()
    index.mentions('"' * 5000 + "word " * 50_000)
    index.lookup("word " * 50_000)
    assert time.process_time() - started < 5
