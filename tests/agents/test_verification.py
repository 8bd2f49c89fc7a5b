"""Claims about items, ratings and the past, checked against the catalogue."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.agents.claims import sentences, words
from tastemaker.agents.questions import Cut, Question, item_questions, user_questions
from tastemaker.agents.verification import Contradiction, Facts, correction, without
from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.history import Histories
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import UserError
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import shop_world

ITEMS = {
    "title": [
        "Heat (1995)",
        "Alien (1979)",
        "Usual Suspects, The (1995)",
        "Scary Movie (2000)",
        "Hamlet (1948)",
        "Hamlet (1996)",
        "Untold",
    ],
    "genres": [
        "Action|Crime|Thriller",
        "Horror|Sci-Fi",
        "Crime|Mystery|Thriller",
        "Comedy",
        "Drama",
        "Drama|Romance",
        "(no genres listed)",
    ],
    "director": ["Michael Mann", "Ridley Scott", "Bryan Singer", "Keenen Wayans", None, None, None],
    "country": ["USA", "United Kingdom", "USA", "USA", "United Kingdom", "United Kingdom", None],
    "brand": ["Warner", "Fox", "Gramercy", "Dimension", "Rank", "Castle Rock", None],
    "plot": [f"A long tale of how number {place} came about." for place in range(7)],
}
EVENTS = [("a", 0, 10, 5.0), ("a", 4, 20, 2.0), ("a", 3, 30, 0.5), ("b", 1, 40, 4.0)]
SCHEMA = Schema(
    user="user_id",
    item="item_id",
    time="time",
    rating="rating",
    label=LabelRule("rating", ">", 3.0),
    title="title",
    text=("plot",),
    lists={"genres": "|"},
    categorical=("director", "country", "brand"),
    rating_range=(0.5, 5.0),
)


def world() -> Tables:
    frame = pl.DataFrame(EVENTS, schema=["user_id", "item_id", "time", "rating"], orient="row")
    items = pl.DataFrame({"item_id": range(7), **ITEMS})
    return build_tables(frame, items=items, schema=SCHEMA)


TABLES = world()
FACTS = Facts(TABLES)
HEAT, SUSPECTS, HAMLET, UNTOLD = 0, 2, 4, 6


def about(item: int) -> Question:
    (found,) = item_questions(TABLES, items=[item], templates=[find_template("kar/item_items")])
    return found


def of_user() -> Question:
    (found,) = user_questions(
        TABLES,
        Histories.from_interactions(TABLES.interactions),
        users=[0],
        cut=Cut(30, before=100),
        templates=[find_template("kar/user_items")],
    )
    return found


def told(text: str, question: Question) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(it.attribute, it.claimed, it.actual) for it in FACTS.contradictions(text, question)]


GENRES = ("Action", "Crime", "Thriller")


@pytest.mark.parametrize(
    ("text", "attribute", "claimed"),
    [
        ("Heat is a horror film.", "genres", "Horror"),
        ('"Heat" is a gripping romantic movie.', "genres", "Romance"),
        ("“Heat (1995)” is a comedy.", "genres", "Comedy"),
        ("It's a science fiction story about thieves.", "genres", "Sci-Fi"),
        ("This film was considered a classic comedy.", "genres", "Comedy"),
        ("It is a mix of comedy and horror.", "genres", "Comedy, Horror"),
        ("Heat, a dark comedic film, is long.", "genres", "Comedy"),
        ("A romantic comedy set in Los Angeles.", "genres", "Romance, Comedy"),
        ("It belongs to the genre of science fiction.", "genres", "Sci-Fi"),
        ("It belongs to the horror genre.", "genres", "Horror"),
        ("It is a film in the horror genre.", "genres", "Horror"),
        ("It falls into the comedy category.", "genres", "Comedy"),
        ("It is best classified as romance.", "genres", "Romance"),
        ("- **Genre:** Horror", "genres", "Horror"),
        ("Genres: Comedy, Horror", "genres", "Comedy, Horror"),
        ("Its genres are comedy and drama.", "genres", "Comedy, Drama"),
        ("It was directed by Ridley Scott.", "director", "Ridley Scott"),
        ("Heat, helmed by director Bryan Singer, is long.", "director", "Bryan Singer"),
        ("Director: Ridley Scott", "director", "Ridley Scott"),
        ("A film by the director Ridley Scott.", "director", "Ridley Scott"),
        ("It was produced in the United Kingdom.", "country", "United Kingdom"),
        ("It is made by Castle Rock.", "brand", "Castle Rock"),
        ("It comes from brand Fox.", "brand", "Fox"),
        ("Heat was released in 1994.", "year", "1994"),
        ("It premiered on December 15, 1996.", "year", "1996"),
        ('"Heat" (1986) is long.', "year", "1986"),
        ('"Heat (1986)" is long.', "year", "1986"),
        ("Heat (1986) is long.", "year", "1986"),
        ('"Heat" is a 1986 film.', "year", "1986"),
        ("The 1986 crime film Heat is long.", "year", "1986"),
    ],
)
def test_a_wrong_claim_about_an_item_is_found(text: str, attribute: str, claimed: str) -> None:
    (found,) = told(text, about(HEAT))
    assert found[:2] == (attribute, claimed)
    assert found[2] == {
        "genres": GENRES,
        "director": ("Michael Mann",),
        "country": ("USA",),
        "brand": ("Warner",),
        "year": ("1995",),
    }.get(attribute)


@pytest.mark.parametrize(
    "text",
    [
        "Heat is a crime film.",
        "Heat is a crime drama.",  # one of its values is enough
        "It is a thriller.",
        "It is not a comedy.",
        "It isn't a horror film.",
        "It is no comedy.",
        "It is anything but a comedy.",
        "It is more of a drama than a thriller.",
        "It is less a comedy film than one thinks.",
        "It is an anti-romance film.",
        "It is a comedy-inspired thriller.",
        "It is a sequel to the 1981 film Heat.",
        "It was not directed by Ridley Scott.",
        "Unlike Alien, which is a horror film, it is calm.",
        'It resembles "Alien", which is a horror film directed by Ridley Scott.',
        'It came out long after "Alien", released in 1979.',
        "Fans of comedy will enjoy it.",
        "It is a film for fans of comedy.",
        "It has the feel of a drama.",
        "It is a mystery how it was made.",
        "It is a comedy lover's nightmare.",
        "It could be a comedy.",
        "If it were a comedy, it would be shorter.",
        "The plot is a comedy of errors.",
        "The hero is a drama teacher.",
        "The original was released in 1989.",
        "It is based on a novel published in 1963.",
        "It was re-released in 2005.",
        "It is set in 1994.",
        "It shaped the films of the 1980s.",
        "It was released in 1995 and directed by Michael Mann.",
        "Heat (1995) is long.",
        "It was directed by Nobody Known.",
        "The director met Ridley Scott.",
        "It is a western film.",  # no item of this catalogue is one
        "",
    ],
)
def test_what_is_true_unsure_or_of_something_else_is_no_contradiction(text: str) -> None:
    assert told(text, about(HEAT)) == []


def test_items_without_values_are_not_judged() -> None:
    text = "Untold is a horror film directed by Ridley Scott. It was released in 1994."
    assert told(text, about(UNTOLD)) == []
    assert told("It was directed by Ridley Scott.", about(HAMLET)) == []


def test_titles_are_known_with_their_article_in_front_or_behind() -> None:
    for title in ("The Usual Suspects", "Usual Suspects, The (1995)", "The Usual Suspects (1995)"):
        assert told(f"{title} is a horror film.", about(SUSPECTS)) == [
            ("genres", "Horror", ("Crime", "Mystery", "Thriller"))
        ]


def test_the_words_of_a_title_claim_nothing() -> None:
    tables = build_tables(
        pl.DataFrame({"user_id": ["a"], "item_id": [0], "time": [1], "rating": [5.0]}),
        items=pl.DataFrame(
            {"item_id": [0, 1], "title": ["Horror Story", "Big"], "genres": ["Comedy", "Horror"]}
        ),
        schema=SCHEMA_OF_TWO,
    )
    question = Question("item", 0, "0", items=(0,))
    facts = Facts(tables)
    assert facts.contradictions("It is a Horror Story. Horror Story is a comedy.", question) == ()
    assert len(facts.contradictions("Horror Story is a horror film.", question)) == 1


SCHEMA_OF_TWO = Schema(
    user="user_id",
    item="item_id",
    time="time",
    rating="rating",
    label=LabelRule("rating", ">", 3.0),
    title="title",
    lists={"genres": "|"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('The user gave "Heat" 2 stars.', ("rating", "2", ("5",))),
        ('They gave "Heat (1995)" a rating of 3.', ("rating", "3", ("5",))),
        ("They rated Heat (1995) 4.5 out of 5.", ("rating", "4.5", ("5",))),
        ('Rated "Heat" two stars, which is low.', ("rating", "2", ("5",))),
        ('They gave 1 star to "Heat".', ("rating", "1", ("5",))),
        ('"Heat" received 3 stars.', ("rating", "3", ("5",))),
        ('"Heat" was rated 3 stars.', ("rating", "3", ("5",))),
        ('Low marks: "Heat" (1 star).', ("rating", "1", ("5",))),
        ('The user watched "Alien".', ("history", "Alien (1979)", ())),
        ('The user enjoyed "Heat" and "Alien (1979)".', ("history", "Alien (1979)", ())),
        ('They gave "Alien" 4 stars.', ("history", "Alien (1979)", ())),
        ('They rated "Hamlet (1996)" highly.', ("history", "Hamlet (1996)", ())),
        ('The user liked "Heat", a horror film.', ("genres", "Horror", GENRES)),
        ('"Heat", a 1986 thriller, was liked.', ("year", "1986", ("1995",))),
        ('They liked "Heat", which is a comedy.', ("genres", "Comedy", GENRES)),
        ('They liked "Heat" because it is a comedy.', ("genres", "Comedy", GENRES)),
        (
            'They liked "Heat", a film directed by Ridley Scott.',
            ("director", "Ridley Scott", ("Michael Mann",)),
        ),
        ('"Heat" was released in 1986.', ("year", "1986", ("1995",))),
    ],
)
def test_a_wrong_claim_about_a_user_is_found(
    text: str, expected: tuple[str, str, tuple[str, ...]]
) -> None:
    assert told(text, of_user()) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        'The user gave "Heat" 5 stars and "Hamlet" 2 stars.',
        'They gave 5 stars to "Heat", 2 stars to "Hamlet".',
        'They rated "Heat" 4 or 5 stars.',
        'They rated "Heat" 10 out of 10.',
        'They did not give "Heat" 2 stars.',
        'Critics gave "Heat" 3 stars.',
        'The user would love "Alien".',
        'The user enjoys films such as "Alien".',
        'They read about "Alien".',
        'They have never watched "Alien".',
        'They watched "Nothing We Know".',
        'They watched "Hamlet".',  # one of that name was shown
        "The user is a horror fan. Their favourite genre is horror.",
        'Besides "Heat", they like horror films directed by Ridley Scott.',
        'After "Heat" and "Hamlet" it is a comedy that they want.',
        'Unlike "Heat", a comedy suits them.',
        'They watched "Scary Movie" and a film released in 1986.',
        'They "love" crime.',
    ],
)
def test_what_may_be_true_of_a_user_is_no_contradiction(text: str) -> None:
    assert told(text, of_user()) == []


def test_texts_about_groups_are_checked_for_claims_about_items_alone() -> None:
    group = Question("user_group", 0, "liked-0", items=(0, 3))
    assert told('"Heat" is a comedy. They watched "Alien".', group) == [
        ("genres", "Comedy", GENRES)
    ]
    assert told('"Heat" is a comedy.', Question("scenario", 0, "x")) == []


def test_every_title_of_a_sentence_is_judged_by_itself() -> None:
    text = '"Heat" is a comedy, and "Hamlet (1948)" is a horror film.'
    assert told(text, of_user()) == [("genres", "Comedy", GENRES), ("genres", "Horror", ("Drama",))]


def test_columns_are_those_with_values_that_items_share() -> None:
    assert [it.name for it in FACTS.attributes] == ["genres", "director", "country", "brand"]
    assert [it.noun for it in FACTS.attributes] == ["genre", "director", "country", "brand"]
    assert [it.name for it in Facts(TABLES, columns=["brand"]).attributes] == ["brand"]
    with pytest.raises(UserError, match="no column 'genre' to check"):
        Facts(TABLES, columns=["genre"])
    shop = {it.name for it in Facts(shop_world()).attributes}
    assert {"categories", "brand", "author", "publisher", "city"} <= shop
    assert not shop & {"title", "description", "price", "item_id"}


# Texts and their sentences


def test_dropping_keeps_the_rest_as_it_is() -> None:
    text = (
        "Heat is a comedy. It is tense!\n\n"
        "- It is a horror film.\n"
        "- Mr. Mann directed it. It was released in 1986.\n"
        "1. It is a musical?  No.\n"
    )
    found = FACTS.contradictions(text, about(HEAT))
    assert [it.sentence for it in found] == [
        "Heat is a comedy.",
        "It is a horror film.",
        "It was released in 1986.",
    ]
    assert without(text, found) == (
        "It is tense!\n\n- Mr. Mann directed it.\n1. It is a musical?  No."
    )
    assert without(text, ()) == text
    assert without("Heat is a comedy.", found) == ""


def test_borders_of_sentences() -> None:
    text = 'He gave "Who? What!" 5 stars. Dr. No vs. J. Doe is 5.5 long... Yes.\n* a\n\n2. b c.'
    assert [text[start:end] for start, end in sentences(text)] == [
        'He gave "Who? What!" 5 stars.',
        "Dr. No vs. J. Doe is 5.5 long...",
        "Yes.",
        "a",
        "b c.",
    ]
    assert sentences("") == []


def test_corrections_are_plain_and_one_per_sentence() -> None:
    text = "Heat is a 1986 comedy film <|im_end|>. It was directed by Ridley Scott."
    assert FACTS.corrections(text, about(HEAT)) == [
        (
            "Heat is a 1986 comedy film ‹|im_end|>.",
            "genres of 'Heat (1995)': Action, Crime, Thriller; year of 'Heat (1995)': 1995",
        ),
        ("It was directed by Ridley Scott.", "director of 'Heat (1995)': Michael Mann"),
    ]
    past = FACTS.contradictions('They gave "Heat" 2 stars. They watched "Alien".', of_user())
    assert correction(past) == [
        ("They gave 'Heat' 2 stars.", "the user gave 'Heat (1995)' 5 stars"),
        ("They watched 'Alien'.", "the history shown has no 'Alien (1979)'"),
    ]
    rendered = find_template("kar/correction").render(corrections=correction(past))
    assert "The catalogue says: the user gave 'Heat (1995)' 5 stars." in rendered


# Properties, on MovieLens

FORMS = (
    "{title} is a {value} film.",
    '"{title}" is a fine {value} movie about friends.',
    "It is a {value} story.",
    "It belongs to the {value} genre.",
    "It belongs to the genre of {value}.",
    "It falls under the {value} category.",
    "Its genre is {value}.",
    "Genres: {value}",
    "- **Genre:** {value}",
    "{title}, a {value} film, is long.",
    "This movie is a {value} classic.",
)
YEARS = (
    "{title} was released in {value}.",
    "It premiered in May {value}.",
    '"{title}" ({value}) is long.',
    "It is a {value} film.",
)
FILMS = load_builtin("movielens-small")
KNOWN = Facts(FILMS)
VOCABULARY = sorted({one for cell in FILMS.items["genres"] for one in cell.split("|")})
VOCABULARY = [one for one in VOCABULARY if not one.startswith("(")]


def film(item: int) -> tuple[str, list[str], int]:
    row = FILMS.items.row(item, named=True)
    own = [one for one in row["genres"].split("|") if not one.startswith("(")]
    return KNOWN.title(item).rpartition(" (")[0], own, row["year"]


def plainly(title: str) -> bool:
    return bool(title) and not set(title) & set('?!."')


items_with_genres = st.integers(0, FILMS.n_items - 1).filter(
    # A sign inside a title without quotes may look like the end of a sentence.
    lambda item: bool(film(item)[1]) and film(item)[2] is not None and plainly(film(item)[0])
)


@settings(max_examples=200, deadline=None)
@given(item=items_with_genres, data=st.data())
def test_an_items_own_attributes_are_no_contradictions_and_any_other_is_one(
    item: int, data: st.DataObject
) -> None:
    title, own, year = film(item)
    forms = data.draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=4, unique=True))
    truths = [one.format(title=title, value=data.draw(st.sampled_from(own))) for one in forms]
    truths += [data.draw(st.sampled_from(YEARS)).format(title=title, value=year)]
    question = Question("item", item, str(item), items=(item,))
    text = "\n".join(truths)
    assert KNOWN.contradictions(text, question) == ()
    others = [one for one in VOCABULARY if one not in own]
    other = data.draw(st.sampled_from(others))
    place = data.draw(st.integers(0, len(forms) - 1))
    truths[place] = forms[place].format(title=title, value=other)
    wrong = "\n".join(truths)
    (found,) = KNOWN.contradictions(wrong, question)
    assert (found.attribute, found.claimed, set(found.actual)) == ("genres", other, set(own))
    left = without(wrong, [found])
    assert left == "\n".join(truths[:place] + truths[place + 1 :])
    assert without(left, [found]) == left
    assert KNOWN.contradictions(left, question) == ()


@settings(max_examples=100, deadline=None)
@given(item=items_with_genres, form=st.sampled_from(YEARS), shift=st.integers(-30, 10))
def test_only_the_own_year_is_right(item: int, form: str, shift: int) -> None:
    title, _, year = film(item)
    question = Question("item", item, str(item), items=(item,))
    found = KNOWN.contradictions(form.format(title=title, value=year + shift), question)
    assert [it.attribute for it in found] == (["year"] if shift else [])


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["A b.", "C d! ", "\n", "- ", " ", "E", "1. ", '"F.', "G?", "  ", "A b."])
    ).map("".join),
    data=st.data(),
)
def test_dropping_twice_is_dropping_once(text: str, data: st.DataObject) -> None:
    said = [text[start:end] for start, end in sentences(text)]
    chosen = data.draw(st.lists(st.sampled_from(said)) if said else st.just([]))
    dropped = [Contradiction(one, "year", "", (), "") for one in chosen]
    once = without(text, dropped)
    assert without(once, dropped) == once
    assert not {once[start:end] for start, end in sentences(once)} & set(chosen)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=300))
def test_any_text_can_be_checked(text: str) -> None:
    for question in (about(HEAT), of_user()):
        found = FACTS.contradictions(text, question)
        assert all(it.sentence in text for it in found)


def test_time_is_linear_in_the_length() -> None:
    line = 'It is a fine long film that "someone" (1994) might like, a story (of "two") men. '

    question = of_user()

    def seconds(count: int) -> float:
        started = time.perf_counter()
        FACTS.contradictions(line * count, about(HEAT))
        FACTS.contradictions("a " * 40 * count, question)
        return time.perf_counter() - started

    short, long = (min(seconds(count) for _ in range(3)) for count in (200, 1600))
    assert long < 30 * short


def test_words_are_compared_without_signs() -> None:
    assert words("Sci-Fi") == ("sci", "fi")
    assert words("Children's & Kids’") == ("children's", "and", "kids")


def test_all_items_of_a_catalogue_are_judged_alike() -> None:
    items = range(2000)
    assert len(KNOWN.attributes) == 1
    questions = [Question("item", item, str(item), items=(item,)) for item in items]
    found = [KNOWN.contradictions("It is a film noir.", question) for question in questions]
    noir = FILMS.items["genres"].str.contains("Film-Noir").to_numpy()[: len(questions)]
    known = np.array([bool(film(item)[1]) for item in items])
    assert [bool(one) for one in found] == (~noir & known).tolist()
