"""Which templates ask about which examples: weights, how many each, another draw every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.hashing import fractions, hashed
from tastemaker.errors import UserError
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.template import Template

__all__ = ["Mixture"]

_CHOICE = 11  # what the random number is for
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Templates with weights.

    Attributes:
        templates: All per the same kind of thing.
        weights: float64 [templates], above 0; how often each is drawn, relative to the others.
        per_example: Different templates drawn for each example; None for all of them.
    """

    templates: tuple[Template, ...]
    weights: NDArray[np.float64]
    per_example: int | None = 1

    @classmethod
    def of(
        cls,
        templates: Sequence[Template],
        *,
        weights: Sequence[float] | None = None,
        per_example: int | None = 1,
    ) -> Mixture:
        """A mixture, equal weights where none are given.

        Raises:
            UserError: no template, or templates about different things.
        """
        kinds = {template.per: template.name for template in templates}
        if not templates:
            raise UserError(
                "no template is named.", remedy="Name one: build.templates: tallrec/movie"
            )
        labels = {template.label: template.name for template in templates}
        for template in templates:
            if labels[template.label] != template.name:
                raise UserError(
                    f"'{template.name}' and '{labels[template.label]}' have the same file name.",
                    allowed="own templates of different names, since rows are marked with them",
                    remedy="Rename one of them.",
                )
        if len(kinds) > 1:
            named = ", ".join(f"'{name}' is per {kind}" for kind, name in kinds.items())
            raise UserError(
                f"templates of one data set must be about the same thing; {named}.",
                remedy="Build one data set for each.",
            )
        given = np.ones(len(templates)) if weights is None else np.asarray(weights, dtype=float)
        return cls(tuple(templates), given, per_example)

    @property
    def per(self) -> str:
        """What one prompt is about."""
        return self.templates[0].per

    def fits(self, binder: Binder, examples: Examples) -> Flags:
        """Which template can ask about which example, bool [n, templates]."""
        return np.stack([binder.fits(examples, one) for one in self.templates], axis=1)

    def choose(
        self, examples: Examples, fits: Flags, *, seed: int, epoch: int = 0
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw templates without replacement, in proportion to their weights.

        An example that fewer templates fit than are asked for gets those. Draws are hashes of the
        example, the epoch and the template's name, so other templates or shards change nothing but
        the competition (Efraimidis and Spirakis, 2006).

        Returns:
            Places of examples and of templates, one pair per instruction, in the order of examples.
        """
        names = np.array([_number(template.label) for template in self.templates])
        columns = (examples.rows, examples.users, examples.items)
        keys = hashed(*(one[:, None] for one in columns), epoch, _CHOICE, names, seed=seed)
        order = -np.log1p(-fractions(keys)) / self.weights
        order[~fits] = np.inf
        wanted = len(self.templates) if self.per_example is None else self.per_example
        chosen = fits.copy()
        if wanted < len(self.templates):
            border = np.partition(order, wanted - 1, axis=1)[:, wanted - 1 : wanted]
            chosen &= order <= border
        places, templates = np.nonzero(chosen)
        return places, templates


def _number(name: str) -> int:
    """A number for a name, the same in every process."""
    value = 0
    for byte in name.encode():
        value = (value * 257 + byte) % (2**61 - 1)
    return value
