from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableLambda

from tastemaker.agents.asking import Asker
from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.agents.questions import Cut, Question, item_questions, user_questions
from tastemaker.agents.reasoning import (
    Chain,
    Profile,
    Reasoned,
    Single,
    Stepwise,
    encoder_text,
)
from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.template import Template, find_template
from tastemaker.testing.world import checkerboard

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
KAR = {"user": find_template("kar/user_movies"), "item": find_template("kar/item_movies")}
PARTS = {"user": find_template("kar/part_user"), "item": find_template("kar/part_item")}
SYNTHESIS = {
    "user": find_template("kar/synthesis_user"),
    "item": find_template("kar/synthesis_item"),
}
PROFILES = {
    "user": find_template("rlmrec/user_items"),
    "item": find_template("rlmrec/item_items"),
}

Script = Callable[[Sequence[BaseMessage]], str]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "store.sqlite") as opened:
        yield opened


def asker(store: KnowledgeStore, script: Script, **more: Any) -> Asker:
    return Asker(
        ScriptedChatModel(script=script),
        store,
        model_name="scripted:test",
        params={"max_tokens": 99, "seed": 1},
        clock=lambda: NOON,
        **more,
    )


def of_items(
    tables: Tables, items: Sequence[int], *templates: Template, **more: Any
) -> list[Question]:
    return list(item_questions(tables, items=items, templates=templates, **more))


def of_users(tables: Tables, *templates: Template, **more: Any) -> list[Question]:
    histories = Histories.from_interactions(tables.interactions)
    everyone = np.arange(tables.n_users)
    return list(
        user_questions(tables, histories, users=everyone, cut=Cut(30), templates=templates, **more)
    )


def text_of(conversation: Sequence[BaseMessage]) -> str:
    return conversation[-1].text


def test_one_prompt_each_with_its_provenance(store: KnowledgeStore) -> None:
    tables = checkerboard(4, 6, events=4)
    questions = [*of_items(tables, [1, 2], KAR["item"]), *of_users(tables, KAR["user"])[:1]]
    chain = Single(asker(store, SCRIPTS["echo"]), KAR)
    found = chain.batch(questions)
    assert [one.question for one in found] == questions
    for one in found:
        (kept,) = one.outcomes
        assert store.get_many([kept.key]) == {kept.key: kept}
        assert (kept.kind, kept.entity) == (one.question.kind, one.question.entity_id)
        assert (kept.chain, kept.version) == (KAR[one.question.kind].label, chain.version)
        assert kept.cut_time == one.question.cut_time
        assert kept.created == "2026-01-02T12:00:00+00:00"
        assert one.text.endswith(kept.messages[-1]["content"])
    assert found[2].last.cut_time is not None


def test_another_wording_is_another_version(store: KnowledgeStore) -> None:
    asks = asker(store, SCRIPTS["echo"])
    books = {"item": find_template("kar/item_books")}
    assert Single(asks, KAR).version == Single(asks, dict(KAR)).version
    assert Single(asks, KAR).version != Single(asks, books).version


def test_equal_questions_are_asked_once_and_answer_for_each_entity(store: KnowledgeStore) -> None:
    tables = checkerboard(4, 6, events=4)
    question = of_items(tables, [1], KAR["item"])[0]
    twin = Question("item", 5, "5", question.values)
    asks = asker(store, SCRIPTS["echo"])
    first, second = Single(asks, KAR).batch([question, twin])
    assert asks.tally.answered == 1
    assert (first.last.entity, second.last.entity) == ("1", "5")
    assert first.text == second.text


def test_a_failed_question_has_its_reason_and_others_their_texts(store: KnowledgeStore) -> None:
    tables = checkerboard(4, 6, events=4)

    def reluctant(conversation: Sequence[BaseMessage]) -> str:
        return "" if 'film 3"' in text_of(conversation) else "A fine film."

    titles = [title for title in tables.titles if "3" in title]
    found = Single(asker(store, reluctant), KAR).batch(of_items(tables, range(6), KAR["item"]))
    failed = [one for one in found if not one.text]
    assert len(titles) == len(failed) == 1
    assert failed[0].reason == "empty"
    assert failed[0].last.attempts == 3
    assert len(store) == 5


def test_steps_ask_about_each_factor_and_the_synthesis_sees_what_was_found(
    store: KnowledgeStore,
) -> None:
    tables = checkerboard(4, 6, events=4)
    asked: list[str] = []

    def script(conversation: Sequence[BaseMessage]) -> str:
        asked.append(text_of(conversation))
        if "mood" in asked[-1] and "Dark" not in asked[-1]:
            return "Dark."
        return "Set in <space>." if "setting" in asked[-1] and "Dark" not in asked[-1] else "All."

    templates = (PARTS["item"], SYNTHESIS["item"])
    questions = of_items(tables, [1, 2], *templates, factors=["mood", "setting"])
    asks = asker(store, script)
    found = Stepwise(asks, parts=PARTS, synthesis=SYNTHESIS).batch(questions)
    assert [one.text for one in found] == ["All.", "All."]
    assert [one.step for one in found[0].outcomes] == ["mood", "setting", "synthesis"]
    assert asks.tally.answered == 6
    for text, item in zip(asked[-2:], (1, 2), strict=True):
        assert "Dark." in text
        assert "‹space>" in text  # an answer is data, too
        assert any(tables.titles[item] in one for one in asked[-2:])


def test_a_step_that_fails_is_left_out_and_all_failing_fail(store: KnowledgeStore) -> None:
    tables = checkerboard(4, 6, events=4)
    questions = of_users(tables, PARTS["user"], SYNTHESIS["user"], factors=["mood", "plot"])[:1]
    asked: list[str] = []

    def half(conversation: Sequence[BaseMessage]) -> str:
        asked.append(text_of(conversation))
        return "" if "mood" in asked[-1] else "Loves plots."

    (found,) = Stepwise(asker(store, half), parts=PARTS, synthesis=SYNTHESIS).batch(questions)
    assert found.text == "Loves plots."
    assert "Loves plots." in asked[-1]
    assert "mood" not in asked[-1]
    with KnowledgeStore(store.path.with_name("other.sqlite")) as other:
        chain = Stepwise(asker(other, lambda _: ""), parts=PARTS, synthesis=SYNTHESIS)
        (failed,) = chain.batch(questions)
    assert (failed.text, failed.reason, len(failed.outcomes)) == ("", "empty", 2)


def test_steps_without_factors_are_refused(store: KnowledgeStore) -> None:
    question = Question("item", 0, "0", {"title": "Heat"})
    with pytest.raises(UserError, match=r"one factor at a time.*\n.*reason\.factors"):
        Stepwise(asker(store, SCRIPTS["echo"]), parts=PARTS, synthesis=SYNTHESIS).batch([question])


def test_user_profiles_show_the_profiles_of_their_items(store: KnowledgeStore) -> None:
    tables = checkerboard(4, 6, events=4)
    asked: list[str] = []

    def script(conversation: Sequence[BaseMessage]) -> str:
        asked.append(text_of(conversation))
        about = 'Fans of "noise".' if len(asked) <= 6 else "Calm films."
        return json.dumps({"summarization": about, "reasoning": "It says so."})

    users = of_users(tables, PROFILES["user"])[:1]
    items = of_items(tables, range(6), PROFILES["item"])
    chain = Profile(asker(store, script), PROFILES)
    found = chain.batch([*users, *items])
    assert [one.question.kind for one in found] == ["user"] + ["item"] * 6
    assert found[0].text == "Calm films."
    assert found[1].text == 'Fans of "noise".'
    assert "Fans of 'noise'." in asked[-1]
    assert found[0].last.messages[0]["role"] == "system"
    assert encoder_text(found[0], history=False) == "Calm films."


def test_a_profile_that_is_no_json_fails(store: KnowledgeStore) -> None:
    tables = checkerboard(4, 6, events=4)
    chain = Profile(asker(store, lambda _: "People like it."), PROFILES)
    (found,) = chain.batch(of_items(tables, [0], PROFILES["item"]))
    assert (found.text, found.reason) == ("", "schema")


def test_chains_are_runnables(store: KnowledgeStore) -> None:
    tables = checkerboard(4, 6, events=4)
    questions = of_items(tables, [0, 1], KAR["item"])
    chain: Chain = Single(asker(store, lambda _: "A film."), KAR)
    said = chain | RunnableLambda(lambda reasoned: reasoned.text.upper())
    assert said.invoke(questions[0]) == "A FILM."
    assert said.batch(questions) == ["A FILM.", "A FILM."]
    assert isinstance(chain.invoke(questions[0]), Reasoned)


@pytest.mark.parametrize("stepwise", [False, True])
def test_the_encoder_reads_history_and_answer_of_users_but_only_the_answer_of_items(
    store: KnowledgeStore, stepwise: bool
) -> None:
    tables = checkerboard(4, 6, events=4)
    asks = asker(store, lambda _: "Likes crime;\nnot ants.")
    chain: Chain = Single(asks, KAR)
    if stepwise:
        chain = Stepwise(asks, parts=PARTS, synthesis=SYNTHESIS)
    user = of_users(tables, *chain.of("user"), factors=["mood"])[0]
    item = of_items(tables, [0], *chain.of("item"), factors=["mood"])[0]
    of_user, of_item = chain.batch([user, item])
    assert encoder_text(of_item, history=True) == "Likes crime; not ants."
    read = encoder_text(of_user, history=True)
    assert read.endswith(" stars. Likes crime; not ants.")
    assert all(f'"{tables.titles[item]}"' in read for item in user.items)
    assert "What kind" not in read
    assert encoder_text(of_user, history=False) == "Likes crime; not ants."
