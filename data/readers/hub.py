"""Data sets of the Hugging Face `datasets` library, as far as they are on this machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl

from tastemaker.data.readers.base import TableSource, chosen
from tastemaker.data.readers.values import stack
from tastemaker.errors import DataError, MissingError

__all__ = ["HubDataset", "is_saved_dataset"]

_SPLIT = "split"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of a `Dataset` or `DatasetDict` wrote this folder."""
    alone = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return alone or (folder / "dataset_dict.json").is_file()


class HubDataset(TableSource):
    """A data set by its id, by the folder of its files, or as `save_to_disk` wrote it.

    Nothing is fetched. Without `part`, all parts follow one another, and a column `split` names
    them unless the data set has such a column.

    Args:
        dataset: Id, folder, or a `Dataset` or `DatasetDict` that is in memory already.
        subset: The id's configuration.
        part: Such as `train`.
    """

    def __init__(self, dataset: Any, *, subset: str | None = None, part: str | None = None) -> None:
        self._given = None if isinstance(dataset, str) else dataset
        self.dataset = dataset if isinstance(dataset, str) else "data set"
        self.subset, self.part = subset, part
        folder = Path(self.dataset).expanduser()
        self._folder = folder if self._given is None and folder.is_dir() else None
        self.name = folder.name if self._folder else self.dataset

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of a folder; for an id, what the library's cache holds of it."""
        if self._folder:
            return tuple(sorted(path for path in self._folder.rglob("*") if path.is_file()))
        cached = [file["filename"] for part in self._parts.values() for file in part.cache_files]
        return tuple(Path(name) for name in dict.fromkeys(cached))

    def columns(self) -> list[str]:
        """Names of the columns, with `split` when several parts are read."""
        names = list(dict.fromkeys(name for part in self._parts.values() for name in part.features))
        return [*names, _SPLIT] if self._adds_split else names

    def read(self, columns: Collection[str] | None = None, *, typed: bool = False) -> pl.DataFrame:
        """See `TableSource.read`."""
        names = chosen(self.columns(), columns)
        frames = []
        for name, part in self._parts.items():
            have = [column for column in names if column in part.features]
            frame = pl.from_arrow(part.select_columns(have).with_format("arrow")[:])
            assert isinstance(frame, pl.DataFrame)
            if self._adds_split and _SPLIT in names:
                label = pl.Series(_SPLIT, [name]).new_from_index(0, len(part))
                frame = pl.DataFrame([*frame.get_columns(), label])
            frames.append(frame)
        return stack(frames, names=list(self._parts)).select(names)

    def places(self, rows: Sequence[int]) -> list[str]:
        """Rows within the parts: `NAME test, row 5`."""
        starts = [0, *accumulate(len(part) for part in self._parts.values())]
        labels = list(self._parts)
        places = []
        for row in rows:
            at = max(number for number, start in enumerate(starts[:-1]) if start <= row)
            label = f"{self.name} {labels[at]}".rstrip()
            places.append(f"{label}, row {row - starts[at] + 1}")
        return places

    @property
    def _adds_split(self) -> bool:
        parts = self._parts
        return len(parts) > 1 and all(_SPLIT not in part.features for part in parts.values())

    @cached_property
    def _parts(self) -> Mapping[str, Any]:
        from datasets import DatasetDict

        with _without_network():
            found = self._load() if self._given is None else self._given
        if not isinstance(found, DatasetDict):
            return {self.part or "": found}
        if self.part is None:
            return dict(found)
        if self.part not in found:
            raise DataError(
                f"{self.name}: has no part '{self.part}'.", allowed=f"parts: {', '.join(found)}"
            )
        return {self.part: found[self.part]}

    def _load(self) -> Any:
        import datasets

        try:
            if self._folder and is_saved_dataset(self._folder):
                return datasets.load_from_disk(str(self._folder))
            place = str(self._folder.resolve()) if self._folder else self.dataset
            return datasets.load_dataset(place, self.subset)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            if self._folder or isinstance(error, ValueError):
                raise DataError(f"{self.name}: cannot be read as a data set: {error}") from None
            arguments = ", ".join(repr(name) for name in (self.dataset, self.subset) if name)
            raise MissingError(
                f"data set '{self.dataset}' is not on this machine.",
                allowed="a folder, or the id of a data set that has been loaded before",
                remedy=f"If it is a hub id, run: python -c "
                f'"from datasets import load_dataset; load_dataset({arguments})"',
            ) from None


@contextmanager
def _without_network() -> Iterator[None]:
    """The library asks the hub even for what it has, unless it is told not to."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
