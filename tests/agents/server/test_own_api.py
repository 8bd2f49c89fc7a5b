"""Items without words, conversations, and what the page asks for."""

import json
import math
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import httpx
import numpy as np
import pytest

from tastemaker.agents.server.shapes import plain


@pytest.fixture(scope="module")
def chat(scripted: Callable[..., Any]) -> Any:
    return scripted()


@pytest.fixture(scope="module")
def client(chat: Any, serve: Callable[..., Any]) -> Iterator[httpx.Client]:
    with serve(chat) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def events(found: httpx.Response) -> list[dict[str, Any]]:
    assert found.headers["Content-Type"].startswith("text/event-stream")
    frames = found.text.split("\n\n")
    assert frames.pop() == ""
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def test_recommended_items_satisfy_what_is_demanded(client: httpx.Client) -> None:
    body = {
        "user": "u01",
        "conditions": [
            {"column": "categories", "operator": "any_of", "values": ["Crime"]},
            {"column": "price", "operator": "at_most", "values": [11]},
        ],
    }
    items = client.post("/v1/recommend", json=body).json()["items"]
    assert [item["title"] for item in items] == ["High Tide, The"]
    assert items[0]["item_id"] == "108"
    assert items[0]["values"]["categories"] == ["Crime"]
    assert len(items[0]["reasons"]) == 2


def test_similar_items(client: httpx.Client) -> None:
    found = client.post("/v1/similar", json={"items": ["Cold Harbour"], "count": 3})
    assert len(found.json()["items"]) == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/recommend", {"user": "nobody"}, 400, "nobody"),
        ("/v1/recommend", {"cuont": 3}, 422, "cuont"),
        ("/v1/recommend", {"count": 101}, 422, "count"),
        ("/v1/recommend", {"user": "\ud800"}, 422, "user"),
        ("/v1/recommend", {"likes": ["x"] * 101}, 422, "likes"),
        ("/v1/similar", {"items": []}, 422, "items"),
        ("/api/conversations", {"user": "nobody"}, 404, "nobody"),
        ("/api/conversations/x/messages", {"text": ""}, 422, "text"),
        ("/api/conversations/x/messages", {"text": "x" * 4001}, 400, "4,000"),
        ("/api/conversations/x/messages", {"text": "hello"}, 400, "unknown conversation"),
    ],
)
def test_wrong_bodies(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    kind = {"Content-Type": "application/json"}
    found = client.post(path, content=json.dumps(body), headers=kind)
    assert found.status_code == status
    assert words in found.json()["error"]["message"]


@pytest.mark.parametrize(
    ("column", "operator", "values", "words"),
    [
        ("prise", "at_most", [3], "facets: categories, brand, price"),
        ("price", "at_most", ["cheap"], "one finite number"),
        ("price", "at_most", [3, 4], "one finite number"),
        ("brand", "any_of", [3], "one or more texts"),
        ("brand", "is", ["Oak"], "operator"),
    ],
)
def test_wrong_conditions(
    client: httpx.Client, column: str, operator: str, values: list[Any], words: str
) -> None:
    body = {"conditions": [{"column": column, "operator": operator, "values": values}]}
    found = client.post("/v1/recommend", json=body)
    assert found.status_code in {400, 422}
    assert words in found.json()["error"]["message"]


def test_a_conversation_from_its_beginning_to_its_transcript(client: httpx.Client) -> None:
    begun = client.post("/api/conversations", json={"user": "u03"})
    assert begun.status_code == 201
    place = f"/api/conversations/{begun.json()['id']}"
    told = events(client.post(f"{place}/messages", json={"text": "A novel"}))
    assert [event["kind"] for event in told[:2]] == ["cards", "text"]
    assert told[-1] == {"kind": "done", "expired": False}
    text = "".join(event.get("text", "") for event in told)
    liked = told[0]["cards"][1]["item_id"]
    client.post(f"{place}/messages", json={"text": "/like 2"})
    kept = client.get(place).json()
    assert kept["user"] == "u03"
    assert kept["state"]["likes"] == [liked]
    assert [one["text"] for one in kept["messages"][:3]] == ["A novel", text, "/like 2"]
    assert kept["messages"][1]["cards"][1]["item_id"] == liked


def test_an_error_after_the_first_words_is_the_last_event(client: httpx.Client) -> None:
    name = client.post("/api/conversations", json={}).json()["id"]
    told = events(client.post(f"/api/conversations/{name}/messages", json={"text": "broken"}))
    assert told[-1]["kind"] == "error"
    assert told[-1]["error"]["code"] == "internal_error"
    assert "/some/folder" not in json.dumps(told)
    assert "done" not in [event["kind"] for event in told]


def test_a_conversation_that_is_not_known(client: httpx.Client) -> None:
    found = client.get("/api/conversations/unknown")
    assert found.status_code == 404
    assert found.json()["error"]["code"] == "not_found"


def test_users_and_facets(client: httpx.Client, chat: Any) -> None:
    found = client.get("/api/users", params={"query": "u1", "count": 3}).json()
    assert [user["user_id"] for user in found] == ["u10", "u11", "u12"]
    assert client.get("/api/users", params={"count": 1000}).status_code == 422
    facets = client.get("/api/facets").json()
    assert [facet["name"] for facet in facets] == [facet.name for facet in chat.facets]
    (price,) = [facet for facet in facets if facet["kind"] == "number"]
    assert price["low"] < price["high"]


def test_metrics_count_answers_and_their_words(client: httpx.Client) -> None:
    def count(name: str) -> float:
        (line,) = [
            line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " ")
        ]
        return float(line.split()[-1])

    before = count("tastemaker_answer_tokens_total")
    name = client.post("/api/conversations", json={}).json()["id"]
    client.post(f"/api/conversations/{name}/messages", json={"text": "A novel"})
    assert count("tastemaker_answer_tokens_total") > before + 10
    assert count('tastemaker_answers_total{end="done"}') >= 1
    assert count("tastemaker_in_flight") == 1  # this one
    assert count("tastemaker_answers_running") == 0


def test_operations_are_described_with_their_errors(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/recommend", "/v1/similar", "/health"} <= set(paths)
    for methods in paths.values():
        for operation in methods.values():
            assert operation["description"]
            refused = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert refused["$ref"].endswith("/ErrorBody")


def test_any_value_of_a_catalogue_becomes_json() -> None:
    values = {
        "numbers": (np.int64(3), np.float32(0.5), math.nan, math.inf, True, None),
        "array": np.array([[1, 2]]),
        "day": date(2020, 1, 2),
        3: frozenset({"x"}),
        "other": 1j,
    }
    found = plain(values)
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "numbers": [3, 0.5, None, None, True, None],
        "array": [[1, 2]],
        "day": "2020-01-02",
        "3": ["x"],
        "other": "1j",
    }
