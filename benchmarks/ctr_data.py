"""The click-through-rate task of the benchmarks: MovieLens by global time, liked is rating > 3.

    python benchmarks/ctr_data.py --out FOLDER [--data ML-100K] [--user-id] [--scores FILE ...]

`--data` names a folder with `ml-100k.inter`, `ml-100k.item` and `ml-100k.user`; without it the
ratings that come with a package are taken. Writes what programs outside tastemaker train on into
`--out`: the rows, features and codes of our own recommenders. `--scores` judges what such a program
saved: AUC over all test rows and within users, and log-loss. `--quick` does nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.splitters import global_time
from tastemaker.data.tables import Tables, build_tables
from tastemaker.eval.metrics import METRICS
from tastemaker.models.feature_space import EntityTable, FeatureSpace
from tastemaker.models.features import Feature, default_features

VALID_FROM, TEST_FROM = 0.8, 0.9
LENGTH = 10  # events of a history; KAR
MIN_COUNT = 2  # training events that a value needs for a code of its own
Columns = dict[str, NDArray[Any]]


def main() -> None:
    """Write the arrays, or judge scores on the test part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of ml-100k [ratings of a package]")
    parser.add_argument("--out", type=Path, help="where the arrays go")
    parser.add_argument("--user-id", action="store_true", help="a field for the user's id, too")
    parser.add_argument("--scores", type=Path, nargs="+", default=[], help="npz with `test`")
    parser.add_argument("--quick", action="store_true", help="write into a folder that is removed")
    options = parser.parse_args()
    split = ml_100k(options.data) if options.data else movielens()
    if options.out:
        export(split, options.out, user_id=options.user_id)
    elif options.quick:
        with tempfile.TemporaryDirectory() as folder:
            export(split, Path(folder), user_id=options.user_id)
    for path in options.scores:
        print(json.dumps({"scores": path.stem, **judged(split, np.load(path)["test"])}))


def ml_100k(folder: Path) -> Split:
    """The three files of the folder, 80/10/10; `genre` is the first of an item's, as in KAR."""
    ratings, films, people = (
        read_atomic(folder / f"ml-100k.{kind}") for kind in ("inter", "item", "user")
    )
    tables = build_tables(
        ratings,
        items=films.select(
            "item_id", "movie_title", "release_year", genre=first_genre("class", " ")
        ),
        users=people.select("user_id", "gender", "occupation", pl.col("age").cast(pl.Int32)),
        schema=Schema(
            user="user_id",
            item="item_id",
            time="timestamp",
            rating="rating",
            label=LabelRule("rating", ">", 3.0),
            title="movie_title",
            categorical=("genre", "release_year", "gender", "occupation"),
            numeric=("age",),
            rating_range=(1.0, 5.0),
            time_unit="s",
        ),
        source="ml-100k",
    )
    return by_time(tables)


def movielens() -> Split:
    """MovieLens ratings of a package, which knows nothing of users, 80/10/10; `genre` as above."""
    tables = load_builtin("movielens-small")
    ratings = tables.interactions.select(
        userId=tables.users["user_id"].gather(tables.interactions["user"]),
        movieId=tables.items["item_id"].gather(tables.interactions["item"]),
        rating=pl.col("rating"),
        timestamp=pl.col("time"),
    )
    films = tables.items.select(
        "title", movieId="item_id", release_year="year", genre=first_genre("genres", "|")
    )
    schema = Schema(
        user="userId",
        item="movieId",
        time="timestamp",
        rating="rating",
        label=LabelRule("rating", ">", 3.0),
        title="title",
        categorical=("genre", "release_year"),
        rating_range=(0.5, 5.0),
        time_unit="s",
    )
    return by_time(build_tables(ratings, items=films, schema=schema, source=tables.source))


def by_time(tables: Tables) -> Split:
    """Everyone parted at the same two moments."""
    return global_time(tables, valid_from=VALID_FROM, test_from=TEST_FROM)


def read_atomic(path: Path) -> pl.DataFrame:
    """A tab-separated file whose header cells are `name:type`, all cells as text."""
    frame = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    return frame.rename({name: name.partition(":")[0] for name in frame.columns})


def first_genre(column: str, separator: str) -> pl.Expr:
    """First of the genres; null where there is none."""
    first = pl.col(column).str.split(separator).list.first()
    return pl.when(~first.is_in(["", "unknown", "(no genres listed)"])).then(first)


def features(split: Split, *, user_id: bool = False) -> tuple[Feature, ...]:
    """What every side reads."""
    tables = split.tables
    return default_features(tables.schema, tables, history=LENGTH, user_id=user_id)


def export(split: Split, folder: Path, *, user_id: bool = False) -> FeatureSpace:
    """Write `features.json`, `train.npz`, `valid.npz` and `test.npz`: what a feature space gives.

    Codes are 0 padding, 1 unseen, 2 missing, then values; numbers are standardised, 0 where
    missing. The newest event of a history stands at the right end, 0 to its left.

    Args:
        split: What to write; its tables declare the columns.
        folder: Made where it is not there.
        user_id: Whether the user's id is a field.

    Returns:
        The space, fitted to the train part.
    """
    space = FeatureSpace.fit(split, features(split, user_id=user_id), min_count=MIN_COUNT)
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps(described(space), indent=1) + "\n"
    (folder / "features.json").write_text(about, encoding="utf-8")
    for part in PARTS:
        np.savez(folder / f"{part}.npz", **part_columns(space, split, split.part(part)))
    return space


def described(space: FeatureSpace) -> dict[str, Any]:
    """Fields and steps: categorical ones with their vocabulary, shared ones with their owner."""
    layout, sizes, fields = space.layout, space.sizes(), []
    for feature in (*layout.candidate, *layout.context):
        if feature.kind not in ("categorical", "numeric") or feature.source == "event":
            raise ValueError(f"cannot be written: {feature}")
        field = {"name": feature.name, "kind": feature.kind, "source": feature.source}
        size = {"vocabulary": sizes[feature.name]} if feature.kind == "categorical" else {}
        fields.append(field | size)
    owners = [feature.name for feature in layout.candidate]
    sequences = []
    for one in layout.sequences:
        steps = [
            {"name": f"{one.name}_{name}"}
            | ({"shares": name} if name in owners else {"vocabulary": sizes[name]})
            for name in one.steps
        ]
        sequences.append({"name": one.name, "length": one.length, "steps": steps})
    return {"fields": fields, "sequences": sequences}


def part_columns(space: FeatureSpace, split: Split, rows: NDArray[np.int64]) -> Columns:
    """Every field [n], every column of the history [n, length] and the label of some rows."""
    events = split.tables.interactions[rows]
    users, items, times = (
        events[name].to_numpy().astype(np.int64) for name in ("user", "item", "time")
    )
    given = space.columns(users, items, times, rows=rows)
    found: Columns = {"label": events["label"].to_numpy().astype(np.float32)}
    for noun, table in (("item", space.item_table()), ("user", space.user_table())):
        for name in (*table.codes, *table.numeric):
            found[name] = values(table, name)[given[noun]]
    of_items = space.item_table()
    for one in space.layout.sequences:
        for name in one.steps:
            carried = given.get(f"{one.name}.{name}")
            codes = values(of_items, name)[given[one.name]] if carried is None else carried
            found[f"{one.name}_{name}"] = codes
    return found


def values(table: EntityTable, name: str) -> NDArray[Any]:
    """Code, or number, of each row of a table: [entities + 1]."""
    if name in table.codes:
        (column,) = table.codes[name].T
        return column
    return np.nan_to_num(table.numbers[:, table.numeric.index(name)])


def judged(split: Split, scores: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Every metric of the log-odds of the test rows."""
    events = split.tables.interactions[split.test]
    labels, users = events["label"].to_numpy(), events["user"].to_numpy()
    return {name: round(metric(scores, labels, users), 4) for name, metric in METRICS.items()}


if __name__ == "__main__":
    main()
