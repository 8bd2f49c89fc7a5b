"""From what a recipe says about a table to its reader."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tastemaker.data.readers.base import TableSource, check_file
from tastemaker.data.readers.database import open_query
from tastemaker.data.readers.delimited import DelimitedFile
from tastemaker.data.readers.hub import HubDataset, is_saved_dataset
from tastemaker.data.readers.jsonl import JsonLines
from tastemaker.data.readers.parquet import ParquetFile
from tastemaker.data.readers.sequences import SequenceFile, looks_like_sequences
from tastemaker.data.readers.shards import Shards
from tastemaker.errors import DataError

__all__ = ["Format", "open_table"]

Format = Literal["auto", "csv", "parquet", "jsonl", "sequences", "dataset"]

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
_ENDINGS: dict[str, Format] = {
    **dict.fromkeys(_SEPARATORS, "csv"),
    ".parquet": "parquet",
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
}
_KNOWN = (
    f"files ending in {', '.join(_ENDINGS)}, .txt (with a separator, or sequences), "
    "text and JSON also with .gz; folders and globs of them"
)
_SOURCES = "path, dataset, or database with query"


@dataclass(frozen=True)
class _Options:
    format: Format
    separator: str | None
    encoding: str
    header: tuple[str, ...] | None


def open_table(
    path: str | Path | Sequence[str | Path] | None = None,
    *,
    format: Format = "auto",
    separator: str | None = None,
    encoding: str = "utf-8",
    header: Sequence[str] | None = None,
    dataset: Any = None,
    subset: str | None = None,
    part: str | None = None,
    database: str | None = None,
    query: str | None = None,
) -> TableSource:
    """Open one table; its rows are not read yet.

    Args:
        path: File, folder of shards, glob, list of these, or a folder of `save_to_disk`. Shards
            are taken in the order of their names.
        format: What the files hold; told by their endings and contents when `auto`.
        separator: Of cells in text files; several characters are allowed.
        encoding: Of text files.
        header: Names of the columns of text files without a header line.
        dataset: Id or folder of a Hugging Face data set that is on this machine, or a `Dataset` or
            `DatasetDict` itself.
        subset: Configuration of that data set.
        part: Its part, such as `train`; all when None.
        database: SQLite or DuckDB file, or `:memory:`.
        query: SQL that selects the table.

    Raises:
        DataError: no or several sources, options that do not apply, no such file, unknown format.
        MissingError: the data set or the package for the database is not on this machine.
    """
    if format not in get_args(Format):
        raise DataError(f"format: '{format}' is unknown.", allowed=", ".join(get_args(Format)))
    given = [
        name
        for name, value in {"path": path, "dataset": dataset, "database": database}.items()
        if value is not None and value != ""
    ]
    if len(given) != 1:
        reason = f"{' and '.join(given)} are all given" if given else "nothing says where it is"
        raise DataError(f"a table needs one source; {reason}.", allowed=f"one of {_SOURCES}")
    options = _Options(format, separator, _encoding(encoding), tuple(header) if header else None)
    folder = _saved_folder(path, format)
    kind = "data set" if dataset is not None or folder else given[0]
    _refuse(kind, {"query": query}, applies=kind == "database")
    _refuse(kind, {"subset": subset}, applies=dataset is not None)
    _refuse(kind, {"part": part}, applies=kind == "data set")
    if kind != "path":
        odd = {"separator": separator, "header": header} | _encoded(options)
        _refuse(kind, odd | _formatted(options, kind), applies=False)
    if database:
        return open_query(database, query or "")
    if dataset is not None or folder:
        return HubDataset(str(folder) if folder else dataset, subset=subset, part=part)
    assert path is not None
    return _open_files(path, options)


def _saved_folder(path: str | Path | Sequence[str | Path] | None, format: Format) -> Path | None:
    """The folder when `path` names one that is a data set of its own."""
    if not isinstance(path, str | Path) or format not in ("auto", "dataset"):
        return None
    folder = Path(path).expanduser()
    if format == "dataset" and not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.", allowed="a folder of a data set")
    return folder if folder.is_dir() and (format == "dataset" or is_saved_dataset(folder)) else None


def _encoding(name: str) -> str:
    try:
        known = codecs.lookup(name).name
        single = "\n".encode(known.removesuffix("-sig")) == b"\n"
    except LookupError:
        raise DataError(f"encoding: '{name}' is unknown.", allowed="utf-8, latin-1, …") from None
    if not single:
        raise DataError(
            f"encoding: '{name}' cannot be read line by line.",
            remedy="Convert the file to UTF-8.",
        )
    return "utf-8" if known == "utf-8-sig" else known


def _encoded(options: _Options) -> dict[str, object]:
    return {"encoding": options.encoding if options.encoding != "utf-8" else None}


def _formatted(options: _Options, kind: str) -> dict[str, object]:
    own = "dataset" if kind == "data set" else "auto"
    return {"format": options.format if options.format not in ("auto", own) else None}


def _refuse(kind: str, given: dict[str, object], *, applies: bool) -> None:
    for name, value in given.items():
        if value is not None and not applies:
            raise DataError(
                f"{name}: {value!r} says nothing about a {kind}.", remedy="Leave it out."
            )


def _open_files(path: str | Path | Sequence[str | Path], options: _Options) -> TableSource:
    named = [path] if isinstance(path, str | Path) else list(path)
    files = list(dict.fromkeys(file for name in named for file in _files(name, options)))
    tables = [_open_file(file, options) for file in files]
    if len(tables) == 1:
        return tables[0]
    name = Path(named[0]).name if len(named) == 1 else f"{files[0].name} and {len(files) - 1} more"
    return Shards(tables, name=name)


def _files(name: str | Path, options: _Options) -> list[Path]:
    """The files that a path, folder or glob stands for."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _shards(path, options)
    if not path.exists() and any(mark in str(path) for mark in "*?["):
        found = [Path(match) for match in glob.glob(str(path), recursive=True)]
        found = sorted(file for file in found if file.is_file())
        if not found:
            raise DataError(f"{path}: no file matches.", remedy="Correct the pattern.")
        return found
    return [path]


def _shards(folder: Path, options: _Options) -> list[Path]:
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    files = [file for file in files if file.name[0] not in "._"]  # _SUCCESS and the like
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        kind = _ENDINGS.get(_ending(file))
        if kind is not None and options.format in ("auto", kind):
            by_kind.setdefault(kind, []).append(file)
    if len(by_kind) == 1:
        return next(iter(by_kind.values()))
    reason = f"holds {' and '.join(sorted(by_kind))} files" if by_kind else "holds no tables"
    raise DataError(
        f"{folder}: {reason}.", allowed=_KNOWN, remedy="Name a pattern, as in part-*.csv"
    )


def _ending(path: Path) -> str:
    """The ending without `.gz`, in small letters."""
    name = path.name.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def _open_file(path: Path, options: _Options) -> TableSource:
    format = _format(path, options)
    if format != "csv":
        odd: dict[str, object] = {"separator": options.separator, "header": options.header}
        odd |= _encoded(options) if format != "sequences" else {}
        _refuse(f"{format} file ({path.name})", odd, applies=False)
    if format == "parquet":
        return ParquetFile(path)
    if format == "jsonl":
        return JsonLines(path)
    if format == "sequences":
        return SequenceFile(path, encoding=options.encoding)
    return DelimitedFile(
        path,
        separator=options.separator or _SEPARATORS.get(_ending(path), ","),
        encoding=options.encoding,
        header=options.header,
    )


def _format(path: Path, options: _Options) -> Format:
    """What the file holds; complains about files that are not there or not known."""
    ending = _ending(path)
    format = options.format if options.format != "auto" else _ENDINGS.get(ending)
    if format is None and options.separator:
        format = "csv"
    if format is None and ending != ".txt":
        raise DataError(
            f"{path}: '{ending or path.name}' is not a known kind of table.",
            allowed=_KNOWN,
            remedy="Say its format (csv, parquet, jsonl, sequences) or its separator.",
        )
    if format == "dataset":
        raise DataError(f"{path}: a data set is a folder.", allowed="format: auto, or a folder")
    check_file(path)
    if format is not None:
        return format
    if looks_like_sequences(path, encoding=options.encoding):
        return "sequences"
    raise DataError(
        f"{path}: what separates the cells of a .txt file is not known.",
        remedy="Say its separator, or format: sequences for lines of user item item …",
    )
