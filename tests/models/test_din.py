from __future__ import annotations

import pytest
import torch

from tastemaker import registry
from tastemaker.models.ctr.din import DIN


@pytest.fixture
def din() -> DIN:
    torch.manual_seed(0)
    return DIN(20, 6, dim=8, extra_dim=3).eval()


def batch(rows: int = 4, length: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(2, 20, (rows, length), generator=generator)
    history[0, :] = 0
    history[1, :3] = 0
    return {
        "item": torch.randint(1, 20, (rows,), generator=generator),
        "history": history,
        "ratings": torch.randint(1, 6, (rows, length), generator=generator) * (history != 0),
        "extra": torch.randn(rows, 3, generator=generator),
    }


def test_is_found_by_name() -> None:
    assert registry.load("backbone", "din") is DIN


def test_one_logit_per_row(din: DIN) -> None:
    assert din(**batch()).shape == (4,)


def test_more_padding_changes_nothing(din: DIN) -> None:
    inputs = batch()
    wider = {
        name: torch.nn.functional.pad(value, (3, 0)) if name in ("history", "ratings") else value
        for name, value in inputs.items()
    }
    torch.testing.assert_close(din(**wider), din(**inputs))


def test_a_prediction_does_not_change_with_its_batch_mates(din: DIN) -> None:
    inputs = batch()
    together = din(**inputs)
    for row in range(4):
        alone = din(**{name: value[row : row + 1] for name, value in inputs.items()})
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("name", ["item", "history", "ratings", "extra"])
def test_every_input_matters(din: DIN, name: str) -> None:
    inputs = batch()
    changed = {**inputs, name: inputs[name].roll(1, dims=0) if name != "item" else inputs[name] - 1}
    changed["item"] = changed["item"].clamp(min=1)
    if name == "history":
        changed["history"] = torch.where(inputs["history"] != 0, 21 - inputs["history"], 0)
    if name == "ratings":
        changed["ratings"] = torch.where(inputs["history"] != 0, 6 - inputs["ratings"], 0)
    assert not torch.allclose(din(**changed), din(**inputs))


def test_trains_on_a_batch_of_empty_histories() -> None:
    din = DIN(20, 6, dim=8).train()
    inputs = batch()
    nothing = torch.zeros_like(inputs["history"])
    loss = din(inputs["item"], nothing, nothing).sum()
    loss.backward()
    assert torch.isfinite(loss)


def test_tables_start_xavier_normal_and_biases_at_zero(din: DIN) -> None:
    torch.manual_seed(0)
    large = DIN(5000, 6, dim=32)
    expected = (2 / (5000 + 32)) ** 0.5
    assert large.items.weight.std().item() == pytest.approx(expected, rel=0.05)
    biases = [value for name, value in large.named_parameters() if name.endswith("bias")]
    assert biases
    assert all((bias == 0).all() for bias in biases)
