"""Which templates ask about which examples: weights, how many each, another draw every epoch.

Templates of one task may be drawn on their own, more often than those of another (`Repeats`): P5
(Geng et al., RecSys 2022) asks about each rating once an epoch and twenty times about each user's
sequence, each time with any of the templates of that family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.hashing import fractions, hashed
from tastemaker.errors import UserError
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.template import Template

__all__ = ["Mixture", "Repeats"]

_CHOICE, _TIMES = 11, 12  # what the random number is for
_BLOCK = 200_000  # examples looked at at once
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Repeats:
    """How often the templates of one task ask about each example.

    Attributes:
        times: Templates drawn for each example, or for all examples of a user together; above 0.
        sizes: Of `times` per user: float64 [n_users], the examples of each user, see `share`.
        share: How often an example that is no like is asked about, next to a like: the share of
            templates (by weight) that do not need one, 0 to 1. So an item that only yes/no
            questions fit is asked about as often as a like is by yes/no questions.
    """

    times: float
    sizes: Floats | None = None
    share: float = 1.0

    def shares(self, examples: Examples) -> Floats:
        """`share` where an example is no like, else 1; float64 [n]."""
        return np.where(examples.labels == 0, self.share, 1.0)

    def rates(self, examples: Examples) -> Floats:
        """Templates drawn for each example on average, float64 [n]."""
        rates = self.times * self.shares(examples)
        return rates if self.sizes is None else rates / self.sizes[examples.users]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Templates with weights.

    Attributes:
        templates: All per the same kind of thing.
        weights: float64 [templates], above 0; how often each is drawn, relative to the others.
        per_example: Different templates drawn for each example; None for all of them.
        repeats: Task → how often its templates ask; each task is then drawn by itself, one that is
            not named with one template for each example. Empty: all are drawn from together.
    """

    templates: tuple[Template, ...]
    weights: Floats
    per_example: int | None = 1
    repeats: Mapping[str, Repeats] = field(default_factory=dict)

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

    def repeated(
        self,
        binder: Binder,
        examples: Examples,
        *,
        times: Mapping[str, float],
        per_user: Mapping[str, float],
        negatives: int = 0,
    ) -> Mixture:
        """The same, each task drawn by itself.

        With negatives, yes/no questions ask about a like and about each item drawn beside it; their
        weight is parted among these, so that they are not drawn more often than before.

        Args:
            binder: Tells which template fits.
            examples: All that will be asked about.
            times: Task → templates for each example.
            per_user: Task → templates for all examples of a user together, on average.
            negatives: Items drawn beside each like.
        """
        by_label = np.array([template.answers_by_label for template in self.templates])
        drawn = self.weights / np.where(by_label & (negatives > 0), 1 + negatives, 1)
        found: dict[str, Repeats] = {}
        for task in dict.fromkeys(template.task for template in self.templates):
            open_to_all = [not _needs_like(self.templates[i]) for i in self._places(task)]
            weights = drawn[self._places(task)]
            share = float(weights[open_to_all].sum() / weights.sum())
            found[task] = Repeats(per_user.get(task, times.get(task, 1)), share=share)
        whole = replace(self, weights=drawn, repeats=found)
        sizes = whole._sizes(binder, examples, tasks=[task for task in found if task in per_user])
        return replace(
            whole,
            repeats=found
            | {task: replace(found[task], sizes=size) for task, size in sizes.items()},
        )

    def fits(self, binder: Binder, examples: Examples) -> Flags:
        """Which template can ask about which example, bool [n, templates]."""
        return np.stack([binder.fits(examples, one) for one in self.templates], axis=1)

    def choose(
        self, examples: Examples, fits: Flags, *, seed: int, epoch: int = 0
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw templates without replacement, in proportion to their weights.

        An example that fewer templates fit than are asked for gets those. Draws are hashes of the
        example, the epoch and the template's name, so other templates or shards change nothing but
        the competition (Efraimidis and Spirakis, 2006). So is the draw that decides whether an
        example gets one more where `repeats` ask for a fraction.

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
        if self.repeats:
            for task, repeats in self.repeats.items():
                mine = self._places(task)
                draws = fractions(hashed(*columns, epoch, _TIMES, _number(task), seed=seed))
                counts = np.floor(repeats.rates(examples) + draws)
                ranks = order[:, mine].argsort(axis=1).argsort(axis=1)
                chosen[:, mine] &= ranks < counts[:, None]
        elif wanted < len(self.templates):
            border = np.partition(order, wanted - 1, axis=1)[:, wanted - 1 : wanted]
            chosen &= order <= border
        places, templates = np.nonzero(chosen)
        return places, templates

    def _places(self, task: str) -> list[int]:
        """Places of the templates of a task."""
        return [place for place, one in enumerate(self.templates) if one.task == task]

    def _sizes(
        self, binder: Binder, examples: Examples, *, tasks: Sequence[str]
    ) -> dict[str, Floats]:
        """For each task the examples of every user that its templates fit; 1 at least."""
        sizes = {task: np.zeros(binder.tables.n_users) for task in tasks}
        for start in range(0, len(examples) if tasks else 0, _BLOCK):
            part = examples.take(slice(start, start + _BLOCK))
            fits = self.fits(binder, part)
            for task, size in sizes.items():
                counted = fits[:, self._places(task)].any(axis=1) * self.repeats[task].shares(part)
                size += np.bincount(part.users, weights=counted, minlength=len(size))
        # Who has none is not asked; what is above 0 is never made smaller.
        return {task: np.where(size > 0, size, 1.0) for task, size in sizes.items()}


def _needs_like(template: Template) -> bool:
    """Whether only likes can be asked about."""
    return template.liked or template.names_item or template.offers


def _number(name: str) -> int:
    """A number for a name, the same in every process."""
    value = 0
    for byte in name.encode():
        value = (value * 257 + byte) % (2**61 - 1)
    return value
