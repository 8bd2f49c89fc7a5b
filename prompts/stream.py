"""Instructions as an endless source for trainers: other draws in every epoch, nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from tastemaker.prompts.formats import find_format
from tastemaker.prompts.source import InstructionSource

__all__ = ["InstructionStream"]

_BLOCK = 2_000  # examples rendered at once


class InstructionStream:
    """Rows of one part, rendered while they are read.

    Trainers call `set_epoch`; from then on templates, candidates, separators and asked ratings are
    drawn anew and the order is another one. The same epoch gives the same rows again, and `skip`
    goes on in its middle without rendering what came before.

    Args:
        source: The part.
        format: Shape of the rows (see `prompts.formats`).
        shuffle: Whether each epoch has an order of its own; the order of the examples otherwise.
    """

    def __init__(
        self, source: InstructionSource, *, format: str = "trl", shuffle: bool = True
    ) -> None:
        self._source, self._format, self._shuffle = source, find_format(format), shuffle
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw as in this epoch from the next iteration on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.skip(0)

    def skip(self, examples: int) -> Iterator[dict[str, Any]]:
        """The rows of the epoch without those of its first so many examples."""
        source, order = self._source.in_epoch(self._epoch), self._order()
        for start in range(examples, len(order), _BLOCK):
            part = source.of_places(order[start : start + _BLOCK], split=source.split)
            yield from self._format.arrange(part.frame()).iter_rows(named=True)

    def dataset(self) -> datasets.IterableDataset:
        """The same as a `datasets.IterableDataset`, which TRL's trainers take as it is.

        It asks this object anew each time it is read: call `set_epoch` here.
        """
        return datasets.IterableDataset.from_generator(self.__iter__)

    def _order(self) -> NDArray[np.int64]:
        count = len(self._source)
        if not self._shuffle:
            return np.arange(count)
        generator = np.random.default_rng([self._source.binder.seed, self._epoch])
        return generator.permutation(count)
