from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import DataError
from tastemaker.models.vectors import VectorDtype, Vectors

MATRIX = np.arange(6, dtype=np.float32).reshape(3, 2)


def create(folder: Path, *, dtype: VectorDtype = "float32") -> Vectors:
    return Vectors.create(folder, ["a", "b", "c"], MATRIX, encoder="hashing:2", dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_can_be_read(tmp_path: Path, dtype: VectorDtype) -> None:
    create(tmp_path, dtype=dtype)
    found = Vectors.open(tmp_path)
    assert isinstance(found.matrix, np.memmap)
    assert found.matrix.dtype == dtype
    assert (found.ids, found.encoder, found.dim, len(found)) == (("a", "b", "c"), "hashing:2", 2, 3)
    taken = found.take(found.rows(["c", "nobody", "a"]))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, [[4, 5], [0, 0], [0, 1]])


def test_rows_of_unknown_ids_are_minus_one(tmp_path: Path) -> None:
    rows = create(tmp_path).rows(["b", "B", ""])
    assert rows.dtype == np.int64
    assert rows.tolist() == [1, -1, -1]


@given(st.lists(st.text(), unique=True, max_size=20))
def test_any_text_can_be_an_id(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    ids = [key for key in ids if key.isprintable()]
    folder = tmp_path_factory.mktemp("vectors")
    matrix = np.arange(len(ids) * 2).reshape(len(ids), 2)
    found = Vectors.create(folder, ids, matrix, encoder="x")
    np.testing.assert_array_equal(found.take(found.rows(ids)), matrix)


def test_vectors_can_be_added_while_the_old_ones_are_open(tmp_path: Path) -> None:
    old = create(tmp_path, dtype="float16")
    new = old.extended(tmp_path, ["d"], [[7.0, 8.0]])
    assert new.ids == ("a", "b", "c", "d")
    assert new.matrix.dtype == np.float16
    np.testing.assert_array_equal(new.take([3, 0]), [[7, 8], [0, 1]])
    np.testing.assert_array_equal(old.take([2]), [[4, 5]])
    assert len(list(tmp_path.iterdir())) == 3
    assert Vectors.open(tmp_path).ids == new.ids


def test_adding_an_id_twice_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    old = create(tmp_path)
    with pytest.raises(DataError, match="the id 'b' occurs twice"):
        old.extended(tmp_path, ["b"], [[7.0, 8.0]])
    with pytest.raises(DataError, match="cannot join"):
        old.extended(tmp_path, ["d"], [[7.0, 8.0, 9.0]])
    assert Vectors.open(tmp_path).ids == old.ids


def test_shapes_must_agree(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 ids and a matrix of shape \(3, 2\)"):
        Vectors.create(tmp_path, ["a", "b"], MATRIX, encoder="x")


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (1e6, "float16")])
def test_numbers_that_are_not_finite_are_refused(
    tmp_path: Path, value: float, dtype: VectorDtype
) -> None:
    with pytest.raises(DataError, match="the vector of 'b' holds a number that is not finite"):
        Vectors.create(tmp_path, ["a", "b"], [[1.0], [value]], encoder="x", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_holds_no_vectors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no readable vectors"):
        Vectors.open(tmp_path)


def test_a_shape_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    about = json.loads((tmp_path / "vectors.json").read_text())
    (tmp_path / "vectors.json").write_text(json.dumps({**about, "shape": [4, 2]}))
    with pytest.raises(DataError, match="records shape"):
        Vectors.open(tmp_path)
