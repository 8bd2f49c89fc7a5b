"""A T5 that starts from nothing: its shape, and a tokenizer trained on the prompts.

For machines without a pretrained model, and for the honest small version of P5, whose prompts speak
of little but numbers. Long numbers are cut into groups of three digits from the left, and all
groups are tokens, so that 17,001 items need two tokens each and neighbours share the first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tastemaker.errors import UserError
from tastemaker.models.language import quiet_loading
from tastemaker.models.whole_words import WHOLE_WORDS, WORD_START, WholeWordT5

__all__ = ["T5Shape", "make_t5", "new_tokenizer"]

_SPECIAL = ("<pad>", "</s>", "<unk>")  # in the order of T5's own vocabulary
_DIGITS = WORD_START + r"?[0-9]{1,3}"
_WHOLE = -1.0  # log-probability of each group of digits: so one is never cut further
_BUCKETS, _DISTANCE = 32, 128  # of relative positions, as in T5


@dataclass(frozen=True)
class T5Shape:
    """Shape of a T5; P5-small is 6 + 6 layers of width 512 with 8 heads of 64.

    Attributes:
        layers: Of the encoder, and again of the decoder.
        width: Of token embeddings and hidden states.
        heads: Of attention; must divide the width.
        feed_forward: Width inside the feed-forward blocks; T5-small: 2,048.
        vocabulary: Tokens at most; T5: 32,128.
        dropout: From 0 to below 1; P5: .1.
        whole_words: Rows of whole-word embeddings; P5: 512; 0 for none.

    Raises:
        UserError: heads that do not divide the width.
    """

    layers: int
    width: int
    heads: int
    feed_forward: int
    vocabulary: int
    dropout: float
    whole_words: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(
                f"a width of {self.width} cannot be shared by {self.heads} heads.",
                allowed="a number of heads that divides the width",
                remedy="Change tune.new_model.heads or tune.new_model.width.",
            )


def make_t5(
    texts: Iterable[str], folder: Path, *, shape: T5Shape, tokens: Sequence[str] = (), seed: int
) -> None:
    """Write a model folder with random weights and a tokenizer trained on texts.

    Args:
        texts: Prompts and answers.
        folder: Created; holds what `load_language_model` reads.
        shape: Of the model.
        tokens: Whole tokens besides, such as those of collaborative item indexing.
        seed: Of the weights.

    Raises:
        UserError: a vocabulary too small for the texts.
    """
    tokenizer = new_tokenizer(texts, vocabulary=shape.vocabulary, tokens=tokens)
    config = T5Config(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        d_model=shape.width,
        d_kv=shape.width // shape.heads,
        d_ff=shape.feed_forward,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        num_heads=shape.heads,
        relative_attention_num_buckets=_BUCKETS,
        relative_attention_max_distance=_DISTANCE,
        dropout_rate=shape.dropout,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    if shape.whole_words:
        setattr(config, WHOLE_WORDS, shape.whole_words)
    kind = WholeWordT5 if shape.whole_words else T5ForConditionalGeneration
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(seed)
        model = kind(config)
        if isinstance(model, WholeWordT5):  # as all its embeddings: there is nothing to disturb
            torch.nn.init.normal_(model.encoder.whole_words.weight)
        model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def new_tokenizer(texts: Iterable[str], *, vocabulary: int, tokens: Sequence[str] = ()) -> Any:
    """A tokenizer in the manner of T5's: unigrams with a mark before each word.

    The pieces are those of byte-pair encoding, the more frequent the likelier: the trainer of
    unigrams at hand only knows pieces that several different words share.

    Args:
        texts: What it is trained on.
        vocabulary: Pieces at most, characters included; groups of digits and `tokens` come on top.
        tokens: Whole tokens besides.

    Raises:
        UserError: the texts have more different characters than the vocabulary has places.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _pieces()
    trained.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False)
    )
    whole = Tokenizer(models.Unigram(_scored(trained, vocabulary), unk_id=2, byte_fallback=False))
    whole.pre_tokenizer = _pieces()
    whole.decoder = decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")
    whole.post_processor = TemplateProcessing(
        single=f"$A {_SPECIAL[1]}", pair=None, special_tokens=[(_SPECIAL[1], 1)]
    )
    found = PreTrainedTokenizerFast(
        tokenizer_object=whole,
        pad_token=_SPECIAL[0],
        eos_token=_SPECIAL[1],
        unk_token=_SPECIAL[2],
        model_input_names=["input_ids", "attention_mask"],
    )
    found.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    return found


def _pieces() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(_DIGITS), "isolated"),
        ]
    )


def _scored(trained: Tokenizer, vocabulary: int) -> list[tuple[str, float]]:
    """Special tokens, pieces by Zipf's law, and every group of up to three digits as likely.

    Raises:
        UserError: see `new_tokenizer`.
    """
    groups = [
        mark + "".join(digits)
        for mark in ("", WORD_START)
        for length in (1, 2, 3)
        for digits in itertools.product("0123456789", repeat=length)
    ]
    own = {*groups, *_SPECIAL}
    ranked = sorted(trained.get_vocab().items(), key=lambda one: one[1])
    pieces = [piece for piece, _ in ranked if piece not in own]
    if len(ranked) > vocabulary:
        raise UserError(
            f"a vocabulary of {vocabulary} has no place for the {len(ranked)} characters of these "
            "texts.",
            remedy="Raise tune.new_model.vocabulary.",
        )
    rarest = -math.log(2 + len(pieces))
    return [
        *((token, 0.0) for token in _SPECIAL),
        *(
            (piece, rarest if len(piece) == 1 else -math.log(2 + rank))
            for rank, piece in enumerate(pieces)
        ),
        *((group, _WHOLE) for group in groups),
    ]
