"""Random numbers that belong to a row, not to its place in a loop.

A generator that is drawn from in order gives a row other numbers as soon as another row joins.
Hashing the seed with the numbers of the row gives it the same ones whoever else is asked about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["fractions", "hashed"]

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
Hashes = NDArray[np.uint64]


def hashed(*columns: ArrayLike | NDArray[Any], seed: int) -> Hashes:
    """Hash integers row by row with splitmix64.

    Args:
        columns: Integers that broadcast against each other; their order matters.
        seed: Another seed gives unrelated hashes.

    Returns:
        uint64 of the broadcast shape, at least one-dimensional.
    """
    state: Hashes = _mixed(np.array([seed * _GOLDEN & _WORD], dtype=np.uint64))
    for column in columns:
        # Negative numbers wrap around, which loses nothing.
        state = _mixed(state ^ np.asarray(column).astype(np.int64).view(np.uint64))
    return state


def fractions(hashes: Hashes) -> NDArray[np.float64]:
    """The same hashes as numbers from 0 to just below 1, float64."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(state: Hashes) -> Hashes:
    """One step of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = state + np.uint64(_GOLDEN)
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state
