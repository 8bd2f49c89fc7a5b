from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import PrivateAttr

from tastemaker.agents.batched_chat import BatchedChatModel, Conversation


class Recording(BatchedChatModel):
    """Answers in capitals and remembers how it was called."""

    _calls: list[tuple[int, Sequence[str] | None]] = PrivateAttr(default_factory=list)

    @property
    def calls(self) -> list[tuple[int, Sequence[str] | None]]:
        return self._calls

    @property
    def _llm_type(self) -> str:
        return "recording"

    def answer_many(
        self, conversations: Sequence[Conversation], *, stop: Sequence[str] | None = None
    ) -> list[AIMessage]:
        self._calls.append((len(conversations), stop))
        if any("fail" in conversation[-1].text for conversation in conversations):
            raise RuntimeError("out of memory")
        return [AIMessage(conversation[-1].text.upper()) for conversation in conversations]


class Watcher(BaseCallbackHandler):
    """Notes the runs it is told about."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.failed: list[str] = []

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        self.started += [conversation[-1].text for conversation in messages]

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ended.append(response.generations[0][0].text)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.failed.append(str(error))


def test_a_batch_is_one_call() -> None:
    model = Recording()
    inputs = ["a", [{"role": "user", "content": "b"}], "c"]
    assert [reply.text for reply in model.batch(inputs)] == ["A", "B", "C"]
    assert model.calls == [(3, None)]
    assert model.batch([]) == []


def test_a_chain_reaches_the_batch() -> None:
    model = Recording()
    chain = ChatPromptTemplate.from_messages([("user", "about {it}")]) | model | StrOutputParser()
    assert chain.batch([{"it": "x"}, {"it": "y"}]) == ["ABOUT X", "ABOUT Y"]
    assert model.calls == [(2, None)]
    assert chain.invoke({"it": "z"}) == "ABOUT Z"


def test_stop_words_arrive_both_ways() -> None:
    model = Recording()
    model.invoke("a", stop=["x"])
    model.batch(["a"], stop=["y"])
    assert model.calls == [(1, ["x"]), (1, ["y"])]


def test_callbacks_see_one_run_per_conversation() -> None:
    watcher = Watcher()
    Recording().batch(["a", "b"], {"callbacks": [watcher]})
    assert (watcher.started, watcher.ended) == (["a", "b"], ["A", "B"])
    Recording().invoke("c", {"callbacks": [watcher]})
    assert watcher.ended == ["A", "B", "C"]


def test_a_failure_is_that_of_the_whole_batch() -> None:
    watcher = Watcher()
    with pytest.raises(RuntimeError, match="out of memory"):
        Recording().batch(["a", "fail"], {"callbacks": [watcher]})
    assert watcher.failed == ["out of memory"] * 2
    replies: list[Any] = Recording().batch(["a", "fail"], return_exceptions=True)
    assert [type(reply) for reply in replies] == [RuntimeError, RuntimeError]
