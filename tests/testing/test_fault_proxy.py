from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.testing.fault_proxy import FAULTS, FaultProxy, Record, read_log, running_proxy
from tastemaker.testing.http_answers import request_key

MODEL = "tiny"


def body(text: str = "hello there") -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=5.0) as opened:
        yield opened


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultProxy]:
    """A scripted server behind the proxies under test."""
    with FaultProxy(seed=0, faults={}) as server:
        yield server


def post(client: httpx.Client, proxy: FaultProxy, text: str = "hello there") -> httpx.Response:
    return client.post(f"{proxy.url}/chat/completions", json=body(text))


def only(proxy: FaultProxy) -> Record:
    (record,) = proxy.records
    return record


def always(fault: str, upstream: FaultProxy, **options: Any) -> FaultProxy:
    return FaultProxy(upstream.url, seed=1, faults={fault: 1.0}, **options)


def test_what_passes_is_what_the_upstream_said(client: httpx.Client, upstream: FaultProxy) -> None:
    with FaultProxy(upstream.url, seed=0, faults={}) as proxy:
        answer = post(client, proxy, "eins zwei drei").json()
        assert answer["choices"][0]["message"]["content"].endswith(" eins zwei drei")
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        record = only(proxy)
        assert (record.fault, record.status, record.good) == ("passed", 200, True)
        assert record.time <= record.finished <= time.time()
        assert proxy.delivered(request_key(body("eins zwei drei"))) == 1


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("rate_limit", 429, "rate_limit_exceeded"), ("unavailable", 503, None)],
)
def test_refusals_say_when_to_come_back(
    fault: str, status: int, code: str | None, client: httpx.Client, upstream: FaultProxy
) -> None:
    with always(fault, upstream, retry_after=0.07) as proxy:
        answer = post(client, proxy)
        assert (answer.status_code, answer.headers["Retry-After"]) == (status, "0.07")
        assert answer.json()["error"]["code"] == code
        assert not only(proxy).asked
    with always(fault, upstream, retry_after=60, retry_after_date=True) as proxy:
        assert post(client, proxy).headers["Retry-After"].endswith(" GMT")


def test_server_error(client: httpx.Client, upstream: FaultProxy) -> None:
    with always("server_error", upstream) as proxy:
        assert post(client, proxy).status_code == 500
        assert (only(proxy).asked, only(proxy).delivered, only(proxy).good) == (False, True, False)


@pytest.mark.parametrize(("fault", "asked"), [("drop", 0), ("close", 1)])
def test_broken_connections(
    fault: str, asked: int, client: httpx.Client, upstream: FaultProxy
) -> None:
    text = f"broken by {fault}"
    with always(fault, upstream) as proxy:
        with pytest.raises(httpx.RemoteProtocolError):
            post(client, proxy, text)
        assert only(proxy).status == (200 if asked else None)
        assert not only(proxy).delivered
        assert proxy.asked(request_key(body(text))) == asked
        assert upstream.asked(request_key(body(text))) == asked


def test_spoilt_answers(client: httpx.Client, upstream: FaultProxy) -> None:
    with always("truncated_json", upstream) as proxy:
        answer = post(client, proxy)
        assert answer.status_code == 200
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        with pytest.raises(json.JSONDecodeError):
            answer.json()
        assert only(proxy).delivered
        assert not only(proxy).good
    with always("empty_choice", upstream) as proxy:
        assert post(client, proxy).json()["choices"] == []
    with always("empty_text", upstream) as proxy:
        assert post(client, proxy).json()["choices"][0]["message"]["content"] == ""


def test_delay_outlasts_the_client_or_is_borne(client: httpx.Client, upstream: FaultProxy) -> None:
    with always("delay", upstream, delay=0.3) as proxy:
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{proxy.url}/chat/completions", json=body(), timeout=0.1)
        assert proxy.idle(limit=5.0)
        assert not only(proxy).delivered
        assert post(client, proxy).status_code == 200
        assert [record.good for record in proxy.records] == [False, True]


def test_faults_depend_on_the_seed_the_body_and_its_number_only() -> None:
    faults = {"server_error": 0.3, "rate_limit": 0.3}
    texts = [f"question {number % 10}" for number in range(60)]

    def fates(seed: int, order: list[str]) -> dict[tuple[str, int], str]:
        with FaultProxy(seed=seed, faults=faults) as proxy, ThreadPoolExecutor(8) as pool:
            with httpx.Client(trust_env=False) as client:
                list(pool.map(lambda text: post(client, proxy, text), order))
            assert sum(proxy.faults_injected.values()) == sum(
                record.fault != "passed" for record in proxy.records
            )
            return {(record.key, record.attempt): record.fault for record in proxy.records}

    first = fates(3, texts)
    assert fates(3, texts[::-1]) == first
    assert fates(4, texts) != first
    assert 0.4 < sum(fault != "passed" for fault in first.values()) / 60 < 0.8


def test_first_only_spares_every_second_try(client: httpx.Client) -> None:
    with FaultProxy(seed=0, faults={"server_error": 1.0}, first_only=True) as proxy:
        assert [post(client, proxy).status_code for _ in range(3)] == [500, 200, 200]
        assert proxy.faults_injected == {"server_error": 1}


def test_the_openai_client_gets_through(tmp_path: Path, upstream: FaultProxy) -> None:
    faults = dict.fromkeys(FAULTS, 0.1) | {"delay": 0.0, "truncated_json": 0.0}
    log = tmp_path / "log"
    with FaultProxy(upstream.url, seed=5, faults=faults, first_only=True, log=log) as proxy:
        with openai.OpenAI(base_url=proxy.url, api_key="sk-secret", max_retries=2) as asking:
            for number in range(10):
                asking.chat.completions.create(**body(f"number {number}"))
        assert len(proxy.faults_injected) > 2
        assert read_log(log) == proxy.records
    assert "sk-secret" not in log.read_text(encoding="utf-8")
    assert "Bearer" not in log.read_text(encoding="utf-8")


def test_keys_and_models_are_checked() -> None:
    with FaultProxy(seed=0, faults={}, key_required="right", models=["a", "b"]) as proxy:
        with openai.OpenAI(base_url=proxy.url, api_key="right", max_retries=0) as asking:
            assert [model.id for model in asking.models.list()] == ["a", "b"]
            with pytest.raises(openai.NotFoundError) as missing:
                asking.chat.completions.create(**body())
            assert missing.value.code == "model_not_found"
            assert asking.chat.completions.create(**{**body(), "model": "b"}).model == "b"
            with pytest.raises(openai.BadRequestError):
                asking.chat.completions.create(**{**body(), "model": "b"}, stream=True)
        with openai.OpenAI(base_url=proxy.url, api_key="wrong", max_retries=0) as asking:
            with pytest.raises(openai.AuthenticationError) as wrong:
                asking.chat.completions.create(**body())
            assert wrong.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                asking.models.list()
        assert [record.fault for record in proxy.records] == [
            "refused",
            "passed",
            "passed",
            "refused",
        ]


def test_models_pass_unharmed_and_unrecorded(client: httpx.Client, upstream: FaultProxy) -> None:
    with always("drop", upstream) as proxy:
        assert client.get(f"{proxy.url}/models").json() == {"object": "list", "data": []}
        assert proxy.records == []


def test_script_and_token_limit(client: httpx.Client) -> None:
    with FaultProxy(seed=0, faults={}, script=lambda _: "one two three") as proxy:
        limited = {**body(), "max_tokens": 2}
        answer = client.post(f"{proxy.url}/chat/completions", json=limited).json()
    assert answer["choices"][0]["message"]["content"] == "one two"
    assert answer["choices"][0]["finish_reason"] == "length"


def test_an_upstream_that_is_gone_is_a_502(client: httpx.Client) -> None:
    with FaultProxy(seed=0, faults={}) as gone:
        url = gone.url
    with FaultProxy(url, seed=0, faults={}) as proxy:
        assert post(client, proxy).status_code == 502
        assert not only(proxy).good


def test_retry_after_comes_through_two_proxies(client: httpx.Client) -> None:
    with (
        FaultProxy(seed=0, faults={"rate_limit": 1.0}, retry_after=7) as inner,
        FaultProxy(inner.url, seed=0, faults={}) as outer,
    ):
        assert post(client, outer).headers["Retry-After"] == "7"


def test_a_body_of_unknown_length_is_refused(client: httpx.Client, upstream: FaultProxy) -> None:
    answer = client.post(f"{upstream.url}/chat/completions", content=iter([b"{}"]))
    assert answer.status_code == 411


def test_wrong_faults_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rate_limit'"):
        FaultProxy(seed=0, faults={"ratelimit": 0.1})
    with pytest.raises(UserError, match="probability 2"):
        FaultProxy(seed=0, faults={"drop": 2})
    with pytest.raises(UserError, match=r"add up to 1\.2"):
        FaultProxy(seed=0, faults={"drop": 0.6, "close": 0.6})


def test_leaves_neither_threads_nor_sockets(upstream: FaultProxy) -> None:
    before = set(threading.enumerate())
    with httpx.Client(trust_env=False) as idle, always("delay", upstream, delay=60) as proxy:
        idle.get(f"{proxy.url}/models")
        with pytest.raises(httpx.ReadTimeout):
            idle.post(f"{proxy.url}/chat/completions", json=body(), timeout=0.05)
    # The upstream's own thread for the proxy's connection ends when it sees it closed.
    until = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_a_proxy_of_its_own_outlives_a_killed_client(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    asks = (
        "import sys, httpx\n"
        "body = {'model': 'tiny', 'messages': [{'role': 'user', 'content': 'hello there'}]}\n"
        "while True:\n"
        "    httpx.post(sys.argv[1] + '/chat/completions', json=body, timeout=60)"
    )
    options = ["--latency", "0.1"]
    with running_proxy(log=log, seed=0, faults={"rate_limit": 0.0}, options=options) as url:
        client = subprocess.Popen([sys.executable, "-c", asks, url])
        while not (log.exists() and len(read_log(log)) > 2):
            time.sleep(0.02)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        answer = httpx.post(f"{url}/chat/completions", json=body(), trust_env=False)
        assert answer.status_code == 200
        until = time.monotonic() + 10  # a line is written once its answer has been sent
        while sum(record.good for record in read_log(log)) <= 3 and time.monotonic() < until:
            time.sleep(0.02)
        assert sum(record.good for record in read_log(log)) > 3
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models", trust_env=False)
