from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tastemaker.models.conversations import Messages, answer_tokens, encode_prompts
from tastemaker.models.hidden_states import HiddenStates
from tastemaker.models.language import LanguageModel
from tastemaker.models.mixed_precision import float32_residuals, half_products
from tastemaker.models.scoring import score_yes_no

Build = Callable[..., Any]
Small = Callable[..., LanguageModel]

PROMPTS: list[Messages] = [
    [{"role": "user", "content": f'A user liked "Heat". Will the user like "{title}"?'}]
    for title in ("Up", "Jaws", "Fargo", "Alien", "Big", "Toy Story 2")
]
IDS = torch.tensor([[5, 17, 4, 99, 23, 8]])


def residuals(causal: Any, run: Callable[[], Any]) -> list[torch.dtype]:
    """Precision of what each layer is given."""
    found: list[torch.dtype] = []

    def note(module: Any, given: tuple[Tensor, ...]) -> None:
        found.append(given[0].dtype)

    hooks = [block.register_forward_pre_hook(note) for block in causal.model.layers]
    run()
    for hook in hooks:
        hook.remove()
    return found


def run(causal: Any) -> Tensor:
    with torch.inference_mode():
        return causal.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "granite"])
def test_layers_add_up_in_float32_inside_only(build: Build, architecture: str) -> None:
    causal = build(architecture).bfloat16()
    expected = run(causal)
    with half_products(causal):
        assert residuals(causal, lambda: run(causal)) == [torch.float32] * 2
        assert run(causal).dtype == torch.float32
    assert residuals(causal, lambda: run(causal)) == [torch.bfloat16] * 2
    torch.testing.assert_close(run(causal), expected, atol=0, rtol=0)
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_inside_changes_nothing_about_that(build: Build) -> None:
    causal = build("llama").bfloat16()
    with pytest.raises(RuntimeError, match="stop"), half_products(causal):
        raise RuntimeError("stop")
    assert run(causal).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_float32_models_are_left_alone(build: Build) -> None:
    causal = build("llama")
    expected = run(causal)
    with float32_residuals(causal) as mixed:
        assert mixed is False
    with half_products(causal):
        assert not torch.is_autocast_enabled("cpu")
        torch.testing.assert_close(run(causal), expected, atol=0, rtol=0)


def test_so_are_models_with_pytorch_s_layer_norm(build: Build) -> None:
    causal = build("phi").bfloat16()
    with float32_residuals(causal) as mixed:
        assert mixed is False
        assert run(causal).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen3", "gemma2", "granite", "cohere", "phi", "gpt2", "mamba"]
)
def test_every_architecture_scores_in_bfloat16(small: Small, architecture: str) -> None:
    # Large weights make a small model touchy: products alone are off by several percent.
    model = small(architecture, initializer_range=0.2)
    expected = score_yes_no(model, PROMPTS)
    found = score_yes_no(replace(model, model=model.model.bfloat16()), PROMPTS)
    assert len(np.unique(found)) == len(PROMPTS)
    np.testing.assert_allclose(found, expected, atol=0.2 * float(np.abs(expected).max()))


def plain_scores(language_model: LanguageModel) -> np.ndarray[Any, Any]:
    """Half precision throughout, as the model would do it by itself, but for the last product."""
    yes, no = answer_tokens(language_model.tokenizer)
    model, prompts = language_model.model, encode_prompts(language_model.tokenizer, PROMPTS)
    weights = model.get_output_embeddings().weight
    ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    with torch.inference_mode():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        last = torch.stack([row[len(ids) - 1] for row, ids in zip(hidden, prompts, strict=True)])
        scores = last.float() @ (weights[yes].float() - weights[no].float())
    found: np.ndarray[Any, Any] = scores.numpy()
    return found


@pytest.mark.slow
def test_log_odds_of_smollm2_come_nearer_to_those_in_float32(smollm2: LanguageModel) -> None:
    exact = score_yes_no(smollm2, PROMPTS)
    half = replace(smollm2, model=copy.deepcopy(smollm2.model).bfloat16())
    mixed = np.abs(score_yes_no(half, PROMPTS) - exact).mean()
    plain = np.abs(plain_scores(half) - exact).mean()
    assert mixed < plain / 2


def test_who_asked_works_on_the_states_in_his_own_precision(small: Small) -> None:
    model = small("llama").model.bfloat16()
    sequences = [[5, 6, 7], [5, 6, 9, 4]]
    with torch.inference_mode():
        states = HiddenStates(model, sequences, [slice(0, 3)] * 2, share=True, batch_tokens=100)
        for places, hidden in states:
            assert sorted(places) == [0, 1]
            assert not torch.is_autocast_enabled("cpu")
            assert {state.dtype for state in hidden} == {torch.float32}
