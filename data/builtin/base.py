"""What a built-in data set is, and how one is found by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tastemaker import registry
from tastemaker.data.schema import Schema
from tastemaker.data.tables import Tables
from tastemaker.errors import MissingError, UnknownNameError

__all__ = ["BuiltinDataset", "builtin_names", "find_builtin", "load_builtin"]

_KIND = "data set"


@dataclass(frozen=True)
class BuiltinDataset:
    """A data set that comes with an installed package.

    Attributes:
        name: As written in a recipe, words joined by hyphens.
        load: Reads, checks and returns the tables.
        schema: Names of the columns.
        columns: What each column means.
        licence: Terms of the data in one line.
        url: Where the data is described.
        package: Import name of the package that holds it.
        install: Exact command that brings the package.
    """

    name: str
    load: Callable[[], Tables]
    schema: Schema
    columns: Mapping[str, str]
    licence: str
    url: str
    package: str
    install: str

    def locate(self) -> Path:
        """Folder of the package that holds the data; the package is found, not imported.

        Raises:
            MissingError: it is not installed; the message names the command that brings it.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise MissingError(
                f"the data set '{self.name}' is part of the package {self.package}, "
                "which is not installed.",
                remedy=f"Run: {self.install}",
            )
        return Path(spec.origin).parent


def builtin_names() -> list[str]:
    """Sorted names of the built-in data sets, as written in a recipe."""
    return [name.replace("_", "-") for name in registry.names(_KIND)]


def find_builtin(name: str) -> BuiltinDataset:
    """The data set called `name`; hyphens and underscores are the same.

    Raises:
        UnknownNameError: no such data set.
    """
    file = name.strip().replace("-", "_")
    if file not in registry.names(_KIND):
        raise UnknownNameError(_KIND, name, builtin_names())
    found: BuiltinDataset = registry.load(_KIND, file)
    return found


def load_builtin(name: str) -> Tables:
    """Read the tables of a built-in data set.

    Raises:
        UnknownNameError: no such data set.
        MissingError: the package that holds it is not installed.
    """
    return find_builtin(name).load()
