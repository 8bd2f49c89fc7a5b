from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tastemaker.models import output_layer
from tastemaker.models.language import quiet_loading
from tastemaker.models.output_layer import OutputLayer

Build = Callable[..., Any]
IDS = torch.tensor([[5, 17, 4, 99, 23, 8]])
CHOSEN = [3, 98, 40]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "_ROWS", 32)  # 100 tokens in four parts


def states_and_logits(causal: Any) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        hidden = causal.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state[0]
        return hidden, causal(input_ids=IDS, use_cache=False).logits[0].float()


def assert_agrees(causal: Any, output: OutputLayer) -> None:
    hidden, logits = states_and_logits(causal)
    assert float(logits.std()) > 0.1
    targets = torch.tensor([99, 0, 31, 32, 64, 7])
    with torch.inference_mode():
        torch.testing.assert_close(output(hidden), logits)
        torch.testing.assert_close(output.of_tokens(hidden, CHOSEN), logits[:, CHOSEN])
        torch.testing.assert_close(output.of_tokens(hidden, slice(30, 70)), logits[:, 30:70])
        torch.testing.assert_close(output.log_normaliser(hidden), logits.logsumexp(-1))
        torch.testing.assert_close(
            output.log_probabilities(hidden, targets),
            logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0],
        )


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "granite", "cohere", "phi", "gpt2"])
def test_logits_are_the_model_s_own(build: Build, architecture: str) -> None:
    causal = build(architecture)
    bias = causal.get_output_embeddings().bias
    assert (bias is not None) == (architecture == "phi")
    if bias is not None:
        bias.data = torch.linspace(-3, 3, len(bias))  # a fresh one is all zeros
    output = OutputLayer(causal)
    output.check()
    assert_agrees(causal, output)


def test_an_adapter_on_the_layer_counts(build: Build) -> None:
    causal = build("llama")
    _, before = states_and_logits(causal)
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
        tuned = get_peft_model(causal, config).eval().get_base_model()
    assert_agrees(tuned, OutputLayer(tuned))
    assert (states_and_logits(tuned)[1] - before).abs().max() > 0.1


def test_weights_in_bfloat16_do_not_round_the_logits(build: Build) -> None:
    causal = build("llama", initializer_range=1.0).bfloat16()
    hidden = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    weights = causal.lm_head.weight.detach().float()
    output = OutputLayer(causal)
    with torch.inference_mode():
        found = output.of_tokens(hidden, CHOSEN)
        targets = torch.full((64,), CHOSEN[0])
        probabilities = output.log_probabilities(hidden, targets)
        half = output(hidden)[:, CHOSEN]
    exact = hidden @ weights.T
    assert found.dtype == probabilities.dtype == torch.float32
    torch.testing.assert_close(found, exact[:, CHOSEN])
    torch.testing.assert_close(probabilities, exact.log_softmax(-1)[:, CHOSEN[0]])
    assert len(found.unique()) == found.numel() > len(half.unique())
    assert (half - exact[:, CHOSEN]).abs().max() > 0.01


class Head:
    """As much of a causal language model as an output layer looks at."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace())

    def get_output_embeddings(self) -> nn.Module:
        return self.layer


@pytest.mark.parametrize("wrap", [lambda layer: layer, nn.Sequential], ids=["plain", "wrapped"])
def test_nothing_is_likelier_than_certain(wrap: Callable[[nn.Module], nn.Module]) -> None:
    # The dominating token's logit and the sum over all are computed differently, and large.
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 50, bias=False)
    layer.weight.data = torch.randn(50, 64, generator=generator)
    hidden = 4 * torch.randn(500, 64, generator=generator)
    with torch.inference_mode():
        targets = layer(hidden).argmax(-1)
        found = OutputLayer(Head(wrap(layer))).log_probabilities(hidden, targets)
    assert float(found.max()) <= 0.0
    assert float(found.mean()) > -0.5
