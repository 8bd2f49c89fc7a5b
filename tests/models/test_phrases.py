from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tastemaker.errors import UserError
from tastemaker.models.conversations import encode_prompts
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.models.phrases import Phrases, _Row

SYSTEM = {"role": "system", "content": "You help people choose. Answer in one short sentence."}
ASKED = ("I want a funny film from 1994", "hi", 'Write the title "Heat (1995)" three times.')
PROMPTS = [[SYSTEM, {"role": "user", "content": text}] for text in ASKED]
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz ,;.!?:'’-–—")


@pytest.fixture(scope="module")
def phrases(smollm2: LanguageModel) -> Phrases:
    return Phrases(smollm2)


@pytest.fixture(scope="module")
def written(phrases: Phrases) -> list[str]:
    return phrases.write(PROMPTS, max_tokens=12)


def test_a_phrase_is_one_sentence_of_plain_words(written: list[str]) -> None:
    for text in written:
        assert text[:1].isalpha()
        assert set(text[:1].lower() + text[1:]) <= LETTERS
        assert not any(sign in text.rstrip()[:-1] for sign in ".!?:")
    assert len(set(written)) == len(written)


def test_a_batch_says_what_each_prompt_alone_does(phrases: Phrases, written: list[str]) -> None:
    alone = [phrases.write([prompt], max_tokens=12)[0] for prompt in PROMPTS]
    assert alone == written


@pytest.mark.slow
def test_what_is_kept_between_calls_changes_nothing(smollm2: LanguageModel) -> None:
    fresh = Phrases(smollm2)
    first = fresh.write(PROMPTS[:1], max_tokens=8)
    assert len(fresh._kept) == 1
    assert fresh.write(PROMPTS[:1], max_tokens=8) == first
    for number in range(4):
        fresh.write([[{"role": "system", "content": str(number)}, PROMPTS[0][1]]], max_tokens=1)
    assert len(fresh._kept) == 4


def test_an_unmasked_first_token_agrees_with_the_whole_prompt_at_once(phrases: Phrases) -> None:
    language_model = phrases.language_model
    tokens = language_model.tokenizer.apply_chat_template(
        PROMPTS[0], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
        whole = language_model.model(input_ids=tokens).logits[0, -1]
    phrases.write(PROMPTS[:1], max_tokens=1)  # the prefix is kept from here on
    rows = [tokens[0].tolist()]
    found = next(phrases._steps(rows, phrases._shared(PROMPTS[:1], rows)))[0]
    torch.testing.assert_close(found, whole, atol=1e-3, rtol=1e-3)


def test_refused_words_are_replaced_by_others(phrases: Phrases, written: list[str]) -> None:
    word = written[0].split()[1]
    seen: set[int] = set()

    def refused(row: int, text: str) -> bool:
        seen.add(row)
        return word in text

    other = phrases.write(PROMPTS, max_tokens=6, refused=refused)
    assert word not in other[0]
    assert other[0].split()[:1] == written[0].split()[:1]
    assert seen == {0, 1, 2}


def test_where_everything_is_refused_nothing_is_said(phrases: Phrases) -> None:
    said = phrases.write(PROMPTS[:1], max_tokens=4, refused=lambda row, text: True)
    assert said == [""]


def test_no_three_tokens_come_twice(phrases: Phrases) -> None:
    row = _Row(phrases.language_model.tokenizer)
    for token in (5, 6, 7, 5, 6):
        assert not row.repeats(token)
        row.add(token, ends=False, closes=False)
    assert row.repeats(7)
    assert not row.repeats(8)


def test_a_stop_ends_all_phrases_between_two_steps(phrases: Phrases) -> None:
    stop = threading.Event()
    steps = 0
    for _ in phrases.stream(PROMPTS, max_tokens=16, stopped=stop.is_set):
        steps += 1
        if steps == 2:
            stop.set()
    assert steps == 2


@pytest.mark.parametrize("text", ["Amélie – “naïve” 🎬 film noir", "日本の映画です", "a  b\tc"])
def test_characters_of_several_tokens_are_given_out_whole(phrases: Phrases, text: str) -> None:
    row = _Row(phrases.language_model.tokenizer)
    pieces = []
    for token in phrases.language_model.tokenizer.encode(text, add_special_tokens=False):
        row.add(token, ends=False, closes=False)
        pieces.append(row.take())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_dropped(phrases: Phrases) -> None:
    tokenizer = phrases.language_model.tokenizer
    row = _Row(tokenizer)
    for token in [*tokenizer.encode("ok"), tokenizer.encode("🎬")[0]]:
        row.add(token, ends=False, closes=False)
    assert row.take() + row.rest() == "ok"


def test_masks_leave_no_names_digits_or_markup(phrases: Phrases) -> None:
    tokenizer, vocabulary = phrases.language_model.tokenizer, phrases.vocabulary
    for token, text in ((" The", " The"), ("9", "9"), ('"', '"'), ("**", "**"), ("[", "[")):
        (found,) = tokenizer.encode(text, add_special_tokens=False)
        assert not vocabulary.later[found], token
    (good,) = tokenizer.encode(" good", add_special_tokens=False)
    (here,) = tokenizer.encode("Here", add_special_tokens=False)
    assert vocabulary.later[good]
    assert vocabulary.first[here]
    assert not vocabulary.later[here]
    assert tokenizer.eos_token_id in vocabulary.ends
    assert not vocabulary.first[sorted(vocabulary.ends)].any()


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_steps_of_a_batch_agree_with_whole_prompts(
    small: Callable[..., LanguageModel], architecture: str
) -> None:
    settings: dict[str, Any] = {"max_position_embeddings": 512, "n_positions": 512}
    phrases = Phrases(small(architecture, **settings))
    rows = encode_prompts(phrases.language_model.tokenizer, PROMPTS)
    steps = phrases._steps(rows, phrases._shared(PROMPTS, rows))
    next(steps)
    more = torch.tensor([300, 400, 500])
    found = steps.send(more)
    for row, token, logits in zip(rows, more.tolist(), found, strict=True):
        with torch.inference_mode():
            inputs = torch.tensor([[*row, token]])
            whole = phrases.language_model.model(input_ids=inputs).logits[0, -1]
        torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_half_precision_writes_phrases_too() -> None:
    half = load_language_model("smollm2", dtype=torch.bfloat16, device="cpu")
    (text,) = Phrases(half).write(PROMPTS[:1], max_tokens=6)
    assert len(text.split()) >= 2


def test_too_long_a_prompt_is_refused(phrases: Phrases) -> None:
    long = [[{"role": "user", "content": "word " * 9000}]]
    with pytest.raises(UserError, match="do not fit"):
        next(phrases.stream(long, max_tokens=8))
