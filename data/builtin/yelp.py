"""Yelp open data set: about seven million reviews of 150,000 businesses, given out on request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from tastemaker.data.builtin.base import BuiltinDataset
from tastemaker.data.builtin.files import RemoteFile
from tastemaker.data.readers import open_table
from tastemaker.data.schema import LabelRule, Policies, Schema
from tastemaker.data.tables import Tables, build_tables

__all__ = ["DATASET"]

_NAME = "yelp"
_REVIEWS, _BUSINESSES, _USERS = (
    f"yelp_academic_dataset_{table}.json" for table in ("review", "business", "user")
)
_LICENCE = "Yelp Open Dataset: academic use under Yelp's Dataset User Agreement; no redistribution."
_SCHEMA = Schema(
    user="user_id",
    item="business_id",
    time="date",
    rating="stars",
    label=LabelRule("stars", ">", 3.0),
    title="name",
    text=("text",),
    lists={"categories": ","},
    categorical=("city", "state"),
    rating_range=(1.0, 5.0),
    time_unit="iso",
)


def _load(files: Mapping[str, Path]) -> Tables:
    reviews, businesses = files[_REVIEWS], files[_BUSINESSES]
    users = _users(files[_USERS]) if _USERS in files else None
    called = {"interactions": _REVIEWS, "items": _BUSINESSES, "users": _USERS}
    return build_tables(
        _read(reviews, ("user_id", "business_id", "stars", "date", "text")),
        items=_read(businesses, ("business_id", "name", "city", "state", "categories")),
        users=users,
        schema=_SCHEMA,
        policies=Policies(unknown_users="keep", unknown_items="keep", duplicates="drop"),
        names=called,
        source=_NAME,
        licence=_LICENCE,
    )


def _users(path: Path) -> pl.DataFrame:
    return _read(path, ("user_id", "yelping_since"))


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    return open_table(path, format="jsonl").read(columns, typed=True).select(columns)


DATASET = BuiltinDataset(
    name=_NAME,
    load=_load,
    schema=_SCHEMA,
    columns={
        "user_id": "who wrote the review",
        "business_id": "the business",
        "stars": "1 to 5 stars of the review",
        "date": "when the review was written, local time without a zone, read as UTC",
        "text": "the review; written with the rating, so it may only serve later events",
        "name": "name of the business",
        "city": "where it is",
        "state": "where it is",
        "categories": "categories of the business",
        "yelping_since": "when the user joined",
    },
    licence=_LICENCE,
    url="https://business.yelp.com/data/resources/open-dataset/",
    files=(
        RemoteFile(_REVIEWS, None),
        RemoteFile(_BUSINESSES, None),
        RemoteFile(_USERS, None, optional=True),
    ),
    layouts=((_REVIEWS, _BUSINESSES),),
    extras=(_USERS,),
    left_out="computed from all reviews, later ones included, or collected when the dump was made: "
    "stars, review_count, is_open, attributes and hours of the business; review_count, "
    "average_stars, useful, funny, cool, elite, friends, fans and compliments of the user; useful, "
    "funny and cool of the review",
)
