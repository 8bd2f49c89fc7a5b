from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tastemaker.models.conversations import (
    Messages,
    answer_tokens,
    encode_answered,
    encode_prompts,
)
from tastemaker.models.language import LanguageModel
from tastemaker.models.scoring import score_candidates, score_yes_no
from tastemaker.models.wrappers import Wrapper, wrapped

TASK = "Given the user's preference, identify whether the user will like the target."
ABOUT = 'User Preference: "Heat", "Up"\nWhether the user will like "Fargo"?'
PAIRED: Messages = [{"role": "user", "content": f"{TASK}\n{ABOUT}"}]
ALONE: Messages = [{"role": "user", "content": TASK}]

# Letter by letter what alpaca-lora's templates/alpaca.json holds.
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    f"### Instruction:\n{TASK}\n\n### Input:\n{ABOUT}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    f"the request.\n\n### Instruction:\n{TASK}\n\n### Response:\n"
)


def copied(language_model: LanguageModel) -> LanguageModel:
    """With a tokenizer of its own, because a wrapper changes it."""
    return replace(language_model, tokenizer=copy.deepcopy(language_model.tokenizer))


def beginning(language_model: LanguageModel) -> LanguageModel:
    """The same whose tokenizer puts its first token before every text, as that of Llama does."""
    found = copied(language_model)
    tokenizer = found.tokenizer
    first = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first[0]} $A", special_tokens=[first]
    )
    return found


def text(tokenizer: Any, messages: Messages, *, generation: bool = True) -> str:
    rendered: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation
    )
    return rendered


@pytest.fixture
def alpaca(smollm2: LanguageModel) -> LanguageModel:
    return wrapped(copied(smollm2), "alpaca")


def test_chat_keeps_the_tokenizer_s_own_template(smollm2: LanguageModel) -> None:
    before = smollm2.tokenizer.chat_template
    assert wrapped(smollm2, "chat") is smollm2
    assert smollm2.tokenizer.chat_template == before


@pytest.mark.parametrize(
    ("messages", "expected"), [(PAIRED, WITH_INPUT), (ALONE, WITHOUT_INPUT)], ids=["with", "alone"]
)
def test_alpaca_is_alpaca_lora_s_prompt(
    smollm2: LanguageModel, messages: Messages, expected: str
) -> None:
    plain = wrapped(copied(smollm2), "alpaca").tokenizer
    assert text(plain, messages) == expected
    released = wrapped(copied(smollm2), "alpaca-released").tokenizer
    stray = expected.replace("the request.\n", "the request.  # noqa: E501\n")
    assert text(released, messages) == stray != expected


def test_an_answer_ends_with_the_end_token(alpaca: LanguageModel) -> None:
    tokenizer = alpaca.tokenizer
    answered = [*PAIRED, {"role": "assistant", "content": "Yes."}]
    assert text(tokenizer, answered, generation=False) == f"{WITH_INPUT}Yes.{tokenizer.eos_token}"
    (ids,), (length,) = encode_answered(tokenizer, [PAIRED], ["Yes."])
    assert tokenizer.decode(ids[:length]) == WITH_INPUT
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[length:-1]) == "Yes."


def test_what_was_said_before_ends_too(alpaca: LanguageModel) -> None:
    said: Messages = [*PAIRED, {"role": "assistant", "content": "Yes."}, *ALONE]
    end = alpaca.tokenizer.eos_token
    assert text(alpaca.tokenizer, said) == f"{WITH_INPUT}Yes.{end}{WITHOUT_INPUT}"


@pytest.mark.parametrize("wrapper", ["alpaca", "alpaca-released"])
def test_the_first_token_stands_once_where_the_tokenizer_adds_one(
    smollm2: LanguageModel, wrapper: Wrapper
) -> None:
    bare = wrapped(copied(smollm2), wrapper).tokenizer
    first = wrapped(beginning(smollm2), wrapper).tokenizer
    told: Messages = [{"role": "system", "content": "Be brief."}, *PAIRED]
    for messages in (PAIRED, ALONE, [*PAIRED, {"role": "assistant", "content": "No."}, *ALONE]):
        (without,) = encode_prompts(bare, [messages])
        assert bare.bos_token_id not in without
        assert without == bare(text(bare, messages))["input_ids"]
        (found,) = encode_prompts(first, [messages])
        assert found == [first.bos_token_id, *without]
        assert found == first(text(bare, messages))["input_ids"]
    (found,) = encode_prompts(first, [told])
    assert found[0] == first.bos_token_id
    assert found.count(first.bos_token_id) == 1
    assert text(first, told).startswith(f"{first.bos_token}Be brief.\n\nBelow is an instruction")


@pytest.mark.parametrize("prepare", [copied, beginning])
def test_scores_are_those_of_the_wrapped_text(
    small: Callable[..., LanguageModel], prepare: Callable[[LanguageModel], LanguageModel]
) -> None:
    model = wrapped(prepare(small("llama")), "alpaca")
    tokenizer = model.tokenizer
    yes, no = answer_tokens(tokenizer)
    assert [tokenizer.decode([token]) for token in (yes, no)] == ["Yes", "No"]
    ids = [tokenizer(prompt)["input_ids"] for prompt in (WITH_INPUT, WITHOUT_INPUT)]
    with torch.inference_mode():
        last = [model.model(input_ids=torch.tensor([one])).logits[0, -1] for one in ids]
    expected = [float(logits[yes] - logits[no]) for logits in last]
    np.testing.assert_allclose(score_yes_no(model, [PAIRED, ALONE]), expected, atol=1e-4)
    # Two tokens, "Up" and the end; the states before both are those of the text read alone.
    up = tokenizer("Up", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([ids[0] + up])).logits[0].log_softmax(-1)
    spelled = [*up, tokenizer.eos_token_id]
    wanted = sum(float(logits[len(ids[0]) - 1 + at, token]) for at, token in enumerate(spelled))
    (found,) = score_candidates(model, [PAIRED], [["Up"]])
    np.testing.assert_allclose(found, [wanted], atol=1e-4)


@pytest.mark.parametrize("prepare", [copied, beginning])
def test_the_wrapper_is_saved_with_the_tokenizer(
    smollm2: LanguageModel,
    prepare: Callable[[LanguageModel], LanguageModel],
    tmp_path: Path,
) -> None:
    tokenizer = wrapped(prepare(smollm2), "alpaca-released").tokenizer
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for messages in (PAIRED, ALONE):
        assert text(again, messages) == text(tokenizer, messages)
        assert encode_prompts(again, [messages]) == encode_prompts(tokenizer, [messages])
