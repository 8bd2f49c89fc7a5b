"""Instructions made when they are asked for: any slice, any epoch, in any process the same.

A source is a plan (examples, templates, how histories are cut) that holds no text. It renders a
block of examples at a time, so millions of instructions stream through little memory, and a new
epoch with other templates, candidates and orders costs no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.prompts.binding import Binder
from tastemaker.prompts.columnar import render_rows
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.template import Template

__all__ = ["CountTokens", "InstructionSource", "Limit"]

CountTokens = Callable[[Sequence[str]], Sequence[int]]
Rows = NDArray[np.int64]
_BLOCK = 20_000  # examples rendered at once
_SECTIONS = ("system", "prompt", "answer")


@dataclass(frozen=True)
class Limit:
    """How long an instruction may be.

    Attributes:
        most: Units of system, prompt and answer together.
        count: Texts → units of each, such as tokens.
    """

    most: int
    count: CountTokens


@dataclass(frozen=True, eq=False)
class InstructionSource:
    """The instructions of one part of a data set.

    Attributes:
        binder: Gives fields their values.
        examples: What is asked about.
        mixture: Templates that ask.
        split: Written into the column of that name.
        limit: Histories lose their oldest events until it is kept; None for no limit.
        pairs: Whether each instruction also has a rejected answer.
        rejected: int64 [examples], items that stand in rejected answers; -1 for none.
    """

    binder: Binder
    examples: Examples
    mixture: Mixture
    split: str
    limit: Limit | None = None
    pairs: bool = False
    rejected: Rows | None = None

    def __len__(self) -> int:
        """Number of examples; instructions are as many times the templates of each."""
        return len(self.examples)

    def in_epoch(self, epoch: int) -> InstructionSource:
        """The same examples with other draws: templates, candidates, separators, asked ratings."""
        return replace(self, binder=self.binder.in_epoch(epoch))

    def of_places(self, places: Rows, *, split: str) -> InstructionSource:
        """Some of the examples, under another name."""
        rejected = None if self.rejected is None else self.rejected[places]
        return replace(self, examples=self.examples.take(places), split=split, rejected=rejected)

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[pl.DataFrame]:
        """Instructions of a slice of the examples, some thousands at a time."""
        last = len(self) if stop is None else min(stop, len(self))
        for first in range(start, last, _BLOCK):
            yield self.frame(first, min(first + _BLOCK, last))

    def frame(self, start: int = 0, stop: int | None = None) -> pl.DataFrame:
        """Instructions of a slice of the examples, in their order.

        Returns:
            `system`, `prompt`, `completion`, with `pairs` also `rejected`; then `template`,
            `user_id` and `item_id` (external), `label` int8, `timestamp` int64, `domain`, `split`,
            `row` int64 and `candidates` (external ids), null where there is none.

        Raises:
            UserError: a field that the data cannot fill, or a template that failed.
        """
        part = self.examples.take(slice(start, stop))
        fits = self.mixture.fits(self.binder, part)
        places, templates = self.mixture.choose(
            part, fits, seed=self.binder.seed, epoch=self.binder.epoch
        )
        rejected = None if self.rejected is None else self.rejected[start:stop]
        frames = []
        for number, template in enumerate(self.mixture.templates):
            mine = places[templates == number]
            if len(mine):
                chosen = None if rejected is None else rejected[mine]
                found = self._of_template(template, part.take(mine), chosen)
                frames.append(found.with_columns(place=pl.Series(mine), number=pl.lit(number)))
        if not frames:
            none = None if rejected is None else rejected[:0]
            nothing = self._of_template(self.mixture.templates[0], part.take(slice(0, 0)), none)
            return nothing.drop("kept")
        whole = pl.concat(frames).filter("kept").sort("place", "number", maintain_order=True)
        return whole.drop("place", "number", "kept")

    def rendered(self, template: Template, examples: Examples) -> pl.DataFrame:
        """Instructions of one template about any examples, fitting or not, in their order."""
        return self._of_template(template, examples, None).drop("kept")

    def _of_template(
        self, template: Template, examples: Examples, rejected: Rows | None
    ) -> pl.DataFrame:
        texts, kept, block, shown = self._texts(template, examples)
        columns: dict[str, Any] = {
            "system": texts["system"],
            "prompt": texts["prompt"],
            "completion": texts["answer"],
        }
        if self.pairs:
            answers = (texts["answer"], rejected)
            columns["rejected"] = self._rejected(template, examples, answers, shown)
            kept = kept & (columns["rejected"] != "") & (columns["rejected"] != texts["answer"])
        return pl.DataFrame(columns).with_columns(
            template=pl.lit(template.label),
            **self._provenance(template, examples, block),
            kept=kept,
        )

    def _texts(
        self, template: Template, examples: Examples
    ) -> tuple[dict[str, pl.Series], pl.Series, dict[str, Any], Rows | None]:
        """The sections, whether each instruction keeps the limit, the values used, and most events.

        The last says how many events each shows at most; None where all show all.
        """
        block = self.binder.block(examples, template)
        texts = self._rendered(template, examples, block)
        kept = pl.repeat(True, len(examples), dtype=pl.Boolean, eager=True)
        if self.limit is None:
            return texts, kept, block, None
        long = np.flatnonzero(self._lengths(texts) > self.limit.most)
        if not len(long):
            return texts, kept, block, None
        shown = np.full(len(examples), self._most, dtype=np.int64)
        shown[long] = self._longest(template, examples.take(long))
        shorter = self._cut(template, examples.take(long), shown[long])
        rows = pl.Series(long)
        texts = {name: texts[name].scatter(rows, shorter[name]) for name in texts}
        kept = kept.scatter(rows, pl.Series(self._lengths(shorter) <= self.limit.most))
        return texts, kept, block, shown

    @property
    def _most(self) -> int:
        """Most events that any field shows."""
        return max(self.binder.history, self.binder.likes)

    def _longest(self, template: Template, examples: Examples) -> Rows:
        """Events in the longest history that keeps the limit, found by bisection; 0 at least."""
        assert self.limit is not None
        low = np.zeros(len(examples), dtype=np.int64)
        high = np.full(len(examples), self._most, dtype=np.int64)
        while (low < high).any():
            middle = (low + high + 1) // 2
            texts = self._cut(template, examples, middle)
            within = self._lengths(texts) <= self.limit.most
            low, high = np.where(within, middle, low), np.where(within, high, middle - 1)
        return low

    def _cut(self, template: Template, examples: Examples, shown: Rows) -> dict[str, pl.Series]:
        block = self.binder.block(examples, template, shown=shown)
        return self._rendered(template, examples, block)

    def _lengths(self, texts: dict[str, pl.Series]) -> NDArray[np.int64]:
        assert self.limit is not None
        count = self.limit.count
        return sum(np.asarray(count(text.to_list()), dtype=np.int64) for text in texts.values())  # type: ignore[return-value]

    def _rendered(
        self, template: Template, examples: Examples, block: dict[str, Any]
    ) -> dict[str, pl.Series]:
        height = len(examples)
        texts = {name: render_rows(template, name, block, height=height) for name in _SECTIONS}
        if template.answers_by_label:
            texts["answer"] = _by_label(template, examples, like=1)
        return texts

    def _rejected(
        self,
        template: Template,
        examples: Examples,
        answers: tuple[pl.Series, Rows | None],
        shown: Rows | None,
    ) -> pl.Series:
        """The wrong answer to each question; empty where none is known."""
        height, (said, items) = len(examples), answers
        if template.answers_by_label:
            return _by_label(template, examples, like=0)
        if len(template.choices) == 2:
            one, other = template.choices
            return (
                pl.DataFrame({"said": said})
                .select(pl.when(pl.col("said") == one).then(pl.lit(other)).otherwise(pl.lit(one)))
                .to_series()
            )
        if not template.names_item or items is None:
            return pl.repeat("", height, dtype=pl.String, eager=True)
        others = examples.with_items(np.maximum(items, 0))
        names = template.fields("answer")
        block = self.binder.block(others, template, names=names, shown=shown)
        text = render_rows(template, "answer", block, height=height)
        return text.set(pl.Series(items < 0), "")

    def _provenance(
        self, template: Template, examples: Examples, block: dict[str, Any]
    ) -> dict[str, pl.Series | pl.Expr]:
        tables = self.binder.tables
        item_ids = tables.items["item_id"]
        nothing = pl.lit(None, dtype=pl.List(item_ids.dtype))
        shown = {"candidates", "candidates_index"} & template.fields()
        return {
            "user_id": _ids(tables.users["user_id"], examples.users),
            "item_id": _ids(item_ids, examples.items),
            "label": _known(examples.labels, pl.Int8),
            "timestamp": pl.Series(examples.times)
            if template.per == "interaction"
            else pl.lit(None, dtype=pl.Int64),
            "domain": self._domains(examples),
            "split": pl.lit(self.split),
            "row": _known(examples.rows, pl.Int64),
            "candidates": self._offered(block[min(shown)]) if shown else nothing,
        }

    def _offered(self, listing: Any) -> pl.Series:
        ids = self.binder.tables.items["item_id"].gather(listing.columns[0].codes)
        width = self.binder.candidates
        return (
            pl.DataFrame({"ids": ids})
            .select(pl.col("ids").reshape((-1, width)).arr.to_list())
            .to_series()
        )

    def _domains(self, examples: Examples) -> pl.Series | pl.Expr:
        frame = self.binder.tables.interactions
        if "domain" not in frame.columns or not len(examples) or (examples.rows < 0).any():
            return pl.lit("")
        return frame["domain"].gather(examples.rows).cast(pl.String).fill_null("")


def _by_label(template: Template, examples: Examples, *, like: int) -> pl.Series:
    """The first choice where the label is `like`, the second elsewhere."""
    codes = np.where(examples.labels == like, 0, 1)
    return pl.Series(template.choices, dtype=pl.String).gather(codes)


def _ids(ids: pl.Series, numbers: Rows) -> pl.Series:
    return ids.gather(pl.Series(np.where(numbers < 0, 0, numbers))).set(
        pl.Series(numbers < 0), None
    )


def _known(values: NDArray[Any], dtype: Any) -> pl.Series:
    return pl.Series(values).cast(dtype).set(pl.Series(values < 0), None)
