from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import Knowledge, KnowledgeStore
from tastemaker.agents.reasoning import (
    Question,
    answer,
    encoder_text,
    item_questions,
    user_questions,
)
from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import StageError, UserError
from tastemaker.prompts.template import find_template
from tastemaker.stage import Silent
from tastemaker.testing.world import SCHEMA, checkerboard

USERS, ITEMS = find_template("kar/user_movies"), find_template("kar/item_movies")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
TITLES = ["Usual Suspects, The (1995)", "Heat (1995)", '[REC] "x"', "Antz", "Big"]
# user a: five events, the third and fourth in one second; b: one event; c: two in one second
EVENTS = [
    ("a", 0, 10, 5.0),
    ("a", 1, 20, 3.5),
    ("a", 2, 30, 0.5),
    ("a", 3, 30, 4.0),
    ("a", 4, 40, 1.0),
    ("b", 0, 50, 2.0),
    ("c", 1, 60, 4.0),
    ("c", 2, 60, 4.0),
]


class Log(Silent):
    """Keeps lines, and how far each bar came."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[list[int]] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Any]:
        self.bars.append([0, total])

        def advance(count: int) -> None:
            self.bars[-1][0] += count

        yield advance


def world(people: pl.DataFrame | None = None) -> Tables:
    frame = pl.DataFrame(EVENTS, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    items = pl.DataFrame({"item_id": range(5), "title": TITLES, "genres": "x"})
    return build_tables(frame, items=items, users=people, schema=SCHEMA)


def asked_of_users(tables: Tables, *, cap: int = 30, factors: Sequence[str] = ()) -> list[Question]:
    histories = Histories.from_interactions(tables.interactions)
    everyone = np.arange(tables.n_users)
    return user_questions(
        tables, histories, template=USERS, users=everyone, cap=cap, factors=factors
    )


def ask(
    questions: Sequence[Question], model: BaseChatModel, store: KnowledgeStore, **changed: Any
) -> list[Knowledge]:
    options: dict[str, Any] = {
        "model_name": "scripted:echo",
        "params": {"max_tokens": 9},
        "batch_size": 4,
        "report": Silent(),
        "clock": lambda: NOON,
    }
    return answer(questions, model, store, **{**options, **changed})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "store.sqlite") as opened:
        yield opened


def test_the_oldest_half_is_shown_without_a_second_that_the_cut_would_part() -> None:
    questions = asked_of_users(world())
    assert [question.entity_id for question in questions] == ["a", "b"]
    first = questions[0]
    # n = 5, so N = 3; the third event shares its second with the fourth and is left out
    assert first.events == (0, 1)
    assert first.cut_time == 20
    (message,) = first.messages
    assert message["content"].startswith(
        "A user has this movie viewing history over time: "
        '"The Usual Suspects (1995)", 5 stars; "Heat (1995)", 3.5 stars; \n'
    )
    assert (first.kind, first.entity, first.chain) == ("user", 0, "kar/user_movies")
    assert questions[1].events == (5,)


def test_the_cap_limits_what_is_shown() -> None:
    assert asked_of_users(world(), cap=1)[0].events == (0,)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), cap=st.integers(1, 12))
def test_everything_not_shown_is_strictly_later(seed: int, cap: int) -> None:
    tables = checkerboard(5, 15, events=9, seed=seed)
    events = tables.interactions.with_row_index()
    for question in asked_of_users(tables, cap=cap):
        mine = events.filter(pl.col("user") == question.entity)
        shown = mine.filter(pl.col("index").is_in(question.events))
        rest = mine.filter(~pl.col("index").is_in(question.events))
        assert 0 < shown.height <= min(5, cap)
        assert shown["time"].max() == question.cut_time
        assert (rest["time"] > question.cut_time).all()
        prompt = question.messages[0]["content"]
        for item in set(rest["item"]) - set(shown["item"]):
            assert f'"{tables.titles[item]}"' not in prompt


def test_histories_of_training_events_alone_give_questions_about_those() -> None:
    tables = world()
    histories = Histories.from_interactions(tables.interactions.head(2))
    questions = user_questions(
        tables, histories, template=USERS, users=[0, 1], cap=30, factors=["mood"]
    )
    assert [question.events for question in questions] == [(0,)]


def test_a_profile_comes_from_the_users_table() -> None:
    people = pl.DataFrame(
        {"user_id": ["a", "b", "c"], "gender": ["F", None, "M"], "age": [25, 35, None]}
    )
    first, second = asked_of_users(world(people))
    assert first.messages[0]["content"].startswith("A user (gender F, age 25) has")
    assert second.messages[0]["content"].startswith("A user (age 35) has")


def test_own_factors_replace_those_of_the_template() -> None:
    (first, _) = asked_of_users(world(), factors=["mood; tone", "<|im_end|>"])
    assert "(consider mood, tone, ‹|im_end|>)" in first.messages[0]["content"]
    assert "genre" not in first.messages[0]["content"]


def test_item_questions() -> None:
    questions = item_questions(world(), template=ITEMS, items=[2, 0])
    assert [question.entity_id for question in questions] == ["2", "0"]
    assert questions[0].messages[0]["content"].endswith("The movie is \"(REC) 'x'\".")
    assert questions[1].messages[0]["content"].endswith('"The Usual Suspects (1995)".')
    assert (questions[0].cut_time, questions[0].events) == (None, ())


def test_a_template_for_other_fields_is_refused() -> None:
    tables = world()
    with pytest.raises(UserError, match="needs profile, rated_history"):
        item_questions(tables, template=USERS, items=[0])
    with pytest.raises(UserError, match="needs title"):
        user_questions(
            tables,
            Histories.from_interactions(tables.interactions),
            template=ITEMS,
            users=[0],
            cap=3,
        )


def test_answers_carry_their_provenance(store: KnowledgeStore) -> None:
    (question,) = item_questions(world(), template=ITEMS, items=[1])
    model = ScriptedChatModel(script=SCRIPTS["echo"], max_tokens=9)
    (found,) = ask([question], model, store, base_url="http://me:secret@host/v1")
    assert store.get_many([found.key]) == {found.key: found}
    assert (found.kind, found.entity, found.chain) == ("item", "1", "kar/item_movies")
    assert found.messages == list(question.messages)
    assert found.params == {"max_tokens": 9, "base_url": "http://host/v1"}
    assert (found.finish_reason, found.completion_tokens) == ("length", 9)
    assert found.prompt_tokens == len(question.messages[0]["content"].split())
    assert found.created == "2026-01-02T12:00:00+00:00"
    assert len(found.text.split()) == 9
    assert b"secret" not in store.path.read_bytes()


def test_only_what_the_store_lacks_is_asked(store: KnowledgeStore) -> None:
    questions = item_questions(checkerboard(4, 10, events=4), template=ITEMS, items=range(10))
    model = ScriptedChatModel(script=SCRIPTS["echo"])
    ask(questions[:6], model, store)
    assert model.requests == 6
    log = Log()
    found = ask(questions, model, store, report=log)
    assert model.requests == 10
    assert [one.entity for one in found] == [question.entity_id for question in questions]
    assert log.bars == [[4, 4]]
    ask(questions, model, store, params={"max_tokens": 10})
    assert model.requests == 20


def test_equal_questions_are_asked_once_and_answer_for_each_entity(store: KnowledgeStore) -> None:
    frame = pl.DataFrame(
        {"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 2], "rating": [4.0, 4.0]}
    )
    items = pl.DataFrame({"item_id": [1, 2], "title": ["Crash", "Crash"], "genres": ["a", "b"]})
    tables = build_tables(frame, items=items, schema=SCHEMA)
    model = ScriptedChatModel(script=SCRIPTS["echo"])
    found = ask(item_questions(tables, template=ITEMS, items=[0, 1]), model, store)
    assert model.requests == 1
    assert [one.entity for one in found] == ["1", "2"]
    assert found[0].text == found[1].text


def test_an_empty_answer_is_asked_for_once_more_then_left_out(store: KnowledgeStore) -> None:
    seen: dict[str, int] = {}

    def reluctant(conversation: Sequence[BaseMessage]) -> str:
        text = conversation[-1].text
        seen[text] = seen.get(text, 0) + 1
        if "film 3" in text:
            return " \n"
        return "" if "film 4" in text and seen[text] == 1 else "Fine."

    questions = item_questions(checkerboard(4, 6, events=4), template=ITEMS, items=range(6))
    log = Log()
    found = ask(questions, ScriptedChatModel(script=reluctant), store, report=log)
    assert [one.entity for one in found] == ["0", "1", "2", "4", "5"]
    assert sorted(seen.values()) == [1, 1, 1, 1, 2, 2]
    assert log.lines == ["1 question(s) got an empty answer twice and were left out"]
    assert len(store) == 5


class Flaky(BaseChatModel):
    """A remote service, as LangChain sees it, that refuses one film."""

    refused: str

    @property
    def _llm_type(self) -> str:
        return "flaky"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if self.refused in messages[-1].text:
            raise ConnectionError("quota used up")
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Fine."))])


def test_what_was_answered_is_kept_when_the_service_fails(store: KnowledgeStore) -> None:
    questions = item_questions(checkerboard(4, 8, events=4), template=ITEMS, items=range(8))
    with pytest.raises(StageError, match=r"failed on 1 question.*quota used up") as caught:
        ask(questions, Flaky(refused="film 2"), store, batch_size=8)
    assert "run the command again" in str(caught.value)
    assert len(store) == 7
    model = ScriptedChatModel(script=SCRIPTS["echo"])
    assert len(ask(questions, model, store)) == 8
    assert model.requests == 1


def test_the_encoder_reads_history_and_answer_of_users_but_only_the_answer_of_items(
    store: KnowledgeStore,
) -> None:
    user = asked_of_users(world())[0]
    item = item_questions(world(), template=ITEMS, items=[0])[0]
    model = ScriptedChatModel(script=lambda _: "Likes crime;\nnot ants.")
    of_user, of_item = ask([user, item], model, store)
    assert encoder_text(item, of_item) == "Likes crime; not ants."
    assert encoder_text(user, of_user) == (
        "A user has this movie viewing history over time: "
        '"The Usual Suspects (1995)", 5 stars; "Heat (1995)", 3.5 stars. Likes crime; not ants.'
    )
