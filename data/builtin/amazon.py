"""What the Amazon review dumps of 2014, 2018 and 2023 have in common.

A dump was made after its last review, and some of its columns sum up all reviews, those of any test
period included. They are not read: see `BuiltinDataset.left_out`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from tastemaker.data.builtin.base import BuiltinDataset
from tastemaker.data.builtin.files import RemoteFile
from tastemaker.data.readers import open_table
from tastemaker.data.readers.base import open_bytes
from tastemaker.data.readers.values import as_series
from tastemaker.data.schema import Policies, Schema
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError

__all__ = ["CATEGORIES", "Dump", "dataset", "sane_title"]

SERVER = "https://mcauleylab.ucsd.edu/public_datasets/data"
# The five domains of Uni-CTR, with their names in prompts.
CATEGORIES: Mapping[str, str] = {
    "fashion": "Amazon Fashion",
    "musical-instruments": "Musical Instruments",
    "gift-cards": "Gift Cards",
    "all-beauty": "All Beauty",
    "digital-music": "Digital Music",
}
LEFT_OUT = "computed from all reviews, later ones included, or collected when the dump was made: "
_LICENCE = (
    "Amazon review data of the McAuley Lab, UC San Diego: for research, with citation of {paper}."
)
_JUNK = 10_000  # characters; Uni-CTR drops texts of that length, which are scripts of web pages


@dataclass(frozen=True)
class Dump:
    """What differs between the dumps.

    Attributes:
        name: Name of the family.
        files: Variant → file names of its reviews and of its items.
        addresses: Addresses of reviews and of items, without the file name.
        schema: Names of the columns once renamed; without a domain.
        reviews: Column of the reviews → our name.
        items: Column of the items → our name.
        shape: Further changes to the items, expressions by name.
        columns: What each column means.
        left_out: Columns that know the future.
        paper: To be cited.
        url: Where the dump is described.
        server: Where the addresses begin.
        categories: Variant → its name in prompts.
        users: Column of the reviews → our name, of what they tell of who wrote them.
    """

    name: str
    files: Mapping[str, tuple[str, str]]
    addresses: tuple[str, str]
    schema: Schema
    reviews: Mapping[str, str]
    items: Mapping[str, str]
    shape: Mapping[str, pl.Expr]
    columns: Mapping[str, str]
    left_out: str
    paper: str
    url: str
    server: str = SERVER
    categories: Mapping[str, str] = field(default_factory=lambda: CATEGORIES)
    users: Mapping[str, str] = field(default_factory=dict)


def dataset(dump: Dump, variants: tuple[str, ...]) -> BuiltinDataset:
    """One category, or several joined by a column `domain`."""
    names = [name for variant in variants for name in dump.files[variant]]
    remote = [
        RemoteFile(name, f"{dump.server}/{address}/{name}")
        for variant in variants
        for name, address in zip(dump.files[variant], dump.addresses, strict=True)
    ]
    schema, columns = dump.schema, dict(dump.columns)
    if len(variants) > 1:
        schema = replace(schema, domain="domain")
        columns["domain"] = "category whose file the review is in"
    full_name = f"{dump.name}:{'+'.join(variants)}"
    licence = _LICENCE.format(paper=dump.paper)

    def load(files: Mapping[str, Path]) -> Tables:
        reviews, items = _read(dump, variants, files)
        return build_tables(
            reviews.drop(dump.users.values()),
            items=items,
            users=_users(dump, reviews),
            schema=schema,
            policies=Policies(unknown_items="keep", duplicates="drop"),
            names={"interactions": _called(names[::2]), "items": _called(names[1::2])},
            source=full_name,
            licence=licence,
        )

    return BuiltinDataset(
        name=full_name,
        load=load,
        schema=schema,
        columns=columns,
        licence=licence,
        url=dump.url,
        files=tuple(remote),
        layouts=(tuple(names),),
        left_out=LEFT_OUT + dump.left_out,
    )


def _called(names: Sequence[str]) -> str:
    return " + ".join(names)


def _read(
    dump: Dump, variants: Sequence[str], files: Mapping[str, Path]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Reviews of all variants, and their items, each once: the first row of an id counts."""
    reviews, items = [], []
    for variant in variants:
        reviewed, listed = (files[name] for name in dump.files[variant])
        frame = _columns(reviewed, {**dump.reviews, **dump.users}, lists=dump.schema.lists)
        domain = pl.lit(dump.categories[variant]).alias("domain")
        reviews.append(frame.with_columns(domain) if len(variants) > 1 else frame)
        items.append(_columns(listed, dump.items, lists=dump.schema.lists))
    listed_items = _stack(items).unique(dump.schema.item, keep="first", maintain_order=True)
    return _stack(reviews), listed_items.with_columns(**dump.shape)


def _users(dump: Dump, reviews: pl.DataFrame) -> pl.DataFrame | None:
    """What the reviews tell of who wrote them: each user once, by the earliest review that does."""
    if not dump.users:
        return None
    user, told = dump.schema.user, list(dump.users.values())
    ordered = reviews.sort(dump.schema.time or user, user, maintain_order=True)
    return ordered.group_by(user, maintain_order=True).agg(pl.col(told).drop_nulls().first())


def _stack(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One below the other; a column of numbers here and text there becomes text."""
    return pl.concat(frames, how="vertical_relaxed")


def _columns(path: Path, names: Mapping[str, str], *, lists: Mapping[str, str]) -> pl.DataFrame:
    """The named columns only, renamed; one that a file lacks altogether is empty."""
    frame = _literals(path, list(names))
    if frame is None:
        table = open_table(path, format="jsonl")
        wanted = [name for name in names if name in table.columns()]
        frame = table.read(wanted, typed=True)
    have = [name for name in names if name in frame.columns]
    frame = frame.rename({name: names[name] for name in have})
    absent = [ours for name, ours in names.items() if name not in have]
    frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in absent)
    lines = [_as_list(frame[name]) if name in lists else frame[name] for name in names.values()]
    return pl.DataFrame(lines)


def _literals(path: Path, names: Sequence[str]) -> pl.DataFrame | None:
    """The named columns of a file with a Python literal in each line; None where it is JSON."""
    with open_bytes(path) as handle:
        if not handle.readline().lstrip().startswith(b"{'"):
            return None
    rows = [{name: row.get(name) for name in names} for row in _parsed_lines(path)]
    cells = [as_series(name, [row[name] for row in rows]) for name in names]
    return pl.DataFrame([one.cast(pl.String) if one.dtype == pl.Null else one for one in cells])


def _parsed_lines(path: Path) -> Iterator[Mapping[str, object]]:
    with open_bytes(path) as handle:
        for number, line in enumerate(handle, start=1):
            try:
                row = ast.literal_eval(line.decode().strip() or "{}")
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}, line {number}: neither an object nor a Python literal of one",
                    allowed="lines such as {'asin': 'B000', 'title': 'Tutu', 'price': 3.17}",
                )
            if row:
                yield row


def _as_list(cells: pl.Series) -> pl.Series:
    """Lists of words; where a dump mixes lists and words, the reader gives lists as JSON text."""
    if isinstance(cells.dtype, pl.List):
        return cells.cast(pl.List(pl.String))
    parsed = [_parsed(text) for text in cells.cast(pl.String)]
    return pl.Series(cells.name, parsed, dtype=pl.List(pl.String))


def _parsed(text: str | None) -> list[str] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    if not isinstance(value, list):
        return [text]
    if any(isinstance(part, list) for part in value):  # 2014: paths of categories, as lists
        paths = [part if isinstance(part, list) else [part] for part in value]
        return list(dict.fromkeys(str(part) for path in paths for part in path))
    return [str(part) for part in value]


def sane_title(column: str = "title") -> pl.Expr:
    """The title, or null where a script of the web page was taken for it."""
    title = pl.col(column)
    junk = (title.str.len_chars() >= _JUNK) | title.str.contains("getTime", literal=True)
    return pl.when(~junk).then(title)
