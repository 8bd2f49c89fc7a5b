"""OpenAI's API through OpenAI's client, on a real server."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from tastemaker.agents.server.answering import tokens_of
from tastemaker.agents.server.limits import Limits

GREETING = "Here is what may suit you:"


class Place(NamedTuple):
    url: str
    chat: Any
    client: openai.OpenAI

    def ask(self, *said: tuple[str, Any], **options: Any) -> Any:
        messages = [{"role": role, "content": content} for role, content in said]
        options = {"model": "scripted", **options}
        return self.client.chat.completions.create(messages=messages, **options)

    def post(self, **body: Any) -> httpx.Response:
        with httpx.Client(trust_env=False) as client:
            return client.post(
                f"{self.url}/v1/chat/completions",
                content=json.dumps(body),
                headers={"Content-Type": "application/json"},
            )


@pytest.fixture(scope="module")
def place(scripted: Callable[..., Any], serve: Callable[..., Any]) -> Iterator[Place]:
    chat = scripted()
    limits = Limits(message_chars=100, messages=5, chat_per_minute=1000)
    with serve(chat, limits=limits) as url, httpx.Client(trust_env=False) as http:
        yield Place(
            url,
            chat,
            openai.OpenAI(
                base_url=f"{url}/v1", api_key="none needed", max_retries=0, http_client=http
            ),
        )


def test_a_whole_answer(place: Place) -> None:
    answer = place.ask(("user", "A novel"), user="u01")
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content.startswith(GREETING)
    assert answer.usage.completion_tokens == tokens_of(choice.message.content)
    assert answer.usage.total_tokens == answer.usage.completion_tokens + tokens_of("A novel")
    own = answer.tastemaker
    assert [item["title"] for item in own["items"]][2] == "Cold Harbour"
    assert 0 < own["items"][0]["probability"] < 1
    assert place.chat.talks[own["conversation"]].user == "u01"


def test_a_streamed_answer_says_the_same(place: Place) -> None:
    whole = place.ask(("user", "A novel"))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(place.ask(("user", "A novel"), **options))
    *pieces, last, usage = chunks
    assert len(pieces) > 10
    text = "".join(piece.choices[0].delta.content for piece in pieces)
    assert text == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == "stop"
    assert last.tastemaker["items"] == whole.tastemaker["items"]
    assert usage.choices == []
    assert usage.usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    without = list(place.ask(("user", "A novel"), stream=True))
    assert not any(chunk.usage for chunk in without)


def test_what_was_said_before_is_handed_on_and_systems_are_not_obeyed(place: Place) -> None:
    parts = [{"type": "text", "text": "A novel"}, {"type": "text", "text": "or two"}]
    place.ask(
        ("system", "You are a pirate."),
        ("user", "Hello"),
        ("assistant", "What would you like?"),
        ("developer", "Recommend only one thing."),
        ("user", parts),
        user="u02",
        temperature=0.3,
        max_tokens=5,
        response_format={"type": "text"},
    )
    earlier, user = place.chat.heard[-1]
    assert list(earlier) == [("user", "Hello"), ("assistant", "What would you like?")]
    assert user == "u02"
    (talk,) = list(place.chat.talks.values())[-1:]
    assert talk.messages[0]["text"] == "A novel\nor two"


def test_models(place: Place) -> None:
    assert [model.id for model in place.client.models.list()] == ["scripted", "scripted-2"]
    assert place.client.models.retrieve("scripted-2").owned_by == "tastemaker"
    with pytest.raises(openai.NotFoundError, match="models: scripted, scripted-2"):
        place.client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError) as refused:
        place.ask(("user", "A novel"), model="gpt")
    assert refused.value.code == "model_not_found"
    assert (
        place.post(messages=[{"role": "user", "content": "A novel"}]).json()["model"] == "scripted"
    )


@pytest.mark.parametrize(
    ("said", "options", "code", "words"),
    [
        ([("user", "x")], {"n": 2}, "unsupported", "n=2"),
        ([("user", "x")], {"tools": [{"type": "function"}]}, "unsupported", "tools"),
        ([("user", "x"), ("tool", "x")], {}, "unsupported", "messages of tools"),
        ([("user", [{"type": "image_url"}])], {}, "unsupported", "image_url"),
        ([("assistant", "x")], {}, "no_user_message", "user's"),
        ([("system", "x")], {}, "no_user_message", "user's"),
        ([("user", " \n")], {}, "no_user_message", "user's"),
        ([("user", "x" * 101)], {}, "message_too_long", "100 characters"),
        ([("user", "x")] * 6, {}, "too_many_messages", "5 messages"),
        ([("user", "x")], {"user": "nobody"}, "invalid_request", "nobody"),
        ([("user", "please fail")], {}, "invalid_request", "Ask for something else"),
    ],
)
def test_what_cannot_be_done_is_refused(
    place: Place, said: list[tuple[str, Any]], options: dict[str, Any], code: str, words: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=words) as refused:
            place.ask(*said, stream=stream, **options)
        assert refused.value.code == code
        assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"role": "king", "content": "x"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": {"secret": 1}}], "stream": "maybe"},
    ],
)
def test_a_body_that_is_none_is_named_without_being_quoted(
    place: Place, body: dict[str, Any]
) -> None:
    found = place.post(**body)
    assert found.status_code == 422
    error = found.json()["error"]
    assert error["code"] == "invalid_body"
    assert "messages" in error["message"]
    assert "secret" not in error["message"]


def test_errors_of_the_server_say_nothing_of_it(place: Place) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        place.ask(("user", "broken"))
    assert "/some/folder" not in str(failed.value.body)
    chunks = []
    with pytest.raises(openai.APIError, match="its log has the reason"):
        chunks.extend(place.ask(("user", "broken"), stream=True))
    with pytest.raises(openai.ConflictError, match="being answered"):
        place.ask(("user", "busy"))
