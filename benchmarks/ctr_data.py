"""The click-through-rate task of the benchmarks: MovieLens by global time, liked is rating > 3.

    python benchmarks/ctr_data.py --out FOLDER [--data ML-100K] [--scores FILE ...]

`--data` names a folder with `ml-100k.inter`, `ml-100k.item` and `ml-100k.user`; without it the
ratings that come with a package are taken. Writes the arrays that programs outside tastemaker train
on into `--out`. `--scores` judges what such a program saved: AUC over all test rows and within
users.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.builtin.movielens_small import DATASET
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.splitters import global_time
from tastemaker.data.tables import Tables, build_tables
from tastemaker.eval.metrics import METRICS

VALID_FROM, TEST_FROM = 0.8, 0.9
LENGTH = 10  # events of a history; KAR
MIN_COUNT = 2  # train events an item needs for a code of its own
PADDING, UNSEEN, MISSING, FIRST = 0, 1, 2, 3
Columns = dict[str, NDArray[Any]]


def main() -> None:
    """Write the arrays, or judge scores on the test part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of ml-100k [ratings of a package]")
    parser.add_argument("--out", type=Path, help="where the arrays go")
    parser.add_argument("--scores", type=Path, nargs="+", default=[], help="npz with `test`")
    options = parser.parse_args()
    split = task(options.data)
    if options.out:
        export(split, options.out)
    for path in options.scores:
        print(json.dumps({"scores": path.stem, **judged(split, np.load(path)["test"])}))


def task(folder: Path | None) -> Split:
    """ML-100K of a folder, or the packaged ratings, 80/10/10 by global time."""
    tables = packaged() if folder is None else ml_100k(folder)
    return global_time(tables, valid_from=VALID_FROM, test_from=TEST_FROM)


def ml_100k(folder: Path) -> Tables:
    """The three files of the folder; `genre` is the first of an item's genres, as in KAR."""
    ratings, films, people = (
        read_atomic(folder / f"ml-100k.{kind}") for kind in ("inter", "item", "user")
    )
    return build_tables(
        ratings,
        items=films.select(
            "item_id",
            "movie_title",
            year("release_year"),
            genre=first_genre("class", " "),
        ),
        users=people.select("user_id", "age", "gender", "occupation"),
        schema=Schema(
            user="user_id",
            item="item_id",
            time="timestamp",
            rating="rating",
            label=LabelRule("rating", ">", 3.0),
            title="movie_title",
            categorical=("genre", "gender", "occupation"),
            numeric=("release_year", "age"),
            rating_range=(1.0, 5.0),
            time_unit="s",
        ),
        source="ml-100k",
    )


def packaged() -> Tables:
    """MovieLens ratings of a package, which know nothing of users; `genre` as above."""
    tables = DATASET.load({})
    ids = tables.interactions.select(
        userId=tables.users["user_id"].gather(tables.interactions["user"]),
        movieId=tables.items["item_id"].gather(tables.interactions["item"]),
        rating=pl.col("rating"),
        timestamp=pl.col("time"),
    )
    films = tables.items.select(
        "title",
        year("year"),
        movieId="item_id",
        genre=first_genre("genres", "|"),
    )
    schema = Schema(
        user="userId",
        item="movieId",
        time="timestamp",
        rating="rating",
        label=LabelRule("rating", ">", 3.0),
        title="title",
        categorical=("genre",),
        numeric=("release_year",),
        rating_range=(0.5, 5.0),
        time_unit="s",
    )
    return build_tables(ids, items=films, schema=schema, source=DATASET.name)


def read_atomic(path: Path) -> pl.DataFrame:
    """A tab-separated file whose header cells are `name:type`, all cells as text."""
    frame = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    return frame.rename({name: name.partition(":")[0] for name in frame.columns})


def first_genre(column: str, separator: str) -> pl.Expr:
    """First of the genres, `unknown` where there is none."""
    first = pl.col(column).str.split(separator).list.first()
    blank = first.is_null() | first.is_in(["", "(no genres listed)"])
    return pl.when(blank).then(pl.lit("unknown")).otherwise(first)


def year(column: str) -> pl.Expr:
    """Year of release; null where none can be read."""
    return pl.col(column).cast(pl.Int32, strict=False).alias("release_year")


def export(split: Split, folder: Path, *, length: int = LENGTH, min_count: int = MIN_COUNT) -> None:
    """Write `features.json`, `train.npz`, `valid.npz` and `test.npz`.

    Fields are the item's code, then the declared columns of items and of users. A history holds the
    newest strictly earlier events with item, categorical item columns and rating.

    Args:
        split: What to write; its tables declare the columns.
        folder: Made where it is not there.
        length: Events of a history, newest at the right end, 0 to its left.
        min_count: Train events an item needs for a code of its own; the others share one.
    """
    tables, train = split.tables, split.tables.interactions[split.train_events]
    codes = {"item_id": item_codes(split, min_count=min_count)}
    fields: list[dict[str, Any]] = [{"name": "item_id", "kind": "categorical", "source": "item"}]
    owners = {"item": (tables.items, train["item"]), "user": (tables.users, train["user"])}
    for source, (frame, seen) in owners.items():
        for name in tables.schema.categorical:
            if name in frame.columns:
                codes[name] = value_codes(frame[name], frame[name].gather(seen.unique()))
                fields.append({"name": name, "kind": "categorical", "source": source})
        for name in tables.schema.numeric:
            if name in frame.columns:
                codes[name] = standardised(frame[name], frame[name].gather(seen))
                fields.append({"name": name, "kind": "numeric", "source": source})
    ratings = value_codes(tables.interactions["rating"], train["rating"])
    steps = [
        {"name": f"history_{one['name']}", "shares": one["name"]}
        for one in fields
        if one["source"] == "item" and one["kind"] == "categorical"
    ]
    sizes = [{"name": "history_rating", "vocabulary": FIRST + train["rating"].n_unique()}]
    for one in fields:
        if one["kind"] == "categorical":
            one["vocabulary"] = int(codes[one["name"]].max()) + 1
    about = {
        "fields": fields,
        "sequences": [{"name": "history", "length": length, "steps": steps + sizes}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    for part in PARTS:
        columns = part_columns(split, split.part(part), fields=fields, codes=codes)
        past = history(split, split.part(part), length=length)
        items = np.append(tables.interactions["item"].to_numpy(), 0)[past]
        for step in steps:
            columns[step["name"]] = np.where(past < 0, PADDING, codes[step["shares"]][items])
        columns["history_rating"] = np.where(past < 0, PADDING, np.append(ratings, 0)[past])
        np.savez(folder / f"{part}.npz", **columns)


def part_columns(
    split: Split, rows: NDArray[np.int64], *, fields: list[dict[str, Any]], codes: Columns
) -> Columns:
    """Every field and the label of some interactions, [n] each."""
    events = split.tables.interactions[rows]
    columns = {one["name"]: codes[one["name"]][events[one["source"]].to_numpy()] for one in fields}
    return {**columns, "label": events["label"].to_numpy().astype(np.float32)}


def history(split: Split, rows: NDArray[np.int64], *, length: int) -> NDArray[np.int64]:
    """Interaction rows strictly before each of `rows`, int64 [n, length], -1 to the left."""
    events = split.tables.interactions[rows]
    users, times = events["user"].to_numpy(), events["time"].to_numpy()
    return split.histories.at(users, times, max_length=length).padded(length)


def item_codes(split: Split, *, min_count: int) -> NDArray[np.int64]:
    """Code of each dense item: 1 for those with few train events, from 2 on for the others."""
    events = split.tables.interactions[split.train_events]
    counts = np.bincount(events["item"].to_numpy(), minlength=split.tables.n_items)
    own = counts >= min_count
    return np.where(own, UNSEEN + np.cumsum(own), UNSEEN)


def value_codes(values: pl.Series, seen: pl.Series) -> NDArray[np.int64]:
    """Code of each value: 3 on for those seen (ascending), 2 for missing, 1 for all others."""
    known = seen.drop_nulls().unique().sort()
    numbers = dict(zip(known.to_list(), range(FIRST, FIRST + len(known)), strict=True))
    found = values.replace_strict(numbers, default=UNSEEN, return_dtype=pl.Int64)
    return (
        pl.select(pl.when(values.is_null()).then(MISSING).otherwise(found)).to_series().to_numpy()
    )


def standardised(values: pl.Series, seen: pl.Series) -> NDArray[np.float32]:
    """Values less the mean of those seen, over their standard deviation; 0 where missing."""
    centred = (values.cast(pl.Float64) - seen.mean()) / (seen.cast(pl.Float64).std() or 1.0)
    return centred.fill_null(0.0).to_numpy().astype(np.float32)


def judged(split: Split, scores: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Every metric of the log-odds of the test rows."""
    events = split.tables.interactions[split.test]
    labels, users = events["label"].to_numpy(), events["user"].to_numpy()
    return {name: round(metric(scores, labels, users), 4) for name, metric in METRICS.items()}


if __name__ == "__main__":
    main()
