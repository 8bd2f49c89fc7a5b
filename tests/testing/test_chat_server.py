from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI

from tastemaker.errors import StageError
from tastemaker.testing.chat_server import chat_server
from tastemaker.testing.fault_proxy import FaultProxy
from tastemaker.testing.server_process import free_port, running_server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="transformers[serving] is not installed"
)
QUESTION = [{"role": "user", "content": "Name a film."}]


@pytest.fixture(scope="module")
def url(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chat_server(llama_folder, log=tmp_path_factory.mktemp("server") / "log") as base_url:
        yield base_url


def test_the_openai_client_gets_answers(url: str, llama_folder: Path) -> None:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert client.models.list().data == []
        answer = client.chat.completions.create(
            model=str(llama_folder), messages=QUESTION, max_tokens=5, temperature=0
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
        assert answer.usage.prompt_tokens > 5
        assert answer.choices[0].finish_reason == "length"
        assert answer.choices[0].message.content
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="other", messages=QUESTION)


def test_langchain_gets_answers_through_a_proxy(url: str, llama_folder: Path) -> None:
    with FaultProxy(url, seed=0, faults={"drop": 1.0}, first_only=True) as proxy:
        with httpx.Client(trust_env=False) as http:
            model = ChatOpenAI(
                model=str(llama_folder),
                base_url=proxy.url,
                api_key="none",
                max_tokens=4,
                temperature=0,
                http_client=http,
            )
            answer = model.invoke("Name a film.")
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 4
        assert answer.response_metadata["finish_reason"] == "length"
        assert [record.fault for record in proxy.records] == ["drop", "passed"]


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(StageError, match="cannot serve today"),
        running_server(
            ["-c", "raise SystemExit('cannot serve today')"],
            ready=f"http://127.0.0.1:{free_port()}/",
            log=tmp_path / "log",
        ),
    ):
        pass


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with (
        pytest.raises(StageError, match="did not answer within"),
        running_server(
            ["-c", "import time; time.sleep(60)"],
            ready=f"http://127.0.0.1:{free_port()}/",
            log=tmp_path / "log",
            limit=0.3,
        ),
    ):
        pass
