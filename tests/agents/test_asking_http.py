"""The engine against real HTTP: every fault a server can make, and processes that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.chat_models import init_chat_model

from tastemaker.agents.answers import Acceptance
from tastemaker.agents.asking import Asker, Request
from tastemaker.agents.knowledge import Failure, Knowledge, KnowledgeStore
from tastemaker.agents.sending import Patience
from tastemaker.testing.chat_server import chat_server
from tastemaker.testing.fault_proxy import REFUSED, FaultProxy, Record
from tastemaker.testing.http_answers import request_key

FAULTS = {
    "rate_limit": 0.07,
    "unavailable": 0.03,
    "server_error": 0.06,
    "close": 0.05,
    "drop": 0.05,
    "delay": 0.015,
    "truncated_json": 0.05,
    "empty_choice": 0.05,
    "empty_text": 0.03,
}
PARAMS = {"max_tokens": 32, "temperature": 0.0, "seed": 0}
TIMEOUT, DELAY, RETRY_AFTER = 2.0, 3.0, 0.6
# Between a 429 on the wire and the job's knowing of it: threads of one busy process share a core.
NOTICED = 0.25
ROUNDS = 2  # beyond the first

WRITER = """
import json
import os
import sys
from pathlib import Path

from langchain.chat_models import init_chat_model

from tastemaker.agents.asking import Asker, Request
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.agents.sending import Patience

url, path, count, params = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])


def work():
    model = init_chat_model(
        "m", model_provider="openai", base_url=url, api_key="none", max_retries=0, timeout=2.0,
        **params,
    )
    with KnowledgeStore(path) as store:
        patience = Patience(tries=6, first_pause=0.01, longest_pause=0.1)
        asker = Asker(
            model, store, model_name="openai:m", params=params, base_url=url, patience=patience,
            concurrency=8,
        )
        asker.ask([
            Request("item", str(number), ({"role": "user", "content": f"Film {number}."},), "c")
            for number in range(count)
        ])


for line in sys.stdin:  # one child a line: importing takes seconds, and once is enough
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def requests(count: int) -> list[Request]:
    return [
        Request("item", str(number), ({"role": "user", "content": f"Film {number}."},), "c")
        for number in range(count)
    ]


def chat(url: str, *, timeout: float = TIMEOUT) -> Any:
    return init_chat_model(
        "m",
        model_provider="openai",
        base_url=url,
        api_key="none",
        max_retries=0,
        timeout=timeout,
        **PARAMS,
    )


def asker(url: str, store: KnowledgeStore, **options: Any) -> Asker:
    given: dict[str, Any] = {
        "model_name": "openai:m",
        "params": PARAMS,
        "base_url": url,
        "patience": Patience(tries=6, first_pause=0.02, longest_pause=0.2),
        "invalid_retries": ROUNDS,
    }
    return Asker(options.pop("model", None) or chat(url), store, **{**given, **options})


def entities(url: str, wanted: Sequence[Request], *, rounds: int = ROUNDS) -> dict[str, str]:
    """Key by which the proxy knows a body → the entity it asks about."""
    model = chat(url)
    found = {}
    for one in wanted:
        for attempt in range(rounds + 1):
            changes = {"seed": attempt, "temperature": 0.7} if attempt else {}
            body = model._get_request_payload(list(one.messages), **changes)
            found[request_key(body)] = one.entity
    return found


def check_one_end_each(store: KnowledgeStore, keys: Sequence[str]) -> None:
    answers, failures = store.get_many(keys), store.failures(keys)
    assert answers.keys() | failures.keys() == set(keys)
    assert not answers.keys() & failures.keys()


def asked_again(records: Sequence[Record]) -> list[Record]:
    """Requests whose body had been answered before they came."""
    answered: dict[str, float] = defaultdict(lambda: float("inf"))
    for one in records:
        if one.good:
            answered[one.key] = min(answered[one.key], one.finished)
    return [one for one in records if one.time > answered[one.key]]


def too_early(records: Sequence[Record], *, retry_after: float) -> list[Record]:
    """Requests that came while the server had asked for a pause."""
    holds = [one.finished for one in records if one.fault in ("rate_limit", "unavailable")]
    return [
        one
        for one in records
        if any(hold + NOTICED < one.time < hold + retry_after - 0.01 for hold in holds)
    ]


def check_faults(records: Sequence[Record], *, least: float) -> None:
    broken = sum(one.fault != "passed" for one in records)
    assert broken >= least * len(records)
    assert {one.fault for one in records} >= {"rate_limit", "close", "drop", "empty_choice"}


def test_every_fault_of_a_server_ends_in_an_answer_or_a_failure(tmp_path: Path) -> None:
    wanted = requests(150)
    with (
        FaultProxy(
            None, seed=5, faults=FAULTS, retry_after=RETRY_AFTER, delay=DELAY, latency=0.01
        ) as proxy,
        KnowledgeStore(tmp_path / "store.sqlite") as store,
    ):
        one = asker(proxy.url, store)
        found = one.ask(wanted)
        proxy.idle()
        records = proxy.records
        again = asker(proxy.url, store).ask(wanted)
        assert {each.key for each in again} == {each.key for each in found}
    with KnowledgeStore(tmp_path / "store.sqlite") as store:
        check_one_end_each(store, [each.key for each in found])
    check_faults(records, least=0.3)
    assert asked_again(records) == []
    assert too_early(records, retry_after=RETRY_AFTER) == []
    delivered = defaultdict(int)
    for record in records:
        delivered[record.key] += record.good
    assert max(delivered.values()) == 1
    answers = [each for each in found if isinstance(each, Knowledge)]
    assert len(answers) == sum(delivered.values()) >= 140
    for each in answers:
        assert each.text.endswith(f" Film {each.entity}.")
    assert all(
        each.reason in ("busy", "server", "connection", "timeout", "malformed", "empty")
        for each in found
        if isinstance(each, Failure)
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("rate_limit", "busy"),
        ("unavailable", "busy"),
        ("server_error", "server"),
        ("close", "connection"),
        ("drop", "connection"),
        ("truncated_json", "malformed"),
        ("empty_choice", "malformed"),
        ("empty_text", "empty"),
        ("delay", "timeout"),
    ],
)
def test_each_fault_is_known_by_its_name(tmp_path: Path, fault: str, reason: str) -> None:
    patience = Patience(tries=2, first_pause=0.001)
    with (
        FaultProxy(None, seed=0, faults={fault: 1.0}, retry_after=0.01, delay=5.0) as proxy,
        KnowledgeStore(tmp_path / "store.sqlite") as store,
    ):
        model = chat(proxy.url, timeout=0.3 if fault == "delay" else TIMEOUT)
        options = {"patience": patience, "invalid_retries": 0, "model": model}
        (found,) = asker(proxy.url, store, **options).ask(requests(1))
        asked = len(proxy.records)
    assert isinstance(found, Failure)
    assert found.reason == reason
    assert found.final == (reason == "empty")
    if fault != "delay":
        assert asked == (1 if reason == "empty" else 2)


def test_a_wrong_key_or_model_ends_the_job_without_telling_the_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-Abc123Def456Ghi789"
    with (
        FaultProxy(None, seed=0, faults={}, key_required="right", models=["other"]) as proxy,
        KnowledgeStore(tmp_path / "store.sqlite") as store,
    ):
        for key, message in ((secret, "key was refused"), ("right", "no such model")):
            model = init_chat_model(
                "m", model_provider="openai", base_url=proxy.url, api_key=key, max_retries=0
            )
            with pytest.raises(Exception, match=message) as caught:
                asker(proxy.url, store, model=model).ask(requests(20))
            assert secret not in f"{caught.value}{caplog.text}"
        assert len(store) == 0
        assert len(proxy.records) < 40


class Job:
    """A process that forks one that works; the latter is killed."""

    def __init__(self, url: str, path: Path, *, count: int) -> None:
        command = [sys.executable, "-c", WRITER, url, str(path), str(count), json.dumps(PARAMS)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def _line(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def start(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._line()

    def ended(self) -> int:
        return self._line()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(20)


@contextmanager
def job(url: str, path: Path, *, count: int) -> Iterator[Job]:
    one = Job(url, path, count=count)
    try:
        yield one
    finally:
        one.close()


def committed(path: Path) -> dict[str, str]:
    """Entity → text of what is in the store."""
    with KnowledgeStore(path) as store:
        return {one.entity: one.text for one in store.each(Knowledge)}


def kill_and_resume(
    folder: Path, *, count: int, kills: int, seed: int, faults: dict[str, float]
) -> dict[str, int]:
    """Kill a job at random moments and let it go on.

    None may be asked again whose answer was in the store when the job was killed.

    Returns:
        `window`: requests that came again because their answer was on its way to the store when
        the job was killed; `kills` that came while the job was working; `requests` in all.
    """
    path, chance = folder / "store.sqlite", random.Random(seed)
    with FaultProxy(
        None, seed=seed, faults=faults, retry_after=0.05, delay=DELAY, latency=0.02
    ) as proxy:
        known: list[tuple[float, set[str]]] = []
        with job(proxy.url, path, count=count) as one:
            working = 0
            while working < kills:
                child = one.start()
                before = len(proxy.records)
                while len(proxy.records) == before:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 1.2 * count * 0.02 / 8 / max(4, kills)))
                os.kill(child, signal.SIGKILL)
                moment = time.time()
                working += one.ended() == -signal.SIGKILL
                known.append((moment, set(committed(path))))
            for _ in range(5):
                one.start()
                assert one.ended() == 0
                if len(committed(path)) == count:
                    break
        proxy.idle()
        # A kill may also tear a request in two, which then is none.
        records = [record for record in proxy.records if record.fault != REFUSED]
        entity = entities(proxy.url, requests(count))
    assert {record.key for record in records} <= entity.keys()
    again = asked_again(records)
    answered = {record.key: record.finished for record in reversed(records) if record.good}
    for record in again:  # only a kill is a reason to ask again
        assert any(answered[record.key] - 0.1 < moment < record.time for moment, _ in known)
    wrong = [
        record
        for record in records
        for moment, there in known
        if record.time > moment + 0.02 and entity[record.key] in there
    ]
    assert wrong == []
    return {"window": len(again), "kills": working, "requests": len(records)}


def undisturbed(folder: Path, *, count: int) -> dict[str, str]:
    path = folder / "undisturbed.sqlite"
    with FaultProxy(None, seed=0, faults={}) as proxy, KnowledgeStore(path) as store:
        asker(proxy.url, store).ask(requests(count))
    return committed(path)


def test_a_job_that_is_killed_asks_nothing_twice(tmp_path: Path) -> None:
    found = kill_and_resume(
        tmp_path, count=120, kills=3, seed=1, faults={"rate_limit": 0.1, "close": 0.1, "drop": 0.1}
    )
    assert committed(tmp_path / "store.sqlite") == undisturbed(tmp_path, count=120)
    assert found["window"] <= 3 * (8 + 16)


@pytest.mark.slow
def test_a_job_that_is_killed_twenty_times_asks_nothing_twice(tmp_path: Path) -> None:
    faults = {**FAULTS, "delay": 0.003}
    found = kill_and_resume(tmp_path, count=1200, kills=20, seed=2, faults=faults)
    assert found["kills"] == 20
    assert found["window"] <= 20 * (8 + 16)
    assert found["requests"] > 1200 / 0.7
    assert committed(tmp_path / "store.sqlite") == undisturbed(tmp_path, count=1200)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_requests_to_a_real_server(llama_folder: Path, tmp_path: Path) -> None:
    wanted, faults = requests(1000), {**FAULTS, "delay": 0.005}
    with (
        chat_server(llama_folder, log=tmp_path / "server.log") as server,
        FaultProxy(server, seed=3, faults=faults, retry_after=0.5, delay=31.0) as proxy,
        KnowledgeStore(tmp_path / "store.sqlite") as store,
    ):
        model = init_chat_model(
            str(llama_folder),
            model_provider="openai",
            base_url=proxy.url,
            api_key="none",
            max_retries=0,
            timeout=30.0,
            max_tokens=8,
            temperature=0.0,
        )
        one = asker(
            proxy.url,
            store,
            model=model,
            concurrency=8,
            acceptance=Acceptance(truncated="keep"),
            varied=("temperature",),
        )
        found = one.ask(wanted)
        check_one_end_each(store, [each.key for each in found])
        proxy.idle()
        records = proxy.records
    check_faults(records, least=0.3)
    assert len(records) >= 1000
    assert asked_again(records) == []
    assert too_early(records, retry_after=0.5) == []
    assert sum(isinstance(each, Knowledge) for each in found) >= 950
