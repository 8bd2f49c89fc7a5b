"""Lists to re-rank: a few events that happened among items drawn at random (KAR §6).

The events of a user are walked in the order of time, so many at a time. A list's *moment* is the
time of its first event: what a model may know is strictly earlier than all of its events. Every
draw is a hash of the seed and the row of that first event, so a list stays the same whichever other
users are asked about.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.hashing import fractions, hashed
from tastemaker.data.splits import Split
from tastemaker.errors import DataError
from tastemaker.stage import atomic_file

__all__ = ["Exclude", "RankingLists", "ranking_lists"]

Exclude = Literal["met", "none"]
Rows = NDArray[np.int64]
_DRAW, _SHUFFLE = 0, 1
_TYPES: dict[str, tuple[type[np.generic], pl.DataType]] = {
    "user": (np.int32, pl.Int32()),
    "moment": (np.int64, pl.Int64()),
    "items": (np.int32, pl.Int32()),
    "labels": (np.int8, pl.Int8()),
    "real": (np.bool_, pl.Boolean()),
    "rows": (np.int64, pl.Int64()),
}
_PER_LIST = ("user", "moment")


@dataclass(frozen=True, eq=False)
class RankingLists:
    """n lists of K items each, in the order of users and, within a user, of time.

    Attributes:
        user: int32 [n], whom the list is for.
        moment: int64 [n], time of its first event in unix seconds (or steps).
        items: int32 [n, K], dense items in an order that tells nothing.
        labels: int8 [n, K], 1 only at events that were liked.
        real: bool [n, K], whether the item is an event or was drawn.
        rows: int64 [n, K], interaction row indices, -1 at drawn items.

    Raises:
        DataError: arrays of other types or shapes, or that contradict each other.
    """

    user: NDArray[np.int32]
    moment: NDArray[np.int64]
    items: NDArray[np.int32]
    labels: NDArray[np.int8]
    real: NDArray[np.bool_]
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = np.shape(self.items)
        sound = len(shape) == 2
        for name, (dtype, _) in _TYPES.items():
            array = getattr(self, name)
            wanted = shape[:1] if name in _PER_LIST else shape
            sound = sound and array.dtype == dtype and array.shape == wanted
        if sound:
            sound = np.array_equal(self.real, self.rows >= 0)
            sound = sound and bool((self.labels[~self.real] == 0).all())
        if not sound:
            shown = {
                name: (getattr(self, name).dtype, np.shape(getattr(self, name))) for name in _TYPES
            }
            raise DataError(
                f"these are no ranking lists: {shown}.",
                allowed="arrays as documented, with a row and maybe a like only at real items",
                remedy="Build them with ranking_lists().",
            )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def liked(self) -> NDArray[np.bool_]:
        """Which lists hold a like, bool [n]: metrics of the others are undefined."""
        return (self.labels == 1).any(axis=1)

    def select(self, mask: ArrayLike) -> RankingLists:
        """The lists where `mask` (bool [n]) is true, in the same order."""
        chosen = np.asarray(mask, dtype=bool)
        return RankingLists(**{name: getattr(self, name)[chosen] for name in _TYPES})

    def save(self, path: Path) -> None:
        """Write a Parquet file with one row per list, complete or not at all."""
        width = self.items.shape[1]
        schema = {
            name: kind if name in _PER_LIST else pl.Array(kind, width)
            for name, (_, kind) in _TYPES.items()
        }
        frame = pl.DataFrame(
            {field.name: getattr(self, field.name) for field in fields(self)}, schema
        )
        with atomic_file(path) as handle:
            frame.write_parquet(handle)

    @classmethod
    def load(cls, path: Path) -> RankingLists:
        """Read what `save` wrote.

        Raises:
            DataError: missing or unreadable file, or other columns.
        """
        try:
            frame = pl.read_parquet(path)
            arrays: dict[str, Any] = {name: frame[name].to_numpy().copy() for name in _TYPES}
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{path}: cannot be read as ranking lists ({type(error).__name__}).",
                remedy="Build and save them again.",
            ) from None
        return cls(**arrays)


def ranking_lists(
    split: Split,
    part: str,
    *,
    seed: int,
    after: ArrayLike | None = None,
    real: int = 4,
    drawn: int = 6,
    exclude: Exclude = "met",
) -> RankingLists:
    """Make the lists of a part.

    What is left of a user's events when less than `real` remain is dropped. (KAR's code fills such
    a list up with more drawn items.) Lists without a like are kept, as in KAR: they teach what is
    not liked, and `RankingLists.liked` tells them apart. An item that a user met twice within a
    list stands in it twice.

    Args:
        split: The tables and their parts.
        part: `train`, `valid` or `test`. Events that were drawn as negatives are no events here.
        seed: Of draws and orders.
        after: int64 [n_users]; only events strictly later than their user's moment are walked, such
            as the last event that a language model was shown. All when None.
        real: Events of a list; KAR: 4.
        drawn: Items drawn beside them, different from each other; KAR: 6.
        exclude: `met` draws uniformly from the items known in training that the user has no event
            with in any part: neither what was met nor what will be. `none` draws uniformly from the
            whole catalogue, as KAR did: a future like may then stand there as not liked.

    Raises:
        DataError: no user has enough events, or too few items can be drawn for one.
        UnknownNameError: another part.
        ValueError: `after` of another length, numbers below 1, or another word for `exclude`.
    """
    if real < 1 or drawn < 1:
        raise ValueError(f"real = {real} and drawn = {drawn}; both are at least 1")
    if exclude not in get_args(Exclude):
        raise ValueError(f"exclude = {exclude!r}; it is met or none")
    walked = _walk(split, part, real=real, after=after)
    if not len(walked):
        raise DataError(
            f"no user has {real} events of the {part} part that could make a list.",
            remedy="Move the borders of the split, or let less be left out before the lists begin.",
        )
    added = _draw(split, walked[:, 0], count=drawn, exclude=exclude, seed=seed)
    return _shuffled(split, walked, added, seed=seed)


def _shuffled(split: Split, walked: Rows, added: Rows, *, seed: int) -> RankingLists:
    """Events (rows, int64 [n, real]) and drawn items (int64 [n, drawn]) as lists."""
    events = split.tables.interactions
    users, times, items, labels = (
        events[name].to_numpy() for name in ("user", "time", "item", "label")
    )
    first, none = walked[:, 0], np.zeros_like(added)
    # Hashed by place: an item may stand in a list twice.
    places = np.arange(walked.shape[1] + added.shape[1])
    order = np.argsort(hashed(first[:, None], _SHUFFLE, places, seed=seed), axis=1)

    def mixed(of_events: NDArray[Any], of_drawn: NDArray[Any], dtype: Any) -> NDArray[Any]:
        whole = np.concatenate([of_events, of_drawn], axis=1).astype(dtype)
        return np.take_along_axis(whole, order, axis=1)

    rows = mixed(walked, none - 1, np.int64)
    return RankingLists(
        user=users[first].astype(np.int32),
        moment=times[first].astype(np.int64),
        items=mixed(items[walked], added, np.int32),
        labels=mixed(labels[walked] == 1, none, np.int8),
        real=rows >= 0,
        rows=rows,
    )


def _walk(split: Split, part: str, *, real: int, after: ArrayLike | None) -> Rows:
    """Rows of the events of each list, oldest first, int64 [n, real]."""
    tables = split.tables
    rows = np.sort(split.part(part))
    if tables.sampled is not None:
        rows = rows[~tables.sampled[rows]]
    users, times = (tables.interactions[name].to_numpy() for name in ("user", "time"))
    if after is not None:
        cuts = np.asarray(after, dtype=np.int64)
        if cuts.shape != (tables.n_users,):
            raise ValueError(f"after has the shape {cuts.shape}, ({tables.n_users},) is needed")
        rows = rows[times[rows] > cuts[users[rows]]]
    # Rows stand in the order of time; a stable sort keeps it within a user.
    rows = rows[np.argsort(users[rows], kind="stable")]
    counts = np.bincount(users[rows], minlength=tables.n_users)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows[place < np.repeat(counts // real * real, counts)].reshape(-1, real)


def _draw(split: Split, first: Rows, *, count: int, exclude: Exclude, seed: int) -> Rows:
    """Items drawn for the list that begins with each row, int64 [n, count], none twice in a row.

    Uniform draws without replacement, Floyd's way (Bentley, CACM 30(9), 1987): a number that is
    there already is replaced by the largest that could have come, so nothing is drawn in vain.

    Raises:
        DataError: too few items for a user.
    """
    tables = split.tables
    users = tables.interactions["user"].to_numpy()[first].astype(np.int64)
    pool = np.arange(tables.n_items)
    barred = _Barred(np.empty((0, 2), dtype=np.int64), tables.n_users, len(pool))
    if exclude == "met":
        pool, barred = _unmet(split)
    free = len(pool) - barred.counts[users]
    short = np.flatnonzero(free < count)
    if len(short):
        user = tables.users["user_id"][int(users[short[0]])]
        raise DataError(
            f"only {free[short[0]]} items can be drawn for user '{user}'; {count} are needed.",
            allowed=f"training knows {len(pool):,} of {tables.n_items:,} items.",
            remedy="Draw fewer items per list, or leave users out who have met nearly everything.",
        )
    chosen = np.empty((len(first), count), dtype=np.int64)
    for step in range(count):
        largest = free - count + step
        chances = fractions(hashed(first, _DRAW, step, seed=seed))
        guess = (chances * (largest + 1)).astype(np.int64)
        again = (chosen[:, :step] == guess[:, None]).any(axis=1)
        chosen[:, step] = np.where(again, largest, guess)
    return pool[barred.skip(users[:, None], chosen)]


def _unmet(split: Split) -> tuple[Rows, _Barred]:
    """Items known in training, and which of their places each user has ever met."""
    tables = split.tables
    users, items = (tables.interactions[name].to_numpy() for name in ("user", "item"))
    pool = np.unique(items[split.train_events]).astype(np.int64)
    place = np.full(tables.n_items, -1)
    place[pool] = np.arange(len(pool))
    happened = place[items] >= 0
    if tables.sampled is not None:
        happened &= ~tables.sampled
    pairs = np.unique(np.column_stack([users[happened], place[items[happened]]]), axis=0)
    return pool, _Barred(pairs.astype(np.int64), tables.n_users, len(pool))


class _Barred:
    """Places of a pool that a user must not be given.

    Args:
        pairs: int64 [m, 2], users and places, sorted, none twice.
        n_users: Users are below it.
        size: Places are below it.
    """

    def __init__(self, pairs: Rows, n_users: int, size: int) -> None:
        users, places = pairs.T
        self.counts = np.bincount(users, minlength=n_users)
        self._starts = np.cumsum(self.counts) - self.counts
        self._size = size + 1
        # How many free places lie before each barred one; sorted within a user.
        before = places - (np.arange(len(places)) - self._starts[users])
        self._keys = users * self._size + before

    def skip(self, users: Rows, numbers: Rows) -> Rows:
        """The place of the so-manieth free one (from 0) of each user; shapes broadcast."""
        passed = np.searchsorted(self._keys, users * self._size + numbers, side="right")
        return numbers + passed - self._starts[users]
