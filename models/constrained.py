"""Constrained decoding: a local model fills the open places of a text that is otherwise fixed.

    '{"form": ' Choice('"recommend"', '"small_talk"') ', "topic": ' Choice('"chess"', '""') '}'

Parts are decoded left to right. Every option is scored as the likelihood of the whole text up to
the next open place, given the conversation; the likeliest is kept. Since options are compared by
the tokens of whole texts, it does not matter where a tokenizer draws its borders. Keys and values
of what all options share are computed once, and those of a system prompt are kept between calls.

Options of different length, or of words that a model likes whatever was asked, are not on a par.
`per_token` divides by the number of tokens. `baseline` is the same conversation with nothing asked
in it: what an option gains over its likelihood there is what the message says for it (contextual
calibration, Zhao et al., ICML 2021, arXiv 2102.09690, as a difference of log-probabilities;
Holtzman et al., EMNLP 2021, arXiv 2104.08315, call it domain-conditional PMI).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tastemaker.errors import UserError
from tastemaker.models.conversations import Messages, common_length, require_chat_template
from tastemaker.models.hidden_states import evaluating
from tastemaker.models.language import LanguageModel
from tastemaker.models.prefix_caches import PrefixCaches

__all__ = ["Choice", "complete"]

_BATCH = 32  # options per forward pass
_PROBES = ("a", "Which?")  # two user messages that share nothing but what stands before them


@dataclass(frozen=True)
class Choice:
    """An open place of a text.

    Attributes:
        options: What may stand there; a single one is fixed text.

    Raises:
        UserError: there is no option, or one is there twice.
    """

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) < len(self.options):
            raise UserError(
                f"choice among {list(self.options)!r} cannot be made.",
                allowed="one or more different options",
            )


def complete(
    language_model: LanguageModel,
    messages: Messages,
    parts: Sequence[str | Choice],
    *,
    per_token: bool = False,
    baseline: Messages | None = None,
    kept: PrefixCaches | None = None,
) -> list[str]:
    """Fill the open places of an answer.

    Args:
        language_model: With a chat template.
        messages: The conversation before the answer.
        parts: The answer: fixed texts and choices.
        per_token: Compare mean log-probabilities of tokens instead of sums.
        baseline: The conversation with nothing asked, to calibrate against.
        kept: Keeps the system prompt for further calls.

    Returns:
        The option taken at each choice, in order. Nothing is run where all choices have one.

    Raises:
        UserError: the tokenizer has no chat template, one option of the last choice begins with
            another so that they cannot be compared, or the text is longer than the context.
    """
    require_chat_template(language_model.tokenizer)
    with evaluating(language_model.model):
        asked = _Path(language_model, messages, kept)
        blank = None if baseline is None else _Path(language_model, baseline, kept)
        text, taken = "", []
        for place, part in enumerate(parts):
            if isinstance(part, str):
                text += part
                continue
            option = part.options[0]
            if len(part.options) > 1:
                ending = _fixed_behind(parts, place)
                options = [text + one + ending for one in part.options]
                scores = asked.likelihoods(options, per_token=per_token)
                if blank is not None:
                    scores -= blank.likelihoods(options, per_token=per_token)
                option = part.options[int(np.argmax(scores))]
            taken.append(option)
            text += option
        return taken


def _fixed_behind(parts: Sequence[str | Choice], place: int) -> str:
    """The text between a choice and the next open one."""
    fixed = ""
    for part in parts[place + 1 :]:
        if isinstance(part, str):
            fixed += part
        elif len(part.options) == 1:
            fixed += part.options[0]
        else:
            break
    return fixed


class _Path:
    """One conversation, with keys and values of what has been read of it."""

    def __init__(
        self, language_model: LanguageModel, messages: Messages, kept: PrefixCaches | None
    ) -> None:
        self._model, self._tokenizer = language_model.model, language_model.tokenizer
        self._name = language_model.name
        self._messages, self._kept = messages, kept
        self._prompt = self._rendered(messages)
        self._read: list[int] = []
        self._cache: Any = DynamicCache(config=self._model.config)
        # Sliding and recurrent layers cannot be cut back to what options share.
        self._cached = all(type(layer) is DynamicLayer for layer in self._cache.layers)

    @torch.inference_mode()
    def likelihoods(self, answers: Sequence[str], *, per_token: bool) -> NDArray[np.float64]:
        """Log-likelihood of each answer behind the tokens that all share: float64 [n]."""
        sequences = self._tokens([self._prompt + answer for answer in answers])
        self._check(sequences, answers)
        shared = common_length(min(sequences), max(sequences))
        sums = np.concatenate(
            [
                self._sums(sequences[start : start + _BATCH], shared)
                for start in range(0, len(sequences), _BATCH)
            ]
        )
        if per_token:
            sums /= np.array([len(sequence) - shared for sequence in sequences])
        return sums

    def _sums(self, sequences: list[list[int]], shared: int) -> NDArray[np.float64]:
        """Sums of the log-probabilities of all tokens from `shared` on."""
        start = (
            shared - 1 if self._cached else 0
        )  # its state foretells the first token that differs
        cache = self._repeated(sequences[0][:start], len(sequences)) if self._cached else None
        longest = max(map(len, sequences))
        # What stands behind the end of a row is not seen by it.
        rows = [row[start:] + [0] * (longest - len(row)) for row in sequences]
        inputs = torch.tensor(rows, device=self._model.device)
        keep = longest - shared + 1
        found = self._model(
            input_ids=inputs,
            past_key_values=cache,
            use_cache=self._cached,
            logits_to_keep=keep,
        )
        logits = found.logits[:, -keep:-1].float().log_softmax(-1)
        wanted = torch.tensor(
            [row[shared:] + [0] * (longest - len(row)) for row in sequences], device=inputs.device
        )
        picked = logits.gather(-1, wanted[..., None])[..., 0].double().cpu().numpy()
        lengths = [len(row) - shared for row in sequences]
        return np.array([one[:length].sum() for one, length in zip(picked, lengths, strict=True)])

    def _repeated(self, prefix: list[int], rows: int) -> Any:
        """Keys and values of what all rows begin with, once per row."""
        self._advance(prefix)
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache

    def _advance(self, prefix: list[int]) -> None:
        """Read up to the end of `prefix`."""
        if not self._read and self._kept is not None:
            self._begin(prefix, self._kept)
        shared = common_length(self._read, prefix)
        if shared < len(self._read):
            self._cache.crop(shared - len(self._read))
        self._feed(prefix[shared:])
        self._read = list(prefix)

    def _begin(self, prefix: list[int], kept: PrefixCaches) -> None:
        """Take over what is kept of the system prompt, or read and keep it."""
        system = self._system_tokens()
        if not system or system != prefix[: len(system)]:
            return
        found = kept.find(self._model, tuple(system))
        if found is None:
            self._feed(system)
            kept.keep(self._model, tuple(system), self._cache)
        else:
            self._cache = found
        self._read = system

    def _feed(self, tokens: list[int]) -> None:
        if tokens:
            inputs = torch.tensor([tokens], device=self._model.device)
            self._model(
                input_ids=inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )

    def _system_tokens(self) -> list[int]:
        """Tokens that do not depend on what the visitor says."""
        system = [one for one in self._messages if one["role"] == "system"]
        probes = [[*system, {"role": "user", "content": text}] for text in _PROBES]
        first, second = self._tokens([self._rendered(one) for one in probes])
        return first[: common_length(first, second)]

    def _check(self, sequences: list[list[int]], answers: Sequence[str]) -> None:
        ordered = sorted(sequences)
        for left, right in pairwise(ordered):
            if left == right[: len(left)]:
                raise UserError(
                    f"the options {sorted(answers)!r} cannot be compared: one begins with another.",
                    remedy="Let fixed text, such as a closing quote, follow the choice.",
                )
        context = getattr(self._model.config, "max_position_embeddings", None)
        longest = max(map(len, sequences))
        if context is not None and longest > context:
            raise UserError(
                f"a text of {longest} tokens does not fit into the {context} of '{self._name}'.",
                remedy="Shorten the message.",
            )

    def _rendered(self, messages: Messages) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
        return text

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        # The chat template has written the special tokens already.
        found: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found
