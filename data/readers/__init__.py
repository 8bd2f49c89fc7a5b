"""Readers of foreign tables: one file per format, all behind `TableSource`."""

from tastemaker.data.readers.base import TableSource
from tastemaker.data.readers.open import open_table

__all__ = ["TableSource", "open_table"]
