"""A matrix of vectors on disk, one row per id, read through memory mapping.

A folder holds `matrix-N.npy`, `ids-N.parquet` and, written last, `vectors.json`, which names N.
Rows can be added later; a reader that is open meanwhile keeps what it had.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import DataError
from tastemaker.stage import atomic_file

__all__ = ["VectorDtype", "Vectors"]

VectorDtype = Literal["float32", "float16"]

_ABOUT = "vectors.json"


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors by id.

    Attributes:
        matrix: Float [n, dim], memory-mapped, in the stored precision.
        ids: The id of each row; all different.
        encoder: Name of the encoder that made them.
    """

    matrix: NDArray[Any]
    ids: tuple[str, ...]
    encoder: str

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
        """
        with np.errstate(over="ignore"):  # the check below tells about it
            values = np.asarray(matrix).astype(dtype)
        _check(values, ids)
        # Named by number, so that replacing never touches a matrix that someone has mapped.
        number = 1 + max((_number(path) for path in folder.glob("matrix-*.npy")), default=0)
        with atomic_file(folder / f"matrix-{number}.npy") as handle:
            np.save(handle, values, allow_pickle=False)
        with atomic_file(folder / f"ids-{number}.parquet") as handle:
            pl.DataFrame({"id": list(ids)}, schema={"id": pl.String}).write_parquet(handle)
        about = {"number": number, "encoder": encoder, "shape": values.shape, "dtype": dtype}
        with atomic_file(folder / _ABOUT) as handle:
            handle.write(json.dumps(about, indent=1).encode())
        for path in (*folder.glob("matrix-*.npy"), *folder.glob("ids-*.parquet")):
            if _number(path) != number:
                path.unlink()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `create` wrote; the matrix is mapped, not read.

        Raises:
            DataError: the folder holds no vectors, or they do not have the recorded shape.
        """
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            matrix = np.load(
                folder / f"matrix-{about['number']}.npy", mmap_mode="r", allow_pickle=False
            )
            ids = pl.read_parquet(folder / f"ids-{about['number']}.parquet")["id"].to_list()
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder}: holds no readable vectors ({type(error).__name__}).",
                remedy="Run the encode stage again.",
            ) from None
        if list(matrix.shape) != about["shape"] or len(ids) != len(matrix):
            raise DataError(
                f"{folder}: the matrix has shape {matrix.shape} and {len(ids)} ids.",
                allowed=f"{_ABOUT} records shape {about['shape']}",
                remedy="Run the encode stage again.",
            )
        return cls(matrix, tuple(ids), about["encoder"])

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

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
        whole = np.concatenate([self.matrix, values])
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
        return {key: row for row, key in enumerate(self.ids)}


def _check(values: NDArray[Any], ids: Sequence[str]) -> None:
    if values.ndim != 2 or len(values) != len(ids):
        raise DataError(
            f"{len(ids)} ids and a matrix of shape {values.shape} do not belong together.",
            allowed="one row per id: [n, dim]",
        )
    if len(set(ids)) != len(ids):
        twice = next(key for key, count in Counter(ids).items() if count > 1)
        raise DataError(f"the id {twice!r} occurs twice.", allowed="every id once")
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        raise DataError(
            f"the vector of {ids[int(broken.argmax())]!r} holds a number that is not finite "
            f"in {values.dtype}.",
            remedy="Use float32, or look at what the encoder was given.",
        )


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
