"""Questions put to a tuned model: one template on chosen rows, as the build stage renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.errors import StageError
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.offering import candidate_source
from tastemaker.methods.planning import PARTS, length_limit, planned_binder, weighted_templates
from tastemaker.models.conversations import Messages
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.columnar import render_rows
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import find_format
from tastemaker.prompts.leaks import LeakSearch
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.selection import sampled
from tastemaker.prompts.source import InstructionSource, Limit
from tastemaker.prompts.template import Template
from tastemaker.prompts.values import Block
from tastemaker.prompts.written import WrittenTexts
from tastemaker.recipe import BuildConfig
from tastemaker.stage import Run

__all__ = ["AnswerKind", "Posed", "Posing", "answer_kind"]

Rows = NDArray[np.int64]
AnswerKind = Literal["catalogue", "candidates", "label", "choice", "rating", "text"]
_OF_ITEMS = {"title", "item_index", "item_id", "source"}  # what a name of an item is made of
_TEXTS = {"explanation", "headline", "review", "preference", "intention", "vague_intention"}


def answer_kind(template: Template) -> AnswerKind | None:
    """What an answer to this template is, and so how it is found and judged.

    `catalogue` and `candidates`: an item, of all or of those listed; `label`: yes for a like, no
    for anything else; `choice`: one of two choices for another reason; `rating`: a number; `text`:
    words. None: of several parts, which nothing compares.
    """
    if template.answers_by_label:
        return "label"
    if len(template.choices) == 2:
        return "choice"
    answer = template.fields("answer")
    if template.names_item:
        if not answer <= _OF_ITEMS:
            return None
        return "candidates" if template.offers else "catalogue"
    if answer == {"rating"}:
        return "rating"
    return "text" if answer & _TEXTS and answer <= _TEXTS | {"rating"} else None


@dataclass(frozen=True, eq=False)
class Posed:
    """Questions and what is known of them.

    Attributes:
        template: That asks.
        examples: n targets, in the order of the questions.
        prompts: n conversations without the answer.
        answers: n texts, the right ones.
        offered: int64 [n, candidates], items that are listed; None where none are.
    """

    template: Template
    examples: Examples
    prompts: Sequence[Messages]
    answers: Sequence[str]
    offered: Rows | None

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, eq=False)
class Posing:
    """Poses questions on the rows that every model is asked.

    Attributes:
        split: Tables and parts.
        binder: Gives fields their values.
        config: Section `build`, so that prompts look as in training.
        limit: How long a question may be; None for any length.
        rows: Part (`valid`, `test`) → the rows that are asked about.
        search: Refuses prompts that give their answer away.
    """

    split: Split
    binder: Binder
    config: BuildConfig
    limit: Limit | None
    rows: Mapping[str, Rows]
    search: LeakSearch

    @classmethod
    def of(
        cls,
        run: Run,
        config: BuildConfig,
        *,
        seed: int,
        written: Mapping[str, WrittenTexts] | None = None,
    ) -> Posing:
        """From a run with finished stages `data` and `build`."""
        split = load_split(run)
        templates, _ = weighted_templates(config)
        binder, index = planned_binder(split, config, templates, seed=seed, written=written)
        times = split.tables.interactions["time"].to_numpy()[split.test]
        search = LeakSearch(
            split.tables,
            history=max(config.history, config.likes),
            before=int(times.min()) if len(times) else 0,
            index=None if index is None else index.texts,
            templates=templates,
        )
        rows = {part: load_requests(run, part).rows for part in PARTS if part != "train"}
        return cls(split, binder, config, length_limit(config), rows, search)

    def chosen(self, template: Template, part: str, count: int | None) -> Examples:
        """Rows of a part that a template can ask about, a seeded sample of them."""
        examples = Examples.of_rows(self.split.tables, self.rows[part])
        fitting = np.flatnonzero(self.binder.fits(examples, template))
        return examples.take(sampled(fitting, count, seed=self.binder.seed))

    def posed(self, template: Template, examples: Examples) -> Posed:
        """Ask a template about examples that it fits.

        Raises:
            DataError: a prompt gives its answer away.
            StageError: a question is longer than `build.max_length`.
        """
        frame = self._source(template, examples).frame()
        if frame.height != len(examples):
            raise StageError(
                f"{len(examples) - frame.height} of {len(examples)} questions of {template.name} "
                "are longer than build.max_length, even without their history"
            )
        share = round(frame.height * self.config.check)
        if share:
            self.search(frame.sample(share, seed=self.binder.seed)).refuse()
        arranged = find_format("trl").arrange(frame)
        return Posed(
            template,
            examples,
            arranged["prompt"].to_list(),
            frame["completion"].to_list(),
            _items(self.split, frame["candidates"]) if template.offers else None,
        )

    def offering(self, n: int, origin: Literal["uniform", "popularity", "hard"]) -> Posing:
        """The same with other candidates: so many, from there."""
        source = candidate_source(self.split, origin)
        return replace(self, binder=replace(self.binder, candidates=n, source=source))

    def asked(self, template: Template, examples: Examples) -> Sequence[Messages]:
        """Prompts about any items, those of the rows or not, in the order of the examples."""
        frame = self._source(template, examples).rendered(template, examples)
        arranged = find_format("trl").arrange(frame)
        prompts: list[Messages] = arranged["prompt"].to_list()
        return prompts

    def listed(self, template: Template, examples: Examples, offered: Rows) -> Sequence[Messages]:
        """Prompts that list these items, int64 [n, candidates], targets among them or not."""
        source = _Listed(examples, offered)
        binder = replace(self.binder, candidates=offered.shape[1], source=source)
        # What is longer than build.max_length stays: the lists are made for whole groups only.
        posing = replace(self, binder=binder, limit=None)
        return posing.asked(template, examples.with_items(offered[:, 0]))

    def candidates(self, examples: Examples) -> Rows:
        """int64 [n, candidates], what prompts about these targets list, the target among them."""
        return Block(self.binder, examples, None).choices

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest rating."""
        known = self.split.tables.schema.rating_range
        ratings = self.split.tables.interactions["rating"]
        return known or (float(ratings.min()), float(ratings.max()))  # type: ignore[arg-type]

    @property
    def mean_rating(self) -> float:
        """Of the training events."""
        ratings = self.split.tables.interactions["rating"].to_numpy()
        return float(ratings[self.split.train].mean())

    def names(self, template: Template) -> list[str]:
        """What the template's answer calls each item of the catalogue."""
        items = np.arange(self.split.tables.n_items)
        block = self.binder.block(
            Examples.of_items(items, before=0), template, names=template.fields("answer")
        )
        return render_rows(template, "answer", block, height=len(items)).to_list()

    def past_items(self, examples: Examples) -> list[Rows]:
        """Items that each target's user had met strictly before."""
        past = self.split.histories.before(examples.rows)
        events = self.split.tables.interactions["item"].to_numpy()
        return [events[past[place]].astype(np.int64) for place in range(len(past))]

    def _source(self, template: Template, examples: Examples) -> InstructionSource:
        return InstructionSource(
            self.binder, examples, Mixture.of([template]), "test", limit=self.limit
        )


class _Listed:
    """Gives the items that are listed beside the first of each list, example by example."""

    def __init__(self, examples: Examples, offered: Rows) -> None:
        self._rows, self._offered = examples.rows, offered

    def __call__(self, rows: Rows, *, per_row: int, seed: int) -> Rows:
        """int64 [n, per_row], asked once for all examples in their order."""
        del per_row, seed
        if not np.array_equal(rows, self._rows):
            raise StageError("lists of candidates were asked for in another order than given")
        return self._offered[:, 1:]


def _items(split: Split, listed: pl.Series) -> Rows:
    """External ids of candidates as dense items, int64 [n, candidates]."""
    table = split.tables.items.select("item", "item_id")
    flat = pl.DataFrame({"item_id": listed.explode().cast(table["item_id"].dtype)})
    found = flat.join(table, on="item_id", how="left", maintain_order="left")["item"]
    return found.to_numpy().astype(np.int64).reshape(len(listed), -1)
