"""MovieLens 1M: 1,000,209 ratings of 3,883 films by 6,040 people, 2000 to 2003."""

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

__all__ = ["DATASET"]

_NAME = "ml-1m"
_FILES = ("ratings.dat", "movies.dat", "users.dat")
_LATIN = "latin-1"
# The words that the README of the data set gives for the codes.
_AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56 or older",
}
_OCCUPATIONS = (
    "other or not specified",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
_SCHEMA = schema(lowest=1.0, categorical=("gender", "age", "occupation", "zip_code"))


def _load(files: Mapping[str, Path]) -> Tables:
    ratings, films, people = (files[name] for name in _FILES)
    words = {str(code): word for code, word in enumerate(_OCCUPATIONS)}
    return film_tables(
        read_text(ratings, "::", header=("user_id", "item_id", "rating", "timestamp")),
        read_text(films, "::", header=("item_id", "title", "genres"), encoding=_LATIN),
        read_text(
            people, "::", header=("user_id", "gender", "age", "occupation", "zip_code")
        ).with_columns(pl.col("age").replace(_AGES), pl.col("occupation").replace(words)),
        schema=_SCHEMA,
        files={"interactions": ratings, "items": films, "users": people},
        source=_NAME,
    )


DATASET = BuiltinDataset(
    name=_NAME,
    load=_load,
    schema=_SCHEMA,
    columns={
        **COLUMNS,
        "rating": "1 to 5 stars",
        "gender": "M or F",
        "age": "one of seven ranges, in words",
        "occupation": "one of 21, in words",
        "zip_code": "postal code in the United States",
    },
    licence=LICENCE,
    url="https://grouplens.org/datasets/movielens/1m/",
    files=(archive("ml-1m.zip", md5="c4d9eecfca2ab87c1945afe126590906", size=5_917_549),),
    layouts=(_FILES,),
)
