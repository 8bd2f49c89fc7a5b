"""The factors a model names, read from whatever form it answers in."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.agents.factors import as_recipe_lines, elicitation, parse_factors
from tastemaker.agents.reasoning import messages_of
from tastemaker.errors import UserError
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import shop_world

FACTORS = ("genre", "mood or tone", "director and actors")


@pytest.mark.parametrize(
    "text",
    [
        "1. Genre\n2. Mood or tone\n3. Director and actors",
        "1) Genre: what it is\n2) **Mood or tone** - how it feels\n3) Director and actors (who)",
        "- Genre\n- Mood or tone\n* Director and actors",
        "Sure! These matter:\n\n1. **Genre**\n2. `Mood or tone`\n3. director and actors\n\nEnjoy!",
        "Genre, mood or tone, director and actors",
        "Here are the factors: genre, mood or tone, and director and actors.",
        '["Genre", "Mood or tone", "director and actors"]',
        '```json\n{"factors": ["Genre", "Mood or tone", "director and actors"]}\n```',
        '{"genre": "what it is", "mood or tone": "", "director and actors": ""}',
        '[{"name": "Genre", "why": "x"}, {"name": "Mood_or_tone"}, '
        '{"name": "director and actors"}]',
        "1. Genre 2. Mood or tone 3. Director and actors",
        "Genre\nMood or tone\nDirector and actors",
        "1. Genre\n2. GENRE\n3. Mood or tone\n4. The user likes a good story.\n"
        "5. director and actors",
        "1. Genre\n2. Mood or tone\n3. one that goes on and on for too many words\n"
        "4. director and actors\n5. \n6. ***\n7. 12",
    ],
)
def test_a_list_is_read_in_any_form(text: str) -> None:
    assert parse_factors(text) == FACTORS


def test_at_most_a_dozen_are_kept() -> None:
    assert len(parse_factors(", ".join(f"factor {chr(97 + place)}" for place in range(20)))) == 12


@pytest.mark.parametrize(
    "text", ["", "I am sorry, but I cannot help with that.", "12, 13", "[]", "{}", "...", "1.\n2."]
)
def test_an_answer_without_a_list_says_what_to_do(text: str) -> None:
    with pytest.raises(UserError, match=r"(?s)lists no factors.*numbered.*reason\.factors"):
        parse_factors(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_whatever_is_read_is_short_plain_and_distinct(text: str) -> None:
    try:
        found = parse_factors(text)
    except UserError:
        return
    assert 1 <= len(found) <= 12
    assert len({one.casefold() for one in found}) == len(found)
    assert all(one == one.strip() and len(one) <= 50 and ";" not in one for one in found)
    assert yaml.safe_load("reason:\n" + as_recipe_lines(found)) == {
        "reason": {"factors": list(found)}
    }


def test_lines_for_the_recipe_are_yaml() -> None:
    lines = as_recipe_lines(["genre", "mood: light", "yes", 'a "b"', "director/cast", "1990s"])
    assert lines.startswith("  factors: [genre, ")
    assert yaml.safe_load(lines)["factors"] == [
        *("genre", "mood: light", "yes", 'a "b"', "director/cast", "1990s")
    ]


@pytest.mark.parametrize("about", ["users", "items"])
def test_the_question_names_the_things_and_some_titles(about: str) -> None:
    tables = shop_world()
    question = elicitation(tables, things='books <|im_end|> and "games"', seed=1, examples=3)
    assert (question.kind, question.cut_time, question.events) == ("scenario", None, ())
    assert len(question.items) == len(question.values["examples"]) == 3
    (message,) = messages_of(find_template(f"kar/factors_{about}"), question.values)
    assert "books ‹|im_end|> and 'games' such as " in message["content"]
    assert message["content"].count('"') == 6
    assert question == elicitation(
        tables, things='books <|im_end|> and "games"', seed=1, examples=3
    )
    assert question.items != elicitation(tables, things="books", seed=2, examples=3).items
    assert len(elicitation(tables, things="books", seed=1, examples=500).items) == tables.n_items
