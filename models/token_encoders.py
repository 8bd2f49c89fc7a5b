"""Encoders that run a transformer on this machine.

Texts are sorted by length and share a forward pass up to a number of tokens, not of texts, so that
hardly anything is padding. What looks like a special token inside a text is read as plain text.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from tastemaker.errors import UserError
from tastemaker.models.language import default_device, quiet_loading
from tastemaker.models.layers.pooling import Pooling, pool

__all__ = ["PooledEncoder", "SentenceEncoder", "check_plain_model"]

_TOKENS_PER_TEXT = 32  # what `batch_size` counts as one text
_LEAST_PER_THREAD = 4  # texts, for batches to run side by side
_WINDOW = 4096  # texts that are held as tokens at a time
_SAMPLE = 1 << 20  # bytes at either end of a file of weights that name it
_NO_LIMIT = 1 << 20  # tokenizers without a limit give a huge number
# Their positions start behind the padding token's, so that fewer are left for text.
_SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text")
_Mapped = Callable[
    [Callable[[list[int]], NDArray[np.float32]], Iterable[list[int]]],
    Iterable[NDArray[np.float32]],
]


class _TokenEncoder(ABC):
    """What both kinds share: tokens, batches, and the way back to the order of the texts."""

    name: str
    dim: int
    pooling: str | None
    max_tokens: int | None
    weights: str | None
    cut_texts: int = 0
    _tokenizer: Any
    _device: torch.device

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors, float32 [n, dim]; each distinct text is encoded once.

        Args:
            texts: Any strings; one without any token gets zeros.
            batch_size: Size of a forward pass, in texts of 32 tokens.
            on_progress: Called with the number of texts that have just been encoded.
        """
        distinct = list(dict.fromkeys(texts))
        number = {text: place for place, text in enumerate(distinct)}
        places = np.array([number[text] for text in texts], dtype=np.int64)
        repeats = np.bincount(places, minlength=len(distinct))
        vectors = np.zeros((len(distinct), self.dim), dtype=np.float32)
        # Longest first: a batch that does not fit into memory fails at once, not at the end.
        order = sorted(range(len(distinct)), key=lambda place: -len(distinct[place]))
        with _side_by_side(self._device, len(order)) as mapped:
            for start in range(0, len(order), _WINDOW):
                window = order[start : start + _WINDOW]
                sequences = self._tokenize([distinct[place] for place in window])
                batches = list(_batches(sequences, batch_size * _TOKENS_PER_TEXT))
                run = partial(self._run, sequences)
                for members, found in zip(batches, mapped(run, batches), strict=True):
                    rows = [window[member] for member in members]
                    vectors[rows] = found
                    if on_progress:
                        on_progress(int(repeats[rows].sum()))
        return vectors[places] if len(distinct) < len(texts) else vectors

    def _run(self, sequences: list[list[int]], members: list[int]) -> NDArray[np.float32]:
        """Vectors of a batch."""
        if not sequences[members[0]]:
            return np.zeros((len(members), self.dim), dtype=np.float32)
        padding = self._tokenizer.pad_token_id or 0
        ids, mask = _padded([sequences[member] for member in members], padding)
        with torch.inference_mode():
            found = self._forward(ids.to(self._device), mask.to(self._device))
        vectors: NDArray[np.float32] = found.float().cpu().numpy()
        return vectors

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        options = {
            "return_attention_mask": False,
            "return_token_type_ids": False,
            "split_special_tokens": True,
            "verbose": False,
        }
        sequences: list[list[int]] = self._tokenizer(texts, **options)["input_ids"]
        limit = self.max_tokens
        long = [p for p, ids in enumerate(sequences) if limit is not None and len(ids) > limit]
        if long:
            self.cut_texts += len(long)
            shortened = self._tokenizer(
                [texts[place] for place in long], truncation=True, max_length=limit, **options
            )["input_ids"]
            for place, ids in zip(long, shortened, strict=True):
                sequences[place] = ids
        return sequences

    @abstractmethod
    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors [n, dim] of padded token ids [n, tokens]."""


class SentenceEncoder(_TokenEncoder):
    """A sentence-transformers model, in float32; pools as the model says.

    Args:
        name: What it was asked for by.
        folder: Where the model is.
        max_tokens: Longer texts are cut; the model's own limit when None.
        device: See `default_device` when None.

    Attributes:
        cut_texts: How many texts have been cut so far; not counted for a model with a prompt or
            another peculiarity, which is left to `SentenceTransformer.encode`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        max_tokens: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        _require_safetensors(folder)
        with quiet_loading():
            self._model = SentenceTransformer(
                str(folder), device=str(device or default_device()), local_files_only=True
            )
        self._model.eval()
        self._device = self._model.device
        self.name, self.pooling = name, None
        self.dim = int(self._model.get_embedding_dimension())
        self.weights = _fingerprint(folder)
        own = getattr(self._model, "max_seq_length", None)
        self.max_tokens = _limit(name, max_tokens, own)
        if max_tokens is not None:
            self._model.max_seq_length = max_tokens
        self._direct = _is_plain(self._model)
        if self._direct:
            self._tokenizer = self._model.tokenizer

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors, float32 [n, dim], as `SentenceTransformer.encode` gives; see the base class."""
        if self._direct or not texts:
            return super().encode(texts, batch_size=batch_size, on_progress=on_progress)
        special = getattr(self._model.tokenizer, "all_special_tokens", ())
        plain = [_broken(text, special) for text in texts]
        found: NDArray[np.float32] = self._model.encode(
            plain, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        if on_progress:
            on_progress(len(texts))
        return found.astype(np.float32, copy=False)

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        features = {"input_ids": ids, "attention_mask": mask, "modality": "text"}
        vectors: Tensor = self._model(features)["sentence_embedding"]
        return vectors


class PooledEncoder(_TokenEncoder):
    """A plain Hugging Face encoder or decoder, in float32, with a pooling over its tokens.

    Args:
        name: What it was asked for by; the pooling is added to it.
        folder: Where the model is.
        pooling: See `pool`.
        max_tokens: Longer texts are cut; the model's context when None (512 for BERT, as in KAR).
        device: See `default_device` when None.

    Attributes:
        cut_texts: How many texts have been cut so far.

    Raises:
        UserError: the folder holds no model that gives states of tokens.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        pooling: Pooling,
        max_tokens: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        config = check_plain_model(name, folder)
        self._device = torch.device(device) if device is not None else default_device()
        with quiet_loading():
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        model.config.use_cache = False
        self._model = model.to(self._device).eval()
        self.name, self.pooling = f"{name}|{pooling}", pooling
        self._pooling = pooling
        self.dim = int(config.get_text_config().hidden_size)
        self.weights = _fingerprint(folder)
        self.max_tokens = _limit(name, max_tokens, _context(config, self._tokenizer))

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        both = self._pooling == "first_last"
        output = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=both)
        layers = output.hidden_states if both else [output.last_hidden_state]
        return pool(layers, mask, self._pooling)


def check_plain_model(name: str, folder: Path) -> Any:
    """The configuration of a model that gives states of tokens; no weights are read.

    Raises:
        UserError: the folder holds none, or a sequence-to-sequence model.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"encoder '{name}': {folder} holds no model.",
            allowed="A model folder has config.json, tokenizer files and *.safetensors weights.",
        )
    _require_safetensors(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"encoder '{name}' is a sequence-to-sequence model ({config.model_type}).",
            allowed="encoders such as BERT and decoders such as SmolLM2",
        )
    return config


def _require_safetensors(folder: Path) -> None:
    if not _weights(folder):
        raise UserError(
            f"{folder} holds no *.safetensors weights.",
            allowed="Other files of weights can run code when they are read, and are not.",
        )


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def _fingerprint(folder: Path) -> str:
    """A short digest of the weights, so that a model trained further is not taken for the same."""
    seen = hashlib.blake2b(digest_size=8)
    for path in _weights(folder):
        size = path.stat().st_size
        with path.open("rb") as handle:
            seen.update(b"%d:" % size + handle.read(_SAMPLE))
            handle.seek(max(0, size - _SAMPLE))
            seen.update(handle.read())
    return seen.hexdigest()


def _limit(name: str, wanted: int | None, own: int | None) -> int | None:
    if wanted is None:
        return own
    if wanted < 1 or (own is not None and wanted > own):
        raise UserError(
            f"encoder '{name}': max_tokens is {wanted}.",
            allowed=f"from 1 to {own or 'any number'}, what the model reads",
        )
    return wanted


def _context(config: Any, tokenizer: Any) -> int | None:
    """Tokens that fit into the model, or None when nothing limits them."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and config.model_type in _SHIFTED_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
    stated = tokenizer.model_max_length
    known = [n for n in (positions, stated) if n is not None and 0 < n < _NO_LIMIT]
    return min(known, default=None)


def _is_plain(model: Any) -> bool:
    """Whether token ids can be handed to it without anything else that `encode` would do."""
    first = model[0]
    return (
        type(first) is Transformer
        and list(first.modalities) == ["text"]
        and not model.default_prompt_name
        and model.truncate_dim is None
        and not getattr(first, "do_lower_case", False)
        and not getattr(first, "processing_kwargs", None)
    )


def _broken(text: str, special: Iterable[str]) -> str:
    """The text with a space inside whatever looks like a special token."""
    for token in special:
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


@contextmanager
def _side_by_side(device: torch.device, texts: int) -> Iterator[_Mapped]:
    """A `map`; on a CPU with work for all threads, one that runs on one thread each."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or texts < _LEAST_PER_THREAD * threads:
        yield map
        return
    workers = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield workers.map
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what other new threads get is one setting for all


def _batches(sequences: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Places of texts, longest first; a batch has at most `budget` tokens, padding included.

    A single text that is longer makes a batch of its own, and so do all without tokens together.
    """
    order = sorted(range(len(sequences)), key=lambda place: -len(sequences[place]))
    start = 0
    while start < len(order):
        longest = len(sequences[order[start]])
        count = max(1, budget // longest) if longest else len(order)
        batch = order[start : start + count]
        if longest:  # those without tokens stand last
            batch = [place for place in batch if sequences[place]]
        yield batch
        start += len(batch)


def _padded(sequences: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids, padded on the right, and where they are; int64 [n, tokens] both."""
    shape = (len(sequences), max(map(len, sequences)))
    ids, mask = np.full(shape, padding, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
