"""Batches against a real HTTP server that counts what it works on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tastemaker.agents.answers import Acceptance
from tastemaker.agents.asking import Request
from tastemaker.agents.batch_api import BatchAsker
from tastemaker.agents.batch_ledger import BatchLedger
from tastemaker.agents.batch_service import BatchService
from tastemaker.agents.knowledge import Failure, Knowledge, KnowledgeStore
from tastemaker.agents.limits import Budget, Price
from tastemaker.agents.sending import Patience
from tastemaker.errors import BusyError, DataError, MissingError, StageError, UserError
from tastemaker.testing.batch_server import BatchServer

MODEL = "openai:small"
PARAMS = {"max_tokens": 20, "temperature": 0.0, "seed": 3}
FAST = Patience(tries=4, first_pause=0.01, longest_pause=0.02)


def requests(count: int, *, start: int = 0) -> list[Request]:
    return [
        Request(
            kind="item",
            entity=str(place),
            messages=({"role": "user", "content": f"Introduce film {place}."},),
            chain="kar/item_movies",
            version="1",
        )
        for place in range(start, start + count)
    ]


def said(body: Mapping[str, Any]) -> str:
    return f"It is {body['messages'][-1]['content'].split()[-1]} and well known."


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(script=said) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "knowledge.sqlite") as opened:
        yield opened


def asker(store: KnowledgeStore, server: BatchServer, **more: Any) -> BatchAsker:
    options: dict[str, Any] = {
        "model_name": MODEL,
        "params": PARAMS,
        "base_url": server.url,
        "patience": FAST,
        "first_pause": 0.01,
        "longest_pause": 0.05,
    }
    return BatchAsker(store, **{**options, **more})


def open_parts(store: KnowledgeStore) -> int:
    with BatchLedger(store.path) as ledger:
        return len(ledger.open_parts())


def test_all_are_answered_once_and_known_ever_after(
    store: KnowledgeStore, server: BatchServer
) -> None:
    done: list[int] = []
    asked = requests(7)
    job = asker(
        store,
        server,
        price=Price(2.0, 8.0),
        advance=lambda count, note="": done.append(count),
    )
    found = job.ask([*asked, asked[0]])
    assert [one.entity for one in found] == [*"0123456", "0"]
    assert all(isinstance(one, Knowledge) for one in found)
    assert found[3].text == "It is 3. and well known."
    assert found[3].chain == "kar/item_movies"
    assert found[3].messages == list(asked[3].messages)
    assert found[3].params == {**PARAMS, "base_url": server.url}
    assert found[3].cost == pytest.approx((3 * 1.0 + 6 * 4.0) / 1e6)  # half the price
    assert sum(done) == job.tally.answered == 7
    assert set(server.processed.values()) == {1}
    assert set(server.processed) == {job.key(one) for one in asked}
    again = asker(store, server)
    assert again.ask(asked) == found[:7]
    assert again.tally.known == 7
    assert len(server.batches) == 1
    assert open_parts(store) == 0


def test_batches_have_at_most_so_many_lines_and_bytes(
    store: KnowledgeStore, server: BatchServer
) -> None:
    assert len(asker(store, server, part_lines=3).ask(requests(7))) == 7
    assert sorted(batch["request_counts"]["total"] for batch in server.batches) == [1, 3, 3]
    line = len(asker(store, server)._line("k" * 32, requests(1)[0], 0).text) + 1
    asker(store, server, part_bytes=2 * line + 10).ask(requests(3, start=7))
    assert sorted(batch["request_counts"]["total"] for batch in server.batches[3:]) == [1, 2]


def test_unusable_answers_are_asked_again_with_another_seed(
    store: KnowledgeStore,
) -> None:
    bodies: list[dict[str, Any]] = []

    def script(body: Mapping[str, Any]) -> str:
        bodies.append(dict(body))
        film = body["messages"][-1]["content"].split()[-1]
        if film == "1." and body["seed"] < 5:
            return ""
        return "I'm sorry, I can't help with that." if film == "2." else "A fine film."

    with BatchServer(script=script, workers=1) as server:
        job = asker(store, server, price=Price(1.0, 1.0))
        found = job.ask(requests(4))
    assert [type(one) for one in found] == [Knowledge, Knowledge, Failure, Knowledge]
    assert [one.attempts for one in found] == [1, 3, 3, 1]
    assert found[2].reason == "refusal"
    assert found[2].final
    assert found[2].completion_tokens == 3 * 7
    assert job.tally.reasons == {"refusal": 1}
    assert [body["seed"] for body in bodies] == [3] * 4 + [4] * 2 + [5] * 2
    assert {body["temperature"] for body in bodies[4:]} == {0.7}
    assert bodies[0]["max_completion_tokens"] == 20
    assert len(server.batches) == 3


def test_keys_of_a_request_are_checked(store: KnowledgeStore) -> None:
    asked = [Request("item", "1", requests(1)[0].messages, "notellm/summary", keys=("summary",))]
    with BatchServer(script=lambda body: '{"other": "x"}') as server:
        (found,) = asker(store, server, invalid_retries=0).ask(asked)
    assert isinstance(found, Failure)
    assert found.reason == "schema"


def test_truncated_answers_follow_the_acceptance(store: KnowledgeStore) -> None:
    with BatchServer(script=lambda body: f"It won. {' '.join('abcdefghijklmnopqrstu')}") as server:
        (found,) = asker(store, server, acceptance=Acceptance(truncated="trim")).ask(requests(1))
    assert isinstance(found, Knowledge)
    assert (found.text, found.finish_reason) == ("It won.", "length")


def test_failed_lines_come_again(store: KnowledgeStore, server: BatchServer) -> None:
    server.fail_lines = 0.5
    found = asker(store, server, tries=30).ask(requests(12))
    assert all(isinstance(one, Knowledge) for one in found)
    good = [line["custom_id"] for line in server.lines if line["status"] == 200]
    assert len(good) == len(set(good)) == 12
    assert len(server.lines) > 12


def test_lines_that_fail_for_ever_are_failures_that_a_later_run_takes_up(
    store: KnowledgeStore, server: BatchServer
) -> None:
    server.fail_lines = 1.0
    job = asker(store, server, tries=2)
    found = job.ask(requests(2))
    assert [(one.reason, one.final, one.attempts) for one in found] == [("server", False, 0)] * 2
    assert job.tally.failed == 2
    assert set(server.processed.values()) == {2}
    server.fail_lines = 0.0
    assert all(isinstance(one, Knowledge) for one in asker(store, server).ask(requests(2)))


def test_the_rest_of_an_expired_batch_goes_into_a_new_one(
    store: KnowledgeStore, server: BatchServer
) -> None:
    server.expire_after = 3
    found = asker(store, server, tries=9).ask(requests(8))
    assert all(isinstance(one, Knowledge) for one in found)
    assert [batch["status"] for batch in server.batches] == ["expired", "expired", "completed"]
    assert set(server.processed.values()) == {1}


def test_a_batch_that_expired_without_an_answer_is_not_taken_for_the_next_one(
    store: KnowledgeStore, server: BatchServer
) -> None:
    server.expire_after = 0
    (found,) = asker(store, server, tries=1).ask(requests(1))
    assert isinstance(found, Failure)
    assert (found.reason, found.final) == ("expired", False)
    server.expire_after = None
    (found,) = asker(store, server).ask(requests(1))
    assert isinstance(found, Knowledge)


def test_what_a_cancelled_batch_answered_is_kept(store: KnowledgeStore) -> None:
    def cancel(seconds: float) -> None:
        time.sleep(seconds)
        for batch in server.batches:
            if batch["status"] == "in_progress" and len(server.batches) == 1:
                httpx.post(f"{server.url}/batches/{batch['id']}/cancel")

    with BatchServer(script=said, latency=0.1, workers=1) as server:
        found = asker(store, server, sleep=cancel).ask(requests(6))
    assert all(isinstance(one, Knowledge) for one in found)
    assert [batch["status"] for batch in server.batches] == ["cancelled", "completed"]
    assert set(server.processed.values()) == {1}


def test_a_file_that_is_not_accepted_is_told_in_the_words_of_the_service(
    store: KnowledgeStore,
) -> None:
    class Strict(BatchServer):
        def _checked(self, batch: Any) -> Any:
            rows = [
                {"code": "model_not_found", "message": f"No '{n}'.", "line": n, "param": None}
                for n in range(1, 13)
            ]
            return [], rows

    with Strict() as server:
        with pytest.raises(UserError) as stop:
            asker(store, server).ask(requests(12))
        assert "line 1: No '1'. (model_not_found)" in str(stop.value)
        assert "and 2 more" in str(stop.value)
        assert open_parts(store) == 0
    with BatchServer(script=said) as server:
        assert len(asker(store, server).ask(requests(12))) == 12


def test_a_full_queue_is_waited_for(store: KnowledgeStore) -> None:
    class Narrow(BatchServer):
        """Lets one batch run at a time."""

        def _checked(self, batch: Any) -> Any:
            with self._lock:
                running = [one for one in self.batches if one["status"] == "in_progress"]
                if not running:
                    batch.shown["status"] = "in_progress"
                    return super()._checked(batch)
            return [], [{"code": "token_limit_exceeded", "message": "Full.", "line": None}]

    with Narrow(script=said, seconds={"in_progress": 0.3}) as server:
        found = asker(store, server, part_lines=2).ask(requests(6))
        assert all(isinstance(one, Knowledge) for one in found)
        assert set(server.processed.values()) == {1}
        assert "failed" in {batch["status"] for batch in server.batches}


def test_a_submission_whose_answer_got_lost_is_not_repeated(store: KnowledgeStore) -> None:
    class Silent(BatchServer):
        created = 0

        def _create_batch(self, request: Any) -> Any:
            self.created += 1
            answer = super()._create_batch(request)
            if self.created == 1:
                answer.status = None  # received, but the connection breaks before a byte came back
            return answer

    with Silent(script=said) as server:
        found = asker(store, server).ask(requests(3))
        assert all(isinstance(one, Knowledge) for one in found)
        assert server.created == len(server.batches) == 1


def test_a_failed_upload_is_repeated_whole(store: KnowledgeStore) -> None:
    class Failing(BatchServer):
        sizes: tuple[int, ...] = ()

        def _create_file(self, request: Any) -> Any:
            self.sizes += (len(request.body),)
            answer = super()._create_file(request)
            answer.status = 500 if len(self.sizes) == 1 else answer.status
            return answer

    with Failing(script=said) as server:
        assert len(asker(store, server).ask(requests(3))) == 3
        assert len(server.sizes) == 2
        assert len(set(server.sizes)) == 1


def test_a_broken_download_is_repeated(store: KnowledgeStore) -> None:
    class Broken(BatchServer):
        broken = 0

        def _content(self, request: Any, number: str) -> Any:
            answer = super()._content(request, number)
            self.broken += 1
            if self.broken < 3:
                answer.keep = len(answer.body) // 2
            return answer

    with Broken(script=said) as server:
        found = asker(store, server).ask(requests(5))
        assert all(isinstance(one, Knowledge) for one in found)
        assert server.broken == 3


def test_what_may_cost_too_much_waits_for_the_true_cost(
    store: KnowledgeStore, server: BatchServer
) -> None:
    price = Price(0.0, 1_000_000.0)  # one a token; at most 20 tokens an answer, at half price 10
    job = asker(store, server, price=price, budget=Budget(max_cost=27.0, price=price))
    # The first batch takes two (20 of 27); their true cost is 6; then two more; and so on.
    with pytest.raises(StageError, match="max_cost of 27 is reached"):
        job.ask(requests(20))
    assert job.tally.cost == pytest.approx(3.0 * job.tally.answered)
    assert 4 <= job.tally.answered <= 9
    assert job.tally.answered == len(store)
    assert open_parts(store) == 0
    with pytest.raises(StageError, match="max_requests of 2 is reached"):
        asker(store, server, budget=Budget(max_requests=2)).ask(requests(20))
    assert len(store) == job.tally.answered + 2


def test_ctrl_c_leaves_the_batch_running_and_the_next_run_collects_it(
    store: KnowledgeStore, server: BatchServer
) -> None:
    told: list[str] = []

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="go on at the provider"):
        asker(store, server, sleep=stop, tell=told.append).ask(requests(4))
    assert "1 batches with 4 requests" in told[0]
    # Another recipe asks less by now; what was paid for is kept all the same.
    assert len(asker(store, server).ask(requests(1))) == 1
    assert len(store) == 4
    assert len(server.batches) == 1


def interrupted(store: KnowledgeStore, server: BatchServer, count: int, **more: Any) -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asker(store, server, sleep=stop, **more).ask(requests(count))


def test_nobody_waits_for_a_batch_that_answers_nothing_asked_now(store: KnowledgeStore) -> None:
    with BatchServer(script=said, seconds={"validating": 1.0}) as server:
        interrupted(store, server, 3)
        store.put_many([_known(asker(store, server), requests(1, start=9)[0])])
        before = time.monotonic()
        assert asker(store, server).ask(requests(1, start=9))[0].entity == "9"
        assert time.monotonic() - before < 0.9
        assert open_parts(store) == 1
        while server.batches[0]["status"] != "completed":
            time.sleep(0.02)
        asker(store, server).ask([])
        assert (len(store), open_parts(store)) == (4, 0)


def test_what_runs_already_counts_against_the_budget(
    store: KnowledgeStore, server: BatchServer
) -> None:
    price = Price(0.0, 1_000_000.0)

    def budget() -> Budget:
        return Budget(max_cost=27.0, price=price, spent=store.spent().cost)

    interrupted(store, server, 2, price=price, budget=budget())
    job = asker(store, server, price=price, budget=budget())
    # 20 of 27 are taken until the first two are collected, for 6; then two more fit.
    assert all(isinstance(one, Knowledge) for one in job.ask(requests(4)))
    assert [batch["request_counts"]["total"] for batch in server.batches] == [2, 2]


def _known(job: BatchAsker, request: Request) -> Knowledge:
    return Knowledge(
        key=job.key(request),
        kind=request.kind,
        entity=request.entity,
        model=MODEL,
        params=PARAMS,
        messages=request.messages,
        chain=request.chain,
        text="It won.",
    )


def test_other_parameters_leave_an_open_batch_alone(
    store: KnowledgeStore, server: BatchServer
) -> None:
    interrupted(store, server, 1)
    asker(store, server, params={**PARAMS, "seed": 4}).ask(requests(1))
    assert open_parts(store) == 1
    asker(store, server).ask(requests(1))
    assert open_parts(store) == 0
    assert set(server.processed.values()) == {1}


def test_refusals_of_the_service(store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer(key_required="sk-right-key") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-0123")
        with pytest.raises(UserError, match="the key was refused") as stop:
            asker(store, server).ask(requests(1))
        assert "sk-wrong" not in str(stop.value)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right-key")
        assert asker(store, server).ask(requests(1))[0].entity == "0"
        assert b"sk-right" not in store.path.read_bytes()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MissingError, match="OPENAI_API_KEY"):
        BatchAsker(store, model_name=MODEL, params=PARAMS).ask(requests(1))
    with pytest.raises(UserError, match="cannot be asked through the Batch API"):
        BatchAsker(store, model_name="local:smollm2", params=PARAMS)


def test_a_service_that_does_not_answer_ends_the_job_and_loses_nothing(
    store: KnowledgeStore, server: BatchServer
) -> None:
    class Moody(BatchServer):
        moody = False

        def _show_batch(self, request: Any, number: str) -> Any:
            answer = super()._show_batch(request, number)
            answer.status = 503 if self.moody else answer.status
            return answer

    with Moody(script=said) as moody:
        moody.moody = True
        service = BatchService(moody.url, max_retries=0, patience=Patience(in_a_row=3))
        with pytest.raises(StageError, match="Nothing is lost"):
            asker(store, moody, service=service).ask(requests(2))
        moody.moody = False
        assert len(asker(store, moody).ask(requests(2))) == 2
        assert len(moody.batches) == 1


def test_a_batch_that_the_server_does_not_know_is_told(
    store: KnowledgeStore, server: BatchServer
) -> None:
    job = asker(store, server)
    with BatchLedger(store.path) as ledger:
        line = job._line("k", requests(1)[0], 0)
        part = ledger.plan(job._scope, [line], model=MODEL, now=0)
        ledger.submitted(part.part, "batch_gone")
    with pytest.raises(UserError, match="prune RUN --batches"):
        job.ask(requests(1))


def test_one_process_at_a_time(store: KnowledgeStore, server: BatchServer) -> None:
    def second(seconds: float) -> None:
        with pytest.raises(BusyError):
            asker(store, server).ask(requests(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asker(store, server, sleep=second).ask(requests(1))


def test_the_ledger_needs_a_knowledge_store(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("no database at all, but long enough to look like a header")
    with pytest.raises(DataError):
        BatchLedger(tmp_path / "other")
    with BatchLedger(tmp_path / "new") as ledger:
        assert ledger.open_parts() == []
    with KnowledgeStore(tmp_path / "new") as store:
        assert len(store) == 0


# A process that is killed at every step in turn; each time a fork of one that has imported all.
KILLED = """
import os
import signal
import sys
from pathlib import Path

from tests_of_batches import FAST, MODEL, PARAMS, requests

from tastemaker.agents.batch_api import BatchAsker
from tastemaker.agents.batch_ledger import BatchLedger
from tastemaker.agents.batch_service import BatchService
from tastemaker.agents.knowledge import KnowledgeStore

COLLECTED = 0


def dies(owner, name, *, before=False, skip=0):
    whole = getattr(owner, name)
    calls = []

    def call(*arguments, **options):
        calls.append(name)
        if before and len(calls) > skip:
            os.kill(os.getpid(), signal.SIGKILL)
        found = whole(*arguments, **options)
        if len(calls) > skip:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, call)


STEPS = {
    "planned": lambda: dies(BatchLedger, "plan"),
    "first of two planned, upload next": lambda: dies(BatchService, "upload", before=True),
    "uploaded, not noted": lambda: dies(BatchService, "upload"),
    "uploaded": lambda: dies(BatchLedger, "uploaded"),
    "submitted, not noted": lambda: dies(BatchService, "submit"),
    "second submitted, not noted": lambda: dies(BatchService, "submit", skip=1),
    "submitted": lambda: dies(BatchLedger, "submitted"),
    "polling": lambda: dies(BatchService, "look", skip=3),
    "answers arrived": lambda: dies(KnowledgeStore, "put_many", before=True),
    "some answers stored": lambda: dies(KnowledgeStore, "put_many"),
    "all answers of a part stored": lambda: dies(BatchLedger, "end", before=True),
    "a part collected": lambda: dies(BatchLedger, "end"),
}


def run(folder, url):
    with KnowledgeStore(folder / "knowledge.sqlite") as store:
        BatchAsker(
            store, model_name=MODEL, params=PARAMS, base_url=url, part_lines=4, patience=FAST,
            first_pause=0.01, longest_pause=0.05,
        ).ask(requests(7, start=int(folder.name)))


def child(step, folder, url):
    number = os.fork()
    if number:
        return os.waitpid(number, 0)[1]
    try:
        if step:
            STEPS[step]()
        run(folder, url)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


import tastemaker.agents.batch_api as batch_api

batch_api._BLOCK = 3
root, url = Path(sys.argv[1]), sys.argv[2]
for place, step in enumerate(STEPS):
    folder = root / str(1000 * (place + 1))
    assert child(step, folder, url) == signal.SIGKILL, step
    assert child(step, folder, url) in (signal.SIGKILL, 0), step  # a second time, perhaps later
    assert child(None, folder, url) == 0, step
    with KnowledgeStore(folder / "knowledge.sqlite") as store:
        outcomes = store.counts()
    assert sum(row[-1] for row in outcomes) == 7, (step, outcomes)
    print(step)
"""


@pytest.mark.slow
def test_killed_at_any_step_every_line_is_worked_on_once(tmp_path: Path) -> None:
    def script(body: Mapping[str, Any]) -> str:
        number = int(body["messages"][-1]["content"].split()[-1].strip("."))
        return "" if number % 1000 == 2 else said(body)  # one is unusable at every attempt

    with BatchServer(script=script) as server:
        found = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), server.url],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_as_module(tmp_path))},
            timeout=200,
        )
        assert found.returncode == 0, found.stderr
        steps = found.stdout.splitlines()
        assert len(steps) == 12
        bodies = server.processed_bodies
        # Attempts differ in their seed, so their bodies do; none was ever worked on twice.
        assert set(bodies.values()) == {1}
        assert len(bodies) == 12 * (7 + 2)
    for place in range(12):
        with KnowledgeStore(tmp_path / str(1000 * (place + 1)) / "knowledge.sqlite") as store:
            (failure,) = store.each(Failure)
            assert (failure.reason, failure.attempts, failure.final) == ("empty", 3, True)
            assert failure.prompt_tokens == 3 * 3
            assert open_parts(store) == 0


def _as_module(folder: Path) -> Path:
    """This file's own requests and settings, for a process outside of pytest."""
    home = folder / "modules"
    home.mkdir()
    (home / "tests_of_batches.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    return home
