"""Conversations as the token ids a model reads, by the chat template that its tokenizer carries.

A chat template writes all special tokens itself; nothing is added when its text is tokenized. What
the model says is text behind the *generation prompt*, and must not merge with it into one token:
otherwise it would be unknown where the answer begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.errors import UserError

__all__ = [
    "Messages",
    "answer_tokens",
    "common_length",
    "encode_answered",
    "encode_prompts",
    "require_chat_template",
]

Messages = Sequence[Mapping[str, str]]
Tokens = list[int]

_PROBE: Messages = ({"role": "user", "content": "Will the user like it?"},)


def require_chat_template(tokenizer: Any) -> None:
    """Make sure that it is known where an answer begins.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template, so it is unknown where an answer begins.",
            allowed="an instruction-tuned model, or a plain one with a wrapper of its own",
            remedy="Use an instruction-tuned model, or set tune.wrapper to alpaca.",
        )


def encode_prompts(tokenizer: Any, prompts: Sequence[Messages]) -> list[Tokens]:
    """Token ids of each conversation up to the place where the answer begins.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    require_chat_template(tokenizer)
    return _tokenize(tokenizer, [_render(tokenizer, messages) for messages in prompts])


def encode_answered(
    tokenizer: Any, prompts: Sequence[Messages], answers: Sequence[str]
) -> tuple[list[Tokens], list[int]]:
    """Token ids of each conversation with its answer, and how many of them are the prompt's.

    The answer ends as the chat template ends a turn of the assistant.

    Raises:
        UserError: the tokenizer has no chat template, or an answer merges with its prompt.
    """
    beginnings = encode_prompts(tokenizer, prompts)
    said = [
        tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": answer}], tokenize=False
        )
        for messages, answer in zip(prompts, answers, strict=True)
    ]
    whole = _tokenize(tokenizer, said)
    for before, after, answer in zip(beginnings, whole, answers, strict=True):
        if after[: len(before)] != before or len(after) == len(before):
            _refuse_merged(answer)
    return whole, [len(before) for before in beginnings]


def answer_tokens(tokenizer: Any, choices: tuple[str, str] = ("Yes.", "No.")) -> tuple[int, int]:
    """The token that each answer begins with, right after the chat template's generation prompt.

    Raises:
        UserError: the tokenizer has no chat template, an answer is not a continuation of the
            prompt's tokens, or both answers begin with the same token.
    """
    (before,) = encode_prompts(tokenizer, [_PROBE])
    prompt = _render(tokenizer, _PROBE)
    first: list[int] = []
    for choice in choices:
        (whole,) = _tokenize(tokenizer, [prompt + choice])
        if whole[: len(before)] != before or len(whole) == len(before):
            _refuse_merged(choice)
        first.append(whole[len(before)])
    if first[0] == first[1]:
        shared = tokenizer.decode(first[:1])
        raise UserError(
            f"the answers {choices[0]!r} and {choices[1]!r} both begin with the token {shared!r}.",
            allowed="Answers are told apart by their first token.",
            remedy="Choose answers that begin differently.",
        )
    return first[0], first[1]


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with.

    >>> common_length([1, 2, 3], [1, 2, 4, 5])
    2
    """
    place = 0
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def _refuse_merged(answer: str) -> None:
    raise UserError(
        f"the answer {answer!r} merges with the end of the prompt into one token.",
        remedy="Choose another wording of the answers in the template.",
    )


def _render(tokenizer: Any, messages: Messages) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=False
    )
    return text


def _tokenize(tokenizer: Any, texts: list[str]) -> list[Tokens]:
    if not texts:
        return []
    found: list[Tokens] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
    return found
