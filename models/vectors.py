"""A matrix of vectors on disk, addressed by id, read through memory mapping.

A folder holds the vectors of one encoder. `create` writes vectors that exist already; `update`
encodes texts, each only once, whatever was killed in between. A reader that is open meanwhile
keeps what it had. `vectors_files` describes the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import DataError
from tastemaker.models import vectors_files as files
from tastemaker.models.encoders import Encoder
from tastemaker.models.vectors_files import Index, VectorDtype
from tastemaker.models.vectors_update import compact_folder, origin, update_folder

__all__ = ["VectorDtype", "Vectors"]

_ATTEMPTS = 5  # to open a folder that is being written


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors by id.

    Attributes:
        matrix: Float [rows, dim], memory-mapped, in the stored precision.
        ids: All different, in the order in which they came.
        id_rows: The row of each id, int64; ids with equal texts may share one, and rows of
            replaced texts belong to none.
        encoder: Name of the encoder that made them.
        provenance: Its pooling, token limit and digest of weights, versions, moment of creation.
    """

    matrix: NDArray[Any]
    ids: tuple[str, ...]
    id_rows: NDArray[np.int64]
    encoder: str
    provenance: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        folder: Path,
        ids: Sequence[str],
        matrix: ArrayLike,
        *,
        encoder: str,
        dtype: VectorDtype = "float32",
    ) -> Self:
        """Write vectors, replacing what the folder held, and open them.

        Args:
            folder: Created when missing.
            ids: n different ids.
            matrix: Float [n, dim].
            encoder: Name of the encoder.
            dtype: Precision on disk.

        Raises:
            DataError: the shapes do not agree, an id occurs twice, or a number is not finite.
            BusyError: another process updates the folder.
        """
        with np.errstate(over="ignore"):  # the check below tells about it
            values = np.asarray(matrix).astype(dtype)
        _check(values, ids)
        with files.lock_folder(folder, always=False):
            number = files.next_number(folder)
            index = Index(number, (number,), encoder, values.shape, dtype, origin())
            files.write_matrix(index.matrix(folder), iter([values]), shape=values.shape)
            frame = pl.DataFrame({"id": list(ids)}, schema={"id": pl.String})
            files.write_log(folder / f"ids-{number}.parquet", frame)
            files.write_index(folder, index)
            files.remove_leftovers(folder, index)
        return cls.open(folder)

    @classmethod
    def update(
        cls,
        folder: Path,
        ids: Iterable[str],
        texts: Iterable[str],
        *,
        encoder: Encoder,
        dtype: VectorDtype = "float16",
        batch_size: int = 64,
        flush: int = 2048,
        on_progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Add texts to a folder, or replace those of their ids, and open it.

        A text that the folder has a vector of, under whatever id, is not encoded again. Rows are
        appended, and what is done is kept every `flush` texts: after a kill, call it again.

        Args:
            folder: Created when missing.
            ids: Each at most once; ids of earlier updates stay.
            texts: One per id; both may be iterators that are never held in memory.
            encoder: Encodes what is new; the same as in earlier updates.
            dtype: Precision on disk; the same as in earlier updates.
            batch_size: See `Encoder.encode`.
            flush: Texts after which everything is on disk.
            on_progress: Called with the number of texts that have just been dealt with.

        Raises:
            DataError: the folder holds vectors of another encoder, precision or size, an id
                occurs twice, ids and texts are not equally many, or a number is not finite.
            BusyError: another process updates the folder.
        """
        update_folder(
            folder,
            ids,
            texts,
            encoder=encoder,
            dtype=dtype,
            batch_size=batch_size,
            flush=flush,
            on_progress=on_progress,
        )
        return cls.open(folder)

    @classmethod
    def compact(cls, folder: Path, *, keep: Iterable[str] | None = None) -> Self:
        """Drop rows that no id points to, and open the folder.

        Args:
            folder: Where the vectors are.
            keep: Ids that stay; all when None. Unknown ones are of no matter.

        Raises:
            DataError: the folder holds no vectors.
            BusyError: another process updates the folder.
        """
        compact_folder(folder, keep=None if keep is None else set(keep))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what was written; the matrix is mapped, not read.

        Raises:
            DataError: the folder holds no vectors, or they do not have the recorded shape.
        """
        for attempt in range(_ATTEMPTS):
            try:
                index = files.read_index(folder)
                matrix, log = files.map_matrix(folder, index), files.read_log(folder, index)
                break
            except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
                # A writer may have removed files just after it had replaced the index.
                if attempt < _ATTEMPTS - 1 and isinstance(error, FileNotFoundError):
                    continue
                raise DataError(
                    f"{folder}: holds no readable vectors ({type(error).__name__}).",
                    remedy="Run the encode stage again.",
                ) from None
        live = files.live_entries(log)
        rows = live["row"].to_numpy().astype(np.int64)
        return cls(matrix, tuple(live["id"].to_list()), rows, index.encoder, index.provenance)

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.matrix)

    def extended(self, folder: Path, ids: Sequence[str], matrix: ArrayLike) -> Vectors:
        """Write these vectors and further ones into `folder`, and open the result.

        Args:
            folder: Where to write; may be where these came from.
            ids: m ids, none of them here already.
            matrix: Float [m, dim].

        Raises:
            DataError: another `dim`, or an id that is here already.
        """
        values = np.asarray(matrix)
        if values.ndim != 2 or values.shape[1] != self.dim:
            raise DataError(f"vectors of shape {values.shape} cannot join vectors of {self.dim}.")
        whole = np.concatenate([self.matrix[self.id_rows], values])
        dtype: VectorDtype = "float16" if self.matrix.dtype == np.float16 else "float32"
        return Vectors.create(folder, [*self.ids, *ids], whole, encoder=self.encoder, dtype=dtype)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, int64 [n]; -1 where there is none."""
        return np.array([self._places.get(key, -1) for key in ids], dtype=np.int64)

    def take(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Vectors of `rows` (integers [n]), float32 [n, dim]; zeros where a row is -1."""
        wanted = np.asarray(rows, dtype=np.int64)
        taken = np.zeros((len(wanted), self.dim), dtype=np.float32)
        present = wanted >= 0
        taken[present] = self.matrix[wanted[present]]
        return taken

    @cached_property
    def _places(self) -> dict[str, int]:
        return dict(zip(self.ids, self.id_rows.tolist(), strict=True))


def _check(values: NDArray[Any], ids: Sequence[str]) -> None:
    if values.ndim != 2 or len(values) != len(ids):
        raise DataError(
            f"{len(ids)} ids and a matrix of shape {values.shape} do not belong together.",
            allowed="one row per id: [n, dim]",
        )
    if len(set(ids)) != len(ids):
        twice = next(key for key, count in Counter(ids).items() if count > 1)
        raise DataError(f"the id {twice!r} occurs twice.", allowed="every id once")
    files.check_finite(values, ids)
