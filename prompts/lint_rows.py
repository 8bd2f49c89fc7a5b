"""Rules on prompts rendered from real rows: `leak`, `length` and `balance`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import polars as pl

from tastemaker.errors import UserError
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.columnar import render_rows
from tastemaker.prompts.columns import Column, Listing
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.lint import LintFinding, finding, is_of_the_user, line_of_field, line_of_key
from tastemaker.prompts.mentions import own_words, prompt_texts
from tastemaker.prompts.template import Template
from tastemaker.prompts.values import Bound

__all__ = ["Sample", "lint_balance", "lint_leak", "lint_length", "shared_text"]

_SHORTEST = 4  # characters; shorter answers stand in a prompt by chance
_LEAKY = 0.1  # share of prompts from which a leak is no coincidence of words
_RARE = 0.2  # share of one of two answers; of n answers 0.4 / n
_PAIRS = 50  # of prompts whose common beginning is measured
_HIDDEN = "…"


@dataclass(frozen=True, eq=False)
class Sample:
    """Real rows that a template is asked about.

    Attributes:
        template: All of whose fields the data can fill.
        binder: Gives fields their values.
        examples: At least one, all of which fit the template.
    """

    template: Template
    binder: Binder
    examples: Examples


def lint_leak(sample: Sample) -> list[LintFinding]:
    """Rule `leak`: the answer, or a value in it, stands in what the prompt says of the target.

    The past, the candidates and what is `given` may hold the answer, so their texts are hidden
    before looking. Answers of up to 3 characters, choices and the template's own words do not
    count. Below a tenth of the prompts it may be a coincidence of words, and is a warning.

    Raises:
        UserError: the template failed.
    """
    template, binder = sample.template, sample.binder
    if "answer" not in template.sections:
        return []
    block = binder.block(sample.examples, template)
    shown = {
        name: _hidden(value) if name in template.given or is_of_the_user(name) else value
        for name, value in block.items()
    }
    height = len(sample.examples)
    hits = _leaks(template, _questions(template, shown, height), _answers(template, block, height))
    if not hits:
        return []
    first, text = min(hits.items())
    where = _holder(template, shown, first, text)
    named = f" as {where}" if where else ""
    return [
        finding(
            "leak",
            template,
            f"in {len(hits):,} of {height:,} prompts the answer stands in the question{named}, "
            f"such as '{_short(text)}'.",
            severity="error" if len(hits) >= _LEAKY * height else "warning",
            remedy=f"Take {where or 'it'} out of the prompt, or say `given: [...]` when the "
            "question is about it.",
            line=line_of_field(template, where) if where else None,
        )
    ]


def shared_text(sample: Sample) -> float | None:
    """Share, from 0 to 1, of text that prompts of one user and moment about two items begin with.

    The mean over pairs; None when the question does not depend on the item, or no pair was found.

    Raises:
        UserError: the template failed.
    """
    template, examples = sample.template, sample.examples
    if template.per != "interaction":
        return None
    other = np.roll(examples.items, 1)
    places = np.flatnonzero(other != examples.items)[:_PAIRS]
    if not len(places):
        return None
    one = examples.take(places)
    two = Examples.of_rows(sample.binder.tables, one.rows, items=other[places])
    asked = [
        _questions(template, sample.binder.block(some, template), len(some)) for some in (one, two)
    ]
    if (asked[0] == asked[1]).all():
        return None
    return float(np.mean([_common(*pair) for pair in zip(*asked, strict=True)]))


def lint_length(
    template: Template, lengths: Sequence[int], *, model: str, context: int
) -> list[LintFinding]:
    """Rule `length`: the longest prompt is longer than the model reads.

    Args:
        template: Any.
        lengths: Tokens of rendered prompts with their answers, at least one.
        model: Its name.
        context: Most tokens it reads.
    """
    longest = max(lengths)
    if longest <= context:
        return []
    over = sum(length > context for length in lengths)
    return [
        finding(
            "length",
            template,
            f"{over:,} of {len(lengths):,} prompts are longer than the {context:,} tokens that "
            f"{model} reads; the longest has {longest:,}.",
            remedy="Show fewer events (build.history) or candidates, or set build.max_length.",
        )
    ]


def lint_balance(template: Template, answers: Mapping[str, int]) -> list[LintFinding]:
    """Rule `balance`: the rarest of the choices is a small share of the answers.

    Args:
        template: Any; nothing is said of one without choices.
        answers: Answer → number of training rows that have it.
    """
    counts = {choice: answers.get(choice, 0) for choice in template.choices}
    total = sum(counts.values())
    if len(counts) < 2 or not total:
        return []
    rare = min(counts.values()) / total
    if rare >= 2 * _RARE / len(counts):
        return []
    told = ", ".join(f"'{choice}' {count / total:.1%}" for choice, count in counts.items())
    return [
        finding(
            "balance",
            template,
            f"answers of {total:,} training rows: {told}.",
            remedy="Set build.balance: true, or build.negatives where dislikes are rare.",
            line=line_of_key(template, "choices"),
        )
    ]


def _own_words(template: Template) -> str:
    try:
        return own_words(template)
    except UserError:
        return ""


def _hidden(value: Bound) -> Bound:
    """The same number of texts that say nothing."""
    if isinstance(value, Listing):
        return Listing(value.offsets, tuple(map(_blank, value.columns)), value.tuples)
    return _blank(value) if isinstance(value, Column) else value


def _blank(column: Column) -> Column:
    return Column(pl.Series([_HIDDEN]), np.zeros(column.height, dtype=np.int64))


def _questions(template: Template, block: Mapping[str, Bound], height: int) -> pl.Series:
    """System part and prompt as one text: String [height]."""
    parts = [render_rows(template, part, block, height=height) for part in ("system", "prompt")]
    return prompt_texts(pl.DataFrame(parts, schema=["system", "prompt"]))


def _answers(template: Template, block: Mapping[str, Bound], height: int) -> list[pl.Series]:
    """The answers, and the values in them that are what is asked for."""
    found = [render_rows(template, "answer", block, height=height)]
    for name in sorted(template.fields("answer")):
        value, known = block[name], field_named(name)
        if isinstance(value, Column) and (known.reveals or known.role == "column"):
            found.append(value.series())
    return found


def _leaks(template: Template, asked: pl.Series, answers: Iterable[pl.Series]) -> dict[int, str]:
    """Place of the prompt → what it holds of its answer."""
    bare = _own_words(template)
    hits: dict[int, str] = {}
    for values in answers:
        frame = pl.DataFrame({"asked": asked, "answer": values})
        inside = frame.select(pl.col("asked").str.contains(pl.col("answer"), literal=True))
        for place in inside.to_series().arg_true().to_list():
            text = values[place]
            counts = len(text) >= _SHORTEST and text not in template.choices
            if counts and _stands_in(text, asked[place]) and not _stands_in(text, bare):
                hits.setdefault(place, text)
    return hits


def _holder(template: Template, shown: Mapping[str, Bound], place: int, text: str) -> str:
    """The field of the question that holds a text; empty when it is none alone."""
    for name in sorted(template.asked):
        value = shown[name]
        if isinstance(value, Column | Listing) and _stands_in(text, str(value.to_list()[place])):
            return name
    return ""


def _stands_in(text: str, whole: str) -> bool:
    """Whether a text stands there as words of its own."""
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", whole) is not None


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


def _common(one: str, other: str) -> float:
    """Share of the longer text that both begin with."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return same / max(len(one), len(other), 1)
