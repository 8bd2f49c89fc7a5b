from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tastemaker.data.tables import Tables
from tastemaker.errors import BusyError, DataError, MissingError, UnknownNameError, UserError
from tastemaker.models.catalogue import writing
from tastemaker.models.catalogue.conditions import Condition, holds
from tastemaker.models.catalogue.documents import Documents, Layout, Space
from tastemaker.models.catalogue.store import Catalogue
from tastemaker.models.encoders import HashingEncoder
from tastemaker.testing.world import shop_world

ENCODER = HashingEncoder(64)
HOSTILE = ("DROP TABLE `items`; --", "it's \x00", "<|im_end|>", "{{ 7*7 }}", "a|b", "\u202e", "’“")


def rows_of(tables: Tables, *, vectors: bool = True, likes: Space | None = None) -> pa.Table:
    documents = Documents.of(tables)
    text = Space(np.arange(len(documents)), ENCODER.encode(documents.meanings)) if vectors else None
    return documents.rows(text=text, collaborative=likes, encoder=ENCODER.name)


def parity(tables: Tables, known: int = 20) -> Space:
    """Vectors of the first items: even ones point one way, odd ones the other."""
    items = np.arange(known)
    matrix = np.column_stack([items % 2 == 0, items % 2 == 1, items * 1e-3]).astype(np.float32)
    assert known <= tables.n_items
    return Space(items, matrix)


def changed(tables: Tables, item: int, **values: Any) -> Tables:
    frame = tables.items.with_columns(
        pl.when(pl.col("item") == item).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )
    return replace(tables, items=frame)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return shop_world()


@pytest.fixture(scope="module")
def catalogue(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("shop")
    Catalogue.update(folder, rows_of(tables, likes=parity(tables)))
    return Catalogue.open(folder, encoder=ENCODER)


def test_items_come_back_as_the_tables_have_them(tables: Tables, catalogue: Catalogue) -> None:
    assert len(catalogue) == tables.n_items
    assert catalogue.titles == tables.titles
    assert catalogue.spaces == ("text", "collaborative")
    for row, item in zip(
        tables.items.iter_rows(named=True), catalogue.items(range(len(catalogue))), strict=True
    ):
        assert (item.item, item.item_id, item.title) == (row["item"], row["item_id"], row["title"])
        assert item.values["categories"] == list(row["categories"] or [])
        assert item.values["price"] == row["price"]
        assert item.values["description"] == (row["description"] or None)
    with pytest.raises(UserError, match="no item 30"):
        catalogue.item(30)
    with pytest.raises(UserError, match="no item -1"):
        catalogue.item(-1)


@pytest.mark.parametrize(
    "conditions",
    [
        [Condition("categories", "any_of", ("Novel", "Strategy"))],
        [Condition("tags", "none_of", ("hard",)), Condition("price", "at_most", (15.0,))],
        [Condition("brand", "none_of", ("Oak", "Dune"))],
        [Condition("price", "at_least", (1e9,))],
    ],
)
def test_filters_say_what_the_check_says(catalogue: Catalogue, conditions: list[Condition]) -> None:
    found = catalogue.satisfying(conditions)
    items = catalogue.items(range(len(catalogue)))
    assert found.tolist() == [one.item for one in items if holds(conditions, one.values)]
    assert found.dtype == np.int64
    for mode in ("text", "vector", "hybrid"):
        hits = catalogue.search("a slow game of city trains", conditions=conditions, mode=mode)  # type: ignore[arg-type]
        assert {hit.item for hit in hits} <= set(found.tolist())


def test_unknown_facets_and_unfit_bounds_are_refused(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'price'"):
        catalogue.satisfying([Condition("pricee", "at_most", (1,))])
    with pytest.raises(UnknownNameError):
        catalogue.satisfying([Condition("description", "any_of", ("x",))])
    with pytest.raises(UserError, match="does not fit brand, a category"):
        catalogue.search("x", conditions=[Condition("brand", "at_most", (1,))])
    with pytest.raises(UserError, match="does not fit price, a number"):
        catalogue.satisfying([Condition("price", "none_of", ("12.5",))])


def test_words_find_documents_in_any_mode(catalogue: Catalogue) -> None:
    for mode in ("text", "vector", "hybrid"):
        hits = catalogue.search("recipes without a scale", mode=mode)  # type: ignore[arg-type]
        assert catalogue.titles[hits[0].item] == "Jam and Honey"
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert catalogue.search("recipes without a scale", count=1, mode=mode) == hits[:1]  # type: ignore[arg-type]
    assert [catalogue.titles[hit.item] for hit in catalogue.search("ferries", mode="text")] == [
        "Cold Harbour"
    ]


@pytest.mark.parametrize(
    "text", ["", "!!!", 'AND OR NOT (" ', "title:kite^2 ~ *", "\x00", "'; --", "x " * 5000]
)
def test_no_text_is_a_query_language(catalogue: Catalogue, text: str) -> None:
    for mode in ("text", "vector", "hybrid"):
        assert isinstance(catalogue.search(text, mode=mode), list)  # type: ignore[arg-type]
    assert catalogue.search("kite AND NOT kite", mode="text") == catalogue.search(
        "kite kite", mode="text"
    )


def test_equal_scores_are_ordered_by_item(catalogue: Catalogue) -> None:
    hits = catalogue.search("Strategy Puzzle Family", mode="text")
    assert len({hit.score for hit in hits}) < len(hits)
    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.item))


def test_without_an_encoder_or_vectors_search_is_full_text(
    tables: Tables, catalogue: Catalogue, tmp_path: Path
) -> None:
    Catalogue.update(tmp_path, rows_of(tables, vectors=False))
    plain = Catalogue.open(tmp_path, encoder=ENCODER)
    assert (plain.encoder, plain.spaces) == (None, ())
    words = catalogue.search("novel berlin", mode="text")
    for mode in ("text", "vector", "hybrid"):
        assert plain.search("novel berlin", mode=mode) == words  # type: ignore[arg-type]
    assert plain.similar([0]) == []


def test_similar_items_by_who_likes_them_and_by_text(catalogue: Catalogue) -> None:
    liked = catalogue.similar([0, 2], by="collaborative", count=50)
    assert [hit.item % 2 for hit in liked[:8]] == [0] * 8
    assert {hit.item for hit in liked} == set(range(20)) - {0, 2}
    assert catalogue.similar([25], by="collaborative") == []  # has no vector of this kind
    assert catalogue.similar([0, 25], by="collaborative") == [
        hit for hit in catalogue.similar([0], by="collaborative") if hit.item != 25
    ]
    told = catalogue.similar([18, 29], by="text", count=3)
    assert not {18, 29} & {hit.item for hit in told}
    both = catalogue.similar([0], without=[2, 4], conditions=[])
    assert not {0, 2, 4} & {hit.item for hit in both}
    assert max(hit.score for hit in both) <= 2 / 61
    assert catalogue.similar([]) == []
    cheap = [Condition("price", "at_most", (10.0,))]
    kept = set(catalogue.satisfying(cheap).tolist())
    assert {hit.item for hit in catalogue.similar([0], conditions=cheap)} <= kept
    with pytest.raises(UserError, match="no item 99"):
        catalogue.similar([99])


def test_titles_are_looked_up_and_mentioned(catalogue: Catalogue) -> None:
    assert {hit.item for hit in catalogue.lookup("tower", count=2)} == {
        item for item, title in enumerate(catalogue.titles) if title == "The Tower"
    }
    (mention,) = catalogue.mentions("something like Jam and Honey please")
    assert [catalogue.titles[item] for item in mention.items] == ["Jam and Honey"]


def test_an_encoder_of_other_vectors_is_refused(tables: Tables, tmp_path: Path) -> None:
    Catalogue.update(tmp_path, rows_of(tables))
    with pytest.raises(UserError, match="by hashing:64, not by hashing:32"):
        Catalogue.open(tmp_path, encoder=HashingEncoder(32))


def test_only_changed_rows_are_written(tables: Tables, tmp_path: Path) -> None:
    first = Catalogue.update(tmp_path, rows_of(tables))
    assert (first.rows, first.changed, first.removed) == (30, 30, 0)
    again = Catalogue.update(tmp_path, rows_of(tables))
    assert (again.changed, again.removed) == (0, 0)
    other = changed(tables, 3, description="Trombones at dawn.")
    assert Catalogue.update(tmp_path, rows_of(other)).changed == 1
    catalogue = Catalogue.open(tmp_path, encoder=ENCODER)
    for mode in ("text", "vector"):
        assert catalogue.search("trombones dawn", mode=mode)[0].item == 3  # type: ignore[arg-type]
    assert catalogue.titles == tables.titles
    fewer = rows_of(other).slice(0, 28)
    assert Catalogue.update(tmp_path, fewer).removed == 2
    assert len(Catalogue.open(tmp_path)) == 28
    columns = replace(other, items=other.items.with_columns(rooms=pl.col("item") % 3))
    assert Catalogue.update(tmp_path, rows_of(columns)).changed == 30
    assert "rooms" in [facet.name for facet in Catalogue.open(tmp_path).facets]


def test_an_open_catalogue_stays_as_it_was(tables: Tables, tmp_path: Path) -> None:
    Catalogue.update(tmp_path, rows_of(tables))
    old = Catalogue.open(tmp_path, encoder=ENCODER)
    before = old.search("kite", mode="hybrid")
    for number in range(3):
        renamed = changed(tables, 1, title=f"Red Balloon {number}", description="No such thing.")
        Catalogue.update(tmp_path, rows_of(renamed))
    assert old.search("kite", mode="hybrid") == before
    assert old.search("balloon", mode="text") == []
    new = Catalogue.open(tmp_path)
    assert new.titles[1] == "Red Balloon 2"
    assert [hit.item for hit in new.search("balloon")] == [1]


def test_old_versions_are_cleared_away(tables: Tables, tmp_path: Path) -> None:
    for number in range(6):
        renamed = changed(tables, 1, title=f"Red Balloon {number}")
        Catalogue.update(tmp_path, rows_of(renamed), keep=timedelta(milliseconds=1))
    versions = list((tmp_path / "items.lance" / "_versions").glob("*.manifest"))
    assert len(versions) <= 2
    assert Catalogue.open(tmp_path).titles[1] == "Red Balloon 5"


def test_hostile_texts_and_names_survive(tables: Tables, tmp_path: Path) -> None:
    frame = tables.items.with_columns(
        title=pl.Series([HOSTILE[item % len(HOSTILE)] for item in range(30)]),
        item_id=pl.Series([f"{HOSTILE[item % len(HOSTILE)]}{item}" for item in range(30)]),
    )
    names = ["select", "`x`", "value_0", "document", "digest", "a.b", "text_vector", "Ünïcode "]
    told = [text for text in HOSTILE if "|" not in text]  # which would part a list
    for place, name in enumerate(names):
        frame = frame.with_columns(pl.lit(f"{told[place % 5]}!").alias(name))
    hostile = replace(tables, items=frame)
    Catalogue.update(tmp_path, rows_of(hostile))
    catalogue = Catalogue.open(tmp_path, encoder=ENCODER)
    assert catalogue.titles == frame["title"].to_list()
    for place, name in enumerate(names):
        assert catalogue.item(7).values[name] == f"{told[place % 5]}!"
        found = catalogue.satisfying([Condition(name, "any_of", (f"{told[place % 5]}!",))])
        assert len(found) == 30
    assert Catalogue.update(tmp_path, rows_of(hostile).slice(0, 3)).removed == 27
    assert [one.item_id for one in Catalogue.open(tmp_path).items([0, 1, 2])] == frame["item_id"][
        :3
    ].to_list()


def test_reading_writes_nothing_and_works_in_threads(tables: Tables, tmp_path: Path) -> None:
    Catalogue.update(tmp_path, rows_of(tables, likes=parity(tables)))

    def files() -> dict[Path, tuple[int, int]]:
        found = (path for path in tmp_path.rglob("*") if path.is_file())
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    before = files()
    catalogue = Catalogue.open(tmp_path, encoder=ENCODER)
    questions = ["kite", "war", "puzzle", "city", "travel", "space"] * 4
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(catalogue.search, questions))
    assert parallel == [catalogue.search(text) for text in questions]
    assert files() == before


def test_large_catalogues_get_an_index_of_vectors(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalogue.update(tmp_path / "exact", rows_of(tables))
    monkeypatch.setattr(writing, "INDEXED_FROM", 30)
    Catalogue.update(tmp_path / "indexed", rows_of(tables))
    exact, indexed = (
        Catalogue.open(tmp_path / name, encoder=ENCODER).search("kites over oslo", mode="vector")
        for name in ("exact", "indexed")
    )
    assert [hit.item for hit in indexed[:3]] == [hit.item for hit in exact[:3]]


def test_what_is_no_catalogue_is_refused(tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable catalogue"):
        Catalogue.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "items.lance").mkdir()
    with pytest.raises(DataError, match="no readable catalogue"):
        Catalogue.open(tmp_path)
    with pytest.raises(DataError, match="needs rows"):
        Catalogue.update(tmp_path, rows_of(tables).slice(0, 0))
    with pytest.raises(ValueError, match="not the rows"):
        Layout.of(pa.schema({"item": pa.int64()}))
    bad = Space(np.arange(2), np.array([[1, np.nan], [1, 1]], dtype=np.float32))
    with pytest.raises(DataError, match="not finite"):
        Documents.of(tables).rows(text=bad, encoder="x")


def test_without_lancedb_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingError, match=r"tastemaker\[serve\]"):
        Catalogue.open(tmp_path)


WRITER = """
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tastemaker.models.catalogue import writing

folder, file, stop = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def halt(*arguments):
    print("there", flush=True)
    sys.stdin.read()

if stop:
    setattr(writing, stop, halt)
rows = pq.read_table(file)
print("ready", flush=True)
writing.write_catalogue(folder, rows)
print("done", flush=True)
"""


def writer(folder: Path, rows: pa.Table, *, stop: str = "") -> subprocess.Popen[str]:
    """Another process that writes these rows, and halts before the function named `stop`."""
    file = folder.parent / "rows.parquet"
    pq.write_table(rows, file)
    found = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(file), stop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert found.stdout is not None
    assert found.stdout.readline() == "ready\n"
    return found


def retold(tables: Tables) -> Tables:
    return replace(tables, items=tables.items.with_columns(description=pl.lit("Trombones.")))


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param("_index", marks=pytest.mark.slow),
        pytest.param("_tidy", marks=pytest.mark.slow),
        "_publish",
    ],
)
def test_a_killed_update_leaves_the_old_version_and_the_next_one_heals(
    tables: Tables, tmp_path: Path, stop: str
) -> None:
    folder = tmp_path / "shop"
    Catalogue.update(folder, rows_of(tables))
    with writer(folder, rows_of(retold(tables)), stop=stop) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        with pytest.raises(BusyError, match="another process writes"):
            Catalogue.update(folder, rows_of(tables))
        os.kill(other.pid, signal.SIGKILL)
    old = Catalogue.open(folder)
    assert len(old) == 30
    assert old.search("trombones") == []
    assert old.search("ferry")
    Catalogue.update(folder, rows_of(retold(tables)))
    new = Catalogue.open(folder)
    assert len(new.search("trombones")) == 30
    assert new.search("ferry") == []


def test_a_kill_at_any_moment_of_the_first_writing_heals(tables: Tables, tmp_path: Path) -> None:
    for number, delay in enumerate((0.0, 0.01, 0.03)):
        folder = tmp_path / f"shop-{number}"
        with writer(folder, rows_of(tables)) as other:
            time.sleep(delay)
            os.kill(other.pid, signal.SIGKILL)
        assert other.returncode == -signal.SIGKILL
        Catalogue.update(folder, rows_of(tables))
        assert len(Catalogue.open(folder).search("ferry")) == 1
