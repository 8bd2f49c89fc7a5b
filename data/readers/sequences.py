"""Sequence files as S3-Rec publishes them: `user item item …`, oldest first, one user a line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

import polars as pl

from tastemaker.data.readers.base import OneFile, chosen, text_lines
from tastemaker.data.readers.lossless import WHOLE
from tastemaker.errors import DataError

__all__ = ["SequenceFile", "looks_like_sequences"]

_COLUMNS = ("user_id", "item_id", "position")
_SHOWN = 5
_ALLOWED = "lines such as: 17 4 9 23 (user, then items from the oldest to the newest)"


class SequenceFile(OneFile):
    """Lines of blank-separated ids; columns `user_id`, `item_id`, and `position` from 0.

    Args:
        path: The file, gzipped or not.
        encoding: Of the text.
    """

    def __init__(self, path: Path, *, encoding: str = "utf-8") -> None:
        super().__init__(path)
        self.encoding = encoding

    def columns(self) -> list[str]:
        """`user_id`, `item_id`, `position`."""
        return list(_COLUMNS)

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        lines = pl.Series("ids", list(text_lines(self.path, self.encoding)), dtype=pl.String)
        ids = pl.DataFrame(lines.str.extract_all(r"\S+")).with_row_index("line", offset=1)
        ids = ids.filter(pl.col("ids").list.len() > 0)
        self._check(ids.filter(pl.col("ids").list.len() == 1))
        length = pl.col("ids").list.len() - 1
        rows = ids.select(
            user_id=pl.col("ids").list.first(),
            item_id=pl.col("ids").list.slice(1),
            position=pl.int_ranges(0, length, dtype=pl.Int64),
        ).explode("item_id", "position")
        if typed:
            rows = rows.with_columns(
                pl.col(name).cast(pl.Int64)
                for name in ("user_id", "item_id")
                if rows[name].str.contains(WHOLE).all()
            )
        return rows.select(chosen(_COLUMNS, columns))

    def places(self, rows: Sequence[int]) -> list[str]:
        """The line and the position in it."""
        wanted, found, row = set(rows), dict[int, str](), 0
        for number, line in enumerate(text_lines(self.path, self.encoding), start=1):
            items = max(len(line.split()) - 1, 0)
            for place in wanted & set(range(row, row + items)):
                found[place] = f"{self.name}, line {number}, item {place - row + 1}"
            row += items
        return [found.get(place, f"{self.name}, row {place + 1}") for place in rows]

    def _check(self, lonely: pl.DataFrame) -> None:
        if not lonely.height:
            return
        shown = [
            f"line {line}: user '{ids[0]}' has no items"
            for line, ids in lonely.head(_SHOWN).iter_rows()
        ]
        more = f"; … and {lonely.height - _SHOWN} more" if lonely.height > _SHOWN else ""
        raise DataError(f"{self.path}, {'; '.join(shown)}{more}", allowed=_ALLOWED)


def looks_like_sequences(path: Path, *, encoding: str = "utf-8") -> bool:
    """Whether the first lines hold blank-separated ids, of another user and number in each."""
    lines = [line for line in islice(text_lines(path, encoding), 20) if line.strip()]
    if any(mark in line for line in lines for mark in '\t,;|"') or any(
        "::" in line for line in lines
    ):
        return False
    ids = [line.split() for line in lines]
    users = {words[0] for words in ids}
    widths = {len(words) for words in ids}
    return len(users) == len(ids) and len(widths) > 1 and min(widths) > 1
