from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tastemaker.agents.answers import REASONS, Acceptance, json_object, whole_sentences

FILM = (
    "Amélie (2001) is a whimsical French romantic comedy set in Montmartre. It follows a shy "
    "waitress who decides to change the lives of the people around her for the better, and who "
    "struggles with her own isolation. Viewers praise its saturated colours, its playful narration "
    "and Yann Tiersen's score. It suits people who like gentle humour and inventive photography."
)
REFUSALS = [
    "I'm sorry, but I can't assist with that request.",
    "I’m sorry, but I can’t help with that.",
    "I'm sorry, I cannot provide information about this movie.",
    "Sorry, I can't do that.",
    "Sorry, but I don't have any information about this film.",
    "I apologize, but I do not have enough information about this user to describe them.",
    "I apologize for the confusion, but I couldn't find any record of a film with that title.",
    "My apologies, but I am unable to answer.",
    "Unfortunately, I don't have access to the user's viewing history.",
    "Unfortunately, there is not enough information to infer the preferences.",
    "As an AI language model, I cannot access real-time data.",
    "As a large language model, I am not able to watch films.",
    "As an AI, I don't have the ability to watch movies, so I can't describe it.",
    "I am an AI assistant and cannot provide opinions about this.",
    "I'm just a language model, so I can't help you with that.",
    "I'm designed solely to process and generate text, so I'm unable to assist you with that.",
    "That's not something I'm able to do yet.",
    "I cannot create explicit content. Is there anything else I can help you with?",
    "I can't satisfy your request, I'm just an AI.",
    "I can’t engage in that conversation.",
    "I won't be able to help with that.",
    "I won't provide that.",
    "I do not have enough information about this movie to describe it.",
    "I don't have specific information about a film called Zyx.",
    "I don't actually have reliable, detailed knowledge of this title.",
    "I'm not familiar with a movie called 'The Gloob'.",
    "I am not familiar with this film.",
    "I'm unfamiliar with that title.",
    "I am not aware of any film with this name.",
    "I don't know this movie.",
    "I don't recognize that title.",
    "I don't feel comfortable speculating about a person's preferences.",
    "I have no information about this item.",
    "I could not find any information about it.",
    "I must respectfully decline to answer.",
    "I need more information to answer this question.",
    "I would need more context about the user.",
    "I'd be happy to help, but I don't have any information about that movie.",
    "I'd like to help, but I'm not able to identify this film.",
    "I appreciate the question, but I don't have enough context to infer anything.",
    "I want to be upfront: I don't have information about this film in my records.",
    "To be honest, I'm not familiar with it.",
    "Thank you for the details, but I'm unable to determine the user's preferences.",
    "I'm afraid I can't do that, Dave.",
    "There is not enough information to answer.",
    "Thank you for the details, but there is not enough information to answer.",
    "Sorry, can't help with that.",
    "There isn't enough information in the history.",
    "Insufficient information.",
    "No information available.",
    "It is not possible to determine the user's preferences from one rating.",
    "The provided information is not sufficient to infer preferences.",
    "Could you please provide more details about the film?",
    "Please provide the user's viewing history.",
    "**Answer:** I'm sorry, but I cannot answer that.",
    "Thanks for asking. I'm afraid I cannot help with this one.",
    "i'm sorry, but i can't help with that",
]
ANSWERS = [
    FILM,
    "Sorry, Wrong Number (1948) is a film noir in which a woman cannot leave her bed and does not "
    "know whom to trust after she overhears a murder plot.",
    "Sorry, Wrong Number is a film in which nobody is able to help, and no information is given.",
    "Sorry to Bother You (2018) is a surreal satire. Its hero can't pay his rent, and he won't "
    "give up his friends for a promotion.",
    "Sorry We Missed You (2019) follows a driver who cannot afford to be ill.",
    "Unfortunately Yours (2022) is a romance about two rivals who cannot stand each other.",
    "I Am Sam (2001) is a drama about a father who is not able to raise his daughter alone.",
    "I'm Not There (2007) is a film about Bob Dylan which does not name him once.",
    "I Can't Help Myself is a song that listeners of soul do not forget.",
    "I Can't Give You Anything but Love is a jazz standard.",
    "I Cannot Tell a Lie is an episode of a series that many do not know.",
    "I Don't Know How She Does It (2011) is a comedy about a mother who can't find time.",
    "I Am Not Your Negro (2016) is a documentary that does not flinch.",
    "I Know What You Did Last Summer (1997) is a slasher film in which four friends cannot speak.",
    "I, Robot (2004) is a film in which robots cannot harm humans.",
    "As an AI becomes self-aware in The Terminator (1984), mankind cannot stop it.",
    "As a film about artificial intelligence, it asks what machines cannot feel.",
    "Please Give (2010) is a comedy about New Yorkers who can't stop feeling guilty.",
    "No Country for Old Men (2007) is not a film for the faint-hearted.",
    "There Will Be Blood (2007) shows a man who will not share.",
    "It's a Wonderful Life (1946) shows that no man is a failure who has friends.",
    "The user does not like horror films and cannot stand remakes; no genre is disliked more.",
    "The user prefers dramas. I cannot stress enough how much they value dialogue.",
    "This user has no clear favourite, but their data suggests a taste for comedies.",
    "Thank You for Smoking (2005) is a satire about a lobbyist who cannot lose an argument.",
    "While I would rank drama first, comedy comes close.",
    "Based on the history, the user likes science fiction. They do not have a taste for musicals.",
    "Not enough can be said about the acting in this film.",
    "Need for Speed (2014) is an action film with more cars than plot.",
    "Yes.",
    "A film.",
    "喜剧电影，讲述了一个害羞的女服务员的故事。她决定改变周围人的生活。",
]
LOOPS = [
    "ha ha ha ha ha ha ha ha",
    "ha ha ha",
    ".....",
    "hahahahahahahahahahaha",
    "!" * 400,
    "drama " * 60,
    "The user likes it.\n" * 8,
    "The film is good. " * 5 + "The film is",
    f"{FILM} " + "It is a story of love and loss. " * 6,
    f"{FILM} " + "and so on " * 12,
    f"{FILM} {FILM}",
    "\n".join(f"{number}. The Matrix (1999)" for number in range(1, 12)),
    "\n".join(["- The user likes science fiction films."] * 6),
    f"{FILM}\n" + "1. A film\n" * 30,
    "It is set in Rome and then and then " + "and then " * 20 + "he wins. " + FILM,
    "这部电影很好看" * 12,
    f"{FILM} " + "." * 60,
    f"{FILM} " + "0" * 700,
]
NO_LOOPS = [
    FILM,
    f"{FILM} ... and more…",
    f"# Profile\n{'-' * 60}\n{FILM}\n{'=' * 60}",
    "Drama, Comedy, Drama, Comedy, Drama",
    "no, no, no",
    "1000",
    "10000000",
    "5, 5, 5, 4, 5, 3",
    "The user liked The Matrix (1999), Alien (1979), Blade Runner (1982), Brazil (1985), Dark City "
    "(1998), Gattaca (1997), Moon (2009), Primer (2004), Solaris (1972) and Stalker (1979).",
    "\n".join(
        f"{place}. {title}: the user may enjoy it because it is a {genre} film with strong acting."
        for place, (title, genre) in enumerate(
            [
                ("Alien", "horror"),
                ("Heat", "crime"),
                ("Amélie", "romance"),
                ("Up", "family"),
                ("Ran", "war"),
                ("Tootsie", "comedy"),
                ("Shane", "western"),
                ("Laura", "noir"),
            ],
            start=1,
        )
    ),
    "\n".join(
        f"- {factor}: the user shows a {degree} preference for this."
        for factor, degree in [
            ("Genre", "strong"),
            ("Director", "mild"),
            ("Actors", "clear"),
            ("Time period", "weak"),
            ("Country", "notable"),
            ("Mood", "subtle"),
        ]
    ),
    "| Film | Stars |\n| --- | --- |\n| Alien | 5 |\n| Heat | 5 |\n| Up | 5 |\n| Ran | 4 |",
    "这部电影讲述了一个年轻女孩在巴黎蒙马特的故事，她决定帮助身边的人，同时也在寻找自己的幸福。",
    f"{FILM} The user has rated Alien five stars. The user has rated Heat five stars.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_seen(text: str) -> None:
    assert Acceptance().judge(text, "stop").reason == "refusal"


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_not_taken_for_a_refusal(text: str) -> None:
    verdict = Acceptance().judge(f"  {text}\n", "stop")
    assert (verdict.reason, verdict.text) == ("", text)


@pytest.mark.parametrize("text", LOOPS)
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_a_loop_is_seen_wherever_it_stands(text: str, finish_reason: str) -> None:
    assert Acceptance().judge(text, finish_reason).reason == "looping"


@pytest.mark.parametrize("text", NO_LOOPS)
def test_lists_and_short_texts_are_no_loops(text: str) -> None:
    assert Acceptance().judge(text, "stop").reason == ""


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_answer_is_unusable(text: str) -> None:
    assert Acceptance().judge(text, "stop").reason == "empty"
    assert Acceptance().judge(text, "length").reason == "truncated"
    assert Acceptance(truncated="keep").judge(text, "length").reason == "empty"


@pytest.mark.parametrize(
    "finish_reason", ["content_filter", "SAFETY", "refusal", "PROHIBITED_CONTENT"]
)
def test_what_the_provider_filtered_is_a_refusal(finish_reason: str) -> None:
    verdict = Acceptance().judge("It is a", finish_reason)
    assert verdict.reason == "refusal"
    assert finish_reason in verdict.detail


@pytest.mark.parametrize("finish_reason", ["length", "max_tokens", "MAX_TOKENS"])
def test_an_answer_that_was_cut_fails_is_trimmed_or_kept(finish_reason: str) -> None:
    cut = "It won. It has a bright"
    assert Acceptance().judge(cut, finish_reason).reason == "truncated"
    assert Acceptance(truncated="trim").judge(cut, finish_reason).text == "It won."
    assert Acceptance(truncated="keep").judge(cut, finish_reason).text == cut
    assert Acceptance(truncated="trim").judge("It has a", finish_reason).reason == "truncated"
    assert Acceptance().judge(cut, "stop").text == cut


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It won. 2 of them", "It won."),
        ("First:\n1. It won.\n2. It", "First:\n1. It won."),
        ("First:\n1. It won.\n2.", "First:\n1. It won."),
        ("He met Dr. Who in 1994. Then Mr. X", "He met Dr. Who in 1994."),
        ("By J. K. Rowling. It", "By J. K. Rowling."),
        ('She said "no!" and', 'She said "no!"'),
        ("“Really?” Yes", "“Really?”"),
        ("很好。她决定", "很好。"),
        ("Some films, e.g. Alien, are", ""),
        ("no end at all", ""),
        ("3.5 stars", ""),
    ],
)
def test_whole_sentences(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


def test_an_answer_in_another_language_is_unusable() -> None:
    french = (
        "Le film raconte l'histoire d'une jeune serveuse qui décide de changer la vie des gens "
        "qui l'entourent tout en luttant contre sa propre solitude."
    )
    assert Acceptance(language="en").judge(french, "stop").reason == "language"
    assert "'fr', not 'en'" in Acceptance(language="en").judge(french, "stop").detail
    assert Acceptance(language="fr").judge(french, "stop").text == french
    assert Acceptance(language="en").judge(FILM, "stop").text == FILM
    assert Acceptance(language="en").judge("Le Fabuleux Destin", "stop").reason == ""  # too short


def test_of_an_object_only_the_texts_have_a_language() -> None:
    german = json.dumps(
        {
            "summary": "Der Film handelt von einer schüchternen Kellnerin, die beschließt, das "
            "Leben der Menschen um sie herum zum Besseren zu wenden."
        }
    )
    one = Acceptance(language="de", keys=("summary",))
    assert one.judge(german, "stop").text == german
    assert Acceptance(language="en", keys=("summary",)).judge(german, "stop").reason == "language"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"summary": "A film.", "reasoning": "It is."}', ""),
        ('```json\n{"summary": "A film.", "reasoning": "It is."}\n```', ""),
        ('{"summary": "A film.", "reasoning": "It is.", "more": 1}', ""),
        ('{"summary": "A film."}', "schema"),
        ('{"summary": "A film.", "reasoning": ""}', "schema"),
        ('{"summary": "A film.", "reasoning": ["It is."]}', "schema"),
        ('{"summary": "None", "reasoning": "It is."}', "schema"),
        ("A film.", "schema"),
        ('["A film."]', "schema"),
        ('{"summary": "A film.", "reas', "schema"),
        ('{"summary": "I cannot provide that.", "reasoning": "It is."}', "refusal"),
        (json.dumps({"summary": "so good " * 40, "reasoning": FILM}), "looping"),
        ("[" * 100_000, "looping"),
    ],
)
def test_an_object_must_have_its_texts(text: str, reason: str) -> None:
    assert Acceptance(keys=("summary", "reasoning")).judge(text, "stop").reason == reason


def test_deep_nesting_is_no_object() -> None:
    assert json_object('{"a":' * 100_000) is None


def test_an_object_that_was_cut_is_not_trimmed() -> None:
    one = Acceptance(truncated="trim", keys=("summary",))
    assert one.judge('{"summary": "A film. It', "length").reason == "truncated"


@given(st.text(), st.sampled_from(["stop", "length", "", "content_filter"]), st.booleans())
@example("1" * 5000, "stop", True)
@example("\ud800", "stop", False)
def test_every_text_gets_a_verdict(text: str, finish_reason: str, as_object: bool) -> None:
    verdict = Acceptance(keys=("a",) if as_object else ()).judge(text, finish_reason)
    assert verdict.reason in ("", *REASONS)
    assert bool(verdict.text) == (not verdict.reason)
    assert bool(verdict.detail) == bool(verdict.reason)


@given(
    st.lists(st.sampled_from(["kind", "film", "with", "a", "hero", "who", "wins"]), min_size=1),
    st.integers(0, 40),
)
def test_any_stretch_said_often_enough_is_a_loop(words: list[str], before: int) -> None:
    stretch = " ".join(words) + " "
    text = " ".join(FILM.split()[:before]) + " " + stretch * max(4, 80 // len(words) + 2)
    assert Acceptance().judge(text, "stop").reason == "looping"


@pytest.mark.parametrize(
    "unit", ["a b c d ", "the user likes ", "x", "{[", "I ", "no. ", "sorry, "]
)
def test_time_grows_with_the_length_only(unit: str) -> None:
    words = [f"{unit}{number}" for number in range(40_000)]
    began = time.process_time()
    Acceptance().judge(" ".join(words), "stop")
    assert time.process_time() - began < 3.0
