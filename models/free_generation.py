"""Answers in a model's own words, and what goes wrong when they should be items.

Nothing of the settings for generation that a model carries has a part in it, apart from the tokens
that end an answer: a temperature or a penalty that its makers found good for chatting would change
every explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig

from tastemaker.errors import UserError
from tastemaker.models.conversations import Messages, encode_prompts
from tastemaker.models.hidden_states import check_context, evaluating
from tastemaker.models.language import LanguageModel, aligned, end_tokens
from tastemaker.models.seq2seq import (
    bare,
    decoder_start,
    encode_sources,
    is_seq2seq,
    padded,
    source_batches,
)

__all__ = ["ErrorRates", "error_rates", "generate_texts"]


def generate_texts(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    *,
    max_tokens: int,
    min_tokens: int = 0,
    beams: int = 1,
    n: int = 1,
    repetition_penalty: float = 1.0,
    batch_tokens: int = 4096,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """The likeliest answers that greedy or beam search finds, without any constraint.

    P5 explains with 12 beams in 3 diverse groups, which transformers no longer has.

    Args:
        language_model: Causal or encoder-decoder, with or without an adapter.
        prompts: Conversations without the answer.
        max_tokens: Tokens of an answer at most.
        min_tokens: Tokens before an answer may end. P5: 9 for explanations.
        beams: 1 for greedy search. P5: 20 for items, 12 for explanations.
        n: Answers per prompt, at most as many as beams.
        repetition_penalty: Divides positive logits of tokens that were there before, and multiplies
            negative ones; 1 for none. P5: .7 for its held-out explanation prompt.
        batch_tokens: Tokens of prompts, times beams, that share a batch; longer ones run alone.
        on_progress: Called with the number of prompts that have just been answered.

    Returns:
        n texts per prompt, the best first, without special tokens and outer white space.

    Raises:
        UserError: a number out of its range, a prompt beyond the context, or no chat template.
    """
    _check(max_tokens=max_tokens, min_tokens=min_tokens, beams=beams, n=n)
    if not prompts:
        return []
    tokenizer, model = language_model.tokenizer, bare(language_model.model)
    seq2seq = is_seq2seq(model)
    sources = (encode_sources if seq2seq else encode_prompts)(tokenizer, prompts)
    check_context(model, [range(len(one) + (0 if seq2seq else max_tokens)) for one in sources])
    settings = GenerationConfig(
        do_sample=False,
        num_beams=beams,
        num_return_sequences=n,
        max_new_tokens=max_tokens,
        min_new_tokens=min_tokens or None,
        repetition_penalty=repetition_penalty,
        **_tokens(language_model),
    )
    answers: list[list[str]] = [[] for _ in prompts]
    with evaluating(model), torch.inference_mode(), _nothing_inherited(model):
        for places in source_batches([range(len(s) * beams) for s in sources], batch_tokens):
            tokens = _generated(model, [sources[place] for place in places], settings)
            said = tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for row, place in enumerate(places):
                answers[place] = [text.strip() for text in said[row * n : (row + 1) * n]]
            if on_progress:
                on_progress(len(places))
    return answers


@dataclass(frozen=True)
class ErrorRates:
    """What was wrong with answers that should be items, as shares of all answers, 0 to 1.

    Attributes:
        answers: How many there were; the shares are NaN without any.
        invalid: Empty, or not of the form that an answer has.
        out_of_catalogue: Of the right form, but no item's text.
        repeated: The text of an item in the user's history.
        duplicate: The same as a better answer to the same prompt.
    """

    answers: int
    invalid: float
    out_of_catalogue: float
    repeated: float
    duplicate: float


def error_rates(
    answers: Sequence[Sequence[str]],
    texts: Sequence[str],
    *,
    histories: Sequence[NDArray[np.integer[Any]]] | None = None,
    is_valid: Callable[[str], bool] | None = None,
) -> ErrorRates:
    """How often answers are no items, or not ones to recommend.

    Texts are compared without regard to white space. `invalid` and `out_of_catalogue` exclude each
    other; `repeated` is part of the remaining answers, `duplicate` may be of any kind but empty.

    Args:
        answers: Of each prompt, best first.
        texts: Of the items of the catalogue.
        histories: Items of each prompt's user; None where they are not looked at.
        is_valid: Whether an answer has the right form, such as a number; None for any text.

    Raises:
        UserError: there are not as many histories as prompts.
    """
    if histories is not None and len(histories) != len(answers):
        raise UserError(f"answers to {len(answers)} prompts, but {len(histories)} histories.")
    known = {_plain(text) for text in texts}
    count = sum(map(len, answers))
    invalid = outside = repeated = duplicate = 0
    for place, listed in enumerate(answers):
        met = set() if histories is None else {_plain(texts[item]) for item in histories[place]}
        before: set[str] = set()
        for answer in map(_plain, listed):
            wrong = not answer or (is_valid is not None and not is_valid(answer))
            invalid += wrong
            outside += not wrong and answer not in known
            repeated += not wrong and answer in met
            duplicate += bool(answer) and answer in before
            before.add(answer)
    shares = [
        part / count if count else float("nan") for part in (invalid, outside, repeated, duplicate)
    ]
    return ErrorRates(count, *shares)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _check(*, max_tokens: int, min_tokens: int, beams: int, n: int) -> None:
    if max_tokens < 1 or not 0 <= min_tokens <= max_tokens:
        raise UserError(
            f"answers of {min_tokens} to {max_tokens} tokens.",
            allowed="from 0 or more up to 1 or more",
        )
    if not 1 <= n <= beams:
        raise UserError(
            f"{n} answers cannot be found with {beams} beams.",
            allowed="1 answer or more, and as many beams or more",
        )


def _tokens(language_model: LanguageModel) -> dict[str, Any]:
    """The tokens that begin, end and fill up answers, by the names of a `GenerationConfig`."""
    model = bare(language_model.model)
    return {
        "eos_token_id": sorted(end_tokens(language_model)),
        "pad_token_id": language_model.tokenizer.pad_token_id,
        "decoder_start_token_id": decoder_start(model) if is_seq2seq(model) else None,
    }


@contextmanager
def _nothing_inherited(model: Any) -> Iterator[None]:
    """`generate` fills every setting that was left open with the model's own: there are none."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def _generated(model: Any, sources: Sequence[list[int]], settings: GenerationConfig) -> Tensor:
    """Token ids of the answers alone."""
    pad = settings.pad_token_id
    if is_seq2seq(model):
        tokens, mask = padded(sources, pad)
        behind = 1  # the token that the decoder begins with
    else:
        tokens, mask = aligned(sources, shared=0, pad=pad)
        behind = tokens.shape[1]
    found: Tensor = model.generate(
        input_ids=tokens.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
    )
    return found[:, behind:]
