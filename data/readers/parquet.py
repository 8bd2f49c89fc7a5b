"""Parquet files."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from tastemaker.data.readers.base import OneFile, chosen
from tastemaker.errors import DataError

__all__ = ["ParquetFile"]


class ParquetFile(OneFile):
    """A Parquet file; only the wanted columns are read, with their own types."""

    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        try:
            return self._scan().collect_schema().names()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise self._unreadable(error) from None

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        names = chosen(self.columns(), columns)
        try:
            return self._scan().select(names).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise self._unreadable(error) from None

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False, hive_partitioning=False)

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: cannot be read as Parquet: {error}")
