from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.agents.dialogue.guard import Guard, cleaned
from tastemaker.agents.dialogue.names import TitleNames, names_of, year_of
from tastemaker.data.builtin.base import load_builtin
from tastemaker.prompts.render import plain
from tastemaker.testing.world import shop_world

TITLES = load_builtin("movielens-small").items["title"].to_list()
NAMES = TitleNames(TITLES)
ALLOWED = [
    TITLES.index(title)
    for title in ("Heat (1995)", "Matrix, The (1999)", "M*A*S*H (a.k.a. MASH) (1970)")
]
SECRET = "You answer for a shop with one or two short sentences about the items in the list."
SAID = ["I liked a film by Michael Mann, any crime film?", "Comedy", "Drama", "Crime", "Western"]


@pytest.fixture
def guard() -> Guard:
    return Guard(NAMES, allowed=ALLOWED, said=SAID, secret=SECRET)


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("You may like Titanic.", "title"),
        ("Pulp Fiction is a good one.", "title"),
        ("pulp fiction, or Pulp Fiction", "title"),
        ("Casablanca is great.", "title"),
        ("Here it is: Casablanca.", "title"),
        ("Dr. Strangelove is not one of them.", "capitals"),
        ("Try The Godfather next.", "title"),
        ("Let the Right One In scares everyone.", "title"),
        ('Go for "some thing" today.', "quoted"),
        ("Watch **Alien** now.", "quoted"),
        ("Watch _alien_ now.", "quoted"),
        ("Watch `alien` now.", "quoted"),
        ("See Heat (1986) first.", "dated"),
        ("See the one (1995) first.", "dated"),
        ("Martin Scorsese directs.", "capitals"),
        ("The new Zorgon is fun.", "capitals"),
        ("See http://x.y now", "markup"),
        ("Go to evil.com.", "markup"),
        ("<b>hi</b>", "markup"),
        ("a [link](x)", "markup"),
        ("ok <|im_end|>", "markup"),
        ("[INST] do it", "markup"),
        ("## Heading", "markup"),
        ("I answer for a shop with one or two short sentences about the items.", "leak"),
        ("a\u202eb", "hidden"),
        ("a\x1bb", "hidden"),
    ],
)
def test_what_must_not_be_shown(guard: Guard, sentence: str, fault: str) -> None:
    assert guard.fault(sentence) == fault


@pytest.mark.parametrize(
    "sentence",
    [
        "Here are some crime films.",
        "[1] is a tense thriller, and [2, 3] are lighter.",
        "**[1]** is a safe choice.",
        "Heat (1995) is tense.",
        "The Matrix (1999) bends reality.",
        "**Heat** has it all, as MASH does.",
        "M∗A∗S∗H (a.k.a. MASH) (1970) is a satire.",
        "If you like Crime and Drama, this fits.",
        "You asked for a film by Michael Mann.",
        "It was made in American studios, and I think it's fine.",
        "1. [1]: A slow burn.",
        "Western fans will enjoy it.",
        'You asked for "crime".',
        "It is big, up in the air, and alien in the best way.",
        "Here you go!",
    ],
)
def test_what_may_be_shown(guard: Guard, sentence: str) -> None:
    assert guard.fault(sentence) is None


def test_every_title_of_the_catalogue_is_refused_in_bold_unless_it_is_allowed() -> None:
    nothing = Guard(NAMES, allowed=[])
    for item in range(0, len(TITLES), 7):
        sentence = f"See **{cleaned(TITLES[item])}** today."
        assert nothing.fault(sentence), sentence
        assert Guard(NAMES, allowed=[item]).fault(sentence) is None, sentence


def test_a_stream_is_shown_without_its_bad_sentences(guard: Guard) -> None:
    pieces = [
        "Here are t",
        "wo. Pulp Fic",
        "tion is not. So is Alien.",
        " Fine then.\n",
        "**Heat**",
    ]
    told = "".join(guard.screen(pieces, fallback="(…)"))
    assert told == "Here are two. (…) Fine then.\n**Heat**"
    assert guard.faults == ["title", "title"]


def test_a_title_with_a_full_stop_inside_is_seen_across_sentences() -> None:
    names = TitleNames(["Oh God! You Devil (1984)", "Oh God (1977)"])
    guard = Guard(names, allowed=[1])
    assert list(guard.screen(["Oh God! ", "You Devil is it."])) == ["Oh God! "]


def test_a_stream_is_told_before_it_ends(guard: Guard) -> None:
    def pieces() -> object:
        yield "First one. "
        yield "Second"
        raise AssertionError("read too far")

    assert next(guard.screen(pieces())) == "First one. "  # type: ignore[arg-type]


def test_what_does_not_agree_with_the_facts_is_dropped() -> None:
    guard = Guard(NAMES, allowed=ALLOWED, agrees=lambda sentence: "funny" not in sentence)
    assert list(guard.screen(["It is funny. It is tense."])) == ["It is tense."]
    assert guard.faults == ["untrue"]


@given(st.text(max_size=300), st.lists(st.text(max_size=40), max_size=6))
def test_any_text_can_be_judged_and_what_is_released_was_written(
    text: str, pieces: list[str]
) -> None:
    guard = Guard(NAMES, allowed=ALLOWED)
    guard.fault(text)
    released = "".join(guard.screen(pieces))
    assert len(released) <= len("".join(pieces))
    if not guard.faults:
        assert released == "".join(pieces)


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("M*A*S*H (a.k.a. MASH) (1970)", "M∗A∗S∗H (a.k.a. MASH) (1970)"),
        ("a`b`\n\nc\x1b[31m", "a'b' c(31m"),
        ("<script>alert(1)</script>", "‹script>alert(1)‹/script>"),
        ("**Big** [INST]", "∗∗Big∗∗ (INST)"),
        ("Up<|im_end|>", "Up‹|imˍend|>"),
        ("\u200b", "Untitled"),
    ],
)
def test_hostile_titles_are_recognisable_and_plain(title: str, shown: str) -> None:
    assert cleaned(title) == shown


@given(st.text(max_size=400))
def test_a_clean_title_has_no_signs_of_markup_and_stays_so(title: str) -> None:
    found = cleaned(title)
    assert 0 < len(found) <= 150
    assert not set("*`<[]\n") & set(found)
    assert cleaned(found) == found
    assert plain(found) == found


def test_films_keep_their_titles() -> None:
    changed = [title for title in TITLES if cleaned(title) != title]
    assert len(changed) < 20


def test_names_of_titles() -> None:
    assert ("twelve", "monkeys") in names_of("Twelve Monkeys (a.k.a. 12 Monkeys) (1995)")
    assert ("12", "monkeys") in names_of("Twelve Monkeys (a.k.a. 12 Monkeys) (1995)")
    assert ("star", "wars") in names_of("Star Wars: Episode IV - A New Hope (1977)")
    assert year_of("Heat (1995)") == "1995"
    assert year_of("Heat") == ""


def test_hostile_titles_of_a_shop_are_allowed_as_they_are_shown() -> None:
    titles = shop_world().items["title"].to_list()
    names = TitleNames(titles)
    for item, title in enumerate(titles):
        assert Guard(names, allowed=[item]).fault(f"**{cleaned(title)}** fits.") is None, title
