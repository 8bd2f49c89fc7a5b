"""Encoder-decoder language models: what they read, what they write, and their first answer token.

A prompt is read as plain text, its messages one below the other; the answer is what the decoder
writes. Both end with the end token, as T5's do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from tastemaker.errors import UserError
from tastemaker.models.conversations import Messages

__all__ = [
    "bare",
    "decoder_start",
    "encode_sources",
    "encode_targets",
    "encoded",
    "first_answer_tokens",
    "is_seq2seq",
    "padded",
    "plain_text",
    "score_first_tokens",
    "source_batches",
]

Tokens = list[int]


def bare(model: Any) -> Any:
    """The model without the wrapper of an adapter, whose layers stay active inside."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def is_seq2seq(model: Any) -> bool:
    """Whether a model of transformers has an encoder and a decoder."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def plain_text(messages: Messages) -> str:
    r"""A prompt as such a model reads it.

    >>> plain_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    'Be brief.\nHi'
    """
    return "\n".join(message["content"] for message in messages if message["content"])


def encode_sources(tokenizer: Any, prompts: Sequence[Messages]) -> list[Tokens]:
    """Token ids of each prompt, the end token last."""
    return _tokens(tokenizer, [plain_text(messages) for messages in prompts])


def encode_targets(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Token ids of each answer, the end token last."""
    return _tokens(tokenizer, list(texts))


def decoder_start(model: Any) -> int:
    """The token that a decoder is given before its first.

    Raises:
        UserError: the configuration names none.
    """
    config = bare(model).config
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        found = getattr(config, name, None)
        if found is not None:
            return int(found)
    raise UserError(
        f"the configuration of this {config.model_type} does not say what its decoder begins with.",
        remedy="Add decoder_start_token_id to its config.json.",
    )


def first_answer_tokens(tokenizer: Any, choices: tuple[str, str]) -> tuple[int, int]:
    """The token that each answer begins with.

    Raises:
        UserError: both begin with the same one.
    """
    first, second = (one[0] for one in encode_targets(tokenizer, choices))
    if first == second:
        shared = tokenizer.decode([first])
        raise UserError(
            f"the answers {choices[0]!r} and {choices[1]!r} both begin with the token {shared!r}.",
            allowed="Answers are told apart by their first token.",
            remedy="Choose answers that begin differently.",
        )
    return first, second


def padded(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids as a rectangle, filled up on the right.

    Returns:
        int64 [B, L] tokens, int64 [B, L] mask (0 = padding).
    """
    width = max(map(len, sequences))
    tokens = np.full((len(sequences), width), pad, dtype=np.int64)
    mask = np.zeros_like(tokens)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def source_batches(sequences: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Places of sequences of similar length, so many that a batch holds at most `batch_tokens`.

    The longest come first: a batch that does not fit into memory fails at once, not at the end.
    """
    batch: list[int] = []
    for place in sorted(range(len(sequences)), key=lambda place: -len(sequences[place])):
        if batch and (len(batch) + 1) * len(sequences[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def encoded(model: Any, sources: Sequence[Sequence[int]], *, pad: int) -> tuple[Tensor, Tensor]:
    """What the encoder makes of sources.

    Returns:
        Float [B, L, width] states, int64 [B, L] mask.
    """
    tokens, mask = padded(sources, pad)
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    states = bare(model).get_encoder()(input_ids=tokens, attention_mask=mask).last_hidden_state
    return states, mask


def score_first_tokens(
    model: Any,
    sources: Sequence[Sequence[int]],
    tokens: tuple[int, int],
    *,
    pad: int,
    batch_tokens: int,
) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
    """Logits of two tokens as the first of the answer; in evaluation mode, without gradients.

    Args:
        model: With or without an adapter.
        sources: Token ids of prompts.
        tokens: Whose logits.
        pad: Token id that fills rows up.
        batch_tokens: Tokens per forward pass, padding included.

    Yields:
        Places of sources, and float64 [B, 3]: both logits, and the log-sum-exp over all tokens.
    """
    start = decoder_start(model)
    for places in source_batches(sources, batch_tokens):
        states, mask = encoded(model, [sources[place] for place in places], pad=pad)
        begin = torch.full((len(places), 1), start, device=states.device)
        logits = bare(model)(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=begin,
            use_cache=False,
        ).logits[:, -1]
        logits = logits.float()
        both = torch.cat([logits[:, list(tokens)], logits.logsumexp(-1, keepdim=True)], dim=1)
        yield places, both.double().cpu().numpy()


def _tokens(tokenizer: Any, texts: list[str]) -> list[Tokens]:
    if not texts:
        return []
    found: list[Tokens] = tokenizer(
        texts, add_special_tokens=True, split_special_tokens=True, return_attention_mask=False
    )["input_ids"]
    end = tokenizer.eos_token_id
    # Spelled out in a text they would be read as such; a first token or an unknown piece may stay.
    special = {*tokenizer.all_special_ids, tokenizer.pad_token_id}
    special -= {tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.cls_token_id}
    special.add(end)
    return [[*(token for token in one if token not in special), end] for one in found]
