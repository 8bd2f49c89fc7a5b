"""MovieLens 20M: 20,000,263 ratings of 27,278 films by 138,493 people, 1995 to 2015."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from tastemaker.data.builtin.base import BuiltinDataset
from tastemaker.data.builtin.movielens import COLUMNS, LICENCE, archive, film_tables, schema
from tastemaker.data.readers import open_table
from tastemaker.data.tables import Tables

__all__ = ["DATASET"]

_NAME = "ml-20m"
_FILES = ("ratings.csv", "movies.csv")
_NO_GENRES = "(no genres listed)"
_SCHEMA = schema(lowest=0.5)


def _load(files: Mapping[str, Path]) -> Tables:
    ratings, films = (files[name] for name in _FILES)
    ours = {"userId": "user_id", "movieId": "item_id"}
    rated = open_table(ratings).read(["userId", "movieId", "rating", "timestamp"], typed=True)
    listed = open_table(films).read(["movieId", "title", "genres"])
    return film_tables(
        rated.rename(ours),
        listed.rename({"movieId": "item_id"}).with_columns(
            pl.col("genres").replace(_NO_GENRES, "")
        ),
        schema=_SCHEMA,
        files={"interactions": ratings, "items": films},
        source=_NAME,
    )


DATASET = BuiltinDataset(
    name=_NAME,
    load=_load,
    schema=_SCHEMA,
    columns={**COLUMNS, "rating": "0.5 to 5 stars in half steps"},
    licence=LICENCE,
    url="https://grouplens.org/datasets/movielens/20m/",
    files=(archive("ml-20m.zip", md5="cd245b17a1ae2cc31bb14903e1204af3", size=198_702_078),),
    layouts=(_FILES,),
)
