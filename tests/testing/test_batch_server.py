from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from tastemaker.errors import UnknownNameError
from tastemaker.testing.batch_lines import MOST_LINES, read_lines
from tastemaker.testing.batch_server import BatchServer
from tastemaker.testing.fault_proxy import FaultProxy
from tastemaker.testing.http_answers import request_key

URL = "/v1/chat/completions"
OVER = {"completed", "failed", "expired", "cancelled"}


def line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"Frage {number} — ü"}]}
    return {"custom_id": f"row-{number}", "method": "POST", "url": URL, "body": body, **changes}


@contextmanager
def client(server: BatchServer, key: str = "any") -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key=key, max_retries=0) as opened:
        yield opened


def submit(api: openai.OpenAI, rows: Sequence[dict[str, Any]], **options: Any) -> Batch:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    file = api.files.create(file=("input.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose) == (len(content), "input.jsonl", "batch")
    assert api.files.content(file.id).content == content
    return api.batches.create(
        input_file_id=file.id, endpoint=URL, completion_window="24h", **options
    )


def ended(api: openai.OpenAI, batch: Batch) -> Batch:
    until = time.monotonic() + 10
    while batch.status not in OVER:
        assert time.monotonic() < until, batch
        time.sleep(0.01)
        batch = api.batches.retrieve(batch.id)
    return batch


def rows_of(api: openai.OpenAI, number: str | None) -> list[dict[str, Any]]:
    assert number is not None
    return [json.loads(row) for row in api.files.content(number).text.splitlines()]


def test_a_batch_runs_through_its_phases() -> None:
    seconds = {"validating": 0.3, "in_progress": 0.3, "finalizing": 0.3}
    with BatchServer(seconds=seconds) as server, client(server) as api:
        batch = submit(api, [line(number) for number in range(20)], metadata={"run": "seven"})
        seen = [batch.status]
        while batch.status not in OVER:
            batch = api.batches.retrieve(batch.id)
            if batch.status != seen[-1]:
                seen.append(batch.status)
        assert seen == ["validating", "in_progress", "finalizing", "completed"]
        assert batch.metadata == {"run": "seven"}
        assert batch.model == "tiny"
        assert batch.error_file_id is None
        assert batch.request_counts is not None
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (20, 20, 0)
        rows = rows_of(api, batch.output_file_id)
        ids = [row["custom_id"] for row in rows]
        assert sorted(ids) == sorted(f"row-{number}" for number in range(20))
        assert ids != [f"row-{number}" for number in range(20)]
        for row in rows:
            body = row["response"]["body"]
            assert row["response"]["status_code"] == 200
            assert row["error"] is None
            number = row["custom_id"].removeprefix("row-")
            assert body["choices"][0]["message"]["content"].endswith(f"Frage {number} — ü")
        assert batch.usage is not None
        assert batch.usage.input_tokens == 20 * 4
        assert set(server.processed.values()) == {1}
        assert server.processed_bodies[request_key(line(3)["body"])] == 1


@pytest.mark.parametrize(
    ("rows", "code", "number"),
    [
        ([], "empty_file", None),
        ([line(0), line(1), line(0)], "duplicate_custom_id", 3),
        ([line(0, method="GET")], "invalid_method", 1),
        ([line(0), line(1, url="/v1/embeddings")], "url_mismatch", 2),
        ([line(0), line(1, body={"model": "other", "messages": []})], "model_mismatch", 2),
        ([line(0, body={"model": "no", "messages": []})], "model_not_found", 1),
        ([line(0, custom_id=None)], "missing_required_parameter", 1),
        ([[1]], "invalid_json_line", 1),
    ],
)
def test_a_wrong_file_fails_its_batch(rows: list[Any], code: str, number: int | None) -> None:
    with BatchServer(models=["tiny", "other"]) as server, client(server) as api:
        batch = ended(api, submit(api, rows))
        assert batch.status == "failed"
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [(error.code, error.line) for error in batch.errors.data] == [(code, number)]
        assert batch.output_file_id is None
        assert not server.lines


def test_the_length_of_a_file_is_limited() -> None:
    _, (error,) = read_lines(b"{}\n" * (MOST_LINES + 1), url=URL)
    assert error["code"] == "too_many_tasks"


def test_failing_lines_stand_in_the_error_file_and_may_come_again() -> None:
    rows = [line(number) for number in range(40)]
    with BatchServer(fail_lines=0.5, seed=1) as server, client(server) as api:
        batch = ended(api, submit(api, rows))
        failed = rows_of(api, batch.error_file_id)
        assert 8 < len(failed) < 32
        assert {row["response"]["status_code"] for row in failed} == {500}
        assert len(rows_of(api, batch.output_file_id)) == 40 - len(failed)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.failed == len(failed)
        names = {row["custom_id"] for row in failed}
        again = ended(api, submit(api, [row for row in rows if row["custom_id"] in names]))
        assert again.output_file_id is not None  # some get through the second time
        assert {name for name, times in server.processed.items() if times == 2} == names
        server.fail_lines = 1.0
        assert ended(api, submit(api, rows)).output_file_id is None


def test_an_expired_batch_keeps_what_was_done() -> None:
    rows = [line(number) for number in range(10)]
    with BatchServer(expire_after=4) as server, client(server) as api:
        batch = ended(api, submit(api, rows))
        assert batch.status == "expired"
        assert batch.expired_at is not None
        done = {row["custom_id"] for row in rows_of(api, batch.output_file_id)}
        left = rows_of(api, batch.error_file_id)
        assert len(done) == 4
        assert {(row["error"]["code"], row["response"]) for row in left} == {
            ("batch_expired", None)
        }
        assert set(server.processed) == done
        server.expire_after = None
        rest = [row for row in rows if row["custom_id"] not in done]
        assert ended(api, submit(api, rest)).status == "completed"
        assert set(server.processed.values()) == {1}


def test_a_batch_can_be_cancelled() -> None:
    with BatchServer(latency=0.05, workers=1) as server, client(server) as api:
        batch = submit(api, [line(number) for number in range(100)])
        while not server.lines:
            time.sleep(0.01)
        assert api.batches.cancel(batch.id).status == "cancelling"
        batch = ended(api, batch)
        assert batch.status == "cancelled"
        done = rows_of(api, batch.output_file_id)
        assert 0 < len(done) == len(server.lines) < 100
        codes = [row["error"]["code"] for row in rows_of(api, batch.error_file_id)]
        assert codes == ["batch_cancelled"] * (100 - len(done))
        with pytest.raises(openai.ConflictError):
            api.batches.cancel(batch.id)


def test_lists_and_files() -> None:
    with BatchServer() as server, client(server) as api:
        batches = [submit(api, [line(number)], metadata={"n": str(number)}) for number in range(5)]
        listed = [batch.id for batch in api.batches.list(limit=2)]  # three pages
        assert listed == [batch.id for batch in batches[::-1]]
        for batch in batches:
            ended(api, batch)
        assert len(list(api.files.list())) == 10
        number = batches[0].input_file_id
        assert api.files.retrieve(number).status == "processed"
        assert api.files.delete(number).deleted
        with pytest.raises(openai.NotFoundError):
            api.files.content(number)
        with pytest.raises(openai.NotFoundError):
            api.batches.retrieve("batch_none")


def test_wrong_requests_are_turned_away() -> None:
    with BatchServer(key_required="right") as server:
        with client(server, "wrong") as api, pytest.raises(openai.AuthenticationError):
            submit(api, [line(0)])
        with client(server, "right") as api:
            with pytest.raises(openai.BadRequestError):
                api.batches.create(
                    input_file_id="x", endpoint="/v1/embeddings", completion_window="24h"
                )
            lost: dict[str, Any] = {"endpoint": URL, "completion_window": "24h"}
            batch = ended(api, api.batches.create(input_file_id="file-none", **lost))
            assert batch.status == "failed"
            with pytest.raises(openai.BadRequestError):
                api.batches.create(
                    input_file_id="x",
                    endpoint=URL,
                    completion_window="1h",  # type: ignore[arg-type]
                )
    with pytest.raises(UnknownNameError):
        BatchServer(seconds={"waiting": 1})


def test_lines_are_forwarded_and_the_api_may_stand_behind_faults() -> None:
    with FaultProxy(seed=0, faults={"server_error": 0.5}) as upstream:
        with BatchServer(upstream.url) as server, client(server) as api:
            batch = ended(api, submit(api, [line(number) for number in range(20)]))
            failed = len(rows_of(api, batch.error_file_id))
            assert failed == upstream.faults_injected["server_error"]
            assert 0 < failed < 20
        # A batch was made, but its answer never arrived: only the list tells.
        with BatchServer() as server, client(server) as api:
            file = api.files.create(
                file=("input.jsonl", json.dumps(line(0)).encode()), purpose="batch"
            )
            with FaultProxy(server.url, seed=0, faults={"close": 1.0}) as proxy:
                asked = {"input_file_id": file.id, "endpoint": URL, "completion_window": "24h"}
                with pytest.raises(httpx.RemoteProtocolError):
                    httpx.post(f"{proxy.url}/batches", json=asked, trust_env=False)
            (batch,) = api.batches.list()
            assert ended(api, batch).status == "completed"


def test_stops_in_the_middle() -> None:
    with BatchServer(seconds={"in_progress": 60}, latency=1) as server, client(server) as api:
        submit(api, [line(0)])
        started = time.monotonic()
    assert time.monotonic() - started < 5
