"""What every reader offers, and what several of them share."""

from __future__ import annotations

import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import polars as pl

from tastemaker.errors import DataError

__all__ = ["OneFile", "TableSource", "check_file", "chosen", "not_utf8", "open_bytes", "text_lines"]

_GZIP = b"\x1f\x8b"


class TableSource(ABC):
    """One table, wherever it lies; nothing but its header is read before `read`.

    Attributes:
        name: Shown in messages, such as `ratings.csv`.
        open_ended: Whether rows may lack columns, as in JSON; shards may then differ in them, too.
    """

    name: str
    open_ended: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """What the table depends on; nothing when that is not files."""
        return ()

    @property
    def hints(self) -> Mapping[str, str]:
        """Column → `token`, `float`, `token_seq` or `float_seq`, where the format says so."""
        return {}

    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns, in order."""

    @abstractmethod
    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """Read the table.

        Args:
            columns: Those wanted; others are left out, and names the table lacks are ignored. When
                none is there, the first column is read, so that rows can be counted.
            typed: Text formats may give Int64 or Float64 instead of String for columns whose every
                cell is what the number would be written as; so nothing is lost either way. Other
                formats always keep their own types.

        Raises:
            DataError: unreadable or malformed; names the place.
        """

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where rows (from 0) stand, for messages: `x.parquet, row 5` counts from 1."""
        return [f"{self.name}, row {row + 1}" for row in rows]


class OneFile(TableSource):
    """A table in a file of its own.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)


def chosen(have: Sequence[str], wanted: Collection[str] | None) -> list[str]:
    """The wanted ones among `have`, in its order; the first one when there are none.

    >>> chosen(["a", "b", "c"], {"c", "a", "x"}), chosen(["a", "b"], ["x"])
    (['a', 'c'], ['a'])
    """
    if wanted is None:
        return list(have)
    return [name for name in have if name in wanted] or list(have[:1])


def check_file(path: Path) -> None:
    """Complain about a missing or empty file.

    Raises:
        DataError: see above.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", remedy="Name an existing table.")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty.", allowed="a header line and rows")


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file, unpacked when it is gzipped (whatever it is called).

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if packed:
                with gzip.open(raw) as unpacked:
                    yield unpacked  # type: ignore[misc]  # a GzipFile reads as a BinaryIO
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def text_lines(path: Path, encoding: str = "utf-8", *, lossy: bool = False) -> Iterator[str]:
    r"""The lines of a text file with their ends, without a byte order mark.

    Args:
        path: Plain or gzipped.
        encoding: One in which a line ends with the byte `\n`.
        lossy: What is not text in that encoding becomes U+FFFD instead of an error, so that the
            checks of the cells can name every one of them.

    Raises:
        DataError: cannot be read or decoded; names the line.
    """
    with open_bytes(path) as handle:
        for number, line in enumerate(handle, start=1):
            try:
                text = line.decode(encoding, errors="replace" if lossy else "strict")
            except UnicodeDecodeError:
                raise not_utf8(path, number, encoding=encoding) from None
            yield text.removeprefix("\ufeff") if number == 1 else text


def not_utf8(path: Path, line: int, *, encoding: str = "utf-8") -> DataError:
    """The error for a line that is not text in `encoding`."""
    return DataError(
        f"{path}, line {line}: not {encoding.upper()} text",
        remedy="Say the file's encoding, such as encoding: latin-1, or convert it.",
    )
