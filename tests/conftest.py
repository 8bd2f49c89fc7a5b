"""Shared by all rooms: nothing is fetched, and models are unpacked once for the whole suite."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from tastemaker.cli import main

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"
# Two shared cores make single examples slow now and then; a deadline would only add noise.
settings.register_profile("tastemaker", deadline=None)
settings.load_profile("tastemaker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file goes first, so that two workers end at about the same time."""
    items.sort(key=lambda item: "test_quickstart" not in item.nodeid)


def pytest_collection_finish() -> None:
    """Thousands of collected tests need not be looked at by every garbage collection."""
    gc.collect()
    gc.freeze()


class Found(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Found]


@pytest.fixture
def tastemaker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Found]:
    """Run the entry point in this process: what a shell would run, without seconds of imports."""

    def call(*arguments: str, cwd: Path) -> Found:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["tastemaker", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return Found(int(stop.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: SmolLM2's tokenizer and chat template, two small random layers."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tastemaker.models.language import language_model_folder, quiet_loading

    path = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(language_model_folder("smollm2"))
    tokenizer.save_pretrained(path)
    with torch.random.fork_rng(), quiet_loading():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                initializer_range=0.3,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
            )
        )
        model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a small T5 that starts from nothing, with 16 rows of whole words."""
    from tastemaker.models.new_t5 import T5Shape, make_t5

    path = tmp_path_factory.mktemp("t5") / "model"
    texts = [f"user_{7 * place} gives item_{131 * place} : Yes. or No." for place in range(100)]
    texts += ["Is a film of the even kind liked? It is odd , Amélie ( 2001 ) is word -> Heat"] * 3
    shape = T5Shape(
        layers=1, width=32, heads=2, feed_forward=64, vocabulary=200, dropout=0.1, whole_words=16
    )
    make_t5(texts, path, shape=shape, tokens=("<CI0>", "<CI3>", "<CI17>"), seed=0)
    return path


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a decoder and an encoder, four small random layers each."""
    from tastemaker.testing.prompt_models import tiny_folder

    made = tmp_path_factory.mktemp("tiny")
    return {kind: tiny_folder(kind, made / kind) for kind in ("llama", "bert")}
