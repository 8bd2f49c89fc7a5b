"""What the MovieLens files of GroupLens have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from tastemaker.data.builtin.files import RemoteFile
from tastemaker.data.readers import open_table
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.tables import Tables, build_tables

__all__ = ["COLUMNS", "LICENCE", "archive", "film_tables", "read_text", "schema"]

LICENCE = (
    "MovieLens, GroupLens Research, University of Minnesota: research use with citation of Harper "
    "and Konstan (2015), https://doi.org/10.1145/2827872; no redistribution and no commercial use "
    "without their permission."
)
COLUMNS: Mapping[str, str] = {
    "user_id": "who rated",
    "item_id": "the film",
    "rating": "stars",
    "timestamp": "when, in unix seconds",
    "title": "title of the film with its year, as in the file",
    "genres": "genres of the film",
}


def archive(name: str, *, md5: str, size: int) -> RemoteFile:
    """A zip archive of GroupLens with the MD5 that is published beside it."""
    url = f"https://files.grouplens.org/datasets/movielens/{name}"
    return RemoteFile(name, url, checksum=f"md5:{md5}", bytes=size)


def schema(
    *,
    lowest: float,
    categorical: tuple[str, ...] = (),
    numeric: tuple[str, ...] = (),
) -> Schema:
    """The columns that the loaders make, whatever the files call them; like is rating > 3."""
    return Schema(
        user="user_id",
        item="item_id",
        time="timestamp",
        rating="rating",
        label=LabelRule("rating", ">", 3.0),
        title="title",
        lists={"genres": "|"},
        categorical=categorical,
        numeric=numeric,
        rating_range=(lowest, 5.0),
        time_unit="s",
    )


def read_text(
    path: Path, separator: str, *, header: tuple[str, ...] | None = None, encoding: str = "utf-8"
) -> pl.DataFrame:
    """A text file with its cells as text; `header` names the columns of a file without names."""
    table = open_table(path, format="csv", separator=separator, header=header, encoding=encoding)
    return table.read()


def film_tables(
    ratings: pl.DataFrame,
    films: pl.DataFrame,
    users: pl.DataFrame | None = None,
    *,
    schema: Schema,
    files: Mapping[str, Path],
    source: str,
) -> Tables:
    """Check and number tables of ratings, films and people.

    Args:
        ratings: `user_id`, `item_id`, `rating`, `timestamp`.
        films: `item_id`, `title`, `genres` parted by `|`.
        users: `user_id` and features.
        schema: Names of the columns.
        files: `interactions`, `items` and `users` → the file, for messages.
        source: Name of the data set.
    """
    return build_tables(
        ratings,
        items=films,
        users=users,
        schema=schema,
        names={table: path.name for table, path in files.items()},
        source=source,
        licence=LICENCE,
    )
