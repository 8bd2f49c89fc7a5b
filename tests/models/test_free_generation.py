from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from tastemaker.errors import UserError
from tastemaker.models.conversations import Messages, encode_prompts
from tastemaker.models.free_generation import error_rates, generate_texts
from tastemaker.models.language import LanguageModel
from tastemaker.models.seq2seq import encode_sources, is_seq2seq

Tiny = Callable[..., LanguageModel]
PROMPTS: list[Messages] = [
    [{"role": "user", "content": f"user_{place} liked {'Heat , Fargo , ' * place}Alien ."}]
    for place in (3, 0, 1)
]
LEAKY = GenerationConfig(
    do_sample=True,
    temperature=5.0,
    top_k=3,
    repetition_penalty=3.0,
    no_repeat_ngram_size=1,
    num_beams=4,
    min_new_tokens=7,
    forced_eos_token_id=1,
    suppress_tokens=[5, 6, 7, 8],
)


@pytest.fixture(params=["t5", "bart", "llama"])
def model(
    request: pytest.FixtureRequest, tiny_seq2seq: Tiny, tiny_llama: LanguageModel
) -> LanguageModel:
    return tiny_llama if request.param == "llama" else tiny_seq2seq(request.param)


def greedy(language_model: LanguageModel, messages: Messages, steps: int) -> str:
    """The likeliest token again and again, whole model, no cache."""
    model, tokenizer = language_model.model, language_model.tokenizer
    seq2seq = is_seq2seq(model)
    (source,) = (encode_sources if seq2seq else encode_prompts)(tokenizer, [messages])
    said: list[int] = []
    for _ in range(steps):
        with torch.inference_mode():
            if seq2seq:
                inputs = {
                    "input_ids": torch.tensor([source]),
                    "decoder_input_ids": torch.tensor([[0, *said]]),
                }
            else:
                inputs = {"input_ids": torch.tensor([[*source, *said]])}
            said.append(int(model(**inputs).logits[0, -1].argmax()))
        if said[-1] == tokenizer.eos_token_id:
            break
    text: str = tokenizer.decode(said, skip_special_tokens=True)
    return text.strip()


def test_greedy_answers_are_those_of_the_whole_model(model: LanguageModel) -> None:
    counts: list[int] = []
    found = generate_texts(
        model, PROMPTS, max_tokens=6, batch_tokens=100, on_progress=counts.append
    )
    assert found == [[greedy(model, messages, 6)] for messages in PROMPTS]
    assert sum(counts) == 3
    assert any(text for (text,) in found)


def test_settings_of_the_model_do_not_leak(model: LanguageModel) -> None:
    expected = generate_texts(model, PROMPTS, max_tokens=6, beams=3, n=2)
    changed = copy.copy(model.model)
    leaky = copy.deepcopy(LEAKY)
    leaky.eos_token_id = model.model.generation_config.eos_token_id
    changed.generation_config = leaky
    found = generate_texts(replace(model, model=changed), PROMPTS, max_tokens=6, beams=3, n=2)
    assert found == expected
    assert changed.generation_config is leaky
    assert [len(row) for row in found] == [2, 2, 2]


def test_the_penalty_asked_for_does_its_work(model: LanguageModel) -> None:
    plain = generate_texts(model, PROMPTS, max_tokens=12)
    assert generate_texts(model, PROMPTS, max_tokens=12, repetition_penalty=0.1) != plain


def test_answers_are_as_long_as_asked_for(tiny_seq2seq: Tiny) -> None:
    model = copy.deepcopy(tiny_seq2seq("bart"))
    model.model.final_logits_bias[0, model.tokenizer.eos_token_id] = 100.0
    assert generate_texts(model, PROMPTS[:1], max_tokens=8) == [[""]]
    assert generate_texts(model, PROMPTS[:1], max_tokens=8, min_tokens=5) != [[""]]


def test_no_prompts_and_bad_numbers(tiny_t5: LanguageModel) -> None:
    assert generate_texts(tiny_t5, [], max_tokens=3) == []
    with pytest.raises(UserError, match="3 answers cannot be found with 2 beams"):
        generate_texts(tiny_t5, PROMPTS, max_tokens=3, beams=2, n=3)
    with pytest.raises(UserError, match="answers of 4 to 3 tokens"):
        generate_texts(tiny_t5, PROMPTS, max_tokens=3, min_tokens=4)


def test_error_rates_by_hand() -> None:
    texts = ["1001", "1002", "1003", "a  b"]
    answers = [["1001", "1002", "1002", ""], ["9999", "abc", "a b", "9999"], []]
    histories = [np.array([1]), np.array([3, 0]), np.array([0])]
    plain = error_rates(answers, texts)
    assert plain.answers == 8
    assert (plain.invalid, plain.out_of_catalogue) == (1 / 8, 3 / 8)
    assert (plain.repeated, plain.duplicate) == (0.0, 2 / 8)
    found = error_rates(answers, texts, histories=histories, is_valid=str.isdigit)
    assert (found.invalid, found.out_of_catalogue) == (3 / 8, 2 / 8)
    assert (found.repeated, found.duplicate) == (2 / 8, 2 / 8)


def test_error_rates_without_answers_and_with_wrong_histories() -> None:
    assert math.isnan(error_rates([[], []], ["1001"]).invalid)
    with pytest.raises(UserError, match="2 prompts, but 1 histories"):
        error_rates([[], []], ["1001"], histories=[np.array([0])])
