"""Amazon reviews up to 2014, each user and item with five or more: the categories of P5."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import polars as pl

from tastemaker.data.builtin.amazon import Dump, dataset, sane_title
from tastemaker.data.builtin.base import DatasetFamily
from tastemaker.data.schema import LabelRule, Schema

__all__ = ["DATASET"]

_CATEGORIES: Mapping[str, str] = {
    "beauty": "Beauty",
    "sports-and-outdoors": "Sports and Outdoors",
    "toys-and-games": "Toys and Games",
}
_FILES = {variant: name.replace(" ", "_") for variant, name in _CATEGORIES.items()}
_REVIEWS = ("reviewerID", "asin", "overall", "unixReviewTime", "reviewText", "summary")
_ITEMS = ("asin", "title", "brand", "price", "categories", "description")

_DUMP = Dump(
    name="amazon-2014",
    files={
        variant: (f"reviews_{file}_5.json.gz", f"meta_{file}.json.gz")
        for variant, file in _FILES.items()
    },
    addresses=("categoryFiles", "categoryFiles"),
    schema=Schema(
        user="reviewerID",
        item="asin",
        time="unixReviewTime",
        rating="overall",
        label=LabelRule("overall", ">", 3.0),
        title="title",
        text=("reviewText", "summary", "user_name", "description"),
        lists={"categories": "|"},
        categorical=("brand",),
        numeric=("price",),
        rating_range=(1.0, 5.0),
        time_unit="s",
    ),
    reviews={name: name for name in _REVIEWS},
    items={name: name for name in _ITEMS},
    shape={
        "title": sane_title(),
        "price": pl.col("price").cast(pl.String).cast(pl.Float64, strict=False),
    },
    columns={
        "reviewerID": "who wrote the review",
        "user_name": "name under the user's earliest review that has one (reviewerName)",
        "asin": "the product",
        "overall": "1 to 5 stars",
        "unixReviewTime": "day of the review, in unix seconds: equal for all reviews of a day",
        "reviewText": "the review; written with the rating, so it may only serve later events",
        "summary": "headline of the review; likewise",
        "title": "name of the product; empty where the dump has a script instead",
        "brand": "brand of the product",
        "price": "US dollars when the dump was made",
        "categories": "categories of the product, from wide to narrow",
        "description": "text about the product",
    },
    left_out="helpful, salesRank, related, imUrl",
    paper="He and McAuley (WWW 2016) and McAuley et al. (SIGIR 2015)",
    url="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
    server="https://snap.stanford.edu/data/amazon/productGraph",
    categories=_CATEGORIES,
    users={"reviewerName": "user_name"},
)

DATASET = DatasetFamily(
    name=_DUMP.name,
    make=partial(dataset, _DUMP),
    variants=_CATEGORIES,
    joinable=True,
)
