"""Clients that leave, answers that take long, and many clients at once."""

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from tastemaker.agents.server.limits import Limits

SLOW = {"messages": [{"role": "user", "content": "slow"}]}


@contextlib.contextmanager
def talking(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
        yield client


def test_a_client_that_leaves_a_stream_stops_the_answer(
    scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    chat = scripted()
    with serve(chat) as url, talking(url) as client:
        with client.stream("POST", "/v1/chat/completions", json=SLOW | {"stream": True}) as told:
            next(told.iter_bytes())
        assert chat.ended.wait(5)
        assert chat.was_stopped
        assert ended(client, "stopped")


def test_a_client_that_leaves_before_the_first_word_stops_the_answer(
    scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    chat = scripted()
    late = {"messages": [{"role": "user", "content": "late slow"}]}
    with serve(chat) as url, talking(url) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=late, timeout=0.2)
        assert chat.ended.wait(5)
        assert chat.was_stopped
        assert ended(client, "stopped")


def test_the_clients_own_way_to_stop_works(
    scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    chat = scripted()
    with serve(chat) as url, httpx.Client(trust_env=False) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", http_client=http)
        stream = client.chat.completions.create(model="scripted", stream=True, **SLOW)
        next(iter(stream))
        stream.close()
        assert chat.ended.wait(5)
        assert chat.was_stopped


def test_an_answer_ends_when_its_time_is_over(
    scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    with serve(scripted(), limits=Limits(answer_seconds=1)) as url, talking(url) as client:
        began = time.monotonic()
        (choice,) = client.post("/v1/chat/completions", json=SLOW).json()["choices"]
        assert time.monotonic() - began < 5
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"]


@pytest.mark.slow
def test_answers_are_made_one_by_one_while_items_are_found(
    scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    chat = scripted()
    limits = Limits(answers_waiting=2, answer_seconds=1)
    with (
        serve(chat, limits=limits) as url,
        talking(url) as client,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        answers = [pool.submit(client.post, "/v1/chat/completions", json=SLOW) for _ in range(6)]
        assert chat.begun.wait(5)
        waits = []
        for _ in range(10):
            began = time.monotonic()
            assert client.post("/v1/recommend", json={}).status_code == 200
            waits.append(time.monotonic() - began)
        assert sorted(waits)[5] < 0.5
        found = [answer.result() for answer in answers]
    assert sorted(one.status_code for one in found) == [200, 200, 200, 503, 503, 503]
    assert all(int(one.headers["Retry-After"]) >= 1 for one in found if one.status_code == 503)
    assert chat.most_at_once == 1


def test_fifty_clients_at_once_see_no_error(
    scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    limits = Limits(recommend_per_minute=100_000)
    until = time.monotonic() + 1.5
    start = threading.Barrier(50)

    def client(url: str) -> list[int]:
        with talking(url) as own:
            start.wait()
            statuses = []
            while time.monotonic() < until or not statuses:
                statuses.append(own.post("/v1/recommend", json={"count": 3}).status_code)
            return statuses

    with (
        serve(scripted(), limits=limits) as url,
        concurrent.futures.ThreadPoolExecutor(50) as pool,
    ):
        found = [status for one in pool.map(client, [url] * 50) for status in one]
    assert len(found) >= 50
    assert set(found) == {200}


def ended(client: httpx.Client, how: str) -> bool:
    """Whether one answer ended that way, a moment after its thread did."""
    line = f'tastemaker_answers_total{{end="{how}"}} 1.0'
    for _ in range(100):
        if line in client.get("/metrics").text:
            return True
        time.sleep(0.02)
    return False
