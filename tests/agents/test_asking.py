from __future__ import annotations

import json
import logging
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr

from tastemaker.agents.asking import Asker, Request
from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import Failure, Knowledge, KnowledgeStore
from tastemaker.agents.limits import Budget, Price
from tastemaker.agents.sending import Patience
from tastemaker.errors import StageError, UserError

PARAMS = {"max_tokens": 64, "temperature": 0.0, "seed": 3}
QUICK = Patience(tries=3, first_pause=0.001, longest_pause=0.01)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "sk-proj-Abc123Def456Ghi789"
REFUSED = "I'm sorry, but I can't help with that."


class RemoteModel(BaseChatModel):
    """Stands for a server: (question, how often it came, changed parameters) → answer."""

    script: Callable[[str, int, dict[str, Any]], str | AIMessage] = Field(exclude=True)
    _asked: dict[str, int] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "test-remote"

    @property
    def total(self) -> int:
        return sum(self._asked.values())

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **changes: Any
    ) -> ChatResult:
        said = messages[-1].text
        with self._lock:
            count = self._asked[said] = self._asked.get(said, 0) + 1
        found = self.script(said, count, changes)
        if isinstance(found, str):
            usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
            found = AIMessage(
                content=found, usage_metadata=usage, response_metadata={"finish_reason": "stop"}
            )
        return ChatResult(generations=[ChatGeneration(message=found)])


class LocalModel(ScriptedChatModel):
    """Answers batches by a function of the question and the changed parameters."""

    answer: Callable[[str, dict[str, Any]], str] = Field(exclude=True)
    script: Any = None

    def answer_many(self, conversations: Sequence[Any], **changes: Any) -> list[AIMessage]:
        self._requests += len(conversations)
        return [AIMessage(content=self.answer(one[-1].text, changes)) for one in conversations]


def failing(status: int, message: str = "no") -> openai.APIStatusError:
    request = httpx.Request("POST", "http://host/v1")
    response = httpx.Response(status, request=request)
    return openai.APIStatusError(message, response=response, body=None)


def requests(count: int, **more: Any) -> list[Request]:
    return [
        Request(
            kind="item",
            entity=f"item-{number}",
            messages=({"role": "user", "content": f"Introduce film {number}."},),
            chain="kar/item_movies",
            version="v1",
            **more,
        )
        for number in range(count)
    ]


def asker(model: Any, store: KnowledgeStore, **options: Any) -> Asker:
    given_: dict[str, Any] = {"model_name": "test:m", "params": PARAMS, "patience": QUICK}
    return Asker(model, store, clock=lambda: NOW, **{**given_, **options})


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with KnowledgeStore(tmp_path / "store.sqlite") as store:
        yield store


def fine(said: str, count: int, changes: dict[str, Any]) -> str:
    return f"About: {said}"


def test_every_request_gets_its_answer_and_is_never_asked_again(store: KnowledgeStore) -> None:
    model = RemoteModel(script=fine)
    wanted = requests(50, step="genre", cut_time=7)
    found = asker(model, store, base_url="http://me:pw@host/v1?key=1").ask(wanted)
    assert [one.entity for one in found] == [one.entity for one in wanted]
    first = found[0]
    assert isinstance(first, Knowledge)
    assert first.text == "About: Introduce film 0."
    assert (first.chain, first.step, first.version) == ("kar/item_movies", "genre", "v1")
    assert (first.model, first.cut_time, first.attempts) == ("test:m", 7, 1)
    assert (first.prompt_tokens, first.completion_tokens, first.finish_reason) == (10, 5, "stop")
    assert first.params == {**PARAMS, "base_url": "http://host/v1"}
    assert first.created == "2026-01-01T00:00:00+00:00"
    assert store.get_many([first.key])[first.key] == first

    again = asker(model, store, base_url="http://me:pw@host/v1?key=1")
    assert again.ask(wanted) == found
    assert model.total == 50
    assert (again.tally.known, again.tally.answered) == (50, 0)


def test_equal_requests_are_asked_once_and_keep_their_own_entity(store: KnowledgeStore) -> None:
    (one,) = requests(1)
    other = Request("user", "u7", one.messages, "kar/other", cut_time=9)
    model = RemoteModel(script=fine)
    found = asker(model, store).ask([one, other, one])
    assert model.total == 1
    assert [(each.kind, each.entity, each.chain, each.cut_time) for each in found] == [
        ("item", "item-0", "kar/item_movies", None),
        ("user", "u7", "kar/other", 9),
        ("item", "item-0", "kar/item_movies", None),
    ]
    assert len(store) == 1


def test_nothing_to_ask_loads_no_model(store: KnowledgeStore) -> None:
    loaded: list[int] = []

    def load() -> BaseChatModel:
        loaded.append(1)
        return RemoteModel(script=fine)

    one = asker(load, store)
    assert one.ask([]) == []
    assert loaded == []
    one.ask(requests(1))
    asker(load, store).ask(requests(1))
    assert loaded == [1]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(12)),
    batch_size=st.integers(1, 13),
    concurrency=st.integers(1, 8),
    local=st.booleans(),
)
def test_neither_order_nor_batches_change_an_answer(
    tmp_path: Path, order: list[int], batch_size: int, concurrency: int, local: bool
) -> None:
    wanted = requests(12)
    model: BaseChatModel = ScriptedChatModel(script=SCRIPTS["echo"])
    if not local:
        scripted = SCRIPTS["echo"]
        model = RemoteModel(
            script=lambda said, count, changes: scripted([AIMessage(said, type="ai")])
        )
    path = tmp_path / f"{random.random()}.sqlite"
    with KnowledgeStore(path) as store:
        one = asker(model, store, batch_size=batch_size, concurrency=concurrency)
        found = one.ask([wanted[place] for place in order])
        rest = one.ask(wanted)
    assert [each.entity for each in found] == [wanted[place].entity for place in order]
    by_entity = {each.entity: each for each in found}
    assert rest == [by_entity[each.entity] for each in wanted]
    key = asker(model, store).key
    assert [each.key for each in rest] == [key(each) for each in wanted]


def unusable(said: str, count: int, changes: dict[str, Any]) -> str:
    answers = {
        "Introduce film 0.": "",
        "Introduce film 1.": REFUSED,
        "Introduce film 2.": "so good " * 50,
    }
    return answers.get(said, "It is a film.")


@pytest.mark.parametrize("local", [False, True])
def test_an_unusable_answer_is_asked_for_again_then_marked_failed(
    store: KnowledgeStore, local: bool
) -> None:
    model: Any = RemoteModel(script=unusable)
    if local:
        model = LocalModel(answer=lambda said, changes: unusable(said, 0, changes))
    one = asker(model, store, invalid_retries=2, batch_size=3)
    found = one.ask(requests(4))
    assert [each.reason if isinstance(each, Failure) else "" for each in found] == [
        "empty",
        "refusal",
        "looping",
        "",
    ]
    assert all(isinstance(each, Failure) and each.final for each in found[:3])
    assert [each.attempts for each in found] == [3, 3, 3, 1]
    assert (model.requests if local else model.total) == 3 * 3 + 1
    assert len(store) == 1
    assert store.failures(each.key for each in found).keys() == {each.key for each in found[:3]}
    assert one.tally.reasons == {"empty": 1, "refusal": 1, "looping": 1}

    assert asker(RemoteModel(script=fine), store).ask(requests(4)) == found


def test_each_round_has_another_seed_and_warmth(store: KnowledgeStore) -> None:
    seen: list[dict[str, Any]] = []

    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        seen.append(changes)
        return "" if count < 3 else "It is a film."

    (found,) = asker(RemoteModel(script=script), store).ask(requests(1))
    assert isinstance(found, Knowledge)
    assert (found.attempts, found.prompt_tokens, found.completion_tokens) == (3, 30, 15)
    assert seen == [{}, {"seed": 4, "temperature": 0.7}, {"seed": 5, "temperature": 0.7}]
    assert store.failures([found.key]) == {}  # it gave way


@pytest.mark.parametrize(
    ("params", "varied", "changes"),
    [
        ({"temperature": 0.5}, ("seed", "temperature"), {"seed": 1}),
        ({}, ("temperature",), {"temperature": 0.7}),
        ({"seed": None}, (), {}),
    ],
)
def test_only_what_a_provider_takes_is_changed(
    store: KnowledgeStore, params: dict[str, Any], varied: Sequence[str], changes: dict[str, Any]
) -> None:
    seen: list[dict[str, Any]] = []

    def script(said: str, count: int, changed: dict[str, Any]) -> str:
        seen.append(changed)
        return "" if count == 1 else "It is a film."

    asker(RemoteModel(script=script), store, params=params, varied=varied).ask(requests(1))
    assert seen == [{}, changes]


def test_objects_are_checked_for_their_keys(store: KnowledgeStore) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        return json.dumps({"summary": "A film."} if count == 2 else {"other": "A film."})

    (found,) = asker(RemoteModel(script=script), store).ask(requests(1, keys=("summary",)))
    assert isinstance(found, Knowledge)
    assert found.text == '{"summary": "A film."}'
    assert found.attempts == 2


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (AIMessage("", additional_kwargs={"refusal": "No."}), "refusal"),
        (AIMessage("It is", response_metadata={"stop_reason": "max_tokens"}), "truncated"),
        (AIMessage("It is", response_metadata={"done_reason": "length"}), "truncated"),
        (
            AIMessage(
                "It is", response_metadata={"incomplete_details": {"reason": "max_output_tokens"}}
            ),
            "truncated",
        ),
        (AIMessage([{"type": "text", "text": "It is."}]), ""),
        (AIMessage("half a character \ud83d"), ""),
    ],
)
def test_providers_tell_the_end_in_different_places(
    store: KnowledgeStore, message: AIMessage, reason: str
) -> None:
    (found,) = asker(RemoteModel(script=lambda *_: message), store).ask(requests(1))
    assert (found.reason if isinstance(found, Failure) else "") == reason


def test_a_transport_failure_is_tried_again_by_a_later_run(store: KnowledgeStore) -> None:
    def broken(said: str, count: int, changes: dict[str, Any]) -> str:
        if said.endswith("0."):
            raise failing(503)
        return fine(said, count, changes)

    first = asker(RemoteModel(script=broken), store)
    found = first.ask(requests(3))
    assert isinstance(found[0], Failure)
    assert (found[0].reason, found[0].final, found[0].attempts) == ("busy", False, 0)
    assert first.tally.reasons == {"busy": 1}
    assert len(store) == 2

    model = RemoteModel(script=fine)
    again = asker(model, store)
    assert all(isinstance(one, Knowledge) for one in again.ask(requests(3)))
    assert model.total == 1
    assert store.failures(one.key for one in found) == {}


def test_a_later_run_goes_on_with_the_attempts_of_an_earlier_one(store: KnowledgeStore) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        if count == 1:
            return REFUSED
        raise failing(500)

    (first,) = asker(RemoteModel(script=script), store).ask(requests(1))
    assert isinstance(first, Failure)
    assert (first.reason, first.attempts, first.final) == ("server", 1, False)
    assert first.prompt_tokens == 10

    seen: list[dict[str, Any]] = []

    def later(said: str, count: int, changes: dict[str, Any]) -> str:
        seen.append(changes)
        return REFUSED

    (second,) = asker(RemoteModel(script=later), store).ask(requests(1))
    assert isinstance(second, Failure)
    assert (second.reason, second.attempts, second.final) == ("refusal", 3, True)
    assert [one["seed"] for one in seen] == [4, 5]


def test_fewer_rounds_than_were_tried_already(store: KnowledgeStore) -> None:
    one = asker(RemoteModel(script=lambda *_: REFUSED), store, invalid_retries=1)
    (found,) = one.ask(requests(1))
    assert isinstance(found, Failure)
    store.put_many([replace(found, final=False)])  # as a job that was killed leaves it
    model = RemoteModel(script=fine)
    (again,) = asker(model, store, invalid_retries=0).ask(requests(1))
    assert isinstance(again, Failure)
    assert (again.reason, again.attempts, model.total) == ("refusal", 2, 0)


def test_a_server_that_turns_everything_down_ends_the_job(store: KnowledgeStore) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        raise failing(400, "Unsupported parameter: 'max_tokens'")

    model = RemoteModel(script=script)
    with pytest.raises(StageError, match=r"5 times in a row[\s\S]*Unsupported parameter"):
        asker(model, store, concurrency=2, patience=Patience(in_a_row=5)).ask(requests(500))
    assert model.total < 80
    # Once the mistake is corrected on the server, all of them are asked.
    found = asker(RemoteModel(script=fine), store).ask(requests(500))
    assert all(isinstance(one, Knowledge) for one in found)


def test_what_a_working_server_turns_down_is_final(store: KnowledgeStore) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        if said.endswith("9."):
            raise failing(400, "context length")
        return fine(said, count, changes)

    found = asker(RemoteModel(script=script), store, concurrency=1).ask(requests(10))
    assert isinstance(found[9], Failure)
    assert (found[9].reason, found[9].final) == ("rejected", True)


def test_a_dead_server_ends_the_job(store: KnowledgeStore) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        raise ConnectionRefusedError("nobody there")

    patience = Patience(tries=2, first_pause=0.001, in_a_row=6)
    with pytest.raises(StageError, match="times in a row"):
        asker(RemoteModel(script=script), store, patience=patience).ask(requests(500))


def test_a_refused_key_ends_the_job_and_is_not_told(
    store: KnowledgeStore, caplog: pytest.LogCaptureFixture
) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        raise failing(401, f"Incorrect API key provided: {SECRET}")

    with caplog.at_level(logging.DEBUG), pytest.raises(UserError) as caught:
        asker(RemoteModel(script=script), store).ask(requests(50))
    assert "the key was refused" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text


def test_keys_are_never_in_the_store(store: KnowledgeStore) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        if said.endswith("1."):
            raise failing(400, f"bad header: Bearer {SECRET}")
        if said.endswith("2."):
            raise failing(500, f"https://host/v1?api_key={SECRET}")
        return fine(said, count, changes)

    asker(RemoteModel(script=script), store, base_url=f"http://me:{SECRET}@host/v1").ask(
        requests(3)
    )
    store.close()
    for file in store.path.parent.iterdir():
        assert SECRET.encode() not in file.read_bytes()


def test_a_budget_stops_the_job_and_what_is_there_is_usable(store: KnowledgeStore) -> None:
    model = RemoteModel(script=fine)
    one = asker(model, store, budget=Budget(max_requests=7), concurrency=3)
    with pytest.raises(StageError, match=r"max_requests of 7 is reached.*\n7 answers .* kept"):
        one.ask(requests(50))
    assert model.total == 7
    assert len(store) == 7
    rest = RemoteModel(script=fine)
    asker(rest, store).ask(requests(50))
    assert rest.total == 43


def test_cost_is_counted_stored_and_limited(store: KnowledgeStore) -> None:
    price = Price(prompt=1000.0, completion=2000.0)  # 0.02 an answer
    budget = Budget(max_cost=1.0, price=price)
    one = asker(RemoteModel(script=fine), store, budget=budget, price=price, concurrency=4)
    with pytest.raises(StageError, match="max_cost of 1 is reached"):
        one.ask(requests(200))
    assert one.tally.cost is not None
    assert 0.7 < one.tally.cost <= 1.0
    assert store.spent().cost == pytest.approx(one.tally.cost) == pytest.approx(budget.spent)
    assert store.spent().requests == one.tally.answered == len(store)
    assert "cost 0." in one.tally.note()


def test_an_interrupt_while_storing_loses_nothing(
    store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = store.put_many, [0]

    def interrupted(found: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        put(found)

    monkeypatch.setattr(store, "put_many", interrupted)
    model = RemoteModel(script=fine)
    with pytest.raises(KeyboardInterrupt):
        asker(model, store, concurrency=2).ask(requests(400))
    assert 0 < len(store) == model.total < 400


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C interrupts, also in a worker of pytest-xdist, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("after", [1, 2, 3, 30, 77, 200, 201, 202])
def test_interrupted_by_a_signal_at_any_moment_it_loses_nothing(
    store: KnowledgeStore, heeded: None, after: int
) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        if model.total == after:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return "It is a film."

    model = RemoteModel(script=script)
    with pytest.raises(KeyboardInterrupt):
        asker(model, store, concurrency=4).ask(requests(1000))
    assert after <= model.total < 1000
    assert len(store) == model.total


def test_a_model_of_this_process_gets_batches(store: KnowledgeStore) -> None:
    told: list[tuple[int, str]] = []
    model = ScriptedChatModel(script=SCRIPTS["echo"])
    one = asker(model, store, batch_size=8, advance=lambda done, note="": told.append((done, note)))
    one.ask(requests(20))
    assert [done for done, _ in told] == [8, 8, 4]
    assert "tokens written" in told[0][1]
    assert model.requests == 20


def test_many_requests_at_chance_end_in_exactly_one_way(store: KnowledgeStore) -> None:
    def script(said: str, count: int, changes: dict[str, Any]) -> str:
        chance = random.Random(f"{said}/{count}").random()
        if chance < 0.2:
            return ("", REFUSED, "so good " * 50)[int(chance * 15)]
        if chance < 0.5:
            raise (failing(429), failing(503), failing(400), TimeoutError(), IndexError())[
                int((chance - 0.2) * 16.6)
            ]
        return "It is a film."

    model = RemoteModel(script=script)
    patience = Patience(tries=2, first_pause=0.001, longest_pause=0.002, in_a_row=10**6)
    for _ in range(3):
        found = asker(model, store, patience=patience).ask(requests(400))
        keys = [one.key for one in found]
        answers, failures = store.get_many(keys), store.failures(keys)
        assert answers.keys() | failures.keys() == set(keys)
        assert not answers.keys() & failures.keys()
        assert found == [answers.get(key) or failures[key] for key in keys]
    assert {one.reason for one in failures.values() if one.final} >= {"empty", "refusal"}
