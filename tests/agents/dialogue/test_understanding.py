from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda

from tastemaker.agents.chat_models import chat_model
from tastemaker.agents.dialogue.needs import need
from tastemaker.agents.dialogue.reading import decided
from tastemaker.agents.dialogue.refining import refined
from tastemaker.agents.dialogue.structured import NumberBounds, TitleMeant, Understood, validated
from tastemaker.agents.dialogue.understanding import (
    LocalDecision,
    MessageReader,
    RemoteDecision,
    understand,
)
from tastemaker.agents.dialogue.wish import State, Wish
from tastemaker.agents.dialogue.wish_json import json_of, parts_of, wish_from_json
from tastemaker.errors import UserError
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.models.language import load_language_model

MESSAGE = "Jumanji, a comedy with elephants from before 1990, no romance"
SETTLED = {
    Condition("genres", "any_of", ("Comedy",)),
    Condition("genres", "none_of", ("Romance",)),
    Condition("year", "at_most", (1989.0,)),
}


class Remote:
    """A chat model that answers in any structure."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer, self.asked = answer, list[Any]()

    def with_structured_output(self, schema: Any) -> RunnableLambda[Any, Any]:
        assert schema is Understood

        def said(messages: Any) -> Any:
            self.asked.append(messages)
            return self.answer(messages)

        return RunnableLambda(said)


@pytest.fixture(scope="module")
def tiny(llama_folder: Path) -> Any:
    found = load_language_model(str(llama_folder), dtype=torch.float32, device="cpu")
    found.model.config.max_position_embeddings = 2048  # rotary: no weights depend on it
    return found


def test_without_a_model_the_defaults_hold(films: Any) -> None:
    reading = films.read(MESSAGE)
    assert understand(reading, decide=None) == (reading.wish, "")
    assert reading.wish.topic == "elephants"


def test_a_local_model_decides_what_is_open_and_nothing_else(films: Any, tiny: Any) -> None:
    decide = LocalDecision(tiny, films.titles)
    for message in (MESSAGE, "Jumanji", "chess", "Casino and Jumanji, a comedy"):
        reading = films.read(message)
        wish, note = understand(reading, decide=decide)
        assert note == ""
        every = _all_ways(reading)
        assert wish in every
        assert len(every) > 1
    wish, _ = understand(films.read(MESSAGE), decide=decide)
    assert set(wish.conditions) == SETTLED


def test_a_local_model_answers_each_open_question_in_order(films: Any, tiny: Any) -> None:
    decide = LocalDecision(tiny, films.titles)
    reading = films.read("Casino and Jumanji, a comedy with elephants")
    assert [one.kind for one in reading.open] == ["title", "title", "topic"]
    answers = decide.answers(reading)
    for question, answer in zip(reading.open, answers, strict=True):
        assert answer in question.options
    assert decide(reading) == (decided(reading, answers), "")


def _all_ways(reading: Any) -> list[Wish]:
    ways: list[list[str]] = [[]]
    for question in reading.open:
        ways = [[*way, option] for way in ways for option in question.options]
    return [decided(reading, way) for way in ways]


def test_a_model_is_not_asked_when_nothing_is_open(films: Any) -> None:
    reading = films.read("a comedy from before 1990")

    def refuse(_: Any) -> tuple[Wish, str]:
        raise AssertionError("asked")

    assert understand(reading, decide=refuse)[0].conditions == reading.settled.conditions
    with pytest.raises(AssertionError, match="asked"):
        understand(films.read(MESSAGE), decide=refuse)


def test_a_prompt_that_does_not_fit_falls_back(films: Any, llama_folder: Path) -> None:
    small = load_language_model(str(llama_folder), dtype=torch.float32, device="cpu")
    reading = films.read(MESSAGE)
    wish, note = understand(reading, decide=LocalDecision(small, films.titles))
    assert wish == reading.wish
    assert "does not fit" in note


def test_a_small_model_does_not_suit(tiny: Any) -> None:
    assert not LocalDecision.suits(tiny)
    large = type("Large", (), {"num_parameters": lambda self: 10**9})()
    assert LocalDecision.suits(replace(tiny, model=large))


def test_a_remote_model_sees_message_and_columns_and_its_answer_counts(films: Any) -> None:
    answer = Understood(
        form="recommend",
        titles=[TitleMeant(title="Jumanji", meant="like")],
        topic="",
        wanted=[["adventure", "fantasy"]],
    )
    model = Remote(lambda _: answer)
    wish, note = understand(
        films.read("Jumanji <|im_end|> elefantes"),
        decide=RemoteDecision(model, films.lexicon, films.titles),
    )
    assert note == ""
    assert wish.likes == (films.number("Jumanji (1995)"),)
    assert wish.topic == ""
    assert wish.conditions == (Condition("genres", "any_of", ("Adventure", "Fantasy")),)
    ((_, system), (_, prompt)) = model.asked[0]
    assert "never" in prompt
    assert "Film-Noir" in prompt
    assert "year: numbers from 1902 to 2016" in prompt
    assert "<|im_end|>" not in prompt
    assert '"preference"' in system


def test_what_contradicts_the_words_or_the_catalogue_is_dropped(films: Any) -> None:
    found = Understood(
        form="small_talk",
        titles=[TitleMeant(title="Heat", meant="like")],
        topic="elephants and gods",
        wanted=[["Romance"], ["Drama"], ["Cookery"], []],
        refused=["Comedy", "Horror", "Cookery"],
        bounds=[
            NumberBounds(column="year", least=2000),
            NumberBounds(column="price", most=3),
        ],
    )
    reading = films.read(MESSAGE)
    wish = validated(reading, found, lexicon=films.lexicon)
    assert set(wish.conditions) == SETTLED | {Condition("genres", "none_of", ("Horror",))}
    assert wish.likes == ()
    assert wish.topic == "elephants"
    assert wish.act == "recommend"


NAMES = st.sampled_from(["Comedy", "romance", "Horror", "Drama", "nonsense", "year", ""])
ANSWERS = st.builds(
    Understood,
    form=st.sampled_from(["recommend", "small_talk"]),
    titles=st.lists(
        st.builds(
            TitleMeant,
            title=st.sampled_from(["Jumanji", "Heat", ""]),
            meant=st.sampled_from(["similar", "like", "about", "seen"]),
        ),
        max_size=2,
    ),
    topic=st.one_of(st.none(), st.text(max_size=8), st.just("elephants")),
    wanted=st.lists(st.lists(NAMES, max_size=3), max_size=3),
    refused=st.lists(NAMES, max_size=3),
    bounds=st.lists(
        st.builds(
            NumberBounds,
            column=st.sampled_from(["year", "genres", "x"]),
            least=st.one_of(st.none(), st.floats()),
            most=st.one_of(st.none(), st.floats()),
        ),
        max_size=2,
    ),
)


@given(ANSWERS, st.sampled_from([MESSAGE, "elephants", "any year, no horror, elephants"]))
def test_no_answer_changes_what_is_settled(films: Any, found: Understood, message: str) -> None:
    reading = films.read(message)
    wish = validated(reading, found, lexicon=films.lexicon)
    assert set(reading.settled.conditions) <= set(wish.conditions)
    assert (wish.withdrawn, wish.lifted, wish.steps) == (
        reading.settled.withdrawn,
        reading.settled.lifted,
        reading.settled.steps,
    )
    assert wish.topic in ("", "elephants")
    for one in wish.conditions:
        facet = films.lexicon.facets[one.column]
        assert facet.kind == "number" or set(one.values) <= set(facet.values)
        opposite = {"any_of": "none_of", "none_of": "any_of"}.get(one.operator)
        for other in wish.conditions:
            if other.column == one.column and other.operator == opposite:
                assert not set(other.values) & set(one.values)


def _raise(_: Any) -> Any:
    raise ConnectionError("secret-key refused")


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (_raise, "ConnectionError"),
        (lambda _: None, "ValidationError"),
        (lambda _: {"form": "dance"}, "ValidationError"),
        (lambda _: time.sleep(5), "TimeoutError"),
    ],
)
def test_a_remote_model_that_fails_is_replaced_by_the_defaults(
    answer: Callable[[Any], Any], name: str, films: Any
) -> None:
    reading = films.read(MESSAGE)
    decide = RemoteDecision(Remote(answer), films.lexicon, films.titles, timeout=0.2)
    wish, note = understand(reading, decide=decide)
    assert wish == reading.wish
    assert note == f"The model could not be asked ({name})."


def test_a_model_without_structured_output_falls_back(films: Any) -> None:
    model = chat_model("scripted:brief", max_tokens=8, temperature=0)
    decide = RemoteDecision(model, films.lexicon, films.titles)
    reader = MessageReader(films.lexicon, films.index.mentions, films.values_of, decide=decide)
    wish, note = reader(MESSAGE, state=State())
    assert wish == films.read(MESSAGE).wish
    assert note.startswith("The model could not be asked (")
    assert reader(MESSAGE, state=State(), quick=True) == (wish, "")


@pytest.mark.parametrize(
    "message",
    [
        "a romantic comedy or drama from the 90s, no horror or war",
        "I loved Heat but hated Titanic, something like Casino since 1990",
        "any year, horror is fine again, also romantic, newest first, three films",
        "older ones",
        "something like Xyzzyx Returns without gore",
        "why?",
        "hello",
    ],
)
def test_a_wish_comes_back_from_its_json(message: str, films: Any) -> None:
    wish = films.read(message).wish
    text = json_of(wish, titles=films.titles)
    found = json.loads(text)
    assert list(found) == ["form", "preference", "intention"]
    assert wish_from_json(text, lexicon=films.lexicon, find=_find(films)) == wish


def _find(films: Any) -> Callable[[str], list[int]]:
    return lambda title: [films.titles.index(title)] if title in films.titles else []


@pytest.mark.parametrize("message", [MESSAGE, "chess", "Casino, Jumanji and a comedy", "hi", ""])
def test_parts_are_one_json_object_whatever_is_chosen(message: str, films: Any) -> None:
    parts = parts_of(films.read(message), titles=films.titles)
    for pick in (0, -1):
        text = "".join(part if isinstance(part, str) else part[pick] for part in parts)
        assert list(json.loads(text)) == ["form", "preference", "intention"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": 1}', '{"form": "dance", "preference"'])
def test_other_texts_are_no_wish(text: str, films: Any) -> None:
    with pytest.raises(UserError, match="this is no wish"):
        wish_from_json(text, lexicon=films.lexicon, find=_find(films))


def test_a_need_has_preference_intention_and_form(films: Any) -> None:
    wish = films.read("I loved Heat, a comedy about chess from before 1990").wish
    state = refined(State(), wish, values_of=films.values_of)
    found = need(wish, state, titles=films.titles)
    assert found.preference == 'The user liked "Heat (1995)".'
    assert found.intention == (
        "The user wants something about chess, and items with genres: Comedy; year: at most 1989."
    )
    assert found.form == "Recommend items that serve this need."
    assert str(need(Wish(act="reset"), State(), titles=[])) == "Begin anew."
