"""TALLRec's movie windows, on made ratings."""

import random

import polars as pl
import pytest

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.builtin.tallrec_movie import windows
from tastemaker.errors import DataError


def test_windows_by_hand():
    ratings = pl.DataFrame(
        [
            (7, 1, 5, 99),  # as text 99 comes after 100
            (3, 1, 1, 10),
            (7, 2, 3, 100),
            (7, 3, 4, 100),
            (3, 2, 5, 11),
            (3, 4, 4, 12),
            (7, 4, 2, 101),
        ],
        schema=["user_id", "item_id", "rating", "timestamp"],
        orient="row",
    )
    found = windows(ratings, history=2, sizes=(1, 1, 1))
    assert found.rows() == [
        (7, [2, 3], [0, 1], 4, 0, 101, "train"),
        (7, [3, 4], [1, 0], 1, 1, 99, "valid"),
        (3, [1, 2], [0, 1], 4, 1, 12, "test"),
    ]
    assert windows(ratings.cast(pl.String), history=2, sizes=(1, 1, 1)).equals(found)
    with pytest.raises(DataError, match="give 3 windows of 2 films"):
        windows(ratings, history=2, sizes=(2, 1, 1))


def world(folder):
    """110 people who rate 102 films each: 10,120 windows."""
    chance = random.Random(0)
    people, films = range(1, 111), range(1, 103)
    events = [
        f"{person}\t{film}\t{chance.randint(1, 5)}\t{880_000_000 + chance.randrange(10_000)}"
        for person in people
        for film in films
    ]
    flags = "|".join("0" * 19)
    (folder / "u.data").write_text("\n".join(events) + "\n")
    (folder / "u.item").write_text("".join(f"{n}|Film {n} (1995)||||{flags}\n" for n in films))
    (folder / "u.user").write_text("".join(f"{n}|30|F|writer|12345\n" for n in people))
    return folder


def test_the_data_set_marks_the_targets(tmp_path):
    tables = load_builtin("tallrec-movie", world(tmp_path))
    parts = dict(tables.interactions["part"].value_counts().rows())
    assert {name: parts[name] for name in ("train", "valid", "test")} == {
        "train": 8_000,
        "valid": 1_000,
        "test": 1_000,
    }
    # 92 windows a person: the first is left out, the second has lost 28 of its windows.
    assert tables.n_users == 109
    assert parts[None] == 109 * 102 - 10_000
    assert tables.source == "tallrec-movie"
