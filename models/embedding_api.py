"""Vectors from a server that speaks OpenAI's embeddings protocol.

The key is read from the environment for each call and kept nowhere. Refused and failed requests
are repeated with growing pauses, or after as long as the server asks for (`Retry-After`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import openai
from numpy.typing import NDArray

from tastemaker.errors import MissingError, StageError, UserError

__all__ = ["EndpointEncoder", "public_address", "require_key"]

_KEY, _ADDRESS = "OPENAI_API_KEY", "OPENAI_BASE_URL"
_RETRIES = 8
_MOST_TEXTS = 2048  # of one request, by the protocol
_MOST_CHARACTERS = 500_000  # of one request; OpenAI takes 300,000 tokens


class EndpointEncoder:
    """An embedding model behind `/v1/embeddings`.

    Args:
        model: What the server calls it.
        base_url: The server, up to `/v1`; OpenAI's own, or `OPENAI_BASE_URL`, when None.

    Attributes:
        name: `openai:MODEL`, and the server behind `@` when it is not OpenAI's own.

    Raises:
        MissingError: there is neither a key nor a `base_url`.
    """

    pooling: str | None = None
    max_tokens: int | None = None
    weights: str | None = None
    cut_texts: int = 0

    def __init__(self, model: str, *, base_url: str | None = None) -> None:
        self._model, self._base_url = model, base_url or os.environ.get(_ADDRESS) or None
        require_key(self._base_url)
        self.name = f"openai:{model}"
        if self._base_url:
            self.name += f"@{public_address(self._base_url)}"

    @cached_property
    def dim(self) -> int:
        """Size of a vector; the first use asks the server for one."""
        with self._client() as client:
            return len(self._ask(client, ["size"])[0])

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors, float32 [n, dim]; each distinct text is sent once.

        Args:
            texts: Any strings; an empty one gets zeros, since servers refuse it.
            batch_size: Texts per request at most.
            on_progress: Called with the number of texts that have just been encoded.

        Raises:
            UserError: the server refuses the key, the model or a text.
            StageError: the server cannot be reached or does not speak the protocol.
        """
        distinct = list(dict.fromkeys(texts))
        number = {text: place for place, text in enumerate(distinct)}
        places = np.array([number[text] for text in texts], dtype=np.int64)
        repeats = np.bincount(places, minlength=len(distinct))
        sent = [place for place, text in enumerate(distinct) if text]
        vectors: NDArray[np.float32] | None = None
        with self._client() as client:
            for rows in _requests(distinct, sent, min(batch_size, _MOST_TEXTS)):
                found = self._ask(client, [distinct[row] for row in rows])
                if vectors is None:
                    self.__dict__.setdefault("dim", found.shape[1])
                    vectors = np.zeros((len(distinct), self.dim), dtype=np.float32)
                self._check_dim(found)
                vectors[rows] = found
                if on_progress:
                    on_progress(int(repeats[rows].sum()))
        if on_progress and "" in number:
            on_progress(int(repeats[number[""]]))
        if vectors is None:  # nothing had to be sent
            vectors = np.zeros((len(distinct), self.dim), dtype=np.float32)
        return vectors[places]

    def _client(self) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=require_key(self._base_url), base_url=self._base_url, max_retries=_RETRIES
        )

    def _ask(self, client: openai.OpenAI, texts: list[str]) -> NDArray[np.float32]:
        try:
            answer = client.embeddings.create(
                model=self._model, input=texts, encoding_format="float"
            )
        except openai.APIStatusError as error:
            raise self._refused(error.status_code) from None
        except openai.APIError as error:
            raise StageError(f"{self.name}: no answer ({type(error).__name__}).") from None
        rows = {part.index: part.embedding for part in answer.data or ()}
        if set(rows) != set(range(len(texts))) or len({len(row) for row in rows.values()}) != 1:
            raise StageError(f"{self.name}: {len(texts)} texts were sent, {len(rows)} came back.")
        found = np.array([rows[place] for place in range(len(texts))], dtype=np.float32)
        if not np.isfinite(found).all():
            raise StageError(f"{self.name}: a vector holds a number that is not finite.")
        return found

    def _refused(self, status: int) -> UserError | StageError:
        """What a status means; the server's own words are dropped, since they may quote the key."""
        if status in (401, 403):
            return UserError(
                f"{self.name}: the server refuses the key ({status}).", remedy=f"Look at {_KEY}."
            )
        if status < 500 and status not in (408, 409, 429):
            return UserError(
                f"{self.name}: the server refuses the request ({status}).",
                allowed="a model and texts that the server takes; a long text may be too long",
            )
        return StageError(f"{self.name}: status {status} after {_RETRIES} more tries.")

    def _check_dim(self, found: NDArray[Any]) -> None:
        if found.shape[1] != self.dim:
            raise StageError(
                f"{self.name}: the size of vectors changed from {self.dim} to {found.shape[1]}."
            )


def require_key(base_url: str | None) -> str:
    """The key in the environment, or a stand-in for servers that need none.

    Raises:
        MissingError: OpenAI itself would be asked without a key.
    """
    key = os.environ.get(_KEY)
    if not key and not (base_url or os.environ.get(_ADDRESS)):
        raise MissingError(
            "OpenAI's embeddings need a key.",
            remedy=f"Set it in the environment: export {_KEY}=..., or name a base_url.",
        )
    return key or "none"


def public_address(base_url: str) -> str:
    """An address without user, password, query and fragment.

    >>> public_address("https://me:secret@host:8000/v1/?key=1")
    'https://host:8000/v1'

    Raises:
        UserError: it is not the address of a server.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = parts.netloc.rpartition("@")[2] + parts.path
        raise UserError(
            f"base_url '{shown}' is no address of a server.",
            allowed="for example http://localhost:8000/v1",
        )
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def _requests(texts: Sequence[str], sent: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of texts that share a request."""
    batch: list[int] = []
    size = 0
    for place in sent:
        if batch and (len(batch) == most or size + len(texts[place]) > _MOST_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(place)
        size += len(texts[place])
    if batch:
        yield batch
