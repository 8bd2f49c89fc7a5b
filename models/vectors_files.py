"""The files of a folder of vectors.

    matrix-N.npy     rows; more are appended behind them, none is ever rewritten
    ids-M.parquet    a log of (id, row, hash of the text); of several entries the last counts
    vectors.json     the index: which matrix and logs count, and how many rows

The index is written last and atomically. Whatever it does not name, be it a file or rows behind
those it counts, was left by a process that was killed, and the next one to write takes its place.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.lib import format as npy
from numpy.typing import NDArray

from tastemaker.errors import DataError
from tastemaker.stage import atomic_file, locked

__all__ = [
    "INDEX",
    "Index",
    "Log",
    "VectorDtype",
    "append_rows",
    "check_finite",
    "live_entries",
    "lock_folder",
    "log_frame",
    "map_matrix",
    "next_number",
    "read_index",
    "read_log",
    "remove_leftovers",
    "write_index",
    "write_log",
    "write_matrix",
]

VectorDtype = Literal["float32", "float16"]
Log = Sequence[tuple[str, int, bytes | None]]

INDEX = "vectors.json"
_LOCK = ".lock"
_SCHEMA = {"id": pl.String, "row": pl.Int64, "hash": pl.Binary}


@dataclass(frozen=True)
class Index:
    """What a folder holds.

    Attributes:
        number: N of the matrix.
        parts: Numbers of the logs, oldest first.
        encoder: Name of the encoder.
        shape: Rows and numbers per row.
        dtype: Precision on disk.
        provenance: Pooling, token limit, digest of the weights, versions, moment of creation.
    """

    number: int
    parts: tuple[int, ...]
    encoder: str
    shape: tuple[int, int]
    dtype: VectorDtype
    provenance: Mapping[str, Any]

    def matrix(self, folder: Path) -> Path:
        """The file of rows."""
        return folder / f"matrix-{self.number}.npy"

    def logs(self, folder: Path) -> list[Path]:
        """The files of ids."""
        return [folder / f"ids-{part}.parquet" for part in self.parts]

    def with_rows(self, rows: int) -> Index:
        """The same with another number of rows."""
        return replace(self, shape=(rows, self.shape[1]))


def read_index(folder: Path) -> Index:
    """Read `vectors.json`.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is missing or damaged.
    """
    about = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    rows, dim = about["shape"]
    return Index(
        number=about["number"],
        # Folders of earlier versions have one log, with the matrix's number.
        parts=tuple(about.get("parts", [about["number"]])),
        encoder=about["encoder"],
        shape=(rows, dim),
        dtype=about["dtype"],
        provenance=about.get("provenance", {}),
    )


def write_index(folder: Path, index: Index) -> None:
    """From this moment on the folder holds what `index` says."""
    with atomic_file(folder / INDEX) as handle:
        handle.write(json.dumps(asdict(index), indent=1).encode())


def map_matrix(folder: Path, index: Index) -> NDArray[Any]:
    """The rows that the index counts, memory-mapped for reading.

    Raises:
        OSError, ValueError: the file is missing or damaged.
        DataError: it holds fewer rows, or others, than the index says.
    """
    path = index.matrix(folder)
    with path.open("rb") as handle:
        offset, shape, fortran, dtype = _header(handle)
        size = os.fstat(handle.fileno()).st_size
    rows, dim = index.shape
    held = (size - offset) // (max(1, shape[-1]) * dtype.itemsize)
    if len(shape) != 2 or shape[1] != dim or dtype != np.dtype(index.dtype) or held < rows:
        raise DataError(
            f"{folder}: the matrix has shape {shape} in {dtype}.",
            allowed=f"{INDEX} records shape {[rows, dim]} in {index.dtype}",
            remedy="Run the encode stage again.",
        )
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=index.shape, order=order)


def write_matrix(path: Path, blocks: Iterator[NDArray[Any]], *, shape: tuple[int, int]) -> None:
    """Write rows, block by block, as one `.npy` file that appears complete or not at all."""
    with atomic_file(path) as handle:
        for place, block in enumerate(blocks):
            if not place:
                _write_header(handle, shape, block.dtype)
            handle.write(np.ascontiguousarray(block).tobytes())


def append_rows(folder: Path, index: Index, values: NDArray[Any]) -> Index:
    """Put rows behind those that the index counts; the new index is returned, not written.

    The file's own header follows, so that `numpy.load` reads all rows too.

    Raises:
        DataError: the rows lie in another order (only files of earlier versions can).
    """
    with index.matrix(folder).open("r+b") as handle:
        offset, _, fortran, _ = _header(handle)
        if fortran:
            raise DataError(
                f"{folder}: rows cannot be added to a matrix in column order.",
                remedy="Run the encode stage again.",
            )
        rows, dim = index.shape
        handle.seek(offset + rows * dim * values.dtype.itemsize)
        handle.write(np.ascontiguousarray(values).tobytes())
        handle.flush()
        os.fsync(handle.fileno())
        handle.seek(0)
        _write_header(handle, (rows + len(values), dim), values.dtype)
        handle.flush()
        os.fsync(handle.fileno())
    return index.with_rows(rows + len(values))


def read_log(folder: Path, index: Index) -> pl.DataFrame:
    """All entries, oldest first: id, row, hash (null where the text is not known).

    Raises:
        OSError, polars.exceptions.PolarsError: a file is missing or damaged.
        DataError: the entries and the matrix do not belong together.
    """
    parts = [_entries(pl.read_parquet(path)) for path in index.logs(folder)]
    log = pl.concat(parts) if parts else pl.DataFrame(schema=_SCHEMA)
    rows = index.shape[0]
    known = log["row"].n_unique()
    if known != rows or not log["row"].is_between(0, rows - 1).all():
        raise DataError(
            f"{folder}: the matrix has shape {list(index.shape)} and ids for {known} rows.",
            allowed=f"{INDEX} records shape {list(index.shape)}",
            remedy="Run the encode stage again.",
        )
    return log


def live_entries(log: pl.DataFrame) -> pl.DataFrame:
    """The last entry of each id, ids in the order in which they came."""
    return log.group_by("id", maintain_order=True).agg(pl.col("row", "hash").last())


def write_log(path: Path, frame: pl.DataFrame) -> None:
    """Write entries, complete or not at all."""
    with atomic_file(path) as handle:
        frame.write_parquet(handle)


def log_frame(entries: Log) -> pl.DataFrame:
    """Entries as a frame."""
    return pl.DataFrame(entries, schema=_SCHEMA, orient="row")


def next_number(folder: Path) -> int:
    """A number that no matrix and no log has, so that nothing in use is ever replaced."""
    taken = [*folder.glob("matrix-*.npy"), *folder.glob("ids-*.parquet")]
    return 1 + max((int(path.stem.rpartition("-")[2]) for path in taken), default=0)


def remove_leftovers(folder: Path, index: Index | None) -> None:
    """Remove what the index does not name; whoever has mapped an old matrix keeps it."""
    kept = {index.matrix(folder), *index.logs(folder)} if index else set()
    for pattern in ("matrix-*.npy", "ids-*.parquet", ".*.tmp"):
        for path in folder.glob(pattern):
            if path not in kept:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(folder: Path, *, always: bool = True) -> Iterator[None]:
    """Be the only one who writes into a folder.

    Args:
        folder: Created when missing.
        always: Otherwise only where someone has done so before.

    Raises:
        BusyError: another process writes into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    if always or path.exists():
        with locked(path, remedy="Wait for it, or write into another folder."):
            yield
    else:
        yield


def check_finite(values: NDArray[Any], ids: Sequence[str]) -> None:
    """Make sure that every number is one.

    Raises:
        DataError: one is infinite or undefined, perhaps only in this precision.
    """
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        raise DataError(
            f"the vector of {ids[int(broken.argmax())]!r} holds a number that is not finite "
            f"in {values.dtype}.",
            remedy="Use float32, or look at what the encoder was given.",
        )


def _entries(part: pl.DataFrame) -> pl.DataFrame:
    if "row" not in part.columns:  # written together with its matrix: one row per id
        part = part.with_columns(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
            pl.lit(None, dtype=pl.Binary).alias("hash"),
        )
    return part.select("id", "row", "hash")


def _header(handle: Any) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Where the rows begin, shape, whether in column order, precision."""
    version = npy.read_magic(handle)
    if version != (1, 0):
        raise ValueError(f"matrix of version {version}")
    shape, fortran, dtype = npy.read_array_header_1_0(handle)
    return handle.tell(), shape, fortran, dtype


def _write_header(handle: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    # NumPy pads headers so that their length does not depend on the number of rows.
    about = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(handle, about)
