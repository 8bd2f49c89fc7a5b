"""What a built-in data set is, and how one is found by name.

A data set comes either with an installed package or as published files in a folder: the one a
recipe names as `data.folder`, else `$TASTEMAKER_DATA_HOME/NAME`, else
`~/.cache/tastemaker/data/NAME`. Some exist in variants, named after a colon and, where that makes
sense, joined by a plus sign: `amazon-2018:fashion+gift-cards`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tastemaker import registry
from tastemaker.data.builtin.files import RemoteFile, data_home, find_files, unpack
from tastemaker.data.schema import Schema
from tastemaker.data.tables import Tables
from tastemaker.errors import MissingError, UnknownNameError, UserError, nearest

__all__ = [
    "BuiltinDataset",
    "DatasetFamily",
    "builtin_names",
    "find_builtin",
    "load_builtin",
]

_KIND = "data set"


@dataclass(frozen=True)
class BuiltinDataset:
    """A data set that is known by name.

    Attributes:
        name: As written in a recipe, words joined by hyphens, variants after a colon.
        load: Reads, checks and returns the tables; given the path of each file found, by name.
        schema: Names of the columns.
        columns: What each column means.
        licence: Terms of the data in one line.
        url: Where the data is described, or asked for.
        package: Import name of the package that holds it; empty when it comes as files.
        install: Exact command that brings the package.
        files: What is published, archives included.
        layouts: Sets of file names, any one of which is enough, the preferred first.
        extras: Names of files that are read when they are there.
        home: Name of its folder; empty: the part of `name` before the colon.
        left_out: What else the files hold, and why it is not read.
    """

    name: str
    load: Callable[[Mapping[str, Path]], Tables]
    schema: Schema
    columns: Mapping[str, str]
    licence: str
    url: str
    package: str = ""
    install: str = ""
    files: tuple[RemoteFile, ...] = ()
    layouts: tuple[tuple[str, ...], ...] = ()
    extras: tuple[str, ...] = ()
    home: str = ""
    left_out: str = ""

    def folder(self, folder: Path | None = None) -> Path:
        """Where its files lie or would lie."""
        if folder is not None:
            return folder.expanduser()
        return data_home() / (self.home or self.name.partition(":")[0])

    def locate(self, folder: Path | None = None) -> Path:
        """Folder that holds the data; nothing is imported, unpacked or read.

        Raises:
            MissingError: it is not here; the message names the command that brings it.
        """
        if self.package:
            return self._package_folder()
        place = self.folder(folder)
        if not self.complete(place) and not self._archives(place):
            raise self._missing(place)
        return place

    def paths(self, folder: Path | None = None) -> dict[str, Path]:
        """File name → path, of everything `load` reads; unpacks an archive the first time.

        Raises:
            MissingError: files are not here; the message says how to get them.
            DataError: an archive cannot be unpacked.
        """
        if self.package:
            self._package_folder()
            return {}
        place = self.folder(folder)
        found = self.complete(place)
        if not found:
            for path, file in self._archives(place):
                names = [name for layout in self.layouts for name in layout]
                unpack(path, place / path.stem, names=[*names, *self.extras], expected=file)
            found = self.complete(place)
        if not found:
            raise self._missing(place)
        return {**found, **find_files(self._places(place), self.extras)}

    def complete(self, place: Path) -> dict[str, Path]:
        """Files of the first layout that lies in `place` as a whole; empty when there is none."""
        for layout in self.layouts:
            found = find_files(self._places(place), layout)
            if len(found) == len(layout):
                return found
        return {}

    def _package_folder(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise MissingError(
                f"the data set '{self.name}' is part of the package {self.package}, "
                "which is not installed.",
                remedy=f"Run: {self.install}",
            )
        return Path(spec.origin).parent

    def _places(self, place: Path) -> list[Path]:
        """The folder itself, and what unpacking its archives makes there."""
        made = [place / Path(file.name).stem for file in self.files if file.is_archive]
        return [place, *made]

    def _archives(self, place: Path) -> list[tuple[Path, RemoteFile]]:
        files = [file for file in self.files if file.is_archive]
        return [(place / file.name, file) for file in files if (place / file.name).is_file()]

    def _missing(self, place: Path) -> MissingError:
        needed = [file for file in self.files if not file.optional]
        absent = [file for file in needed if not find_files(self._places(place), [file.name])]
        names = ", ".join(file.name for file in absent or needed)
        what = f"the data set '{self.name}' is not in {place}: {names} missing."
        sources = [file.url for file in absent if file.url]
        if len(sources) < len(absent):
            return MissingError(
                what,
                remedy=f"Ask for it at {self.url} and put the files into {place} "
                "(or name their folder as data.folder).",
            )
        return MissingError(
            what,
            remedy=f"Run: tastemaker data fetch {self.name}\n"
            f"Without a network, put {' and '.join(sources)} into {place} "
            "(or name the folder of your copy as data.folder).",
        )


@dataclass(frozen=True)
class DatasetFamily:
    """Data sets of the same make, such as the categories of one shop.

    Attributes:
        name: What they have in common, as written before the colon.
        variants: Name after the colon → what it is.
        make: Builds the data set of one variant, or of several joined.
        joinable: Whether variants can be joined with a plus sign.
    """

    name: str
    make: Callable[[tuple[str, ...]], BuiltinDataset]
    variants: Mapping[str, str] = field(default_factory=dict)
    joinable: bool = False

    @property
    def names(self) -> list[str]:
        """Full names of the variants."""
        return [f"{self.name}:{variant}" for variant in self.variants]

    def choose(self, text: str) -> BuiltinDataset:
        """The data set of what stands after the colon.

        Raises:
            UserError: no such variant, none at all, the same twice, or several that do not join.
        """
        chosen = tuple(part.strip().replace("_", "-") for part in text.split("+"))
        unknown = [variant for variant in chosen if variant not in self.variants]
        if unknown:
            close = nearest(unknown[0], self.variants)
            what = f"data set '{self.name}' has no variant '{unknown[0]}'"
            what = what if text else f"data set '{self.name}' comes in variants; name one"
            joined = "; several are joined with +" if self.joinable else ""
            raise UserError(
                what + (f"; did you mean '{self.name}:{close}'?" if close else "."),
                allowed=f"{', '.join(self.names)}{joined}",
            )
        if len(set(chosen)) < len(chosen) or (len(chosen) > 1 and not self.joinable):
            raise UserError(
                f"data set '{self.name}:{text}' names several variants.",
                allowed="different ones" if self.joinable else "one variant",
            )
        return self.make(chosen)


def builtin_names() -> list[str]:
    """Sorted names of the built-in data sets, as written in a recipe, variants one by one."""
    found: list[str] = []
    for file in registry.names(_KIND):
        entry = registry.load(_KIND, file)
        found += entry.names if isinstance(entry, DatasetFamily) else [entry.name]
    return sorted(found)


def find_builtin(name: str) -> BuiltinDataset:
    """The data set called `name`; hyphens and underscores are the same.

    Raises:
        UnknownNameError: no such data set.
        UserError: it exists in variants and none or an unknown one is named.
    """
    base, colon, variant = name.strip().partition(":")
    file = base.replace("-", "_")
    if file not in registry.names(_KIND):
        raise UnknownNameError(_KIND, name, builtin_names())
    found: BuiltinDataset | DatasetFamily = registry.load(_KIND, file)
    if isinstance(found, DatasetFamily):
        return found.choose(variant)
    if colon:
        raise UserError(f"data set '{found.name}' has no variants, found ':{variant}'.")
    return found


def load_builtin(name: str, folder: Path | None = None) -> Tables:
    """Read the tables of a built-in data set.

    Args:
        name: As `find_builtin` takes it.
        folder: Where its files lie; None is the usual place.

    Raises:
        UnknownNameError: no such data set.
        MissingError: its package is not installed, or its files are not there.
        DataError: a file is not what it should be.
    """
    dataset = find_builtin(name)
    return dataset.load(dataset.paths(folder))
