from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr
from transformers import AutoTokenizer

from tastemaker.agents.chat_models import ScriptedChatModel
from tastemaker.agents.limits import Budget, Price, Rate
from tastemaker.agents.sending import Batches, Carrier, Patience, Reply, Sender, tokens_at_most
from tastemaker.errors import UserError

QUICK = Patience(tries=4, first_pause=0.001, longest_pause=0.01)
REQUEST = httpx.Request("POST", "http://host/v1")


class RemoteModel(BaseChatModel):
    """Stands for a server: answers, or raises what its script raises; counts by conversation."""

    script: Callable[[str, int], str] = Field(exclude=True)
    _asked: dict[str, int] = PrivateAttr(default_factory=dict)
    _times: list[float] = PrivateAttr(default_factory=list)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "test-remote"

    def _generate(self, messages: list[BaseMessage], *_: Any, **changes: Any) -> ChatResult:
        said = messages[-1].text
        with self._lock:
            count = self._asked[said] = self._asked.get(said, 0) + 1
            self._times.append(time.monotonic())
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        message = AIMessage(content=self.script(said, count), usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


def failing(status: int, **headers: str) -> openai.APIStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=named, request=REQUEST)
    return openai.APIStatusError("no", response=response, body=None)


def asked(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"question {number}"}] for number in range(count)]


def sender(model: BaseChatModel, count: int, **options: Any) -> Sender:
    given: dict[str, Any] = {
        "concurrency": 8,
        "patience": QUICK,
        "rate": Rate(),
        "budget": Budget(),
        "price": None,
        "max_tokens": 16,
        "changes": {},
    }
    return Sender(model, asked(count), **{**given, **options})


def collected(carrier: Carrier) -> list[Reply]:
    found: list[Reply] = []
    while replies := carrier.arrived():
        found += replies
        carrier.stored(len(replies))
    return sorted(found, key=lambda reply: reply.place)


def test_every_conversation_gets_one_reply() -> None:
    model = RemoteModel(script=lambda said, count: f"to {said}")
    found = collected(sender(model, 200))
    assert [reply.place for reply in found] == list(range(200))
    assert [reply.message and reply.message.text for reply in found] == [
        f"to question {number}" for number in range(200)
    ]
    assert set(model._asked.values()) == {1}


def test_passing_trouble_is_tried_again_and_no_answer_is_asked_for_twice() -> None:
    def script(said: str, count: int) -> str:
        chance = random.Random(f"{said}/{count}").random()
        if count < 3 and chance < 0.5:
            raise (failing(503), failing(429, retry_after_ms="5"), TimeoutError(), IndexError())[
                int(chance * 8)
            ]
        return "fine"

    model = RemoteModel(script=script)
    found = collected(sender(model, 100))
    assert all(reply.message is not None for reply in found)
    assert 100 < sum(model._asked.values()) < 250


def test_after_so_many_tries_it_is_given_up() -> None:
    def script(said: str, count: int) -> str:
        raise failing(500)

    model = RemoteModel(script=script)
    found = collected(sender(model, 3))
    assert [reply.trouble and reply.trouble.reason for reply in found] == ["server"] * 3
    assert set(model._asked.values()) == {QUICK.tries}


def test_hopeless_requests_are_not_repeated() -> None:
    def script(said: str, count: int) -> str:
        if said.endswith("1"):
            raise failing(400)
        return "fine"

    model = RemoteModel(script=script)
    found = collected(sender(model, 3))
    assert [bool(reply.message) for reply in found] == [True, False, True]
    assert found[1].trouble is not None
    assert found[1].trouble.reason == "rejected"
    assert set(model._asked.values()) == {1}


def test_trouble_of_the_whole_job_stops_the_others() -> None:
    def script(said: str, count: int) -> str:
        raise failing(401)

    model = RemoteModel(script=script)
    found = collected(sender(model, 1000, concurrency=4))
    assert 1 <= len(found) <= 4
    assert all(reply.trouble and reply.trouble.scope == "job" for reply in found)
    assert sum(model._asked.values()) <= 4


def test_a_thread_that_dies_takes_no_conversation_with_it() -> None:
    def script(said: str, count: int) -> str:
        raise SystemExit(3)

    (reply,) = collected(sender(RemoteModel(script=script), 1))
    assert reply.trouble is not None
    assert (reply.trouble.scope, reply.trouble.detail) == ("job", "SystemExit(3)")


def test_what_is_not_stored_comes_again() -> None:
    carrier = sender(RemoteModel(script=lambda said, count: "fine"), 5, concurrency=1)
    first = carrier.arrived()
    assert carrier.arrived()[: len(first)] == first
    carrier.stored(1)
    assert len(collected(carrier)) == 4
    assert carrier.arrived() == []


def test_stopped_it_sends_nothing_more_but_brings_what_is_on_its_way() -> None:
    entered, go = threading.Semaphore(0), threading.Event()

    def script(said: str, count: int) -> str:
        entered.release()
        go.wait(10)
        return "fine"

    carrier = sender(RemoteModel(script=script), 100, concurrency=4)
    waiting = threading.Thread(target=lambda: replies.extend(collected(carrier)))
    replies: list[Reply] = []
    waiting.start()
    for _ in range(4):
        assert entered.acquire(timeout=10)
    carrier.stop()
    go.set()
    waiting.join(10)
    assert len(replies) == 4
    assert all(reply.message is not None for reply in replies)


def test_stopped_it_does_not_wait_for_a_pause_to_end() -> None:
    def script(said: str, count: int) -> str:
        raise failing(429, retry_after="3600")

    model = RemoteModel(script=script)
    carrier = sender(model, 10, concurrency=2)
    threading.Timer(0.2, carrier.stop).start()
    began = time.monotonic()
    assert collected(carrier) == []
    assert time.monotonic() - began < 5
    assert sum(model._asked.values()) <= 2


def test_while_a_server_asks_for_a_pause_nothing_is_sent() -> None:
    told: list[float] = []

    def script(said: str, count: int) -> str:
        time.sleep(0.002)
        if said == "question 5" and count == 1:
            told.append(time.monotonic())
            raise failing(429, retry_after="0.4")
        return "fine"

    model = RemoteModel(script=script)
    assert all(reply.message is not None for reply in collected(sender(model, 60, concurrency=4)))
    on_their_way = 0.1  # seconds in which the others notice
    early = [one for one in model._times if told[0] + on_their_way < one < told[0] + 0.4]
    assert early == []
    assert max(model._times) >= told[0] + 0.4


def test_concurrency_is_kept() -> None:
    active, most, lock = [0], [0], threading.Lock()

    def script(said: str, count: int) -> str:
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.005)
        with lock:
            active[0] -= 1
        return "fine"

    collected(sender(RemoteModel(script=script), 60, concurrency=5))
    assert 2 <= most[0] <= 5


def test_the_rate_is_kept() -> None:
    model = RemoteModel(script=lambda said, count: "fine")
    collected(sender(model, 21, rate=Rate(requests=60 * 100)))
    assert max(model._times) - min(model._times) >= 0.2 - 0.02


def test_the_budget_ends_it_and_is_not_exceeded() -> None:
    price = Price(prompt=1000.0, completion=1000.0)  # an answer costs 0.015
    budget = Budget(max_cost=0.5, price=price)
    model = RemoteModel(script=lambda said, count: "fine")
    found = collected(sender(model, 100, budget=budget, price=price))
    answered = sum(reply.message is not None for reply in found)
    assert budget.spent == pytest.approx(answered * 0.015)
    assert budget.spent <= 0.5
    assert answered >= 28  # what is reserved beyond the true cost is given back
    assert any(reply.trouble and reply.trouble.reason == "budget" for reply in found)


def test_what_may_have_been_billed_counts_and_what_surely_was_not_does_not() -> None:
    price = Price(prompt=1.0, completion=1.0)
    for error, billed in ((TimeoutError(), True), (failing(500), False)):

        def script(said: str, count: int, error: Exception = error) -> str:
            raise error

        budget = Budget(max_cost=1.0, price=price)
        collected(sender(RemoteModel(script=script), 1, budget=budget, price=price))
        assert (budget.spent > 0) == billed


def test_a_provider_that_counts_no_tokens_costs_what_was_reserved() -> None:
    class Silent(RemoteModel):
        def _generate(self, messages: list[BaseMessage], *_: Any, **changes: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content="fine"))])

    price = Price(prompt=1000.0, completion=1000.0)
    budget = Budget(max_cost=0.5, price=price)
    model = Silent(script=lambda said, count: "")
    found = collected(sender(model, 100, budget=budget, price=price))
    assert 0 < sum(reply.message is not None for reply in found) < 30
    assert 0 < budget.spent <= 0.5


@pytest.mark.parametrize(
    ("patience", "failed", "low", "high"),
    [
        (Patience(first_pause=1), 1, 0.75, 1.25),
        (Patience(first_pause=1), 4, 6.0, 10.0),
        (Patience(first_pause=1, longest_pause=5), 100, 3.75, 6.25),
    ],
)
def test_pauses_grow_and_are_spread(
    patience: Patience, failed: int, low: float, high: float
) -> None:
    chance = random.Random(0)
    pauses = [patience.pause(failed, chance=chance) for _ in range(200)]
    assert low <= min(pauses) < low * 1.1
    assert high * 0.9 < max(pauses) <= high


def test_tokens_are_never_underestimated(llama_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    for text in ("It won. " * 30, "这部电影" * 30, "😀🎬" * 30, "1, 2, 3; 4.5" * 30, "((" * 50, ""):
        most = tokens_at_most([{"role": "user", "content": text}])
        assert most >= len(tokenizer(text)["input_ids"])


class Batched(ScriptedChatModel):
    _sizes: list[int] = PrivateAttr(default_factory=list)

    def answer_many(self, conversations: Sequence[Any], **changes: Any) -> list[AIMessage]:
        self._sizes.append(len(conversations))
        return super().answer_many(conversations)


def batches(model: BaseChatModel, count: int, *, budget: Budget | None = None) -> Batches:
    return Batches(model, asked(count), batch_size=4, budget=budget or Budget(), changes={})


def test_batches_are_full_and_the_longest_come_first() -> None:
    model = Batched(script=lambda conversation: conversation[-1].text)
    carrier = Batches(
        model,
        [[{"role": "user", "content": "x" * (1 + number % 7)}] for number in range(10)],
        batch_size=4,
        budget=Budget(),
        changes={},
    )
    first = carrier.arrived()
    assert [reply.message and len(reply.message.text) for reply in first] == [7, 6, 5, 4]
    assert carrier.arrived() == first  # not stored yet
    assert [reply.place for reply in collected(carrier)] == list(range(10))
    assert model._sizes == [4, 4, 2]


def test_a_budget_lets_part_of_a_batch_through() -> None:
    model = Batched(script=lambda conversation: "fine")
    found = collected(batches(model, 20, budget=Budget(max_requests=6)))
    assert model._sizes == [4, 2]
    assert sum(reply.message is not None for reply in found) == 6
    assert [reply.trouble.reason for reply in found if reply.trouble] == ["budget"]


def test_an_error_of_a_model_of_this_process_is_its_own() -> None:
    def script(conversation: Sequence[BaseMessage]) -> str:
        raise UserError("the model has no chat template")

    carrier = batches(Batched(script=script), 20)
    with pytest.raises(UserError, match="no chat template"):
        carrier.arrived()
    carrier.stop()
    assert carrier.arrived() == []
