from __future__ import annotations

import copy
import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tastemaker.errors import UserError
from tastemaker.models.conversations import (
    Messages,
    answer_tokens,
    common_length,
    encode_answered,
    encode_prompts,
    require_chat_template,
)
from tastemaker.models.language import LanguageModel

WORDS = st.text(string.ascii_letters + string.digits + " \n.,:'\"!?()–éß", max_size=30)
ANSWERS = st.builds("{}{}".format, st.sampled_from([*string.ascii_letters, "Ü", "("]), WORDS)
ASKED: Messages = [{"role": "user", "content": "Will the user like it?"}]


def asking(*contents: str) -> Messages:
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]


@pytest.fixture(scope="module")
def tokenizer(smollm2: LanguageModel) -> Any:
    return copy.deepcopy(smollm2.tokenizer)


@given(st.lists(st.tuples(WORDS, ANSWERS), min_size=1, max_size=3))
@example([("", "Yes.")])
@example([(" ", "a\n\n"), ("\n", "a "), ("a", "a'")])
@settings(max_examples=40)
def test_a_prompt_is_the_beginning_of_itself_with_its_answer(
    tokenizer: Any, pairs: list[tuple[str, str]]
) -> None:
    prompts, answers = [asking(text) for text, _ in pairs], [answer for _, answer in pairs]
    whole, lengths = encode_answered(tokenizer, prompts, answers)
    assert [ids[:length] for ids, length in zip(whole, lengths, strict=True)] == encode_prompts(
        tokenizer, prompts
    )
    for ids, length, answer in zip(whole, lengths, answers, strict=True):
        assert tokenizer.decode(ids[length:]) == f"{answer}<|im_end|>\n"


def test_what_was_said_before_is_part_of_the_prompt(tokenizer: Any) -> None:
    (ids,) = encode_prompts(tokenizer, [asking("Hello", "Hi", "Heat?")])
    text = tokenizer.decode(ids)
    assert text.endswith(
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n"
        "<|im_start|>user\nHeat?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text.count("<|im_start|>system") == 1


def test_no_conversations_no_tokens(tokenizer: Any) -> None:
    assert encode_prompts(tokenizer, []) == []
    assert encode_answered(tokenizer, [], []) == ([], [])


def test_each_prompt_wants_an_answer(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="zip"):
        encode_answered(tokenizer, [ASKED, ASKED], ["Yes."])


def test_an_answer_that_merges_with_its_prompt_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"the answer '\\n\\nYes' merges with the end"):
        encode_answered(tokenizer, [ASKED, ASKED], ["Yes.", "\n\nYes"])
    with pytest.raises(UserError, match=r"the answer '\\n\\nYes' merges with the end"):
        answer_tokens(tokenizer, ("\n\nYes", "No."))


def test_a_tokenizer_without_chat_template_is_refused(tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    for ask in (
        lambda: require_chat_template(bare),
        lambda: encode_prompts(bare, [ASKED]),
        lambda: encode_answered(bare, [ASKED], ["Yes."]),
        lambda: answer_tokens(bare),
    ):
        with pytest.raises(UserError, match=r"no chat template[^$]*set tune\.wrapper to alpaca"):
            ask()


def test_answers_are_known_by_their_first_token(tokenizer: Any) -> None:
    assert [tokenizer.decode([token]) for token in answer_tokens(tokenizer)] == ["Yes", "No"]


def test_that_token_is_the_one_an_answer_begins_with(tokenizer: Any) -> None:
    whole, lengths = encode_answered(tokenizer, [ASKED] * 2, ["Yes.", "No."])
    begins = tuple(ids[length] for ids, length in zip(whole, lengths, strict=True))
    assert answer_tokens(tokenizer) == begins


def test_answers_that_begin_alike_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="both begin with the token 'Not'"):
        answer_tokens(tokenizer, ("Not at all.", "Not so."))


def test_an_empty_answer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="the answer ''"):
        answer_tokens(tokenizer, ("Yes.", ""))


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
@example("", "")
@example("a", "a")
@example("ab", "a")
def test_common_length_is_that_of_the_common_prefix(left: str, right: str) -> None:
    found = common_length([ord(one) for one in left], [ord(one) for one in right])
    assert left[:found] == right[:found]
    assert left[found : found + 1] != right[found : found + 1] or left == right
