"""Amazon reviews up to 2023: fashion, instruments, gift cards, all beauty, digital music."""

from __future__ import annotations

from functools import partial

import polars as pl

from tastemaker.data.builtin.amazon import CATEGORIES, Dump, dataset, sane_title
from tastemaker.data.builtin.base import DatasetFamily
from tastemaker.data.schema import LabelRule, Schema

__all__ = ["DATASET"]

_FILES = {
    "fashion": "Amazon_Fashion",
    "musical-instruments": "Musical_Instruments",
    "gift-cards": "Gift_Cards",
    "all-beauty": "All_Beauty",
    "digital-music": "Digital_Music",
}

_DUMP = Dump(
    name="amazon-2023",
    files={
        variant: (f"{file}.jsonl.gz", f"meta_{file}.jsonl.gz") for variant, file in _FILES.items()
    },
    addresses=("amazon_2023/raw/review_categories", "amazon_2023/raw/meta_categories"),
    schema=Schema(
        user="user_id",
        item="parent_asin",
        time="timestamp",
        rating="rating",
        label=LabelRule("rating", ">", 3.0),
        title="title",
        text=("review_text", "review_title"),
        lists={"categories": "|", "features": "|", "description": "|"},
        categorical=("store", "main_category"),
        numeric=("price",),
        rating_range=(1.0, 5.0),
        time_unit="ms",
    ),
    reviews={
        "user_id": "user_id",
        "parent_asin": "parent_asin",
        "rating": "rating",
        "timestamp": "timestamp",
        "text": "review_text",
        "title": "review_title",
    },
    items={
        name: name
        for name in (
            "parent_asin",
            "title",
            "store",
            "main_category",
            "price",
            "categories",
            "features",
            "description",
        )
    },
    shape={
        "title": sane_title(),
        # Some files write "None" or "from 9.99" for what is not one amount.
        "price": pl.col("price").cast(pl.String).cast(pl.Float64, strict=False),
    },
    columns={
        "user_id": "who wrote the review",
        "parent_asin": "the product; its colours and sizes are one",
        "rating": "1 to 5 stars",
        "timestamp": "when the review was written, in unix milliseconds",
        "review_text": "the review (text); written with the rating, so it may only serve later "
        "events",
        "review_title": "headline of the review (title); likewise",
        "title": "name of the product",
        "store": "shop that sells it",
        "main_category": "top category of the product",
        "price": "US dollars when the dump was made, where given as one amount",
        "categories": "categories of the product, from wide to narrow",
        "features": "bullet points about the product",
        "description": "paragraphs about the product",
    },
    left_out="average_rating, rating_number, bought_together, helpful_vote",
    paper="Hou et al. (2024), arXiv 2403.03952",
    url="https://amazon-reviews-2023.github.io/",
)

DATASET = DatasetFamily(
    name=_DUMP.name,
    make=partial(dataset, _DUMP),
    variants=CATEGORIES,
    joinable=True,
)
