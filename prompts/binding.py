"""Gives the fields of templates their values, and says which template fits which target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.history import Histories
from tastemaker.data.negatives import draw_negatives
from tastemaker.data.rating_bands import RatingBands
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.columns import Column
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.fields import FIELDS, field_named
from tastemaker.prompts.template import Template
from tastemaker.prompts.values import OF_CATEGORIES, VALUES, Block, Bound, noisy_rating
from tastemaker.prompts.written import WrittenTexts

__all__ = ["Binder", "DrawsItems", "answers_by_rating"]

Rows = NDArray[np.int64]
_PARTS_OF = {
    "user": {"user", "past", "constant", "column"},
    "item": {"item", "constant", "column"},
    "interaction": {"user", "item", "past", "choice", "outcome", "constant", "column"},
}
_TEXTS = ("review", "headline", "explanation", "feature")
_RATING = "rating"
_OF_THE_ITEM = frozenset({"vague_intention"})  # written about the row's own item


class DrawsItems(Protocol):
    """What finds the items that a target stands among."""

    def __call__(self, rows: Rows, *, per_row: int, seed: int) -> NDArray[np.integer[Any]]:
        """Integers [n, per_row]: other items than each row's own, distinct within a row."""


@dataclass(frozen=True, eq=False)
class Binder:
    """Gives fields their values.

    Attributes:
        histories: Index over the interactions of the catalogue's tables.
        catalogue: Texts of users and items.
        history: Most recent events shown.
        anchor: Events after which the oldest one shown moves on, from 1 to `history`; None: with
            each event (see `Past.newest`).
        likes: Most recent likes shown by `liked_before` (Uni-CTR: 5).
        candidates: Items to choose from, the target among them.
        train: Interaction rows that `feedback` may quote.
        seed: Of everything drawn at random.
        epoch: Another one draws anew.
        source: Finds the other candidates; None draws uniformly among items not met.
        written: Field → texts that a chat model wrote for single rows, shown in place of the
            value from the data; an intention only where the row's own item is asked about.
        bands: Numbers around each rating, one of which stands in the answers of rating templates;
            None for the ratings themselves.
    """

    histories: Histories
    catalogue: Catalogue
    history: int = 10
    anchor: int | None = None
    likes: int = 5
    candidates: int = 20
    train: Rows | None = None
    seed: int = 0
    epoch: int = 0
    source: DrawsItems | None = None
    written: Mapping[str, WrittenTexts] = field(default_factory=dict)
    bands: RatingBands | None = None

    @property
    def draws(self) -> DrawsItems:
        """Finds the other candidates."""
        return self.source or partial(draw_negatives, self.tables)

    @property
    def tables(self) -> Tables:
        """Users, items and interactions."""
        return self.catalogue.tables

    def in_epoch(self, epoch: int) -> Binder:
        """The same with other random draws."""
        return replace(self, epoch=epoch)

    def block(
        self,
        examples: Examples,
        template: Template,
        *,
        names: Iterable[str] | None = None,
        shown: Rows | None = None,
    ) -> dict[str, Bound]:
        """Field → values.

        Args:
            examples: n of the kind the template is per.
            template: Whose fields.
            names: Fields wanted; all of the template's when None.
            shown: int64 [n], most events of each history where it is less than `history`.

        Raises:
            UserError: the data has no column for a field; names field and columns. Or the field is
                of something that the template is not about, or of a reasoning chain.
        """
        absent = _absent(template)
        if absent:
            raise UserError(
                f"template '{template.name}': field '{min(absent)}': {absent[min(absent)]}.",
                remedy="Ask it with: tastemaker reason RECIPE"
                if template.of_a_chain
                else "Say `per: interaction`, or take the field out.",
            )
        block = Block(self, examples, shown)
        wanted = template.fields() if names is None else names
        return {name: self._value(name, block, template) for name in sorted(wanted)}

    def lacks(self, template: Template) -> dict[str, str]:
        """Fields that the data cannot fill, with the reason; empty when the template fits."""
        found = self._known_later(template) | _absent(template)
        for name in sorted(template.fields() - template.optional):
            column = name in _TEXTS or name not in FIELDS
            if column and self.catalogue.text(name) is None:
                found[name] = self.catalogue.missing(name)
            elif self._needs_categories(name) and self.catalogue.categories is None:
                found[name] = "no column of the items holds categories (see build.columns.category)"
        return found

    def _known_later(self, template: Template) -> dict[str, str]:
        """Fields of the question that are columns of the target event, known only with it."""
        label = {"label", "rating", "sampled", *self.tables.schema.label.columns}
        found = {}
        for name in sorted(template.asked - FIELDS.keys()):
            column = self.catalogue.column(name)
            if not self._of_event(name):
                continue
            if column in label and name not in template.given:
                found[name] = f"column '{column}' tells the answer: it is known after the target"
            elif name not in template.given:
                found[name] = (
                    f"column '{column}' is part of the target event; say `given: [{name}]` in the "
                    "template when it is known before"
                )
        return found

    def _of_event(self, name: str) -> bool:
        """Whether a field is a column of the interactions."""
        text = None if name in VALUES else self.catalogue.text(name)
        return text is not None and text.place == "interactions"

    def fits(self, examples: Examples, template: Template) -> NDArray[np.bool_]:
        """Where a template has all it needs, bool [n].

        That is every text, and a like where the answer or one of the candidates is the target.
        """
        fitting = np.ones(len(examples), dtype=bool)
        if template.liked or template.names_item or template.offers:
            fitting &= examples.labels == 1
        # What was drawn as an item never met has no rating, review or other outcome.
        if template.task == _RATING or any(
            field_named(name).role == "outcome" or self._of_event(name)
            for name in template.fields()
        ):
            items = self.tables.interactions["item"].to_numpy()
            fitting &= items[examples.rows] == examples.items
        for name in sorted(template.fields() - template.optional):
            if name in _TEXTS or name not in FIELDS:
                values = self._column(name, Block(self, examples, None)).series()
                fitting &= (values != "").to_numpy()
            elif name in ("category", "topics", "intention") and self.catalogue.categories:
                least = 2 if name == "topics" else 1
                fitting &= self.catalogue.categories.lengths[examples.items] >= least
        return fitting

    def _value(self, name: str, block: Block, template: Template) -> Bound:
        if name == "factors":
            return list(template.factors)
        found = VALUES.get(name)
        if name == _RATING and self.bands is not None and answers_by_rating(template):
            return noisy_rating(block, self.bands)
        if found is not None:
            value = self._told_by_data(name, block, template)
            return self._written_over(name, value, block) if name in self.written else value
        if name in template.optional and self.catalogue.text(name) is None:
            return ""
        return self._column(name, block)

    def _told_by_data(self, name: str, block: Block, template: Template) -> Bound:
        nothing = name in OF_CATEGORIES and self.catalogue.categories is None
        if nothing and (name in template.optional or name in self.written):
            return [] if field_named(name).kind == "texts" else ""
        return VALUES[name](block)

    def _written_over(self, name: str, value: Bound, block: Block) -> Column:
        examples = block.examples
        told = value if isinstance(value, Column) else None
        base = told or Column(pl.repeat("", len(examples), dtype=pl.String, eager=True))
        where = None
        if name in _OF_THE_ITEM:
            own = self.tables.interactions["item"].to_numpy()
            where = own[np.maximum(examples.rows, 0)] == examples.items
        return self.written[name].over(base, examples.rows, where=where)

    def _needs_categories(self, name: str) -> bool:
        return name in OF_CATEGORIES and name not in self.written

    def _column(self, name: str, block: Block) -> Column:
        found = self.catalogue.text(name)
        if found is None:
            raise UserError(
                f"field '{name}': {self.catalogue.missing(name)}.",
                remedy=f"Say which column it is: build.columns: {{{name}: COLUMN}}",
            )
        examples = block.examples
        numbers = {
            "items": examples.items,
            "users": examples.users,
            "interactions": examples.rows,
        }[found.place]
        if len(numbers) and int(numbers.min()) < 0:
            raise UserError(
                f"field '{name}' is a column of the {found.place}, which this is not about.",
                allowed="columns of what the template is `per`",
            )
        return Column(found.values, numbers)


def answers_by_rating(template: Template) -> bool:
    """Whether it asks for a rating and the answer is that number."""
    answer = template.fields("answer") if "answer" in template.sections else frozenset()
    named = _RATING in answer and _RATING not in template.asked
    return template.task == _RATING and named and not template.choices


def _absent(template: Template) -> dict[str, str]:
    """Fields of what the template is not about, such as the title in one about users."""
    wanted = {name: FIELDS[name].role for name in template.fields() & FIELDS.keys()}
    if "feedback" in wanted:
        wanted["feedback"] = "item"
    wanted.pop("domain", None)  # just empty where there is none
    reasons = {"chain": "only a reasoning chain has it (tastemaker reason), no stage `build`"}
    other = f"the template is per {template.per}, which has no such thing"
    return {
        name: reasons.get(role, other)
        for name, role in wanted.items()
        if role not in _PARTS_OF[template.per]
    }
