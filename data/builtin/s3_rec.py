"""The sequence files of S3-Rec: Beauty, Sports, Toys (Amazon 2014) and Yelp (2019), 5-core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from tastemaker.data.builtin.base import BuiltinDataset, DatasetFamily
from tastemaker.data.builtin.files import RemoteFile
from tastemaker.data.readers import open_table
from tastemaker.data.schema import Implicit, Schema
from tastemaker.data.tables import Tables, build_tables

__all__ = ["DATASET"]

_NAME = "s3-rec"
_SERVER = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data"
# Variant → file, leading digits of its SHA-256, size where known, users, items, events.
_FILES: Mapping[str, tuple[str, str, int | None, str]] = {
    "beauty": (
        "Beauty",
        "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        1_090_094,
        "22,363 users, 12,101 items, 198,502 events",
    ),
    "sports": (
        "Sports_and_Outdoors",
        "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        1_707_483,
        "35,598 users, 18,357 items, 296,337 events",
    ),
    "toys": (
        "Toys_and_Games",
        "176c680c688d4975",
        None,
        "19,412 users, 11,924 items, 167,597 events",
    ),
    "yelp": (
        "Yelp",
        "724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed",
        1_814_224,
        "30,431 users, 20,033 items, 316,354 events, some repeated",
    ),
}
_LICENCE = (
    "S3-Rec (Zhou et al., CIKM 2020), published without a licence, over Amazon 2014 (for research) "
    "and Yelp (academic use, no redistribution)."
)
_SCHEMA = Schema(
    user="user_id",
    item="item_id",
    time="position",
    rating=None,
    label=Implicit(),
    title="title",
    time_unit="step",
)
_COLUMNS = {
    "user_id": "number of the user",
    "item_id": "number of the item. It follows the first appearance in complete sequences, so as "
    "text it gives the future away: number items anew before showing numbers to a model",
    "position": "place in the user's sequence, no clock. Items of the same day stand in the order "
    "of their Amazon numbers",
    "title": "text of the item, where a file of items lies beside the sequences; else its number",
    "categories": "categories of the item, likewise",
}


def _make(variants: tuple[str, ...]) -> BuiltinDataset:
    (variant,) = variants
    stem, digits, size, _ = _FILES[variant]
    name, texts = f"{stem}.txt", f"{stem}_items.jsonl"
    remote = RemoteFile(name, f"{_SERVER}/{name}", checksum=f"sha256:{digits}", bytes=size)

    def load(files: Mapping[str, Path]) -> Tables:
        tables = _tables(files[name], files.get(texts), source=f"{_NAME}:{variant}")
        if remote.matches(files[name]):
            return tables
        note = f"{files[name].name} differs from the file that S3-Rec published."
        return replace(tables, notes=(*tables.notes, note))

    return BuiltinDataset(
        name=f"{_NAME}:{variant}",
        load=load,
        schema=_SCHEMA,
        columns=_COLUMNS,
        licence=_LICENCE,
        url="https://github.com/RUCAIBox/CIKM2020-S3Rec",
        files=(remote,),
        layouts=((name,),),
        extras=(texts,),
    )


def _tables(sequences: Path, texts: Path | None, *, source: str) -> Tables:
    events = open_table(sequences, format="sequences").read()
    items = None if texts is None else _items(texts)
    has_lists = items is not None and "categories" in items.columns
    return build_tables(
        events,
        items=items,
        schema=replace(_SCHEMA, lists={"categories": "|"}) if has_lists else _SCHEMA,
        names={"interactions": sequences.name, "items": "" if texts is None else texts.name},
        source=source,
        licence=_LICENCE,
    )


def _items(path: Path) -> pl.DataFrame:
    """`item_id`, `title` (`text_id` where there is no title) and, if given, `categories`."""
    table = open_table(path, format="jsonl")
    have = table.columns()
    title = "title" if "title" in have else "text_id"
    lists = [name for name in ("categories",) if name in have]
    frame = table.read(["id", title, *lists], typed=True)
    return frame.select(pl.col("id").alias("item_id"), pl.col(title).alias("title"), *lists)


DATASET = DatasetFamily(
    name=_NAME,
    make=_make,
    variants={variant: about for variant, (_, _, _, about) in _FILES.items()},
)
