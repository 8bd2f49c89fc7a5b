"""Short phrases of a small language model, several at once, that cannot name anything.

A mask over the vocabulary leaves lower-case words and plain punctuation: no digit, quote, bracket
or markup, and no capital but the very first. What all prompts begin with is encoded once and kept
between calls, so that a question costs its own tokens only. Generation is greedy and deterministic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tastemaker.errors import UserError
from tastemaker.models.conversations import Messages, common_length, encode_prompts
from tastemaker.models.language import LanguageModel, aligned, end_tokens
from tastemaker.models.prefix_caches import PrefixCaches

__all__ = ["Phrases", "Refusal", "Vocabulary"]

Refusal = Callable[[int, str], bool]
_SENTENCE_ENDS = (".", "!", "?", ":")
_PUNCTUATION = frozenset(" ,;.!?:'’-–—")
_CANDIDATES = 16  # likeliest tokens that a refusal may choose from
_KEPT = 4  # prefixes; one of 500 tokens takes 12 MB in a model of 135M parameters
_OTHER = "."  # stands for the last message where the common beginning is looked for


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens a phrase may be made of.

    Attributes:
        first: bool [V], tokens that may begin it: a word, perhaps with a capital.
        later: bool [V], tokens that may follow.
        ends: Tokens that end it and are no part of it: end tokens and line breaks.
        closing: Tokens that end it and are its last: those that end a sentence.
    """

    first: NDArray[np.bool_]
    later: NDArray[np.bool_]
    ends: frozenset[int]
    closing: frozenset[int]

    @classmethod
    def of(cls, language_model: LanguageModel, *, size: int) -> Vocabulary:
        """Read off the tokenizer.

        Args:
            language_model: Whose tokens.
            size: Columns of its logits; those beyond the tokenizer are never chosen.
        """
        tokenizer = language_model.tokenizer
        texts = _token_texts(tokenizer)[:size]
        special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
        first, later = np.zeros(size, bool), np.zeros(size, bool)
        breaks = set()
        for token, text in enumerate(texts):
            if token in special or not text:
                continue
            if "\n" in text and not text.strip():
                breaks.add(token)
            first[token] = _begins(text)
            later[token] = _follows(text)
        ends = end_tokens(language_model) | breaks
        later[sorted(end for end in ends if end < size)] = True
        closing = (token for token, text in enumerate(texts) if text.endswith(_SENTENCE_ENDS))
        return cls(first, later, frozenset(ends), frozenset(closing) - special)


class Phrases:
    """Writes short phrases with a causal language model.

    Safe to use from several threads; what they share is kept under a lock.

    Raises:
        UserError: the tokenizer has no chat template (when the first phrase is asked for).
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model = language_model
        self._kept = PrefixCaches(_KEPT)
        model = language_model.model
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        asked = inspect.signature(bare.forward).parameters
        self._positions = "position_ids" in asked
        size = model.get_output_embeddings().weight.shape[0]
        self.vocabulary = Vocabulary.of(language_model, size=size)
        masks = [self.vocabulary.first, self.vocabulary.later]
        self._masks = torch.from_numpy(np.stack(masks)).to(model.device)

    def stream(
        self,
        prompts: Sequence[Messages],
        *,
        max_tokens: int,
        refused: Refusal | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> Iterator[list[str]]:
        """One phrase per prompt, each up to the end of its first sentence.

        Args:
            prompts: Conversations that end with the message to be answered. What is data in them
                has been made plain already.
            max_tokens: Of a phrase at most.
            refused: Told the row and the phrase as it would read with one more token; the next
                likely token is tried where it says so, and the phrase ends where none is left.
            stopped: Asked before every step; ends all phrases when true.

        Yields:
            What is new in each phrase, after every step; empty where there is nothing new.

        Raises:
            UserError: a prompt and `max_tokens` exceed the context of the model.
        """
        tokens = encode_prompts(self.language_model.tokenizer, prompts)
        self._check_room(tokens, max_tokens)
        rows = [_Row(self.language_model.tokenizer) for _ in prompts]
        steps = self._steps(tokens, self._shared(prompts, tokens))
        chosen: Tensor | None = None
        for _ in range(max_tokens):
            if (stopped and stopped()) or all(row.ended for row in rows):
                break
            logits = next(steps) if chosen is None else steps.send(chosen)
            chosen = self._choose(logits, rows, refused)
            yield [row.take() for row in rows]
        steps.close()
        rest = [row.rest() for row in rows]
        if any(rest):
            yield rest

    def write(
        self,
        prompts: Sequence[Messages],
        *,
        max_tokens: int,
        refused: Refusal | None = None,
    ) -> list[str]:
        """The phrases of `stream`, whole."""
        texts = [""] * len(prompts)
        stream = self.stream(prompts, max_tokens=max_tokens, refused=refused)
        for pieces in stream:
            texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        return texts

    def _check_room(self, tokens: Sequence[list[int]], max_tokens: int) -> None:
        context = getattr(self.language_model.model.config, "max_position_embeddings", None)
        longest = max(map(len, tokens), default=0)
        if context is not None and longest + max_tokens > context:
            raise UserError(
                f"a prompt of {longest} tokens and a phrase of {max_tokens} do not fit into the "
                f"{context} tokens of '{self.language_model.name}'.",
                remedy="Shorten the message.",
            )

    def _shared(self, prompts: Sequence[Messages], tokens: Sequence[list[int]]) -> int:
        """Tokens that all prompts begin with and that do not depend on the last messages."""
        first = [*prompts[0][:-1], {**prompts[0][-1], "content": _OTHER}]
        (other,) = encode_prompts(self.language_model.tokenizer, [first])
        return min(common_length(row, other[:-1]) for row in tokens)

    def _steps(self, tokens: Sequence[list[int]], shared: int) -> Generator[Tensor, Tensor, None]:
        """Logits float32 [B, V] of the next token; the tokens chosen, int64 [B], are sent in."""
        model = self.language_model.model
        cache = self._prefix_cache(tokens[0][:shared], len(tokens))
        known = shared if cache is not None else 0
        inputs, mask = aligned(tokens, shared=known, pad=self.language_model.tokenizer.pad_token_id)
        inputs, mask = inputs.to(model.device), mask.to(model.device)
        cache = cache if cache is not None else DynamicCache(config=model.config)
        inputs = inputs[:, known:]
        while True:
            logits = self._forward(inputs, mask, cache)
            chosen = yield logits
            inputs = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)

    def _forward(self, inputs: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        places = {}
        if self._positions:
            all_places = (mask.cumsum(1) - 1).clamp(min=0)
            places["position_ids"] = all_places[:, -inputs.shape[1] :]
        with torch.inference_mode():
            found = self.language_model.model(
                input_ids=inputs,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **places,
            )
            return found.logits[:, -1].float()

    def _prefix_cache(self, prefix: Sequence[int], rows: int) -> DynamicCache | None:
        """What the model remembers of `prefix`, once per row; None where it must be read again."""
        model, key = self.language_model.model, tuple(prefix)
        with torch.inference_mode():
            own: DynamicCache | None = self._kept.find(model, key)
            if own is None:
                own = DynamicCache(config=model.config)
                # A sliding window would count the padding between prefix and rest.
                plain = all(type(layer) is DynamicLayer for layer in own.layers)
                if not (prefix and plain):
                    return None
                inputs = torch.tensor([prefix], device=model.device)
                self._forward(inputs, torch.ones_like(inputs), own)
                self._kept.keep(model, key, own)
            own.batch_repeat_interleave(rows)
        return own

    def _choose(self, logits: Tensor, rows: Sequence[_Row], refused: Refusal | None) -> Tensor:
        """The next token of each row, which takes it; an ended row gets its padding."""
        later = torch.tensor([int(bool(row.tokens)) for row in rows], device=logits.device)
        masked = logits.masked_fill(~self._masks[later], -torch.inf)
        likely = masked.topk(min(_CANDIDATES, logits.shape[1]), dim=1)
        chosen = []
        for place, row in enumerate(rows):
            if row.ended:
                chosen.append(self.language_model.tokenizer.pad_token_id)
                continue
            scores, tokens = likely.values[place].tolist(), likely.indices[place].tolist()
            allowed = [
                token
                for token, score in zip(tokens, scores, strict=True)
                if score > -float("inf") and not row.repeats(token)
            ]
            chosen.append(self._first_accepted(allowed, row, place=place, refused=refused))
        return torch.tensor(chosen, device=logits.device)

    def _first_accepted(
        self, tokens: Sequence[int], row: _Row, *, place: int, refused: Refusal | None
    ) -> int:
        ends, closing = self.vocabulary.ends, self.vocabulary.closing
        for token in tokens:
            if token in ends or not (refused and refused(place, row.text_with(token))):
                row.add(token, ends=token in ends, closes=token in closing)
                return token
        row.ended = True
        return int(self.language_model.tokenizer.pad_token_id)


@dataclass
class _Row:
    """A phrase in the making.

    Text is decoded from the last token whose text was whole, so that a character of several tokens
    is given out once it is complete, and spaces come out as in the whole text.
    """

    tokenizer: Any
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    _anchor: int = 0
    _given: int = 0
    _text: str = ""

    def add(self, token: int, *, ends: bool, closes: bool) -> None:
        if not ends:
            self.tokens.append(token)
        self.ended = ends or closes

    def repeats(self, token: int) -> bool:
        """Whether the last two tokens and this one have come before."""
        new = [*self.tokens[-2:], token]
        return len(new) == 3 and any(
            self.tokens[at : at + 3] == new for at in range(len(self.tokens) - 2)
        )

    def text_with(self, token: int) -> str:
        return self._text + self._after([*self.tokens[self._anchor :], token])

    def take(self) -> str:
        """What is new and whole."""
        new = self._after(self.tokens[self._anchor :])
        if not new or new.endswith("\ufffd"):
            return ""
        return self._give(new)

    def rest(self) -> str:
        """What is left, without the beginning of a character that was never finished."""
        new = self._after(self.tokens[self._anchor :]).rstrip("\ufffd")
        return self._give(new) if new else ""

    def _give(self, new: str) -> str:
        self._anchor, self._given = self._given, len(self.tokens)
        self._text += new
        return new

    def _after(self, tokens: list[int]) -> str:
        before = self._decode(self.tokens[self._anchor : self._given])
        return self._decode(tokens)[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text


def _token_texts(tokenizer: Any) -> list[str]:
    """Text of each token where it does not stand first, as first ones lose their space."""
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1]
    pairs = [[anchor], *([anchor, token] for token in range(len(tokenizer)))]
    before, *texts = tokenizer.batch_decode(pairs, clean_up_tokenization_spaces=False)
    return [text.removeprefix(before) for text in texts]


def _begins(text: str) -> bool:
    word = text.strip(" ")
    return word[:1].isalpha() and _follows(word[:1].lower() + word[1:])


def _follows(text: str) -> bool:
    # Letters of scripts without capitals are left out: there a name looks like any other word.
    # Bare spaces, and signs behind a space, are what is left of a number that may not be written.
    if text.startswith(" ") and not text[1:2].islower():
        return text[1:2] in ("-", "–", "—")
    return all(letter.islower() or letter in _PUNCTUATION for letter in text)
