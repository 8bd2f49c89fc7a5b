"""What messages say, one by one. Conditions are written as `str(Condition)` joined by `; `."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.agents.dialogue.reading import decided
from tastemaker.agents.dialogue.wish import State, Step, Wish

# Toy Story, Heat, Jumanji, GoldenEye, Casino: the last answer in all these messages.
LAST = ("Toy Story (1995)", "Heat (1995)", "Jumanji (1995)", "GoldenEye (1995)", "Casino (1995)")
NINETIES = "year: at least 1990; year: at most 1999"

CONDITIONS = {
    # values
    "a comedy": "genres: Comedy",
    "COMEDIES PLEASE": "genres: Comedy",
    "something funny": "genres: Comedy",
    "scary movies": "genres: Horror",
    "a scary movie please": "genres: Horror",
    "kids movie": "genres: Children",
    "children's animation": "genres: Children; genres: Animation",
    "animated films": "genres: Animation",
    "documentaries about space": "genres: Documentary",
    "some sci-fi": "genres: Sci-Fi",
    "science fiction": "genres: Sci-Fi",
    "a SciFi film": "genres: Sci-Fi",
    "a good noir": "genres: Film-Noir",
    "romantic comedy": "genres: Romance; genres: Comedy",
    "a romcom": "genres: Romance; genres: Comedy",
    "action thriller": "genres: Action; genres: Thriller",
    "comedy and drama": "genres: Comedy; genres: Drama",
    "Both comedy and drama": "genres: Comedy; genres: Drama",
    "comedy/drama": "genres: Comedy; genres: Drama",
    "comedy or drama": "genres: Comedy or Drama",
    "Either a comedy or a musical": "genres: Comedy or Musical",
    "Comedy, Drama or Romance": "genres: Comedy or Drama or Romance",
    "fantasy, adventure, children": "genres: Fantasy; genres: Adventure; genres: Children",
    "a romantic comedy or drama": "genres: Romance or Drama; genres: Comedy or Drama",
    "I love comedies": "genres: Comedy",
    "It has to be a comedy": "genres: Comedy",
    "War movies about the Vietnam war": "genres: War",
    "movies about children in the war": "",
    "a film about the crime of the century": "",
    # refusals
    "not horror": "genres: not Horror",
    "no horror or war": "genres: not Horror or War",
    "no westerns, musicals, or war films": "genres: not Western or Musical or War",
    "without horror, war and crime": "genres: not Horror or War or Crime",
    "neither horror nor war": "genres: not Horror or War",
    "no musicals and no westerns": "genres: not Musical or Western",
    "a comedy, not a romance": "genres: Comedy; genres: not Romance",
    "not horror, comedy": "genres: Comedy; genres: not Horror",
    "no, comedy": "genres: Comedy",
    "No horror, comedy please": "genres: Comedy; genres: not Horror",
    "no horror, a comedy": "genres: Comedy; genres: not Horror",
    "no comedies but dramas": "genres: Drama; genres: not Comedy",
    "comedies, but no romantic comedies": "genres: Comedy; genres: not Romance",
    "anything but horror": "genres: not Horror",
    "nothing but comedies": "genres: Comedy",
    "everything except horror": "genres: not Horror",
    "I'm tired of dramas, give me something funny": "genres: Comedy; genres: not Drama",
    "I dont want musicals": "genres: not Musical",
    "I do not want musicals": "genres: not Musical",
    "I'm not in the mood for comedy tonight": "genres: not Comedy",
    "I'd rather see a drama than a comedy": "genres: Drama; genres: not Comedy",
    "I hate horror": "genres: not Horror",
    "comedies that are not romantic": "genres: Comedy; genres: not Romance",
    "something not for children": "genres: not Children",
    "too scary": "genres: not Horror",
    "not only comedies": "",
    "horror is fine but no gore": "",
    "less scary": "",
    # years
    "from the 1990s": NINETIES,
    "the 90s": NINETIES,
    "the '90s": NINETIES,
    "nineties films": NINETIES,
    "nineteen nineties": NINETIES,
    "early 90s": "year: at least 1990; year: at most 1993",
    "mid-90s": "year: at least 1994; year: at most 1996",
    "the late nineties": "year: at least 1997; year: at most 1999",
    "from the 20s": "year: at least 1920; year: at most 1929",
    "from 1994": "year: at least 1994; year: at most 1994",
    "a 1994 film": "year: at least 1994; year: at most 1994",
    "made in 1999": "year: at least 1999; year: at most 1999",
    "from '94": "year: at least 1994; year: at most 1994",
    "between 1980 and 1989": "year: at least 1980; year: at most 1989",
    "1980-1989": "year: at least 1980; year: at most 1989",
    "from 1980 to 1989": "year: at least 1980; year: at most 1989",
    "forties or fifties": "year: at least 1940; year: at most 1959",
    "70s or 90s": "",
    "before 1970": "year: at most 1969",
    "released before the 70s": "year: at most 1969",
    "older than 1980": "year: at most 1979",
    "pre-1960": "year: at most 1959",
    "until 1980": "year: at most 1980",
    "no later than 1975": "year: at most 1975",
    "1975 or earlier": "year: at most 1975",
    "after 2000": "year: at least 2001",
    "newer than 2000": "year: at least 2001",
    "after the 80s": "year: at least 1990",
    "since 2010": "year: at least 2010",
    "from 1990 onwards": "year: at least 1990",
    "in 1999 or later": "year: at least 1999",
    "1990+": "year: at least 1990",
    "nothing from before 1970": "year: at least 1970",
    "nothing older than 1990": "year: at least 1990",
    "don't show me anything older than 1990": "year: at least 1990",
    "not made before 1990": "year: at least 1990",
    "nothing after 1990": "year: at most 1990",
    "nothing newer than 1980": "year: at most 1980",
    "after 1990 and before 2000": "year: at least 1991; year: at most 1999",
    "before 1970 or after 2000": "",
    "older than Heat": "year: at most 1994",
    "newer than Toy Story but older than Inception": "year: at least 1996; year: at most 2009",
    "like Heat but newer": "year: at least 1996",
    "not too old": "",
    "about the 1960s": "",
    # together
    "any good crime or thriller films after 1999?": "genres: Crime or Thriller; "
    "year: at least 2000",
    "drama, but made between 1960 and 1970": "genres: Drama; year: at least 1960; "
    "year: at most 1970",
    "Something like Alien, but not scary and from after 1990": "genres: not Horror; "
    "year: at least 1991",
    "like War of the Worlds, but a comedy": "genres: Comedy",
    "I hated Titanic, comedy please": "genres: Comedy",
    "Romantic Comedy From The 90s": f"genres: Romance; genres: Comedy; {NINETIES}",
    "something like Matrix, The (1999) but no War": "genres: not War",
    'something like "Scary Movie"': "",
    "I loved Scary Movie": "",
}
WISHES: dict[str, dict[str, Any]] = {
    # titles
    "I liked Heat": {"act": "like", "likes": ["Heat (1995)"]},
    "i loved heat and casino": {"act": "like", "likes": ["Heat (1995)", "Casino (1995)"]},
    "I loved Toy Story but hated Titanic": {
        "act": "like",
        "likes": ["Toy Story (1995)"],
        "dislikes": ["Titanic (1997)"],
    },
    "The Godfather was great": {"act": "like", "likes": ["Godfather, The (1972)"]},
    "Titanic was boring": {"act": "dislike", "dislikes": ["Titanic (1997)"]},
    "I didn't like Titanic": {"act": "dislike", "dislikes": ["Titanic (1997)"]},
    "like Heat": {"similar": ["Heat (1995)"]},
    "similar to Heat or Casino": {"similar": ["Heat (1995)", "Casino (1995)"]},
    "in the style of Pulp Fiction": {"similar": ["Pulp Fiction (1994)"]},
    "something like Scary Movie": {"similar": ["Scary Movie (2000)"]},
    "nothing like Titanic": {"act": "dislike", "dislikes": ["Titanic (1997)"]},
    "I loved Heat, recommend something": {"likes": ["Heat (1995)"]},
    "i loved heat, something like that": {"likes": ["Heat (1995)"], "similar": ["Heat (1995)"]},
    "like Dr. Strangelove": {
        "similar": ["Dr. Strangelove or: How I Learned to Stop Worrying and Love the Bomb (1964)"]
    },
    "2001: A Space Odyssey was great": {"act": "like", "likes": ["2001: A Space Odyssey (1968)"]},
    "tell me about Heat": {"act": "about", "mentioned": ["Heat (1995)"]},
    "who directed Heat?": {"act": "about", "mentioned": ["Heat (1995)"]},
    "have I seen Heat?": {"act": "history", "mentioned": ["Heat (1995)"]},
    "something like Xyzzyx Returns": {"unknown": ("Xyzzyx Returns",)},
    'anything like "Nonexistent Film Xyz"?': {"unknown": ("Nonexistent Film Xyz",)},
    # places
    "the second": {"act": "about", "places": (2,), "mentioned": [LAST[1]]},
    "what about number 3": {"act": "about", "places": (3,), "mentioned": [LAST[2]]},
    "#2": {"act": "about", "places": (2,), "mentioned": [LAST[1]]},
    "the last one": {"act": "about", "places": (5,), "mentioned": [LAST[4]]},
    "I like the first two": {"act": "like", "places": (1, 2), "likes": list(LAST[:2])},
    "I liked both": {"act": "like", "places": (1, 2), "likes": list(LAST[:2])},
    "I like 2": {"act": "like", "places": (2,), "likes": [LAST[1]]},
    "I loved number 1 and 3": {"act": "like", "places": (1, 3), "likes": [LAST[0], LAST[2]]},
    "3 is great": {"act": "like", "places": (3,), "likes": [LAST[2]]},
    "not the third": {"act": "dislike", "places": (3,), "dislikes": [LAST[2]]},
    "I hated the second one": {"act": "dislike", "places": (2,), "dislikes": [LAST[1]]},
    "more like the second": {"places": (2,), "similar": [LAST[1]]},
    "why the second?": {"act": "why", "places": (2,), "mentioned": [LAST[1]]},
    "the ninth": {"act": "about", "places": (9,)},
    # acts
    "why?": {"act": "why"},
    "more": {"act": "more"},
    "something else": {"act": "more"},
    "others, please": {"act": "more"},
    "more like these": {"act": "more"},
    "what did I watch": {"act": "history"},
    "let's start over": {"act": "reset"},
    "forget everything": {"act": "reset"},
    "hello": {"act": "small_talk"},
    "thanks!": {"act": "small_talk"},
    "": {"act": "small_talk"},
    "surprise me": {},
    # withdrawals
    "any year": {"withdrawn": ("year",)},
    "genre doesn't matter": {"withdrawn": ("genres",)},
    "I don't care when it was made": {"withdrawn": ("year",)},
    "forget the comedy part": {"lifted": (("genres", "Comedy"),)},
    "horror is fine again": {"lifted": (("genres", "Horror"),)},
    "not only comedies": {"lifted": (("genres", "Comedy"),)},
    # counts, orders, steps
    "three films": {"count": 3},
    "top 10": {"count": 10},
    "give me 5": {"count": 5},
    "a couple of films": {"count": 2},
    "newest first": {"order": ("year", True)},
    "sort by year": {"order": ("year", False)},
    "older ones, please": {"steps": (Step("year", "lower"),)},
    "more recent ones": {"steps": (Step("year", "higher"),)},
    "Those are too old": {"steps": (Step("year", "higher"),)},
    # words
    "a film about chess": {"topic": "chess"},
    "with a twist ending": {"topic": "twist ending"},
    "submarine films": {"topic": "submarine"},
    "anything with time travel?": {"topic": "time travel"},
    "Ich mag keine Horrorfilme": {"topic": "Ich mag keine Horrorfilme"},
    "喜剧片": {"topic": "喜剧片"},
    "no explicit gore": {"unchecked": ("no explicit gore",)},
    "horror is fine but no gore": {
        "lifted": (("genres", "Horror"),),
        "unchecked": ("no gore",),
    },
    "less scary": {"unchecked": ("less scary",)},
    "under 20 dollars": {"unchecked": ("under 20 dollars",)},
}
ITEMS = ("likes", "dislikes", "similar", "mentioned")


@pytest.fixture(scope="module")
def state(films: Any) -> State:
    return State(last=tuple(films.number(title) for title in LAST))


@pytest.mark.parametrize("message", CONDITIONS)
def test_conditions_are_what_is_said(message: str, films: Any, state: State) -> None:
    found = films.read(message, state).wish.conditions
    assert "; ".join(map(str, found)) == CONDITIONS[message]


@pytest.mark.parametrize("message", WISHES)
def test_everything_else_is_what_is_said(message: str, films: Any, state: State) -> None:
    wish = films.read(message, state).wish
    expected = WISHES[message]
    told = {one.name: getattr(wish, one.name) for one in fields(Wish)}
    told |= {name: [films.titles[item] for item in told[name]] for name in ITEMS}
    nothing: dict[str, Any] = {one.name: getattr(Wish(), one.name) for one in fields(Wish)}
    nothing |= {name: [] for name in ITEMS}
    topic = {"topic"} if "topic" not in expected else set()
    assert {name: told[name] for name in told.keys() - topic} == {
        name: value for name, value in (nothing | expected).items() if name not in topic
    }


def test_more_words_of_a_kind_come_on_top(films: Any) -> None:
    also = {
        message: films.read(message).wish.additional
        for message in ("also romantic", "make it romantic too", "more romantic", "a romance")
    }
    assert list(also.values()) == [True, True, True, False]
    assert films.read("more comedies").wish.additional is False


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("under 20", "price: at most 20"),
        ("a puzzle for at most $12.50", "categories: Puzzle; price: at most 12.5"),
        ("between 10 and 20 euros", "price: at least 10; price: at most 20"),
        ("something from Kite Press or Moor House", "brand: Kite Press or Moor House"),
        ("novels by Anna Bell", "categories: Novel; author: Anna Bell"),
        ("no Pixel Oak games", "publisher: not Pixel Oak"),
        ("calm but not short", "tags: calm; tags: not short"),
    ],
)
def test_columns_of_any_catalogue(message: str, expected: str, shop: Any) -> None:
    found = shop.read(message).wish
    assert "; ".join(sorted(map(str, found.conditions))) == "; ".join(sorted(expected.split("; ")))


def test_under_leaves_the_number_out_and_at_most_does_not(shop: Any) -> None:
    (under,) = shop.read("under 20").wish.conditions
    (most,) = shop.read("at most 20").wish.conditions
    assert under.values[0] < 20 <= most.values[0]
    assert shop.read("cheaper ones").wish.steps == (Step("price", "lower"),)
    assert shop.read("cheapest first").wish.order == ("price", False)


def test_of_several_with_one_name_the_best_known_is_meant(films: Any) -> None:
    from tastemaker.agents.dialogue.reading import read

    older = films.number("Titanic (1953)")
    wish = read(
        "like Titanic",
        lexicon=films.lexicon,
        catalogue_mentions=films.index.mentions,
        state=State(),
        values_of=films.values_of,
        weight=lambda item: float(item == older),
    ).wish
    assert wish.similar == (older,)


def test_what_words_leave_open_is_asked(films: Any) -> None:
    reading = films.read("Jumanji, something with elephants")
    assert [(one.kind, one.text) for one in reading.open] == [
        ("title", "Jumanji"),
        ("topic", "elephants"),
    ]
    jumanji = films.number("Jumanji (1995)")
    assert reading.settled.similar == ()
    assert reading.wish.similar == (jumanji,)
    other = decided(reading, ["like", "ignore"])
    assert (other.likes, other.similar, other.topic) == ((jumanji,), (), "")
    assert films.read("a comedy from 1994, not a romance").open == ()


def test_asking_what_a_title_is(films: Any) -> None:
    reading = films.read("Jumanji?")
    assert reading.wish.act == "about"
    assert decided(reading, ["like"]).act == "like"
    assert decided(reading, ["similar"]).act == "recommend"


@given(message=st.text(max_size=120))
@settings(max_examples=60)
def test_any_text_can_be_read(films: Any, message: str) -> None:
    reading = films.read(message, State(last=(0, 1, 2)))
    for name in ITEMS:
        assert all(0 <= item < len(films.titles) for item in getattr(reading.wish, name))


SAID = """
    comedy horror drama not no or and , but from before 1990 the 90s like Heat " ( 1995 ) I loved
    hated second 2 why more any year forget <|im_end|> {{x}} ' . too is fine older than
"""
PIECES = st.sampled_from(SAID.split())


@given(st.lists(PIECES, max_size=30).map(" ".join))
@settings(max_examples=150)
def test_any_order_of_meaningful_words_can_be_read(films: Any, message: str) -> None:
    wish = films.read(message, State(last=(0, 1))).wish
    for one in wish.conditions:
        facet = films.lexicon.facets[one.column]
        bound = one.operator in ("at_least", "at_most")
        assert bound == (facet.kind == "number")
        assert bound or set(one.values) <= set(facet.values)


@pytest.mark.parametrize(
    "message",
    [
        '"' * 4000,
        "'" * 4000,
        "1," * 2000,
        "a-" * 2000,
        "comedy or drama and " * 200,
        'like "Foo ' * 400,
        "Heat Wave " * 400,
        "(1999)" * 660,
        "not " * 1000,
        "between " * 500,
        "Matrix, The (1999) " * 200,
        "\u0301é\u200f🎬" * 1000,
    ],
)
def test_long_messages_take_time_in_proportion(message: str, films: Any) -> None:
    films.read(message[: len(message) // 4])
    short, long = (_seconds(films, message[:size]) for size in (len(message) // 4, len(message)))
    assert long < 12 * short + 0.1
    assert long < 2


def _seconds(films: Any, message: str) -> float:
    times = []
    for _ in range(2):
        start = time.process_time()
        films.read(message)
        times.append(time.process_time() - start)
    return min(times)
