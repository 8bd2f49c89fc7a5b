"""Ranks of liked items, among the whole catalogue or among drawn candidates, and their metrics.

A rank is 1 plus the number of items with a larger score plus half the number of other items with
the same score: the average place over all orders of the tie. A hit at k is a rank of at most k, and
gains are taken at the average rank. So a model that scores everything alike is no better than
chance, as it would be if only larger scores counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.history import Past
from tastemaker.data.splits import Split
from tastemaker.errors import DataError

__all__ = ["CatalogueScore", "full_ranking", "hit_rate", "mrr", "ndcg", "ranked_rows", "ranks_of"]

Rows = NDArray[np.int64]
Ranks = NDArray[np.float64]
CatalogueScore = Callable[[Rows], NDArray[np.floating[Any]]]


def ranked_rows(split: Split, part: str) -> Rows:
    """The rows of a part whose item is looked for: the liked ones, sorted, int64 [n]."""
    rows = np.sort(split.part(part))
    return rows[split.tables.interactions["label"].to_numpy()[rows] == 1]


def full_ranking(
    score: CatalogueScore,
    split: Split,
    *,
    part: str,
    rows: Rows | None = None,
    mask_history: bool = True,
    mask_repeats: bool = False,
    batch: int = 1024,
) -> Ranks:
    """Rank the item of each liked row of a part among the whole catalogue.

    Args:
        score: Interaction row indices [n] → scores of all items for the user and moment of each
            row, float [n, n_items], larger is better. It must not use the item of the row.
        split: The tables and their parts.
        part: Which part.
        rows: Some rows of it, int64 [n]; all liked ones, sorted, when None.
        mask_history: Leave out items that the user had met strictly before, from whatever part, but
            not the item looked for.
        mask_repeats: Where history is left out, leave out the item looked for as well when it was
            met before, so that nobody can find it: its rank is infinite. Published tables of S3-Rec
            and its followers are made this way.
        batch: Rows scored at once.

    Returns:
        float64, one rank (1 to n_items, or infinite) per row.

    Raises:
        DataError: the part has no liked row.
        ValueError: scores of another shape, or NaN.
    """
    if rows is None:
        rows = ranked_rows(split, part)
    if not len(rows):
        raise DataError(f"the {part} part has no liked row to rank.")
    ranks = np.empty(len(rows))
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        found = np.asarray(score(chunk))
        # A copy: what is masked may belong to the model.
        scores = np.array(found, dtype=np.result_type(found, np.float32))
        past = split.histories.before(chunk if mask_history else chunk[:0])
        ranks[start : start + batch] = _ranks(scores, split, chunk, past=past)
        if mask_history and mask_repeats:
            ranks[start : start + batch][_met_before(split, chunk, past=past)] = np.inf
    return ranks


def ranks_of(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    questions: NDArray[np.integer[Any]],
) -> Ranks:
    """Rank the liked item of each question among its candidates, see `Requests.questions`.

    Args:
        scores: Float [n], larger is better.
        labels: 1 for the liked item of a question, else 0; int [n].
        questions: Which question a row belongs to, int [n].

    Returns:
        float64, one rank per question, questions ascending.

    Raises:
        ValueError: a question without exactly one liked item, NaN, or arrays of several lengths.
    """
    if not len(scores) == len(labels) == len(questions):
        raise ValueError(f"{len(scores)} scores, {len(labels)} labels, {len(questions)} questions")
    if np.isnan(scores).any():
        raise ValueError("a candidate has no score (NaN), so its question has no rank")
    asked, which = np.unique(questions, return_inverse=True)
    liked = labels == 1
    wrong = np.flatnonzero(np.bincount(which[liked], minlength=len(asked)) != 1)
    if len(wrong):
        raise ValueError(f"question {asked[wrong[0]]} has not exactly one liked item")
    targets = np.empty(len(asked), dtype=scores.dtype)
    targets[which[liked]] = scores[liked]
    larger = np.bincount(which[scores > targets[which]], minlength=len(asked))
    equal = np.bincount(which[scores == targets[which]], minlength=len(asked))
    return 1 + larger + (equal - 1) / 2


def hit_rate(ranks: Ranks, k: int) -> float:
    """Share of ranks of at most k, 0 to 1; NaN without ranks."""
    return float((ranks <= k).mean()) if len(ranks) else float("nan")


def ndcg(ranks: Ranks, k: int) -> float:
    """Mean of 1 / log2(1 + rank) over ranks of at most k, 0 beyond; 0 to 1, NaN without ranks."""
    if not len(ranks):
        return float("nan")
    return float(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0).mean())


def mrr(ranks: Ranks) -> float:
    """Mean of 1 / rank, 0 to 1; NaN without ranks."""
    return float((1 / ranks).mean()) if len(ranks) else float("nan")


def _ranks(scores: NDArray[np.floating[Any]], split: Split, rows: Rows, *, past: Past) -> Ranks:
    """Rank the item of each row; `scores` is overwritten where `past` (maybe none) is masked."""
    wanted = (len(rows), split.tables.n_items)
    if scores.shape != wanted:
        raise ValueError(f"scores have the shape {scores.shape}, {wanted} is needed")
    if np.isnan(scores).any():
        raise ValueError("an item has no score (NaN), so there is no ranking")
    items = split.tables.interactions["item"].to_numpy()
    places = np.arange(len(rows))
    targets = scores[places, items[rows]]
    scores[np.repeat(places[: len(past)], past.lengths), items[past.events]] = -np.inf
    scores[places, items[rows]] = targets
    larger = (scores > targets[:, None]).sum(axis=1)
    equal = (scores == targets[:, None]).sum(axis=1)
    return 1 + larger + (equal - 1) / 2


def _met_before(split: Split, rows: Rows, *, past: Past) -> NDArray[np.bool_]:
    """Whether the item of each row is in its past, bool [n]."""
    items = split.tables.interactions["item"].to_numpy()
    owners = np.repeat(np.arange(len(rows)), past.lengths)
    again = items[past.events] == items[rows][owners]
    return np.bincount(owners[again], minlength=len(rows)) > 0
