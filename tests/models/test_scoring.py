from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from tastemaker.errors import StageError, UserError
from tastemaker.models.adapters import with_adapter
from tastemaker.models.language import (
    LanguageModel,
    load_language_model,
    quiet_loading,
)
from tastemaker.models.conversations import Messages, answer_tokens
from tastemaker.models.scoring import score_yes_no

TITLES = ["Heat (1995)", "Up (2009)", "Return of the Pink Panther, The (1974)", "Alien (1979)"]


def prompt(liked: int, target: str) -> Messages:
    listed = ", ".join(f'"{title}"' for title in TITLES[:liked])
    text = f'A user liked: {listed}. Will the user like "{target}"? Answer "Yes." or "No.".'
    return [{"role": "user", "content": text}]


PROMPTS = [prompt(liked, target) for liked in (0, 4, 1, 2) for target in ("Jaws (1975)", "Fargo")]


def naive(
    language_model: LanguageModel, prompts: list[Messages], choices: tuple[str, str]
) -> list[float]:
    """One prompt at a time, whole model, all logits."""
    model, tokenizer = language_model.model, language_model.tokenizer
    scores = []
    for messages in prompts:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            logits = model(input_ids=inputs).logits[0, -1]
        yes, no = answer_tokens(tokenizer, choices)
        scores.append(float(logits[yes] - logits[no]))
    return scores


@pytest.fixture(scope="module")
def expected(smollm2: LanguageModel) -> list[float]:
    return naive(smollm2, PROMPTS, ("Yes.", "No."))


def test_equals_the_whole_model_run_on_one_prompt_at_a_time(
    smollm2: LanguageModel, expected: list[float]
) -> None:
    found = score_yes_no(smollm2, PROMPTS, batch_tokens=500)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(found) > 0.05


def test_equals_it_without_a_shared_beginning_too(
    smollm2: LanguageModel, expected: list[float]
) -> None:
    found = score_yes_no(smollm2, PROMPTS, batch_tokens=500, share_prefix=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_order_and_batch_size_do_not_matter(smollm2: LanguageModel, expected: list[float]) -> None:
    backwards = score_yes_no(smollm2, PROMPTS[::-1], batch_tokens=4000)[::-1]
    np.testing.assert_allclose(backwards, expected, atol=1e-4)
    np.testing.assert_allclose(score_yes_no(smollm2, PROMPTS[:1]), expected[:1], atol=1e-4)


def test_equal_prompts_get_equal_scores(smollm2: LanguageModel, expected: list[float]) -> None:
    found = score_yes_no(smollm2, [PROMPTS[0]] * 3, batch_tokens=300)
    np.testing.assert_allclose(found, expected[:1] * 3, atol=1e-4)


def test_swapped_answers_turn_the_sign(smollm2: LanguageModel, expected: list[float]) -> None:
    found = score_yes_no(smollm2, PROMPTS[:2], choices=("No.", "Yes."))
    np.testing.assert_allclose(found, [-score for score in expected[:2]], atol=1e-4)


def test_an_adapter_is_active_and_survives_saving(
    smollm2: LanguageModel, expected: list[float], tmp_path: Path
) -> None:
    fresh = load_language_model("smollm2", dtype=torch.float32, device="cpu")
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
        tuned = replace(fresh, model=get_peft_model(fresh.model, config).eval())
    found = score_yes_no(tuned, PROMPTS[:3])
    np.testing.assert_allclose(found, naive(tuned, PROMPTS[:3], ("Yes.", "No.")), atol=1e-4)
    assert np.abs(found - expected[:3]).max() > 0.01
    tuned.model.save_pretrained(tmp_path)
    again = with_adapter(
        load_language_model("smollm2", dtype=torch.float32, device="cpu"), tmp_path
    )
    np.testing.assert_allclose(score_yes_no(again, PROMPTS[:3]), found, atol=1e-5)


def test_progress_adds_up_and_training_mode_comes_back(smollm2: LanguageModel) -> None:
    told: list[int] = []
    smollm2.model.train()
    score_yes_no(smollm2, PROMPTS[:3], batch_tokens=130, on_progress=told.append)
    assert told == [2, 1]
    assert smollm2.model.training
    smollm2.model.eval()


def test_no_prompts_no_scores(smollm2: LanguageModel) -> None:
    assert score_yes_no(smollm2, []).shape == (0,)


SMALL: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.5,
    "tie_word_embeddings": False,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 16, "final_logit_softcapping": 5.0},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "mamba": {"state_size": 4},
}


def small(smollm2: LanguageModel, architecture: str) -> LanguageModel:
    config = AutoConfig.for_model(architecture, **{**SMALL, **ARCHITECTURES[architecture]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    return replace(smollm2, model=model, name=architecture)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_other_architectures_score_like_their_own_forward_pass(
    smollm2: LanguageModel, architecture: str
) -> None:
    model = small(smollm2, architecture)
    expected = naive(model, PROMPTS[:4], ("Yes.", "No."))
    assert np.ptp(expected) > 1e-3
    found = score_yes_no(model, PROMPTS[:4], batch_tokens=300)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_adapter_on_the_output_layer_counts(smollm2: LanguageModel) -> None:
    base = small(smollm2, "llama")
    plain = score_yes_no(base, PROMPTS[:3])
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
        tuned = replace(base, model=get_peft_model(base.model, config).eval())
    found = score_yes_no(tuned, PROMPTS[:3])
    np.testing.assert_allclose(found, naive(tuned, PROMPTS[:3], ("Yes.", "No.")), atol=1e-4)
    assert np.abs(found - plain).max() > 1e-3


class Trebled(LlamaForCausalLM):
    def forward(self, **inputs: Any) -> Any:
        output = super().forward(**inputs)
        output.logits = 3 * output.logits
        return output


def test_an_unknown_change_of_the_logits_fails_loudly(smollm2: LanguageModel) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        odd = Trebled(AutoConfig.for_model("llama", **SMALL)).eval()
    with pytest.raises(StageError, match="Trebled changes its logits"):
        score_yes_no(replace(smollm2, model=odd), PROMPTS[:2])


def test_answers_are_known_by_their_first_token(smollm2: LanguageModel) -> None:
    tokenizer = smollm2.tokenizer
    assert [tokenizer.decode([token]) for token in answer_tokens(tokenizer)] == ["Yes", "No"]


def test_answers_that_begin_alike_are_refused(smollm2: LanguageModel) -> None:
    with pytest.raises(UserError, match="both begin with the token 'Not'"):
        answer_tokens(smollm2.tokenizer, ("Not at all.", "Not so."))


def test_an_empty_answer_is_refused(smollm2: LanguageModel) -> None:
    with pytest.raises(UserError, match="the answer ''"):
        answer_tokens(smollm2.tokenizer, ("Yes.", ""))


def test_a_tokenizer_without_chat_template_is_refused(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2.tokenizer, "chat_template", None)
    with pytest.raises(UserError, match="no chat template"):
        score_yes_no(smollm2, PROMPTS[:1])
