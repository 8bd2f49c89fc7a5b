"""Several files of the same table, read one after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import polars as pl

from tastemaker.data.readers.base import TableSource, chosen
from tastemaker.data.readers.values import stack
from tastemaker.errors import DataError

__all__ = ["Shards"]


class Shards(TableSource):
    """Tables with the same columns as one table.

    Where a format has no fixed columns (JSON), those that a shard lacks are null in its rows.

    Args:
        shards: At least one, in order.
        name: Shown in messages about all of them.
    """

    def __init__(self, shards: Sequence[TableSource], *, name: str) -> None:
        self.shards = list(shards)
        self.name = name
        self.open_ended = all(shard.open_ended for shard in shards)
        self._heights: list[int] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of all shards."""
        return tuple(path for shard in self.shards for path in shard.files)

    @property
    def hints(self) -> Mapping[str, str]:
        """Those of the first shard."""
        return self.shards[0].hints

    def columns(self) -> list[str]:
        """Those of the first shard, then what others add where the format allows it.

        Raises:
            DataError: a shard has other columns.
        """
        return list(self._columns)

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        names = self.columns() if columns is None else columns
        if not self.open_ended:
            names = chosen(self.columns(), columns)
        frames = [shard.read(names, typed=typed) for shard in self.shards]
        self._heights = [frame.height for frame in frames]
        frame = stack(frames, names=[shard.name for shard in self.shards])
        return frame.select(chosen(frame.columns, columns))

    def places(self, rows: Sequence[int]) -> list[str]:
        """Places within the shards."""
        if self._heights is None:
            self._heights = [shard.read(shard.columns()[:1]).height for shard in self.shards]
        starts = [0, *accumulate(self._heights)]
        where = [bisect_right(starts, row) - 1 for row in rows]
        found: dict[int, str] = {}
        for number in sorted(set(where)):
            own = [row for row, at in zip(rows, where, strict=True) if at == number]
            places = self.shards[number].places([row - starts[number] for row in own])
            found |= dict(zip(own, places, strict=True))
        return [found[row] for row in rows]

    @cached_property
    def _columns(self) -> list[str]:
        first = self.shards[0].columns()
        names = dict.fromkeys(first)
        for shard in self.shards[1:]:
            have = shard.columns()
            if not self.open_ended and set(have) != set(first):
                raise self._differing(shard, lacking=set(first) - set(have), adding=have)
            names |= dict.fromkeys(have)
        return list(names)

    def _differing(
        self, shard: TableSource, *, lacking: set[str], adding: Sequence[str]
    ) -> DataError:
        first = self.shards[0]
        more = [name for name in adding if name not in first.columns()]
        parts = [f"lacks {', '.join(sorted(lacking))}"] if lacking else []
        parts += [f"adds {', '.join(more)}"] if more else []
        return DataError(
            f"{shard.name}: has other columns than {first.name}: it {' and '.join(parts)}.",
            allowed="shards with the same columns",
            remedy="Name only the files that belong together.",
        )
