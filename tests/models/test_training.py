from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tastemaker.errors import UserError
from tastemaker.models.language import best_dtype, default_device
from tastemaker.models.training import Columns, TrainingPlan, train_columns

PLAN = TrainingPlan(
    learning_rate=0.01, weight_decay=0.0, batch_size=32, epochs=5, patience=5, seed=3
)


class Logistic(nn.Module):
    """With dropout, so that the random state matters to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.dropout = nn.Dropout(0.3)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.linear(self.dropout(values)).squeeze(-1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits}


class Killed(Exception):
    pass


class KillAfter:
    """Dies when it is told about the given epoch."""

    def __init__(self, epoch: int) -> None:
        self.left = epoch

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def columns(rows: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, 4)).astype(np.float32)
    noisy = values @ np.array([1.0, -1.0, 0.5, 0.0]) + random.normal(size=rows)
    return {"values": values, "labels": (noisy > 0).astype(np.float32)}


TRAIN, VALID = columns(300, 0), columns(100, 1)


def train(
    scratch: Path | None = None, *, plan: TrainingPlan = PLAN, killed_after: int = 0
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    model = Logistic()
    on_epoch = KillAfter(killed_after) if killed_after else None
    curve = train_columns(model, TRAIN, valid=VALID, plan=plan, scratch=scratch, on_epoch=on_epoch)
    return model.state_dict(), curve


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    return train()


def assert_same(
    found: tuple[dict[str, Tensor], list[dict[str, float]]],
    expected: tuple[dict[str, Tensor], list[dict[str, float]]],
) -> None:
    assert found[1] == expected[1]
    for name, value in expected[0].items():
        assert torch.equal(found[0][name], value)


def test_learns(uninterrupted: tuple[dict[str, Tensor], list[dict[str, float]]]) -> None:
    _, curve = uninterrupted
    assert [entry["epoch"] for entry in curve] == [1, 2, 3, 4, 5]
    assert set(curve[0]) == {"epoch", "loss", "valid_loss", "valid_auc"}
    assert curve[-1]["valid_auc"] > 0.8


@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_killed_training_goes_on_and_ends_alike(
    tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], list[dict[str, float]]], epoch: int
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, killed_after=epoch)
    torch.manual_seed(99)  # another process has another random state
    assert_same(train(tmp_path), uninterrupted)


def test_a_checkpoint_that_is_not_complete_is_not_read(
    tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], list[dict[str, float]]]
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, killed_after=2)
    (folder,) = tmp_path.iterdir()
    torn = folder / "checkpoint-9999"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    assert_same(train(tmp_path), uninterrupted)
    assert not torn.exists()


def test_patience_survives_a_kill(tmp_path: Path) -> None:
    stubborn = replace(PLAN, learning_rate=0.0, patience=2)
    whole = train(plan=stubborn)
    assert len(whole[1]) == 3
    for epoch in (2, 3):
        folder = tmp_path / str(epoch)
        with pytest.raises(Killed):
            train(folder, plan=stubborn, killed_after=epoch)
        assert_same(train(folder, plan=stubborn), whole)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = train(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["finished.safetensors"]
    told: list[int] = []
    model = Logistic()
    curve = train_columns(
        model, TRAIN, valid=VALID, plan=PLAN, scratch=tmp_path, on_epoch=lambda: told.append(1)
    )
    assert_same((model.state_dict(), curve), first)
    assert len(told) == 5


def test_half_precision_is_for_training_steps_only() -> None:
    single, half = (train(plan=replace(PLAN, precision=name)) for name in ("float32", "bfloat16"))
    assert half[1][0]["loss"] != single[1][0]["loss"]
    assert half[1][-1]["valid_auc"] == pytest.approx(single[1][-1]["valid_auc"], abs=0.02)
    model = Logistic().eval()
    model.load_state_dict(half[0])
    assert model.linear.weight.dtype == torch.float32
    exact = model(**{name: torch.from_numpy(values) for name, values in VALID.items()})["loss"]
    best = max(half[1], key=lambda entry: entry["valid_auc"])
    assert best["valid_loss"] == pytest.approx(exact.item(), abs=1e-6)


def test_precision_auto_is_that_of_the_device() -> None:
    wanted = best_dtype(default_device())
    assert_same(
        train(plan=replace(PLAN, precision="auto")),
        train(plan=replace(PLAN, precision=str(wanted).removeprefix("torch."))),
    )


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="unknown precision 'half'"):
        train(plan=replace(PLAN, precision="half"))


def test_checkpoints_of_another_training_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, killed_after=3)
    other = replace(PLAN, seed=4)
    assert_same(train(tmp_path, plan=other), train(plan=other))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_batch_is_one_gather_per_column() -> None:
    rows = Columns({"a": np.arange(6), "b": np.arange(12).reshape(6, 2)})
    batch = rows[torch.tensor([4, 1])]
    assert batch["a"].tolist() == [4, 1]
    assert batch["b"].tolist() == [[8, 9], [2, 3]]
    assert rows[3]["b"].tolist() == [6, 7]
    assert len(rows) == 6
