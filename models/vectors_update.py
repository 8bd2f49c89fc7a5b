"""Writing vectors of texts: only what is new is encoded, and a kill loses one flush at most."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.errors import DataError
from tastemaker.models import vectors_files as files
from tastemaker.models.encoders import Encoder
from tastemaker.models.vectors_files import INDEX, Index, VectorDtype

__all__ = ["compact_folder", "origin", "text_hash", "update_folder"]

_MOST_LOGS = 64  # files of ids before they become one
_LIBRARIES = ("numpy", "torch", "transformers", "sentence-transformers", "openai")
_BLOCK = 8192  # rows copied at a time
Pair = tuple[str, str]


def update_folder(
    folder: Path,
    ids: Iterable[str],
    texts: Iterable[str],
    *,
    encoder: Encoder,
    dtype: VectorDtype,
    batch_size: int,
    flush: int,
    on_progress: Callable[[int], None] | None,
) -> None:
    """See `Vectors.update`."""
    with files.lock_folder(folder):
        update = _Update(folder, encoder=encoder, dtype=dtype, batch_size=batch_size)
        pairs = _pairs(ids, texts)
        while chunk := list(islice(pairs, max(1, flush))):
            update.add(chunk, on_progress or (lambda count: None))
        update.finish()


def compact_folder(folder: Path, *, keep: set[str] | None) -> None:
    """See `Vectors.compact`."""
    with files.lock_folder(folder):
        index = _index(folder)
        if index is None:
            raise DataError(f"{folder}: holds no vectors.", remedy="Run the encode stage.")
        log = files.live_entries(files.read_log(folder, index))
        if keep is not None:
            log = log.filter(pl.col("id").is_in(list(keep)))
        rows = np.unique(log["row"].to_numpy())  # sorted, so that the file is read in order
        old = files.map_matrix(folder, index)
        number = files.next_number(folder)
        shape = (len(rows), old.shape[1])
        fresh = replace(index, number=number, parts=(number,), shape=shape)
        blocks = (old[rows[at : at + _BLOCK]] for at in range(0, max(1, len(rows)), _BLOCK))
        files.write_matrix(fresh.matrix(folder), blocks, shape=fresh.shape)
        moved = pl.Series("row", np.searchsorted(rows, log["row"].to_numpy()), dtype=pl.Int64)
        files.write_log(fresh.logs(folder)[0], log.with_columns(moved))
        files.write_index(folder, fresh)
        files.remove_leftovers(folder, fresh)


def origin(encoder: Encoder | None = None) -> dict[str, Any]:
    """Where vectors come from: what matters about the encoder, versions, and now."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    about = _identity(encoder) if encoder else {}
    return {**about, "versions": versions, "created": datetime.now(UTC).isoformat("T", "seconds")}


def text_hash(text: str) -> bytes:
    """The 16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Update:
    """One update of a folder that is locked.

    Attributes:
        rows_of_texts: Row of each hash that there is a vector of.
        rows_of_ids: Row that each id points to.
    """

    def __init__(
        self, folder: Path, *, encoder: Encoder, dtype: VectorDtype, batch_size: int
    ) -> None:
        self._folder, self._encoder, self._batch_size = folder, encoder, batch_size
        found = _index(folder)
        if found is not None:
            _check_same(folder, found, encoder, dtype)
        files.remove_leftovers(folder, found)
        self._index = found or _begin(folder, encoder, dtype)
        log = files.read_log(folder, self._index)
        self.rows_of_texts: dict[bytes, int] = {
            key: row for key, row in log.select("hash", "row").iter_rows() if key is not None
        }
        self.rows_of_ids: dict[str, int] = dict(log.select("id", "row").iter_rows())
        self._seen: set[str] = set()

    def add(self, chunk: list[Pair], on_progress: Callable[[int], None]) -> None:
        """Encode what is new among some texts and write it, the index last."""
        self._refuse_repeated(chunk)
        hashes = [text_hash(text) for _, text in chunk]
        new = {
            key: pair
            for key, pair in zip(hashes, chunk, strict=True)
            if key not in self.rows_of_texts
        }
        on_progress(len(chunk) - len(new))
        index = self._index
        if new:
            values = self._encode(list(new.values()), on_progress)
            index = files.append_rows(self._folder, index, values)
            first = self._index.shape[0]
            self.rows_of_texts.update({key: first + place for place, key in enumerate(new)})
        entries = [
            (key, self.rows_of_texts[mark], mark)
            for (key, _), mark in zip(chunk, hashes, strict=True)
            if self.rows_of_ids.get(key) != self.rows_of_texts[mark]
        ]
        if entries:
            self.rows_of_ids.update({key: row for key, row, _ in entries})
            self._write(index, files.log_frame(entries), index.parts)
        if len(self._index.parts) > _MOST_LOGS:
            self.finish()

    def finish(self) -> None:
        """Make one log of many."""
        if len(self._index.parts) > 1:
            self._write(self._index, files.read_log(self._folder, self._index), ())
            files.remove_leftovers(self._folder, self._index)

    def _write(self, index: Index, log: pl.DataFrame, older: tuple[int, ...]) -> None:
        part = files.next_number(self._folder)
        files.write_log(self._folder / f"ids-{part}.parquet", log)
        self._index = replace(index, parts=(*older, part))
        files.write_index(self._folder, self._index)

    def _encode(self, pairs: list[Pair], on_progress: Callable[[int], None]) -> NDArray[Any]:
        texts = [text for _, text in pairs]
        found = self._encoder.encode(texts, batch_size=self._batch_size, on_progress=on_progress)
        if found.shape[1] != self._index.shape[1]:
            raise DataError(
                f"{self._folder} holds vectors of {self._index.shape[1]} numbers; "
                f"{self._encoder.name} gives {found.shape[1]}."
            )
        with np.errstate(over="ignore"):  # the check below tells about it
            values = found.astype(self._index.dtype)
        files.check_finite(values, [key for key, _ in pairs])
        return values

    def _refuse_repeated(self, chunk: list[Pair]) -> None:
        for key, _ in chunk:
            if key in self._seen:
                raise DataError(f"the id {key!r} occurs twice.", allowed="every id once")
            self._seen.add(key)


def _pairs(ids: Iterable[str], texts: Iterable[str]) -> Iterator[Pair]:
    left, right = iter(ids), iter(texts)
    for key in left:
        try:
            yield key, next(right)
        except StopIteration:
            raise DataError(f"there is no text for the id {key!r}.") from None
    if next(right, None) is not None:
        raise DataError("there are more texts than ids.", allowed="one text per id")


def _index(folder: Path) -> Index | None:
    """What the folder holds, or None when it is new."""
    if not (folder / INDEX).exists():
        return None
    try:
        return files.read_index(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: {INDEX} cannot be read ({type(error).__name__}).",
            remedy="Remove the folder, or choose another.",
        ) from None


def _begin(folder: Path, encoder: Encoder, dtype: VectorDtype) -> Index:
    """An index and a matrix without rows; only the matrix is written."""
    number = files.next_number(folder)
    index = Index(number, (), encoder.name, (0, encoder.dim), dtype, origin(encoder))
    empty = np.zeros(index.shape, dtype=dtype)
    files.write_matrix(index.matrix(folder), iter([empty]), shape=index.shape)
    files.write_index(folder, index)
    return index


def _identity(encoder: Encoder) -> dict[str, Any]:
    return {
        "pooling": encoder.pooling,
        "max_tokens": encoder.max_tokens,
        "weights": encoder.weights,
    }


def _check_same(folder: Path, index: Index, encoder: Encoder, dtype: VectorDtype) -> None:
    held = {"encoder": index.encoder, "dtype": index.dtype}
    held |= {key: index.provenance[key] for key in _identity(encoder) if key in index.provenance}
    given = {"encoder": encoder.name, "dtype": dtype, **_identity(encoder)}
    for key, value in held.items():
        if given[key] != value:
            raise DataError(
                f"{folder} holds vectors with {key} {value!r}; {given[key]!r} cannot join them.",
                allowed="one encoder and one precision per folder",
                remedy="Choose another folder, or remove this one.",
            )
