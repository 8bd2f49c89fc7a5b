from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tastemaker.agents.answers import Acceptance
from tastemaker.agents.asking import Asker
from tastemaker.agents.chat_models import chat_model, check_chat_model
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.agents.questions import item_questions
from tastemaker.agents.reasoning import Single
from tastemaker.errors import MissingError, UnknownNameError, UserError
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import checkerboard


def scripted(name: str = "scripted:echo", *, max_tokens: int = 100) -> Any:
    return chat_model(name, max_tokens=max_tokens, temperature=0.0)


def test_echo_depends_on_the_whole_conversation_and_on_nothing_else() -> None:
    first = scripted().invoke("Who made Heat?").text
    assert first == scripted().invoke([HumanMessage("Who made Heat?")]).text
    assert first.endswith(" Who made Heat?")
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    assert scripted().invoke(conversation).text != scripted().invoke(conversation[1:]).text


def test_scripted_answers_are_cut_and_counted_like_others() -> None:
    model = scripted(max_tokens=2)
    found = model.invoke("one two three")
    assert found.text.split()[1:] == ["one"]
    assert found.response_metadata["finish_reason"] == "length"
    assert found.usage_metadata == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    assert scripted().invoke("one").response_metadata["finish_reason"] == "stop"
    model.batch(["a", "b"])
    assert model.requests == 3


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("smollm2", UserError, "not of the form provider:model"),
        ("local:", UserError, "not of the form provider:model"),
        ("opnai:gpt-4o-mini", UnknownNameError, "did you mean 'openai'"),
        ("lokal:smollm2", UnknownNameError, "did you mean 'local'"),
        ("scripted:ecco", UnknownNameError, "did you mean 'echo'"),
        ("local:no/such-model", MissingError, "hf download no/such-model"),
        ("perplexity:sonar", MissingError, "pip install langchain-perplexity"),
        ("openai:gpt-4o-mini", MissingError, "export OPENAI_API_KEY"),
    ],
)
def test_what_is_wrong_with_a_name(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: type[UserError], message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for attempt in (
        lambda: check_chat_model(name),
        lambda: chat_model(name, max_tokens=5, temperature=0.0),
    ):
        with pytest.raises(kind) as caught:
            attempt()
        assert message in str(caught.value)


def test_models_of_this_process_take_no_address() -> None:
    for name in ("local:smollm2", "scripted:echo"):
        with pytest.raises(UserError, match="takes no base_url"):
            check_chat_model(name, base_url="http://localhost/v1")


def test_a_good_name_passes_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for name in ("local:smollm2", "scripted:echo", "openai:gpt-4o-mini"):
        check_chat_model(name)


def test_names_are_checked_without_loading_torch() -> None:
    code = (
        "import sys, tastemaker.agents.chat_models as it; it.check_chat_model('scripted:echo');"
        "print([name for name in ('torch', 'transformers', 'openai') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Service(BaseHTTPRequestHandler):
    """Speaks the OpenAI protocol; remembers what it was sent."""

    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"key": self.headers["Authorization"], "path": self.path, **body})
        said = body["messages"][-1]["content"][-20:]
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "length",
                    "message": {"role": "assistant", "content": f" About {said} "},
                }
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def service() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    seen: list[dict[str, Any]] = []
    handler = type("Seen", (Service,), {"seen": seen})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
        server.shutdown()
        thread.join()


def test_a_service_is_asked_and_its_answers_are_kept_without_the_key(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    service: tuple[str, list[dict[str, Any]]],
) -> None:
    url, seen = service
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    options: dict[str, Any] = {"max_tokens": 9, "temperature": 0.5}
    model = chat_model("openai:small", base_url=url, seed=3, **options)
    template = find_template("kar/item_movies")
    questions = item_questions(checkerboard(4, 5, events=4), items=range(5), templates=[template])
    with KnowledgeStore(tmp_path / "store.sqlite") as store:
        asker = Asker(
            model,
            store,
            model_name="openai:small",
            params=options,
            base_url=url,
            acceptance=Acceptance(truncated="keep"),
        )
        chain = Single(asker, {"item": template})
        found = [one.last for one in chain.batch(list(questions))]
    assert [one.entity for one in found] == ["0", "1", "2", "3", "4"]
    assert all(one.text == f"About {one.messages[0]['content'][-20:]}" for one in found)
    assert {(one.finish_reason, one.prompt_tokens, one.completion_tokens) for one in found} == {
        ("length", 11, 4)
    }
    assert len(seen) == 5
    assert {request["key"] for request in seen} == {"Bearer sk-very-secret"}
    assert {(one["model"], one["temperature"], one["seed"]) for one in seen} == {("small", 0.5, 3)}
    assert "secret" not in repr(model)
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_local_server_needs_no_key(
    monkeypatch: pytest.MonkeyPatch, service: tuple[str, list[dict[str, Any]]]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = chat_model("openai:small", max_tokens=9, temperature=0.0, base_url=service[0])
    assert model.invoke("Hello?").text.strip() == "About Hello?"
