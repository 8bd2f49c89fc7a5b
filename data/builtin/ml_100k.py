"""MovieLens 100K: 100,000 ratings of 1,682 films by 943 people, 1997 to 1998."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from tastemaker.data.builtin.base import BuiltinDataset
from tastemaker.data.builtin.movielens import (
    COLUMNS,
    LICENCE,
    archive,
    film_tables,
    read_text,
    schema,
)
from tastemaker.data.tables import Tables

__all__ = ["DATASET", "read_films", "read_people", "read_ratings", "tables_of"]

_NAME = "ml-100k"
# GroupLens' own files, or RecBole's conversion of them, which keeps the order of the ratings.
_LAYOUTS = (("u.data", "u.item", "u.user"), (f"{_NAME}.inter", f"{_NAME}.item", f"{_NAME}.user"))
_LATIN = "latin-1"
_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_FILM = ("item_id", "title", "release_date", "video_release_date", "imdb_url", *_GENRES)
_RATING = ("user_id", "item_id", "rating", "timestamp")
_PERSON = ("user_id", "age", "gender", "occupation", "zip_code")
_SCHEMA = schema(lowest=1.0, categorical=("gender", "occupation", "zip_code"), numeric=("age",))


def _load(files: Mapping[str, Path]) -> Tables:
    return film_tables(
        read_ratings(files),
        read_films(files),
        read_people(files),
        schema=_SCHEMA,
        files=tables_of(files),
        source=_NAME,
    )


def tables_of(files: Mapping[str, Path]) -> dict[str, Path]:
    """`interactions`, `items` and `users` → the file that holds them."""
    names = zip(("interactions", "items", "users"), _layout(files), strict=True)
    return {table: files[name] for table, name in names}


def _layout(files: Mapping[str, Path]) -> tuple[str, ...]:
    return next(layout for layout in _LAYOUTS if set(layout) <= set(files))


def _is_original(files: Mapping[str, Path]) -> bool:
    return _layout(files) == _LAYOUTS[0]


def read_ratings(files: Mapping[str, Path]) -> pl.DataFrame:
    """`user_id`, `item_id`, `rating`, `timestamp` as text, in the order of the file."""
    path = files[_layout(files)[0]]
    if _is_original(files):
        return read_text(path, "\t", header=_RATING)
    return read_text(path, "\t").select(_RATING)


def read_films(files: Mapping[str, Path]) -> pl.DataFrame:
    """`item_id`, `title` with its year, `genres` parted by `|`.

    RecBole's file has the year in a column of its own; put behind the title it gives GroupLens'
    title again.
    """
    path = files[_layout(files)[1]]
    if not _is_original(files):
        films = read_text(path, "\t")
        year = pl.format(" ({})", pl.col("release_year").replace("", None)).fill_null("")
        return films.select(
            "item_id",
            title=pl.concat_str("movie_title", year),
            genres=pl.col("class").str.replace_all(" ", "|", literal=True),
        )
    films = read_text(path, "|", header=_FILM, encoding=_LATIN)
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
    return films.select(
        "item_id", "title", genres=pl.concat_str(flags, separator="|", ignore_nulls=True)
    )


def read_people(files: Mapping[str, Path]) -> pl.DataFrame:
    """`user_id`, `age`, `gender`, `occupation`, `zip_code` as text."""
    path = files[_layout(files)[2]]
    if _is_original(files):
        return read_text(path, "|", header=_PERSON)
    return read_text(path, "\t").select(_PERSON)


DATASET = BuiltinDataset(
    name=_NAME,
    load=_load,
    schema=_SCHEMA,
    columns={
        **COLUMNS,
        "rating": "1 to 5 stars",
        "age": "age in years",
        "gender": "M or F",
        "occupation": "one of 21 words",
        "zip_code": "postal code in the United States",
    },
    licence=LICENCE,
    url="https://grouplens.org/datasets/movielens/100k/",
    files=(archive("ml-100k.zip", md5="0e33842e24a9c977be4e0107933c0723", size=4_924_029),),
    layouts=_LAYOUTS,
)
