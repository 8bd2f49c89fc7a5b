from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate

from tastemaker.agents.chat_models import chat_model
from tastemaker.agents.local_chat import LocalChatModel
from tastemaker.errors import UserError
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.prompts.template import find_template

ITEMS = find_template("kar/item_movies")
TITLES = ["Heat (1995)", "The Good, the Bad and the Ugly (1966)", "Antz (1998)"]
QUESTIONS = [ITEMS.render(title=title, factors=["genre"]) for title in TITLES]
TOKENS = 6


@pytest.fixture(scope="module")
def smollm2() -> Iterator[LanguageModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # so small a batch gains nothing from more, and loses on a busy machine
    yield load_language_model("smollm2", dtype=torch.float32, device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture
def model(smollm2: LanguageModel) -> LocalChatModel:
    return LocalChatModel(language_model=smollm2, max_tokens=TOKENS)


def texts(replies: list[AIMessage]) -> list[str]:
    return [reply.text for reply in replies]


@pytest.fixture(scope="module")
def alone(smollm2: LanguageModel) -> list[str]:
    """Each question asked by itself, by transformers' own means."""
    found = []
    for question in QUESTIONS:
        inputs = smollm2.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        tokens = smollm2.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        found.append(smollm2.tokenizer.decode(new, skip_special_tokens=True))
    return found


@pytest.mark.parametrize(("batch_size", "share_prefix"), [(3, True), (3, False), (2, True)])
def test_batches_answer_as_each_question_alone(
    model: LocalChatModel, alone: list[str], *, batch_size: int, share_prefix: bool
) -> None:
    changed = model.model_copy(update={"batch_size": batch_size, "share_prefix": share_prefix})
    assert texts(changed.batch(QUESTIONS)) == alone
    assert len(set(alone)) > 1


def test_order_changes_nothing(model: LocalChatModel, alone: list[str]) -> None:
    first, second, _ = QUESTIONS
    assert texts(model.batch([second, first, second])) == [alone[1], alone[0], alone[1]]


def test_one_question_and_a_chain(model: LocalChatModel, alone: list[str]) -> None:
    assert model.invoke(QUESTIONS[0]).text == alone[0]
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | model
    assert texts(chain.batch([{"question": question} for question in QUESTIONS])) == alone


def test_an_answer_says_how_it_ended_and_what_it_took(model: LocalChatModel) -> None:
    reply = model.invoke(QUESTIONS[0])
    tokenizer = model.language_model.tokenizer
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTIONS[0]}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert reply.response_metadata == {"finish_reason": "length", "model_name": "smollm2"}
    assert reply.usage_metadata == {
        "input_tokens": len(asked),
        "output_tokens": TOKENS,
        "total_tokens": len(asked) + TOKENS,
    }


def test_an_answer_that_ends_by_itself(model: LocalChatModel) -> None:
    longer = model.model_copy(update={"max_tokens": 40})
    replies = longer.batch(["Say hello.", "What is 2 + 2? Answer with a number only."])
    assert [reply.response_metadata["finish_reason"] for reply in replies] == ["stop", "stop"]
    for reply in replies:
        assert reply.text == reply.text.strip()
        assert "<|" not in reply.text
        assert reply.usage_metadata is not None
        # the end token counts, as it does for services
        tokens = model.language_model.tokenizer(reply.text)["input_ids"]
        assert reply.usage_metadata["output_tokens"] == len(tokens) + 1


def test_stop_words_cut_the_answer(model: LocalChatModel) -> None:
    whole = model.invoke(QUESTIONS[0]).text
    word = whole.split()[2]
    reply = model.invoke(QUESTIONS[0], stop=[word, "never"])
    assert reply.text == whole[: whole.index(word)]
    assert reply.response_metadata["finish_reason"] == "stop"


def test_draws_are_seeded_and_leave_the_global_generator_alone(model: LocalChatModel) -> None:
    drawing = model.model_copy(update={"temperature": 1.5, "seed": 1})
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = texts(drawing.batch(["Hello", "Tell me more"]))
    assert torch.equal(torch.get_rng_state(), state)
    assert texts(drawing.batch(["Hello", "Tell me more"])) == first
    other = drawing.model_copy(update={"seed": 2})
    assert texts(other.batch(["Hello", "Tell me more"])) != first


def test_what_a_local_model_cannot_read(model: LocalChatModel) -> None:
    with pytest.raises(UserError, match="message of type 'tool'"):
        model.invoke([ToolMessage("4", tool_call_id="1")])
    with pytest.raises(UserError, match="do not fit into"):
        model.batch(["short", "long " * 9000])


def test_the_model_itself_stays_out_of_traces(model: LocalChatModel) -> None:
    assert "Llama" not in repr(model)
    assert "language_model" not in model.model_dump()


def test_by_name() -> None:
    found: Any = chat_model("local:smollm2", max_tokens=2, temperature=0.0, batch_size=2)
    assert isinstance(found, LocalChatModel)
    assert (found.max_tokens, found.batch_size) == (2, 2)
    assert found.language_model.name == "smollm2"
