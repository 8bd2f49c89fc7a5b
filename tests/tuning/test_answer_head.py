"""Fewer logits, the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tastemaker.models.language import load_language_model, quiet_loading
from tastemaker.tuning.answer_head import AnswerHead

IDS = torch.tensor([[1, 4093, 198, 17, 300], [9, 8, 7, 6, 5]])
ROWS, NODES = torch.tensor([1, 0, 0]), torch.tensor([2, 4, 0])


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_language_model(str(folder), dtype=dtype, device="cpu").model


def test_logits_and_gradients_are_the_models_own(folder: Path) -> None:
    model = load(folder).requires_grad_(True)
    expected = model(input_ids=IDS).logits[ROWS, NODES]
    weights = list(model.parameters())
    grads = torch.autograd.grad(expected.logsumexp(-1).sum(), weights)
    with AnswerHead(model).only(ROWS, NODES):
        found = model(input_ids=IDS).logits
    assert found.shape == (1, 3, model.config.vocab_size)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(found.logsumexp(-1).sum(), weights)
    for one, other in zip(ours, grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_model_is_itself_again_whatever_happens(folder: Path) -> None:
    model = load(folder)
    head = AnswerHead(model)
    with pytest.raises(KeyboardInterrupt), head.only(ROWS, NODES):
        raise KeyboardInterrupt
    assert "forward" not in vars(model.get_output_embeddings())
    assert model(input_ids=IDS).logits.shape[:2] == IDS.shape
    with head.only(ROWS[:1], NODES[:1]):
        assert model(input_ids=IDS).logits.shape[:2] == (1, 1)


def test_a_frozen_half_precision_layer_is_read_in_float32(folder: Path) -> None:
    model = load(folder, torch.bfloat16).requires_grad_(False)
    with torch.no_grad():
        states = model.get_decoder()(input_ids=IDS).last_hidden_state[ROWS, NODES]
        expected = states.float() @ model.get_output_embeddings().weight.float().T
        rounding = torch.autocast("cpu", dtype=torch.bfloat16)
        with rounding, AnswerHead(model).only(ROWS, NODES):
            found = model(input_ids=IDS).logits[0]
    assert found.dtype == torch.float32
    # The states themselves come from half-precision products; their logits are not rounded again.
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_layer_that_is_trained_or_adapted_does_its_own_work(folder: Path) -> None:
    trained = load(folder, torch.bfloat16).requires_grad_(True)
    with AnswerHead(trained).only(ROWS, NODES):
        assert trained(input_ids=IDS).logits.dtype == torch.bfloat16
    with quiet_loading():
        shape = LoraConfig(target_modules=["lm_head"], init_lora_weights=False)
        adapted = get_peft_model(load(folder), shape)
    with torch.no_grad():
        expected = adapted(input_ids=IDS).logits[ROWS, NODES]
        with AnswerHead(adapted.get_base_model()).only(ROWS, NODES):
            found = adapted(input_ids=IDS).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
