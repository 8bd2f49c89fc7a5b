"""What is in a folder of vectors: near-duplicates, groups of equal ones, and what they cover.

Everything goes block by block over the mapped matrix; memory grows with ids, not with vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.errors import UserError
from tastemaker.models.vectors import Vectors

__all__ = ["Coverage", "coverage", "equal_vectors", "near_duplicates"]

_BLOCK = 2048  # rows that are compared with as many others at a time
_PAIRS = {"id": pl.String, "other": pl.String, "cosine": pl.Float32}


@dataclass(frozen=True)
class Coverage:
    """How well some ids are served.

    Attributes:
        ids: Number of different ids asked for.
        present: Share of them that have a vector.
        zero: Share of them whose vector is zero, as for an empty text.
        duplicate: Share of them whose vector, not zero, is exactly that of another of them.
    """

    ids: int
    present: float
    zero: float
    duplicate: float


def coverage(vectors: Vectors, ids: Sequence[str]) -> Coverage:
    """Which of `ids` have a vector, and one that says something.

    Args:
        vectors: Where to look.
        ids: Such as all items of a catalogue; repeated ones count once.
    """
    asked = list(dict.fromkeys(ids))
    rows = vectors.rows(asked)
    marks = _marks(vectors, rows[rows >= 0])
    zeros = sum(mark is None for mark in marks)
    counts: dict[bytes, int] = {}
    for mark in marks:
        if mark is not None:
            counts[mark] = counts.get(mark, 0) + 1
    repeated = sum(count for count in counts.values() if count > 1)
    total = max(1, len(asked))
    return Coverage(len(asked), len(marks) / total, zeros / total, repeated / total)


def equal_vectors(vectors: Vectors) -> pl.DataFrame:
    """Groups of ids with exactly the same vector, zero included, the largest first.

    Returns:
        `id`, the first of each group, and `ids`, how many belong to it (two or more).
    """
    _, counts = _different(vectors)
    found = [(vectors.ids[place], count) for place, count in counts.items() if count > 1]
    frame = pl.DataFrame(found, schema={"id": pl.String, "ids": pl.Int64}, orient="row")
    return frame.sort("ids", descending=True, maintain_order=True)


def near_duplicates(
    vectors: Vectors, threshold: float = 0.98, *, most: int = 100_000, block: int = _BLOCK
) -> pl.DataFrame:
    """Pairs of vectors that point almost the same way, the closest first.

    Exactly equal vectors take part once, by their first id; `equal_vectors` counts them. Zero
    vectors point nowhere and take no part.

    Args:
        vectors: What to look through; time grows with the square of their number.
        threshold: Least cosine, above -1 and at most 1.
        most: Pairs at most; of more, the closest.
        block: Rows compared at a time; memory is 4 · block² bytes and a little.

    Returns:
        `id`, `other`, which comes later among the ids, and `cosine`.

    Raises:
        UserError: the threshold is no cosine, or another number is not positive.
    """
    if not -1 < threshold <= 1 or most < 1 or block < 1:
        raise UserError(
            f"near-duplicates with threshold {threshold}, most {most}, block {block}.",
            allowed="threshold above -1 and at most 1; most and block from 1 on",
        )
    first, _ = _different(vectors)
    places = np.array(first, dtype=np.int64)
    found = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    for here, there, cosines in _blocks(vectors, places, block):
        # With all places taken, only what is as close as the worst of them matters.
        least = max(threshold, found[2][-1]) if len(found[2]) == most else threshold
        rows, columns = np.nonzero(cosines >= least)
        if not len(rows):
            continue
        left = np.concatenate([found[0], here[rows]])
        right = np.concatenate([found[1], there[columns]])
        values = np.concatenate([found[2], np.minimum(cosines[rows, columns], 1)])
        kept = np.lexsort((right, left, -values))[:most]
        found = left[kept], right[kept], values[kept]
    names = [[vectors.ids[place] for place in side] for side in found[:2]]
    return pl.DataFrame(dict(zip(_PAIRS, [*names, found[2]], strict=True)), schema=_PAIRS)


def _blocks(
    vectors: Vectors, places: NDArray[np.int64], block: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Places of ids in two blocks and all cosines between them; -2 where a pair comes elsewhere."""
    starts = range(0, len(places), block)
    for start in starts:
        here = places[start : start + block]
        left = _directions(vectors, here)
        for other in starts[start // block :]:
            there = places[other : other + block]
            cosines = left @ (left if other == start else _directions(vectors, there)).T
            if other == start:
                cosines[np.tril_indices(len(here))] = -2
            yield here, there, cosines


def _directions(vectors: Vectors, places: NDArray[np.int64]) -> NDArray[np.float32]:
    taken = vectors.take(vectors.id_rows[places])
    taken /= np.abs(taken).max(axis=1, keepdims=True)  # squares of tiny numbers would vanish
    return taken / np.linalg.norm(taken, axis=1, keepdims=True)


def _different(vectors: Vectors) -> tuple[list[int], dict[int, int]]:
    """First place of each different vector that is not zero; ids per first place, zeros too."""
    first: dict[bytes | None, int] = {}
    counts: dict[int, int] = {}
    for place, mark in enumerate(_marks(vectors, vectors.id_rows)):
        origin = first.setdefault(mark, place)
        counts[origin] = counts.get(origin, 0) + 1
    return [place for mark, place in first.items() if mark is not None], counts


def _marks(vectors: Vectors, rows: NDArray[np.int64]) -> list[bytes | None]:
    """Per row a digest of its numbers; None for zeros."""
    marks: list[bytes | None] = []
    for start in range(0, len(rows), _BLOCK):
        taken: NDArray[Any] = vectors.matrix[rows[start : start + _BLOCK]] + 0.0  # -0 becomes 0
        for row, some in zip(taken, (taken != 0).any(axis=1).tolist(), strict=True):
            marks.append(hashlib.blake2b(row.tobytes(), digest_size=16).digest() if some else None)
    return marks
