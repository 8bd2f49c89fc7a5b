"""Whole-word embeddings: every piece of "item_7391" is told that it belongs to the same word.

P5 (Geng et al., RecSys 2022, arXiv 2203.13366) adds a table W [512, width] to the token embeddings
of a T5 encoder. The index into it is found by walking the tokens and adding one whenever a token
begins a word; the end token and padding get 0.

The indices follow from the token ids alone, so the encoder finds them by itself: they are there in
training, validation and generation alike (P5's own code passes them in training only), and whoever
calls the model needs to know nothing of them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers import initialization as init
from transformers.models.t5.modeling_t5 import T5Stack

__all__ = ["WHOLE_WORDS", "WORD_START", "WholeWordT5", "whole_word_ids", "word_starts"]

WORD_START = "▁"  # SentencePiece's mark of a space
WHOLE_WORDS = "whole_words"  # of a model's configuration: rows of the table


def whole_word_ids(tokens: Tensor, *, starts: Tensor, ends: Tensor, positions: int) -> Tensor:
    """Which word of its text each token belongs to.

    Args:
        tokens: int64 [B, L].
        starts: bool [V], tokens that begin a word.
        ends: bool [V], the end token and padding, which belong to none.
        positions: Rows of the table; words beyond it share the last one.

    Returns:
        int64 [B, L], from 1 on; 0 for what belongs to no word.
    """
    words = starts[tokens].cumsum(-1).clamp(max=positions - 1)
    return words.masked_fill(ends[tokens], 0)


def word_starts(tokenizer: Any, size: int) -> Tensor:
    """Bool [size], the tokens of a SentencePiece-like tokenizer that begin a word.

    Args:
        tokenizer: Whose tokens.
        size: Rows of the model's embedding; those beyond the tokenizer begin nothing.
    """
    found = torch.zeros(size, dtype=torch.bool)
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), size))))
    begins = [place for place, piece in enumerate(pieces) if (piece or "").startswith(WORD_START)]
    found[begins] = True
    return found


class _WholeWords(nn.Embedding):
    """The table, apart from other embeddings so that it is initialised in its own way."""


class _Encoder(T5Stack):
    """A T5 encoder that adds the embedding of its word to each token."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.whole_words = _WholeWords(getattr(config, WHOLE_WORDS), config.d_model)
        self.starts: Tensor | None = None
        self.ends: Tensor | None = None
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **others: Any
    ) -> Any:
        """As T5's; `inputs_embeds` are taken as they are."""
        if input_ids is not None and inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids) + self.whole_words(self.words(input_ids))
            input_ids = None
        return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **others)

    def words(self, input_ids: Tensor) -> Tensor:
        """int64 [B, L], see `whole_word_ids`."""
        assert self.starts is not None
        assert self.ends is not None
        if self.starts.device != input_ids.device:
            self.starts, self.ends = (
                flags.to(input_ids.device) for flags in (self.starts, self.ends)
            )
        positions = self.whole_words.num_embeddings
        return whole_word_ids(input_ids, starts=self.starts, ends=self.ends, positions=positions)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, _WholeWords):
            init.zeros_(module.weight)
        else:
            super()._init_weights(module)


class WholeWordT5(T5ForConditionalGeneration):
    """T5 (or Flan-T5) with whole-word embeddings, zero where a pretrained model has none yet.

    Its configuration says how many with `whole_words`. `read_words` must be called once.
    """

    _keys_to_ignore_on_load_missing = (r"encoder\.whole_words\.weight",)

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        encoder = copy.deepcopy(config)
        encoder.is_decoder = False
        encoder.use_cache = False
        self.encoder = _Encoder(encoder)
        self.post_init()

    def read_words(self, tokenizer: Any) -> None:
        """Learn from the tokenizer which tokens begin a word and which belong to none."""
        size = self.shared.weight.shape[0]
        ends = torch.zeros(size, dtype=torch.bool)
        ends[_known(tokenizer.eos_token_id, tokenizer.pad_token_id)] = True
        self.encoder.starts, self.encoder.ends = word_starts(tokenizer, size), ends


def _known(*tokens: int | None) -> list[int]:
    return [token for token in tokens if token is not None]
