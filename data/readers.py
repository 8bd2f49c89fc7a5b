"""Reading tables from files; cells of text files stay text until checked, so each can be named."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import polars as pl

from tastemaker.data.schema import Schema
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError

__all__ = ["read_frame", "read_tables"]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_frame(path: Path) -> pl.DataFrame:
    """Read a table: CSV and TSV as text (header in the first line), Parquet with its own types.

    Raises:
        DataError: no such file, another format, empty, or malformed.
    """
    kind = path.suffix.lower()
    if kind not in _SEPARATORS and kind != ".parquet":
        raise DataError(
            f"{path}: '{kind or path.name}' is not a known kind of table.",
            allowed=f"files ending in {', '.join([*_SEPARATORS, '.parquet'])}",
        )
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", remedy="Name an existing table.")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty.", allowed="a header line and rows")
    if kind == ".parquet":
        return _read_parquet(path)
    return _read_text(path, _SEPARATORS[kind])


def read_tables(
    interactions: Path, *, items: Path | None = None, users: Path | None = None, schema: Schema
) -> Tables:
    """Read and check the files of a data set; messages call them by their file names.

    Raises:
        DataError: see `read_frame` and `build_tables`.
    """
    paths = {"interactions": interactions, "items": items, "users": users}
    return build_tables(
        read_frame(interactions),
        items=None if items is None else read_frame(items),
        users=None if users is None else read_frame(users),
        schema=schema,
        names={name: path.name for name, path in paths.items() if path is not None},
        source=interactions.stem,
    )


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def _read_text(path: Path, separator: str) -> pl.DataFrame:
    try:
        frame = pl.read_csv(path, separator=separator, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = _malformed(path, separator) or str(error).split("\n", 1)[0]
        raise DataError(
            f"{path}, {reason}", allowed="UTF-8 text with as many cells in a line as in the header"
        ) from None
    # Blank lines at the end are no rows; elsewhere they are, so that line numbers stay right.
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    return frame.head(filled[-1] + 1 if len(filled) else 0)


def _malformed(path: Path, separator: str) -> str:
    """What is wrong with a text table, and in which line; empty when nothing is found."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line}: not UTF-8 text"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    first = 1
    try:
        width = len(next(reader, []))
        for cells in reader:
            if len(cells) > width:
                return f"line {first + 1}: {len(cells)} cells, the header has {width}"
            first = reader.line_num
    except csv.Error as error:
        return f"line {first + 1}: {error}"
    return ""
