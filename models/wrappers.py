"""The text around a prompt, for models that were not trained to chat.

A wrapper is a chat template that replaces the tokenizer's own, so that tuning, scoring, chat and
every server of the merged model use the same text. The user's message holds the task in its first
line and what it is about in the rest, as in the `alpaca` format of built data sets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from tastemaker.models.language import LanguageModel

__all__ = ["Wrapper", "wrapped"]

Wrapper = Literal["chat", "alpaca", "alpaca-released"]

_INTRODUCED = "Below is an instruction that describes a task"
_PAIRED = ", paired with an input that provides further context"
_ASKED = ". Write a response that appropriately completes the request."
# The released TALLRec code has this linter comment inside the string, in training and evaluation:
# its adapter has never seen a prompt without.
_STRAY = "  # noqa: E501"

# alpaca-lora's prompt, with an input and without; {STRAY} and {BEGIN} are put in below.
_ALPACA = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{ BEGIN }}{{ message.content }}{{ '\\n\\n' }}"
    "{%- elif message.role == 'user' -%}"
    "{%- set halves = message.content.split('\\n', 1) -%}"
    "{%- set input = halves[1] if halves|length > 1 else '' -%}"
    "{%- if loop.first -%}{{ BEGIN }}{%- endif -%}"
    f"{{{{ '{_INTRODUCED}' }}}}{{%- if input -%}}{{{{ '{_PAIRED}' }}}}{{%- endif -%}}"
    f"{{{{ '{_ASKED}' }}}}{{{{ STRAY }}}}"
    "{{ '\\n\\n### Instruction:\\n' + halves[0] }}"
    "{%- if input -%}{{ '\\n\\n### Input:\\n' + input }}{%- endif -%}"
    "{{ '\\n\\n### Response:\\n' }}"
    "{%- else -%}{{ message.content + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)


def wrapped(language_model: LanguageModel, wrapper: Wrapper) -> LanguageModel:
    """The model with the text that goes around its prompts.

    Args:
        language_model: Its tokenizer is changed in place.
        wrapper: `chat` leaves the tokenizer's own template; `alpaca` is the prompt of alpaca-lora
            and TALLRec; `alpaca-released` the same with the stray comment of TALLRec's code, which
            its published adapter was trained with.
    """
    if wrapper == "chat":
        return language_model
    tokenizer = language_model.tokenizer
    stray = _STRAY if wrapper == "alpaca-released" else ""
    template = _ALPACA.replace("{{ STRAY }}", stray)
    begin = "{{ bos_token }}" if _begins(tokenizer) else ""
    tokenizer.chat_template = template.replace("{{ BEGIN }}", begin)
    return replace(language_model, tokenizer=tokenizer)


def _begins(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its first token before every text by itself."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id
