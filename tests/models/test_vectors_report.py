from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import UserError
from tastemaker.models.encoders import HashingEncoder
from tastemaker.models.vectors import Vectors
from tastemaker.models.vectors_report import coverage, equal_vectors, near_duplicates

# Few different numbers, so that equal, parallel and zero vectors occur.
ROWS = st.lists(
    st.tuples(*[st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, 0.5, 1e-6])] * 3), max_size=12
)


def stored(folder: Path, rows: list[tuple[float, ...]]) -> Vectors:
    matrix = np.array(rows, dtype=np.float32).reshape(len(rows), 3)
    ids = [f"i{place}" for place in range(len(rows))]
    return Vectors.create(folder, ids, matrix, encoder="x")


@given(ROWS, st.sampled_from([0.9, 0.55, -0.2]), st.integers(1, 5))
def test_near_duplicates_equal_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[float, ...]],
    threshold: float,
    block: int,
) -> None:
    vectors = stored(tmp_path_factory.mktemp("vectors"), rows)
    expected: dict[tuple[str, str], float] = {}
    for place, row in enumerate(rows):
        for other in range(place):
            earlier = rows[other]
            if row in rows[:place] or earlier in rows[:other] or not any(row) or not any(earlier):
                continue
            one, two = np.array(earlier), np.array(row)
            cosine = float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
            if cosine >= threshold:
                expected[f"i{other}", f"i{place}"] = cosine
    found = near_duplicates(vectors, threshold, block=block)
    assert {(one, two) for one, two, _ in found.iter_rows()} == set(expected)
    for one, two, cosine in found.iter_rows():
        assert cosine == pytest.approx(expected[one, two], abs=1e-6)
    assert found["cosine"].is_sorted(descending=True)
    few = near_duplicates(vectors, threshold, block=block, most=2)
    assert few.equals(found.head(2)) or few["cosine"].to_list() == pytest.approx(
        found["cosine"].head(2).to_list(), abs=1e-6
    )


@given(ROWS, st.lists(st.sampled_from([f"i{place}" for place in range(15)]), max_size=20))
def test_coverage_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]], ids: list[str]
) -> None:
    vectors = stored(tmp_path_factory.mktemp("vectors"), rows)
    found = coverage(vectors, ids)
    asked = set(ids)
    held = [rows[int(key[1:])] for key in asked if int(key[1:]) < len(rows)]
    zeros = [row for row in held if not any(row)]
    twice = [row for row in held if any(row) and held.count(row) > 1]
    count = max(1, len(asked))
    assert found.ids == len(asked)
    assert (found.present, found.zero, found.duplicate) == pytest.approx(
        (len(held) / count, len(zeros) / count, len(twice) / count)
    )
    groups = {row: rows.count(row) for row in rows if rows.count(row) > 1}
    equal = equal_vectors(vectors)
    assert sorted(equal["ids"].to_list()) == sorted(groups.values())
    assert {rows[int(key[1:])] for key in equal["id"]} == set(groups)


def test_texts_that_share_a_row_are_equal(tmp_path: Path) -> None:
    texts = ["even film", "odd film", "even film", "", "even film two"]
    vectors = Vectors.update(tmp_path, "abcde", texts, encoder=HashingEncoder(64))
    assert equal_vectors(vectors).rows() == [("a", 2)]
    assert near_duplicates(vectors, 0.8).select("id", "other").rows() == [("a", "e")]
    found = coverage(vectors, ["a", "b", "c", "d", "nobody"])
    assert (found.present, found.zero, found.duplicate) == (0.8, 0.2, 0.4)


def test_tiny_vectors_have_a_direction(tmp_path: Path) -> None:
    vectors = stored(tmp_path, [(1e-30, 0.0, 0.0), (1.0, 0.0, 0.0)])
    assert near_duplicates(vectors)["cosine"].to_list() == [1.0]


@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"most": 0}, {"block": 0}])
def test_limits_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="near-duplicates with"):
        near_duplicates(stored(tmp_path, []), **wrong)
