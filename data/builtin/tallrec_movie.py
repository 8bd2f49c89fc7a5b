"""TALLRec's movie set: the last 10,000 windows of ten films and a target, from MovieLens 100K.

TALLRec (RecSys 2023) sorts each person's ratings by the timestamp as text, slides a window of ten
films and one target over them, strings the windows together person by person in the order of first
appearance in the file, and keeps the last 10,000 of that list: 8,000 to train, 1,000 to validate,
1,000 to test. Those are 108 people, not the newest ratings, and one person straddles each border.
`windows` gives exactly these rows, histories included.

The data set holds all ratings of these people, with the part of each target in the column `part`;
the splitter `given` reads it. The oldest ratings of a person are only ever history: their part is
empty, and they belong to no part. Histories of the pipeline are strictly earlier than the target,
so where ratings share a second they can differ from the windows, which order such ties by the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.builtin import ml_100k
from tastemaker.data.builtin.base import BuiltinDataset
from tastemaker.data.builtin.movielens import LICENCE, film_tables
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError

__all__ = ["DATASET", "windows"]

_NAME = "tallrec-movie"
_HISTORY = 10
_SIZES = (8_000, 1_000, 1_000)
_PARTS = ("train", "valid", "test")
_LIKE = 3.0
_BASE = ml_100k.DATASET.schema
_SCHEMA = replace(_BASE, categorical=(*_BASE.categorical, "part"))


def windows(
    ratings: pl.DataFrame, *, history: int = _HISTORY, sizes: tuple[int, int, int] = _SIZES
) -> pl.DataFrame:
    """TALLRec's rows, in its order.

    Args:
        ratings: `user_id`, `item_id`, `rating`, `timestamp` of MovieLens 100K, in file order.
        history: Films before the target.
        sizes: Rows of train, valid and test; the last so many windows are kept.

    Returns:
        `user_id`, `history_item_ids` and `history_labels` (lists, oldest first), `item_id`, `label`
        (1 where rating > 3), `timestamp`, `part`.

    Raises:
        DataError: there are fewer windows than `sizes` add up to.
    """
    events = _ordered(ratings)
    place = events.select(pl.int_range(pl.len()).over("user_id")).to_series().to_numpy()
    targets = np.flatnonzero(place >= history)
    if len(targets) < sum(sizes):
        raise DataError(
            f"the ratings give {len(targets):,} windows of {history} films and a target.",
            allowed=f"at least {sum(sizes):,}",
            remedy="Give the whole of MovieLens 100K.",
        )
    targets = targets[-sum(sizes) :]
    past = targets[:, None] + np.arange(-history, 0)
    rows = events[targets]
    return rows.select(
        "user_id",
        _lists("history_item_ids", events["item_id"], past),
        _lists("history_labels", events["label"], past),
        "item_id",
        "label",
        "timestamp",
        pl.Series("part", np.repeat(_PARTS, sizes)),
    )


def _ordered(ratings: pl.DataFrame) -> pl.DataFrame:
    """People by first appearance, their ratings by the timestamp as text, ties as in the file."""
    return (
        ratings.with_row_index("row")
        .with_columns(pl.col("row").min().over("user_id").alias("first"))
        .with_columns(pl.col("timestamp").cast(pl.String).alias("moment"))
        .sort("first", "moment", "row")
        .select(
            pl.col("user_id", "item_id", "timestamp").cast(pl.Int64),
            (pl.col("rating").cast(pl.Float64) > _LIKE).cast(pl.Int8).alias("label"),
        )
    )


def _lists(name: str, values: pl.Series, places: NDArray[np.int64]) -> pl.Series:
    chosen = values.to_numpy()[places]
    return pl.Series(name, chosen).cast(pl.List(values.dtype))


def _load(files: Mapping[str, Path]) -> Tables:
    ratings = ml_100k.read_ratings(files)
    targets = windows(ratings).select(pl.col("user_id", "item_id").cast(pl.String), "part")
    people = targets.select("user_id").unique()
    kept = ratings.join(people, on="user_id", how="semi", maintain_order="left")
    return film_tables(
        kept.join(targets, on=["user_id", "item_id"], how="left", maintain_order="left"),
        ml_100k.read_films(files),
        ml_100k.read_people(files).join(people, on="user_id", how="semi", maintain_order="left"),
        schema=_SCHEMA,
        files=ml_100k.tables_of(files),
        source=_NAME,
    )


DATASET = BuiltinDataset(
    name=_NAME,
    load=_load,
    schema=_SCHEMA,
    columns={
        **ml_100k.DATASET.columns,
        "part": "train, valid or test where the rating is the target of a window; empty where it "
        "is only ever history",
    },
    licence=LICENCE,
    url="https://github.com/SAI990323/TALLRec",
    files=ml_100k.DATASET.files,
    layouts=ml_100k.DATASET.layouts,
    home=ml_100k.DATASET.name,
)
