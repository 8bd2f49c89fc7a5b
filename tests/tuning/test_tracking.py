"""Trackers write where the run is, and leave the environment as it was."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from tastemaker.errors import UserError
from tastemaker.models.language import load_language_model
from tastemaker.tuning.settings import AdapterShape, TuneSettings
from tastemaker.tuning.tracking import check_tracker, tracking
from tastemaker.tuning.tune import tune

SETTINGS = TuneSettings(
    kind="lora",
    lora=AdapterShape(rank=4, alpha=8, dropout=0.0, target_modules=("q_proj",)),
    learning_rate=0.01,
    warmup_steps=0,
    epochs=1,
    batch_size=2,
    micro_batch=None,
    max_length=96,
    loss_on="answer",
    rows="single",
    row_tokens=512,
    group_by_length=False,
    gradient_checkpointing=None,
    evaluate_every=None,
    patience=None,
    metric="auto",
    tracker="none",
)


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None)
        check_tracker("none")
        with pytest.raises(UserError) as caught:
            check_tracker("wandb")
    assert str(caught.value).splitlines()[0] == (
        "tune.tracker is wandb, but the package wandb is not installed."
    )
    assert "pip install wandb" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_folder_of_that_name_is_no_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wandb").mkdir()  # where an earlier run elsewhere has left its files
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="wandb is not installed"):
        check_tracker("wandb")


def test_files_go_into_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_DIR", raising=False)
    before = dict(os.environ)
    logs = tmp_path / "logs" / "tuning"
    with tracking("wandb", logs):
        assert os.environ["WANDB_DIR"] == str(logs)
        assert logs.is_dir()
    assert dict(os.environ) == before
    with pytest.raises(KeyboardInterrupt), tracking("wandb", logs):
        raise KeyboardInterrupt
    assert dict(os.environ) == before


def test_the_users_own_place_is_respected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "mine")
    with tracking("tensorboard", tmp_path / "logs"):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == "mine"
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "mine"
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("name", ["none", "tensorboard"])
def test_nothing_to_do(name: str, tmp_path: Path) -> None:
    before = dict(os.environ)
    with tracking(name, None if name == "tensorboard" else tmp_path / "logs"):
        assert dict(os.environ) == before
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_tensorboard_writes_events(folder: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"Film {place}?"}],
                "completion": [{"role": "assistant", "content": "Yes." if place % 2 else "No."}],
            }
            for place in range(4)
        ]
    )
    tune(
        partial(load_language_model, str(folder), dtype=torch.float32, device="cpu"),
        rows,
        valid=rows,
        settings=replace(SETTINGS, tracker="tensorboard", epochs=1),
        out=tmp_path / "out",
        scratch=tmp_path / "scratch",
        seed=1,
        logs=tmp_path / "logs",
    )
    assert [*(tmp_path / "logs").rglob("events.out.tfevents.*")]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
