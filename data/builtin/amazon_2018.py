"""Amazon reviews up to 2018: fashion, instruments, gift cards, all beauty, digital music."""

from __future__ import annotations

from functools import partial

import polars as pl

from tastemaker.data.builtin.amazon import CATEGORIES, Dump, dataset, sane_title
from tastemaker.data.builtin.base import DatasetFamily
from tastemaker.data.schema import LabelRule, Schema

__all__ = ["DATASET"]

_FILES = {
    "fashion": "AMAZON_FASHION",
    "musical-instruments": "Musical_Instruments",
    "gift-cards": "Gift_Cards",
    "all-beauty": "All_Beauty",
    "digital-music": "Digital_Music",
}
_REVIEWS = ("reviewerID", "asin", "overall", "unixReviewTime", "reviewText", "summary")
_ITEMS = ("asin", "title", "brand", "price", "category", "description")
_PRICE = r"^\s*\$([0-9]+(?:\.[0-9]{1,2})?)\s*$"

_DUMP = Dump(
    name="amazon-2018",
    files={
        variant: (f"{file}.json.gz", f"meta_{file}.json.gz") for variant, file in _FILES.items()
    },
    addresses=("amazon_v2/categoryFiles", "amazon_v2/metaFiles2"),
    schema=Schema(
        user="reviewerID",
        item="asin",
        time="unixReviewTime",
        rating="overall",
        label=LabelRule("overall", ">", 3.0),
        title="title",
        text=("reviewText", "summary"),
        lists={"category": "|", "description": "|"},
        categorical=("brand",),
        numeric=("price",),
        rating_range=(1.0, 5.0),
        time_unit="s",
    ),
    reviews={name: name for name in _REVIEWS},
    items={name: name for name in _ITEMS},
    shape={
        "title": sane_title(),
        # As Uni-CTR: only a plain amount is a price, no range and no leftover of the web page.
        "price": pl.col("price").cast(pl.String).str.extract(_PRICE).cast(pl.Float64),
    },
    columns={
        "reviewerID": "who wrote the review",
        "asin": "the product",
        "overall": "1 to 5 stars",
        "unixReviewTime": "day of the review, in unix seconds: equal for all reviews of a day",
        "reviewText": "the review; written with the rating, so it may only serve later events",
        "summary": "headline of the review; likewise",
        "title": "name of the product; empty where the dump has a script instead",
        "brand": "brand of the product",
        "price": "US dollars when the dump was made, where given as one amount",
        "category": "categories of the product, from wide to narrow",
        "description": "paragraphs about the product",
    },
    left_out="rank, also_buy, also_view, similar_item, vote",
    paper="Ni, Li and McAuley (EMNLP 2019)",
    url="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
)

DATASET = DatasetFamily(
    name=_DUMP.name,
    make=partial(dataset, _DUMP),
    variants=CATEGORIES,
    joinable=True,
)
