"""What prompts call an item: a short text of its own, fixed by what the training rows know.

OpenP5 (Xu, Hua and Zhang, arXiv 2306.11134) studies three ways to choose it. `random` numbers say
nothing, `sequential` ones stand close for items that users took in a row, and `collaborative` texts
walk down a tree in which items that the same users took share the first steps.

No text begins another one, so a trie of the catalogue needs no end mark. Items without a training
event never get numbers that tell their order: P5's numbering did, and gave the test items away.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from tastemaker.data.hashing import fractions, hashed
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.stage import atomic_file

__all__ = ["Indexing", "ItemIndex", "item_index"]

Indexing = Literal["random", "sequential", "collaborative"]
Items = NDArray[np.int64]
Met = Any  # sparse float64 [users, items], 1 where a user took an item
_DENSE = 1000  # so few items are faster with the whole matrix, and exact
_TOLERANCE = 1e-6
_DEEPEST = 32  # steps of a text that are communities; two per cut need up to 24 on Amazon Beauty


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """The text of every item.

    Attributes:
        texts: String [n_items], text of item i: `1001`, or `<CI3><CI17><CI4>`. All distinct, none
            begins another (in steps of `tokens`, where there are any).
        tokens: Special tokens that a tokenizer must learn to read the texts, `<CI0>` first; empty
            where texts are plain numbers.
        scheme: How the texts were chosen.
    """

    texts: pl.Series
    tokens: tuple[str, ...]
    scheme: str

    def save(self, folder: Path) -> None:
        """Write `item_index.parquet` (item, text) and `item_index.json` (scheme, tokens)."""
        items = pl.int_range(len(self.texts), dtype=pl.Int32, eager=True)
        with atomic_file(folder / "item_index.parquet") as handle:
            pl.DataFrame({"item": items, "text": self.texts}).write_parquet(handle)
        about = {"scheme": self.scheme, "items": len(self.texts), "tokens": list(self.tokens)}
        with atomic_file(folder / "item_index.json") as handle:
            handle.write(json.dumps(about, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`.

        Raises:
            DataError: a file is missing, cannot be read, or belongs to another index.
        """
        try:
            about = json.loads((folder / "item_index.json").read_text(encoding="utf-8"))
            texts = pl.read_parquet(folder / "item_index.parquet")["text"]
            scheme, items, tokens = about["scheme"], about["items"], tuple(about["tokens"])
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{folder}: holds no readable item index ({error}).",
                remedy="Run the stage that made it again.",
            ) from None
        if len(texts) != items:
            raise DataError(
                f"{folder}: item_index.json tells of {items} items, item_index.parquet has "
                f"{len(texts)}.",
                remedy="Run the stage that made it again.",
            )
        return cls(texts, tokens, scheme)


def item_index(
    tables: Tables,
    train: ArrayLike,
    scheme: Indexing,
    *,
    seed: int,
    clusters: int = 20,
    tokens: int = 500,
    first: int = 1001,
) -> ItemIndex:
    """Choose the text of every item from training rows alone.

    * `random`: numbers in the order of a seeded hash.
    * `sequential`: users in the order of their dense number, and the items of each in the order of
      time; whoever comes first gets the next number. A seeded hash orders items of one second, and
      after all of them the items without a training event.
    * `collaborative`: the graph of items that users took together is cut into communities, and each
      community again while it has more than `tokens` items. A text is one token per community from
      the largest inwards, then one for the item. Items without a training event share a first token
      of their own. Communities are counted through and start over at `tokens`, so deep in a large
      tree one token stands for several.

    Args:
        tables: Catalogue and events; sampled events never count.
        train: Integers [n], interaction row indices in any order, normally `split.train`.
        scheme: One of the three.
        seed: Of hashes and of the eigenvectors' start.
        clusters: Most parts of one cut, 2 or more. OpenP5 has 20, but 10 for LastFM.
        tokens: Most items that share all tokens but their last, 2 or more. OpenP5 has 500, but 100
            for ML-1M and 50 for LastFM.
        first: Smallest number, 1 or more; 1001 is OpenP5's. Where not all numbers from there would
            have equally many digits (1001 would begin 10010), they start at 10001 or the like.

    Raises:
        UnknownNameError: no such scheme.
        UserError: `clusters`, `tokens` or `first` is too small.
    """
    if scheme not in get_args(Indexing):
        raise UnknownNameError("item indexing", scheme, get_args(Indexing))
    _check_at_least(2, "clusters", clusters)
    _check_at_least(2, "tokens", tokens)
    _check_at_least(1, "first", first)
    if scheme == "random":
        everything = np.arange(tables.n_items)
        return ItemIndex(_numbered(_mixed(everything, seed=seed), first=first), (), scheme)
    rows = np.asarray(train, dtype=np.int64)
    if tables.sampled is not None:
        rows = rows[~tables.sampled[rows]]
    if scheme == "sequential":
        order = _by_first_appearance(tables, rows, seed=seed)
        return ItemIndex(_numbered(order, first=first), (), scheme)
    paths = _paths(_met(tables, rows), clusters=clusters, tokens=tokens, seed=seed)
    texts = ["".join(f"<CI{step}>" for step in path) for path in paths]
    used = sorted(set(itertools.chain.from_iterable(paths)))
    return ItemIndex(
        pl.Series("text", texts, dtype=pl.String), tuple(f"<CI{step}>" for step in used), scheme
    )


def _check_at_least(least: int, option: str, value: int) -> None:
    if value < least:
        raise UserError(
            f"{option} = {value} is too small for an item index.",
            allowed=f"{least} or more",
            remedy="Leave it out to get OpenP5's value.",
        )


def _mixed(items: Items, *, seed: int) -> Items:
    """The items in the order of a seeded hash."""
    return items[np.argsort(hashed(items, seed=seed), kind="stable")]


def _numbered(order: Items, *, first: int) -> pl.Series:
    """Numbers as text, String [n_items], for items in their order."""
    while len(str(first)) < len(str(first + len(order) - 1)):
        first = 10 ** len(str(first)) + 1
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.arange(first, first + len(order))
    return pl.Series("text", numbers).cast(pl.String)


def _by_first_appearance(tables: Tables, rows: Items, *, seed: int) -> Items:
    """All items: as the users of these rows took them first, then the others in mixed order."""
    users, items, times = (
        tables.interactions[name].to_numpy()[rows] for name in ("user", "item", "time")
    )
    taken = items[np.lexsort((hashed(users, items, seed=seed), times, users))]
    warm, places = np.unique(taken, return_index=True)
    cold = np.setdiff1d(np.arange(tables.n_items), warm)
    return np.concatenate([warm[np.argsort(places)], _mixed(cold, seed=seed)])


def _met(tables: Tables, rows: Items) -> Met:
    """Who took what in these rows, once each."""
    pairs = tables.interactions.select("user", "item")[rows].unique(maintain_order=True)
    cells = (np.ones(pairs.height), (pairs["user"].to_numpy(), pairs["item"].to_numpy()))
    return sparse.csc_array(cells, shape=(tables.n_users, tables.n_items))


@dataclass(frozen=True)
class _Branch:
    """Items that share the first steps of their texts.

    Attributes:
        items: Int64 [n], dense items.
        path: The steps they share.
        linked: Whether they have events to be parted by.
    """

    items: Items
    path: tuple[int, ...]
    linked: bool


def _paths(met: Met, *, clusters: int, tokens: int, seed: int) -> list[tuple[int, ...]]:
    """Steps from the root of the tree to each item; no path begins another.

    A place in the tree holds either items or branches, and both are told apart by their step:
    branches of one place are at most `clusters + 1` neighbours in a count that starts over later.
    """
    steps = itertools.count()
    repeat = max(tokens, clusters + 1)
    waiting: deque[_Branch] = deque()

    def grow(parts: list[Items], path: tuple[int, ...], *, linked: bool) -> None:
        for part in (part for part in parts if len(part)):
            waiting.append(_Branch(part, (*path, next(steps) % repeat), linked))

    warm = met.sum(axis=0) > 0
    grow(_communities(met, np.flatnonzero(warm), clusters=clusters, seed=seed), (), linked=True)
    grow([np.flatnonzero(~warm)], (), linked=False)
    paths: list[tuple[int, ...]] = [()] * met.shape[1]
    while waiting:
        branch = waiting.popleft()
        mixed = _mixed(branch.items, seed=seed)
        if len(mixed) <= tokens:
            for step, item in enumerate(mixed):
                paths[item] = (*branch.path, step)
            continue
        parts = [branch.items]
        if branch.linked and len(branch.path) < _DEEPEST:
            parts = _communities(met, branch.items, clusters=clusters, seed=seed)
        if len(parts) == 1:
            parts = np.array_split(mixed, min(clusters, -(-len(mixed) // tokens)))
        grow(parts, branch.path, linked=branch.linked)
    return paths


def _communities(met: Met, items: Items, *, clusters: int, seed: int) -> list[Items]:
    """Cut items by which of them the same users took; the largest part first.

    Spectral clustering as scikit-learn defines it (precomputed affinity, `cluster_qr`), but the
    matrix of counts is never built: two products with the table of events do its work, and ten
    thousand items take less than a second.

    Returns:
        Up to `clusters` parts; one where there is nothing to cut by.
    """
    linked = met[:, items]
    # Fewer users than parts: further eigenvectors would be arbitrary.
    count = min(clusters, int(np.count_nonzero(linked.sum(axis=1))))
    if count < 2 or len(items) <= clusters:
        return [items]
    places = _nearest_pivot(_embedding(linked, count, items=items, seed=seed))
    parts = [items[places == place] for place in np.unique(places)]
    return sorted(parts, key=lambda part: (-len(part), part[0]))


def _embedding(met: Met, count: int, *, items: Items, seed: int) -> NDArray[np.float64]:
    """First eigenvectors of the normalised graph Laplacian (Shi and Malik, 2000), [items, count].

    Weights are the numbers of users who took both items. One more in all, spread over all items,
    links each with every other: then no item is alone, and pairs that hang together by one user do
    not fill the eigenvectors (regularised spectral clustering: Amini et al., 2013).
    """
    n_items = len(items)
    own = met.sum(axis=0)
    degrees = met.T @ met.sum(axis=1) - own + (1 - 1 / n_items)
    scale = 1 / np.sqrt(degrees)

    def weigh(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = vectors.T * scale
        shared = (met.T @ (met @ scaled.T)).T - own * scaled
        spread = (scaled.sum(axis=-1, keepdims=True) - scaled) / n_items
        return ((shared + spread) * scale).T

    if n_items <= max(_DENSE, 2 * count):
        # All of them: LAPACK's way to find some gives up where many items are alike.
        vectors = np.linalg.eigh(weigh(np.eye(n_items))).eigenvectors[:, -count:]
    else:
        _, vectors = eigsh(
            LinearOperator((n_items, n_items), matvec=weigh, dtype=np.float64),
            k=count,
            which="LA",
            v0=fractions(hashed(items, seed=seed)) - 0.5,
            tol=_TOLERANCE,
        )
    return vectors * scale[:, None]


def _nearest_pivot(vectors: NDArray[np.float64]) -> Items:
    """Part of each item: which pivot of a QR decomposition it lies along (Damle et al., 2019)."""
    _, _, pivots = linalg.qr(vectors.T, mode="economic", pivoting=True)
    left, _, right = linalg.svd(vectors[pivots[: vectors.shape[1]]].T)
    return np.abs(vectors @ (left @ right)).argmax(axis=1)
