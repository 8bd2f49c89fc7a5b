"""The rows to score: chosen once, saved once, answered by every model alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.hashing import hashed
from tastemaker.data.negatives import Strategy, draw_negatives
from tastemaker.data.splits import Split
from tastemaker.errors import DataError
from tastemaker.stage import atomic_file

__all__ = ["Requests", "candidates", "one_of_n", "requests"]

_COLUMNS: dict[str, pl.DataType] = {
    "row": pl.Int64(),
    "user": pl.Int32(),
    "item": pl.Int32(),
    "time": pl.Int64(),
    "cut": pl.Int64(),
    "label": pl.Int8(),
    "group": pl.Int64(),
    "split": pl.String(),
}


@dataclass(frozen=True)
class Requests:
    """Rows that a recommender scores, one score per row.

    Attributes:
        frame: Columns `row` int64 (interaction row index, -1 when not an event), `user` int32,
            `item` int32, `time` int64 (unix seconds), `cut` int64 (number of the user's events
            strictly before `time`), `label` int8 (1, 0, or -1 when unknown), `group` int64 (rows
            that answer one question: all of a user, or one liked event and the items drawn beside
            it, then the row index of that event), `split` str.

    Raises:
        DataError: the frame has other columns or types.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        if dict(self.frame.schema) != _COLUMNS:
            raise DataError(
                f"requests have the columns {dict(self.frame.schema)}.",
                allowed=f"exactly {_COLUMNS}",
                remedy="Run the data stage again, or build them with requests(), one_of_n() or "
                "candidates().",
            )

    def __len__(self) -> int:
        return self.frame.height

    @property
    def rows(self) -> NDArray[np.int64]:
        """Interaction row indices, int64 [n]; -1 where the row is not an event."""
        return self._column("row")

    @property
    def users(self) -> NDArray[np.int32]:
        """Dense users, int32 [n]."""
        return self._column("user")

    @property
    def items(self) -> NDArray[np.int32]:
        """Dense items, int32 [n]."""
        return self._column("item")

    @property
    def times(self) -> NDArray[np.int64]:
        """Moments of the requests in unix seconds, int64 [n]."""
        return self._column("time")

    @property
    def cuts(self) -> NDArray[np.int64]:
        """Numbers of strictly earlier events of the user, int64 [n]."""
        return self._column("cut")

    @property
    def labels(self) -> NDArray[np.int8]:
        """1 liked, 0 not liked, -1 unknown; int8 [n]."""
        return self._column("label")

    @property
    def groups(self) -> NDArray[np.int32]:
        """What within-user metrics group by and the bootstrap resamples: the users, int32 [n]."""
        return self.users

    @property
    def questions(self) -> NDArray[np.int64]:
        """Which rows are ranked against each other: the column `group`, int64 [n]."""
        return self._column("group")

    def select(self, mask: ArrayLike) -> Requests:
        """The rows where `mask` (bool [n]) is true, in the same order."""
        return Requests(self.frame.filter(np.asarray(mask, dtype=bool)))

    def save(self, path: Path) -> None:
        """Write a Parquet file, complete or not at all."""
        with atomic_file(path) as handle:
            self.frame.write_parquet(handle)

    @classmethod
    def load(cls, path: Path) -> Requests:
        """Read what `save` wrote.

        Raises:
            DataError: missing or unreadable file, or other columns.
        """
        try:
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{path}: cannot be read as requests ({type(error).__name__}).",
                remedy="Run the data stage again.",
            ) from None
        return cls(frame)

    def _column(self, name: str) -> NDArray[Any]:
        # A writable copy: torch warns about read-only arrays.
        return self.frame[name].to_numpy(writable=True)


def requests(
    split: Split,
    part: Literal["valid", "test"],
    *,
    min_history: int = 0,
    per_user: int | None = None,
    seed: int = 0,
) -> Requests:
    """Choose the rows of a part that every model is judged on.

    Args:
        split: Train, valid and test rows of the tables.
        part: Which of them.
        min_history: Rows whose user has fewer strictly earlier events are left out.
        per_user: At most so many rows of each user, drawn without replacement; None keeps all.
        seed: Of that draw.

    Returns:
        Requests sorted by interaction row (that is, by time).

    Raises:
        DataError: no row is left.
    """
    rows, cuts = _chosen(split, part, min_history=min_history, per_user=per_user, seed=seed)
    frame = split.tables.interactions[rows].select(
        pl.Series("row", rows, dtype=pl.Int64),
        pl.col("user", "item", "time"),
        pl.Series("cut", cuts, dtype=pl.Int64),
        pl.col("label"),
        pl.col("user").cast(pl.Int64).alias("group"),
        pl.lit(part).alias("split"),
    )
    return Requests(frame)


def one_of_n(
    split: Split,
    part: Literal["valid", "test"],
    *,
    n: int,
    strategy: Strategy,
    seed: int,
    min_history: int = 0,
    per_user: int | None = None,
) -> Requests:
    """Put each liked row of a part among `n - 1` items that its user had not met by then.

    Sampled ranking is not full ranking: chance alone finds the liked item among the first k in k/n
    of the questions, and drawing by popularity gives other numbers than drawing uniformly. Within a
    question the order of the rows is drawn, so that the place tells nothing.

    Args:
        split: Train, valid and test rows of the tables.
        part: Which of them.
        n: Items of a question, the liked one included.
        strategy: `uniform`, or `popularity` by the events of the train part.
        seed: Of all draws.
        min_history: Liked rows whose user has fewer strictly earlier events are left out.
        per_user: At most so many questions of each user; None keeps all.

    Returns:
        n rows per question, questions sorted by the row of the liked event, which is their `group`.
        `row` is -1 for drawn items, whose label is 0.

    Raises:
        DataError: no liked row is left, or too few items to draw from.
    """
    rows, cuts = _chosen(
        split, part, min_history=min_history, per_user=per_user, seed=seed, liked=True
    )
    events = split.tables.interactions
    drawn = draw_negatives(
        split.tables, rows, per_row=n - 1, strategy=strategy, seed=seed, counts_from=split.train
    )
    items = np.column_stack([events["item"].to_numpy()[rows], drawn]).ravel()
    questions = np.repeat(rows, n)
    liked = np.zeros(len(items), dtype=np.int8)
    liked[::n] = 1
    order = np.lexsort((hashed(questions, items, seed=seed), questions))
    whole = pl.DataFrame(
        {
            "row": np.where(liked == 1, questions, -1),
            "user": np.repeat(events["user"].to_numpy()[rows], n),
            "item": items,
            "time": np.repeat(events["time"].to_numpy()[rows], n),
            "cut": np.repeat(cuts, n),
            "label": liked,
            "group": questions,
        },
        schema_overrides=_COLUMNS,
    )
    return Requests(whole[order].with_columns(pl.lit(part).alias("split")))


def candidates(split: Split, user: int, *, items: ArrayLike, time: int) -> Requests:
    """Ask for scores of `items` (dense, [n]) for one dense `user` at a moment (unix seconds).

    The rows are no events: `row` and `label` are -1 and `split` is "candidates". The `cut` counts
    the user's events strictly before `time`.
    """
    wanted = np.asarray(items, dtype=np.int32)
    past = split.histories.at(np.array([user]), np.array([time]))
    height = len(wanted)
    values: dict[str, Any] = {
        "row": np.full(height, -1),
        "user": np.full(height, user),
        "item": wanted,
        "time": np.full(height, time),
        "cut": np.full(height, int(past.lengths[0])),
        "label": np.full(height, -1),
        "group": np.full(height, user),
        "split": ["candidates"] * height,
    }
    return Requests(pl.DataFrame(values, schema_overrides=_COLUMNS).select(list(_COLUMNS)))


def _chosen(
    split: Split,
    part: str,
    *,
    min_history: int,
    per_user: int | None,
    seed: int,
    liked: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the part that are asked about, sorted, and their cuts.

    Raises:
        DataError: no row is left.
    """
    events = split.tables.interactions
    rows = np.sort(split.part(part))
    if liked:
        rows = rows[events["label"].to_numpy()[rows] == 1]
    cuts = split.histories.counts(rows)
    enough = cuts >= min_history
    if not enough.any():
        kind = "liked row" if liked else "row"
        raise DataError(
            f"no {kind} of the {part} part has {min_history} earlier events of its user.",
            allowed=f"the part has {len(enough):,} {kind}s",
            remedy="Lower data.requests.min_history or move the borders of data.split.",
        )
    rows, cuts = rows[enough], cuts[enough]
    if per_user is None:
        return rows, cuts
    kept = _sample(events["user"].to_numpy()[rows], per_user, seed=seed)
    return rows[kept], cuts[kept]


def _sample(users: NDArray[np.int32], per_user: int, *, seed: int) -> NDArray[np.bool_]:
    """Keep a random `per_user` rows of each user; bool [n]."""
    keys = np.random.default_rng(seed).random(len(users))
    order = np.lexsort((keys, users))
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, lengths)
    kept = np.zeros(len(users), dtype=bool)
    kept[order[rank < per_user]] = True
    return kept
