from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tastemaker.errors import StageError, UserError
from tastemaker.models.adapters import with_adapter
from tastemaker.models.conversations import Messages, answer_tokens
from tastemaker.models.language import (
    LanguageModel,
    load_language_model,
    quiet_loading,
)
from tastemaker.models.output_layer import OutputLayer
from tastemaker.models.scoring import _compare, score_candidates, score_yes_no

Small = Callable[..., LanguageModel]
TITLES = ["Heat (1995)", "Up (2009)", "Return of the Pink Panther, The (1974)", "Alien (1979)"]


def prompt(liked: int, target: str) -> Messages:
    listed = ", ".join(f'"{title}"' for title in TITLES[:liked])
    text = f'A user liked: {listed}. Will the user like "{target}"? Answer "Yes." or "No.".'
    return [{"role": "user", "content": text}]


PROMPTS = [prompt(liked, target) for liked in (0, 4, 1, 2) for target in ("Jaws (1975)", "Fargo")]


def last_logits(language_model: LanguageModel, prompts: list[Messages]) -> Iterator[Tensor]:
    """One prompt at a time, whole model."""
    model, tokenizer = language_model.model, language_model.tokenizer
    for messages in prompts:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            yield model(input_ids=inputs, logits_to_keep=1).logits[0, -1]


def naive(
    language_model: LanguageModel, prompts: list[Messages], choices: tuple[str, str]
) -> list[float]:
    yes, no = answer_tokens(language_model.tokenizer, choices)
    return [float(logits[yes] - logits[no]) for logits in last_logits(language_model, prompts)]


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


# Three users, five candidates each: what a user liked comes first.
BRANCHING = [
    prompt(liked, target)
    for liked in (4, 1, 3)
    for target in ("Jaws (1975)", "Fargo", "Alien (1979)", "Alien Nation", "The Straight Story")
]


def tokens_run(language_model: LanguageModel) -> list[int]:
    """Grows by the tokens of each forward pass of the decoder, padding included."""
    found: list[int] = []

    def note(module: Any, given: Any, named: dict[str, Tensor]) -> None:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        if ids.numel() > 2:  # what the output layer is tried with
            found.append(ids.numel())

    decoder = language_model.model.get_decoder()
    decoder.register_forward_pre_hook(note, with_kwargs=True)
    return found


@pytest.mark.parametrize(
    ("architecture", "changes", "branches"),
    [
        ("llama", {}, True),
        ("llama", {"attn_implementation": "eager"}, True),
        ("qwen3", {}, True),
        ("gemma2", {"sliding_window": 4096}, True),
        ("gemma2", {}, False),  # its windows are shorter than the prompts
        ("granite", {}, True),
        ("cohere", {}, True),
        ("phi", {}, True),
        ("gpt2", {}, True),
        ("mamba", {}, False),
    ],
)
def test_other_architectures_score_like_their_own_forward_pass(
    small: Small, architecture: str, changes: dict[str, Any], branches: bool
) -> None:
    model = small(architecture, **changes)
    expected = naive(model, BRANCHING, ("Yes.", "No."))
    assert np.ptp(expected) > 1e-3
    run = tokens_run(model)
    found = score_yes_no(model, BRANCHING, batch_tokens=300)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    texts = model.tokenizer.apply_chat_template(
        BRANCHING, add_generation_prompt=True, return_dict=False
    )
    assert (sum(run) < sum(map(len, texts)) / 2) == branches


@pytest.fixture(scope="module")
def branching(small: Small) -> tuple[LanguageModel, list[float]]:
    model = small("llama")
    return model, naive(model, BRANCHING, ("Yes.", "No."))


@given(
    st.permutations(range(len(BRANCHING))),
    st.integers(1, len(BRANCHING)),
    st.sampled_from([1, 90, 200, 10**5]),
    st.booleans(),
)
@settings(max_examples=8)
def test_a_score_is_the_same_in_any_company(
    branching: tuple[LanguageModel, list[float]],
    order: list[int],
    number: int,
    batch_tokens: int,
    share: bool,
) -> None:
    model, expected = branching
    asked = order[:number]
    found = score_yes_no(
        model, [BRANCHING[at] for at in asked], batch_tokens=batch_tokens, share_prefix=share
    )
    np.testing.assert_allclose(found, [expected[at] for at in asked], atol=1e-4)


def test_an_adapter_on_the_output_layer_counts(small: Small) -> None:
    base = small("llama")
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


def test_an_unknown_change_of_the_logits_fails_loudly(small: Small) -> None:
    model = small("llama")
    model.model.__class__ = Trebled
    with pytest.raises(StageError, match="Trebled changes its logits"):
        score_yes_no(model, PROMPTS[:2])


def test_a_tokenizer_without_chat_template_is_refused(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2.tokenizer, "chat_template", None)
    with pytest.raises(UserError, match="no chat template"):
        score_yes_no(smollm2, PROMPTS[:1])


def test_a_prompt_longer_than_the_context_is_refused(small: Small) -> None:
    model = small("llama", max_position_embeddings=40)
    with pytest.raises(UserError, match=r"has \d+ tokens, more than the 40 of the model's context"):
        score_yes_no(model, PROMPTS)
    with pytest.raises(UserError, match="more than the 40"):
        score_candidates(model, [SHORT], [["Up", "Up and " * 20]])
    assert len(score_candidates(model, [SHORT], [["Up"]])[0]) == 1


def test_an_error_on_the_way_leaves_the_model_as_it_was(small: Small) -> None:
    model = small("llama")
    model.model.bfloat16().train()

    def stop(scored: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_yes_no(model, BRANCHING, batch_tokens=100, on_progress=stop)
    assert model.model.training
    assert model.model.config._attn_implementation == "sdpa"
    assert not model.model.get_input_embeddings()._forward_hooks
    assert not torch.is_autocast_enabled("cpu")


SHORT: Messages = [{"role": "system", "content": "Go."}, {"role": "user", "content": "A film?"}]
CANDIDATES = [["Up", "Heat (1995)", "Return of the Pink Panther, The (1974)"], ["Fargo"], []]


def naive_candidates(
    language_model: LanguageModel, prompts: list[Messages], candidates: list[list[str]]
) -> list[list[tuple[float, int]]]:
    """Log-probability of each answer run alone, and its number of tokens."""
    tokenizer, found = language_model.tokenizer, []
    for messages, texts in zip(prompts, candidates, strict=True):
        begins = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        row = []
        for text in texts:
            ids = tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": text}], return_dict=False
            )
            with torch.inference_mode():
                logits = language_model.model(input_ids=torch.tensor([ids])).logits[0]
            answer = range(len(begins), len(ids))
            assert tokenizer.decode([ids[at] for at in answer]) == f"{text}<|im_end|>\n"
            each = [float(logits[at - 1].log_softmax(-1)[ids[at]]) for at in answer]
            row.append((sum(each), len(each)))
        found.append(row)
    return found


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi", "mamba"])
def test_candidates_get_the_log_probability_of_all_their_tokens(
    small: Small, architecture: str
) -> None:
    model = small(architecture)
    prompts = [SHORT, PROMPTS[0], SHORT]
    expected = naive_candidates(model, prompts, CANDIDATES)
    found = score_candidates(model, prompts, CANDIDATES, batch_tokens=200)
    means = score_candidates(model, prompts, CANDIDATES, per_token=True, share_prefix=False)
    assert [scores.shape for scores in found] == [(3,), (1,), (0,)]
    for scores, mean, rows in zip(found, means, expected, strict=True):
        assert scores.dtype == mean.dtype == np.float32
        np.testing.assert_allclose(scores, [total for total, _ in rows], atol=1e-4)
        np.testing.assert_allclose(mean, [total / size for total, size in rows], atol=1e-4)


def test_no_prompts_no_candidates(small: Small) -> None:
    model = small("llama")
    assert score_candidates(model, [], []) == []
    assert [scores.shape for scores in score_candidates(model, [SHORT] * 2, [[], []])] == [(0,)] * 2


@pytest.mark.parametrize("prompts", [[], [SHORT] * 2])
def test_each_prompt_has_its_own_candidates(small: Small, prompts: list[Messages]) -> None:
    with pytest.raises(ValueError, match="zip"):
        score_candidates(small("llama"), prompts, [["Up"]])


def test_progress_counts_candidates(small: Small) -> None:
    told: list[int] = []
    score_candidates(small("llama"), [SHORT] * 3, CANDIDATES, on_progress=told.append)
    assert sum(told) == 4


def test_a_title_is_not_preferred_for_being_the_beginning_of_another(
    smollm2: LanguageModel,
) -> None:
    question = "Which film of Peter Jackson tells of a ring and a wizard? Name it, nothing else."
    titles = ["The Lord", "The Lord of the Rings", "The Lord of"]
    (found,) = score_candidates(smollm2, [[{"role": "user", "content": question}]], [titles])
    assert int(found.argmax()) == 1


def test_double_softmax_is_the_difference_of_the_probabilities(small: Small) -> None:
    model = small("gemma2")
    yes, no = answer_tokens(model.tokenizer)
    whole = [logits.softmax(-1) for logits in last_logits(model, PROMPTS)]
    expected = [float(probabilities[yes] - probabilities[no]) for probabilities in whole]
    found = score_yes_no(model, PROMPTS, measure="double_softmax", batch_tokens=200)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert np.abs(found).max() < 1.0


class Head:
    """As much of a model as its output layer looks at: hidden states are its logits."""

    config = LlamaConfig()

    def get_output_embeddings(self) -> nn.Linear:
        layer = nn.Linear(3, 3, bias=False)
        layer.weight.data = torch.eye(3)
        return layer


def test_double_softmax_ranks_by_how_likely_an_answer_is_at_all() -> None:
    # Logits of "Yes", "No" and anything else. The first prompt says "Yes" far more than "No", but
    # hardly answers at all: both probabilities are tiny, and so is their difference. The second one
    # answers, with a slight preference only. What a user's taste changes is the choice between the
    # answers, so log-odds rank the first prompt higher; the released evaluator the second.
    hidden = [torch.tensor([[0.0, -2.0, 10.0]]), torch.tensor([[5.0, 4.5, 5.0]])]
    output = OutputLayer(Head())
    with torch.inference_mode():
        odds = _compare(output, hidden, (0, 1), "log_odds")
        double = _compare(output, hidden, (0, 1), "double_softmax")
    torch.testing.assert_close(odds, torch.tensor([2.0, 0.5]))
    rest = [np.exp([0.0, -2.0, 10.0]), np.exp([5.0, 4.5, 5.0])]
    expected = [(yes - no) / (yes + no + other) for yes, no, other in rest]
    np.testing.assert_allclose(double.numpy(), expected, rtol=1e-4)
    assert odds[0] > odds[1]
    assert double[0] < double[1]
