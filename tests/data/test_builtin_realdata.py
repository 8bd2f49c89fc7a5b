"""Built-in data sets against the published files, and TALLRec's rows against the released ones."""

import csv
import gzip
import json
import os
from pathlib import Path

import polars as pl
import pytest

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.builtin.ml_100k import read_films, read_ratings
from tastemaker.data.builtin.tallrec_movie import windows
from tastemaker.data.domains import item_domains
from tastemaker.methods.prepare import prepared
from tastemaker.recipe_data import DataConfig

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def outside_data():
    folder = os.environ.get("TASTEMAKER_DATA")
    if not folder:
        pytest.skip("TASTEMAKER_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="module")
def released(outside_data):
    """Rows as ids, and as text."""
    folder = outside_data / "tallrec_movie"
    rows = {}
    for part in ("train", "valid"):
        with (folder / f"{part}_ids.csv").open(encoding="utf-8") as handle:
            rows[part] = list(csv.DictReader(handle))
    texts = {
        "train": json.loads(gzip.decompress((folder / "train.json.gz").read_bytes())),
        "valid": json.loads((folder / "valid.json").read_bytes()),
    }
    return rows, texts


def as_released(row):
    return {
        "user_id": str(row["user_id"]),
        "history_movie_id": " ".join(map(str, row["history_item_ids"])),
        "history_rating": " ".join(map(str, row["history_labels"])),
        "movie_id": str(row["item_id"]),
        "rating": str(row["label"]),
        "timestamp": str(row["timestamp"]),
    }


def as_text(row, titles):
    seen = list(zip(row["history_item_ids"], row["history_labels"], strict=True))
    named = [", ".join(f'"{titles[i]}"' for i, liked in seen if liked == like) for like in (1, 0)]
    target = titles[row["item_id"]]
    return {
        "instruction": "Given the user's preference and unpreference, identify whether the user "
        'will like the target movie by answering "Yes." or "No.".',
        "input": f"User Preference: {named[0]}\nUser Unpreference: {named[1]}\n"
        f'Whether the user will like the target movie "{target}"?',
        "output": "Yes." if row["label"] else "No.",
    }


def test_the_released_rows_come_out(outside_data, released):
    """All 9,000 rows, in order, as ids and as text."""
    folder = outside_data / "ml-100k"
    files = {name: folder / name for name in ("ml-100k.inter", "ml-100k.item", "ml-100k.user")}
    found = windows(read_ratings(files))
    films = read_films(files)
    titles = dict(zip(films["item_id"].cast(pl.Int64), films["title"], strict=True))
    ids, texts = released
    assert len(ids["train"]) == len(texts["train"]) == 8_000
    assert len(ids["valid"]) == len(texts["valid"]) == 1_000
    for part in ("train", "valid"):
        ours = found.filter(pl.col("part") == part).to_dicts()
        assert [as_released(row) for row in ours] == ids[part]
        assert [as_text(row, titles) for row in ours] == texts[part]
    likes = found.group_by("part").agg(pl.col("label").cast(pl.Int64).sum())
    assert dict(likes.rows()) == {"train": 4_457, "valid": 658, "test": 528}
    people = found.group_by("part").agg(pl.col("user_id").n_unique())
    assert dict(people.rows()) == {"train": 80, "valid": 14, "test": 16}


def test_the_data_set_holds_the_released_targets(outside_data, released):
    tables = load_builtin("tallrec-movie", outside_data / "ml-100k")
    assert tables.n_users == 108
    events = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    for part in ("train", "valid"):
        ours = events.filter(pl.col("part") == part).select("user_id", "item_id", "label", "time")
        names = ("user_id", "movie_id", "rating", "timestamp")
        theirs = {tuple(int(row[name]) for name in names) for row in released[0][part]}
        assert set(ours.rows()) == theirs


@pytest.mark.parametrize(
    ("variant", "users", "items", "events"),
    [
        ("beauty", 22_363, 12_101, 198_502),
        ("sports", 35_598, 18_357, 296_337),
        ("yelp", 30_431, 20_033, 316_354),
    ],
)
def test_s3_rec_as_published(outside_data, variant, users, items, events):
    tables = load_builtin(f"s3-rec:{variant}", outside_data / "s3rec")
    assert (tables.n_users, tables.n_items, tables.interactions.height) == (users, items, events)
    assert not any("differs" in note for note in tables.notes)


def test_ml_100k_as_published(outside_data):
    tables = load_builtin("ml-100k", outside_data / "ml-100k")
    assert (tables.n_users, tables.n_items, tables.interactions.height) == (943, 1682, 100_000)
    title = tables.titles[tables.item_index("178")]
    assert title == "12 Angry Men (1957)"


def test_yelp_in_four_domains(outside_data, tmp_path):
    """Business groups as domains, and in each of them as many drawn events as visits."""
    for name, place in (
        ("Yelp.txt", "s3rec/Yelp.txt"),
        ("Yelp_items.jsonl", "yelp_text/items.jsonl"),
    ):
        (tmp_path / name).symlink_to((outside_data / place).resolve())
    groups = ["Restaurants", "Shopping", "Beauty & Spas", "Nightlife"]
    config = DataConfig(
        source="s3-rec:yelp",
        folder=tmp_path,
        domains={"column": "categories", "groups": groups},
        negatives={"per_positive": 1},
        split={"name": "user_time_ratio"},
    )
    tables = prepared(config, seed=1)[0].tables
    assert (tables.n_users, tables.n_items) == (30_362, 16_190)
    assert tables.interactions.schema["domain"] == pl.Enum(groups)
    counts = tables.interactions.group_by("domain", "label").len().sort("domain", "label")
    visits = [246_466, 10_254, 7_817, 6_924]
    assert counts["len"].to_list() == [count for count in visits for _ in range(2)]
    items = tables.items["domain"].value_counts().rows()
    assert dict(items) == dict(zip(groups, [13_747, 1_078, 853, 512], strict=True))
    own = item_domains(tables)
    assert tables.interactions["domain"].equals(own.gather(tables.interactions["item"]))
