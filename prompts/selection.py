"""Which examples of a part are used: labels in balance, near-duplicates out, seeded subsets."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.hashing import hashed
from tastemaker.data.history import Histories
from tastemaker.prompts.examples import Examples

__all__ = ["balanced", "few", "near_duplicates", "sampled"]

Places = NDArray[np.int64]
_FEW, _BALANCE, _MIN_HASH = 21, 22, 23  # what a random number is for
_HASHES = 8
_MISSED = 0.01
_ROUNDS = 4  # examples of a hash that another is compared with
_BLOCK = 100_000


def balanced(examples: Examples, *, seed: int) -> Places:
    """Places of as many examples of one label as of the other, in order; the rarer one is kept."""
    order = _shuffled(examples, _BALANCE, seed=seed)
    labels = examples.labels[order]
    size = min(int((labels == 1).sum()), int((labels == 0).sum()))
    kept = [order[labels == label][:size] for label in (0, 1)]
    return np.sort(np.concatenate(kept))


def few(examples: Examples, count: int, *, seed: int) -> Places:
    """Places of `count` examples (K-shot), in order; for one seed, fewer are a subset of more."""
    return np.sort(_shuffled(examples, _FEW, seed=seed)[:count])


def sampled(rows: ArrayLike, size: int | None, *, seed: int) -> NDArray[Any]:
    """A sorted sample without replacement; everything when `size` is None."""
    values = np.asarray(rows)
    if size is None or size >= len(values):
        return values
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(values, size=size, replace=False))


def near_duplicates(
    examples: Examples,
    histories: Histories,
    codes: ArrayLike,
    *,
    history: int,
    anchor: int | None = None,
    threshold: float,
    seed: int,
) -> NDArray[np.bool_]:
    """Examples whose question is nearly that of an earlier one, bool [n].

    Two are near when user-facing content agrees: the same target and label, and a share of shown
    items in common (Jaccard) of at least `threshold`. Equal ones are always found, others but for a
    few in a hundred: candidates come from min-hashing (Broder, 1997), and each is compared exactly
    with up to 4 earlier examples of its hash that are not near to each other.

    Args:
        examples: Of interactions.
        histories: Index over their interactions.
        codes: Integers >= 0 [interactions], what is shown of each event; equal titles, equal codes.
        history: Most recent events shown.
        anchor: Events after which the oldest one shown moves on (see `Past.newest`).
        threshold: From just above 0 to 1; 1 finds equal sets only.
        seed: Of the hashes.
    """
    shown = np.asarray(codes, dtype=np.int64)
    sets = _Sets(histories, shown, history, anchor=anchor)
    hashes = np.concatenate(
        [
            sets.hashes(examples.rows[start : start + _BLOCK], seed=seed)
            for start in range(0, len(examples), _BLOCK)
        ]
        or [np.zeros((0, 1 + _HASHES), dtype=np.uint64)]
    )
    again, least = np.zeros(len(examples), dtype=bool), _least_alike(threshold)
    for one in range(1 + _HASHES):
        keys = hashed(examples.items, examples.labels, hashes[:, one].view(np.int64), seed=seed)
        rest = np.flatnonzero(~again)
        for _ in range(_ROUNDS):
            _, firsts, groups = np.unique(keys[rest], return_index=True, return_inverse=True)
            leaders = rest[firsts[groups]]
            led = leaders != rest
            rest, leaders = rest[led], leaders[led]
            alike = (hashes[leaders] == hashes[rest]).sum(axis=1) >= least
            near = alike.copy()
            near[alike] = (
                sets.overlap(examples.rows[leaders[alike]], examples.rows[rest[alike]]) >= threshold
            )
            again[rest[near]] = True
            rest = rest[~near]
    return again


def _least_alike(threshold: float) -> int:
    """Hashes that all but one in a hundred pairs of this similarity have in common."""
    below = np.cumsum(
        [comb(_HASHES, k) * threshold**k * (1 - threshold) ** (_HASHES - k) for k in range(_HASHES)]
    )
    return max(int(np.searchsorted(below, _MISSED)), 1)


class _Sets:
    """What each example shows, as a set."""

    def __init__(
        self, histories: Histories, codes: Places, history: int, *, anchor: int | None
    ) -> None:
        self._histories, self._codes = histories, codes
        self._history, self._anchor = history, anchor
        self._width = int(codes.max()) + 1 if len(codes) else 1

    def hashes(self, rows: Places, *, seed: int) -> NDArray[np.uint64]:
        """A hash of each whole set, then its smallest of each hash, uint64 [n, 1 + hashes].

        Where a set is empty they are the largest number.
        """
        keys = self._keys(rows)
        found = np.full((len(rows), 1 + _HASHES), np.iinfo(np.uint64).max, dtype=np.uint64)
        places, codes = np.divmod(keys, self._width)
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        if len(keys):
            for one in range(1 + _HASHES):
                values = hashed(codes, _MIN_HASH, one, seed=seed)
                merge = np.minimum if one else np.add
                found[places[starts], one] = merge.reduceat(values, starts)
        return found

    def overlap(self, one: Places, other: Places) -> NDArray[np.float64]:
        """Jaccard similarity of pairs of sets, float64 [n]; 1 for two empty ones."""
        found = np.ones(len(one))
        for start in range(0, len(one), _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] = self._overlap(one[block], other[block])
        return found

    def _overlap(self, one: Places, other: Places) -> NDArray[np.float64]:
        first, second = self._keys(one), self._keys(other)
        both = np.isin(first, second, assume_unique=True)
        sizes = [np.bincount(keys // self._width, minlength=len(one)) for keys in (first, second)]
        common = np.bincount(first[both] // self._width, minlength=len(one))
        union = sizes[0] + sizes[1] - common
        return np.where(union > 0, common / np.maximum(union, 1), 1.0)

    def _keys(self, rows: Places) -> Places:
        """Sorted distinct numbers of (place, code)."""
        past = self._histories.before(rows).newest(self._history, anchor=self._anchor)
        places = np.repeat(np.arange(len(rows)), past.lengths)
        return np.unique(places * self._width + self._codes[past.events])


def _shuffled(examples: Examples, what: int, *, seed: int) -> Places:
    """Places in an order that belongs to the examples, not to their neighbours."""
    keys = hashed(examples.rows, examples.users, examples.items, what, seed=seed)
    return np.argsort(keys, kind="stable")
