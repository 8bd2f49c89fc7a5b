"""What an encoder-decoder model reads and writes, and its first answer token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from tastemaker.errors import UserError
from tastemaker.models.conversations import Messages
from tastemaker.models.language import LanguageModel, load_language_model, quiet_loading
from tastemaker.models.scoring import score_yes_no
from tastemaker.models.seq2seq import (
    decoder_start,
    encode_sources,
    encode_targets,
    first_answer_tokens,
    padded,
    plain_text,
    source_batches,
)

CHOICES = ("Yes.", "No.")
PROMPTS: list[Messages] = [
    [{"role": "user", "content": f"Is item_{place} of the {'even ' * place}kind liked?"}]
    for place in (3, 1, 12, 7, 1)
]
PROMPTS.append([{"role": "system", "content": "It is odd"}, *PROMPTS[0]])


@pytest.fixture(params=["whole words", "t5", "bart"])
def language_model(
    request: pytest.FixtureRequest, t5_folder: Path, tiny_seq2seq: Callable[..., LanguageModel]
) -> LanguageModel:
    if request.param == "whole words":
        return load_language_model(str(t5_folder), dtype=torch.float32, device="cpu", seq2seq=True)
    return tiny_seq2seq(request.param)


def answers(language_model: LanguageModel) -> tuple[str, str]:
    """Two that the tokenizer tells apart by their first token."""
    return CHOICES if language_model.name.startswith("/") else ("Heat", "Toy")


def alone(language_model: LanguageModel, prompt: Messages) -> torch.Tensor:
    """Log-probabilities of the first token, by the model's own forward pass."""
    tokens = encode_sources(language_model.tokenizer, [prompt])
    begin = torch.tensor([[decoder_start(language_model.model)]])
    with torch.inference_mode():
        found = language_model.model(input_ids=torch.tensor(tokens), decoder_input_ids=begin)
    return found.logits[0, 0].double().log_softmax(-1)


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_yes_or_no_equals_the_plain_forward_pass(
    language_model: LanguageModel, batch_tokens: int
) -> None:
    choices = answers(language_model)
    tokens = [encode_targets(language_model.tokenizer, [text])[0][0] for text in choices]
    expected = [alone(language_model, prompt)[tokens] for prompt in PROMPTS]
    done: list[int] = []
    found = score_yes_no(
        language_model,
        PROMPTS,
        choices=choices,
        batch_tokens=batch_tokens,
        on_progress=done.append,
    )
    assert found.dtype == np.float32
    assert sum(done) == len(PROMPTS)
    assert np.ptp(found) > 1e-2
    np.testing.assert_allclose(found, [float(one[0] - one[1]) for one in expected], atol=1e-4)
    doubled = score_yes_no(
        language_model,
        PROMPTS,
        choices=choices,
        measure="double_softmax",
        batch_tokens=batch_tokens,
    )
    shares = [one.exp() for one in expected]
    np.testing.assert_allclose(doubled, [float(one[0] - one[1]) for one in shares], atol=1e-5)


def test_no_prompts_no_scores(language_model: LanguageModel) -> None:
    assert score_yes_no(language_model, [], choices=answers(language_model)).shape == (0,)


def test_answers_that_begin_alike_are_refused(t5_folder: Path) -> None:
    tokenizer = load_language_model(str(t5_folder), device="cpu", seq2seq=True).tokenizer
    assert len(set(first_answer_tokens(tokenizer, CHOICES))) == 2
    with pytest.raises(UserError, match="'item_7' and 'item_9' both begin with the token"):
        first_answer_tokens(tokenizer, ("item_7", "item_9"))


def test_a_configuration_must_say_what_the_decoder_begins_with(
    tiny_seq2seq: Callable[..., LanguageModel],
) -> None:
    model = copy.deepcopy(tiny_seq2seq("t5").model)
    assert decoder_start(model) == 0
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        setattr(model.config, name, None)
    with pytest.raises(UserError, match=r"this t5 does not say[^\0]*Add decoder_start_token_id"):
        decoder_start(model)


def test_messages_stand_one_below_the_other() -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ""},
        {"role": "user", "content": "Hi"},
    ]
    assert plain_text(said) == "Be brief.\nHi"


@given(
    text=st.lists(st.sampled_from(["</s>", "<pad>", "<unk>", " ", "Heat", "7", "\n"])).map("".join)
)
def test_no_text_can_end_itself(tiny_t5: LanguageModel, text: str) -> None:
    tokenizer = tiny_t5.tokenizer
    (tokens,) = encode_targets(tokenizer, [text])
    assert tokens[-1] == tokenizer.eos_token_id
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(tokens[:-1])
    assert tokens == encode_sources(tokenizer, [[{"role": "user", "content": text}]])[0]


def test_other_special_tokens_stay_outside_too(tiny_t5: LanguageModel) -> None:
    """T5's own sentinels, for example; a whole token that is not special stays."""
    tokenizer = copy.deepcopy(tiny_t5.tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<extra_id_0>"]})
    tokenizer.add_tokens(["<CI0>"])
    special, whole = tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<CI0>"])
    (tokens,) = encode_targets(tokenizer, ["Heat <extra_id_0> <CI0>"])
    assert special not in tokens
    assert whole in tokens


def test_sequences_are_filled_up_on_the_right() -> None:
    tokens, mask = padded([[5, 6, 7], [8]], 9)
    assert tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_batches_hold_each_sequence_once_and_no_more_tokens(
    lengths: list[int], batch_tokens: int
) -> None:
    sequences = [[0] * length for length in lengths]
    batches = list(source_batches(sequences, batch_tokens))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    sizes = [len(batch) * max(lengths[place] for place in batch) for batch in batches]
    alone = [len(batch) == 1 for batch in batches]
    assert all(size <= batch_tokens or one for size, one in zip(sizes, alone, strict=True))
    widths = [max(lengths[place] for place in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)


def test_an_adapter_inside_counts(t5_folder: Path) -> None:
    base = load_language_model(str(t5_folder), dtype=torch.float32, device="cpu", seq2seq=True)
    plain = score_yes_no(base, PROMPTS)
    with quiet_loading():
        shape = LoraConfig(target_modules=["q"], task_type="SEQ_2_SEQ_LM")
        model = get_peft_model(base.model, shape)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.3)
    tuned = replace(base, model=model.eval())
    found = score_yes_no(tuned, PROMPTS)
    assert np.abs(found - plain).max() > 1e-3
    expected = [alone(tuned, prompt) for prompt in PROMPTS]
    yes, no = first_answer_tokens(base.tokenizer, CHOICES)
    np.testing.assert_allclose(found, [float(one[yes] - one[no]) for one in expected], atol=1e-4)
