"""The card of an instruction data set: what is in it, where it comes from, how to make it again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import yaml

from tastemaker.data.tables import Tables
from tastemaker.prompts.formats import PROVENANCE, find_format, load_patterns
from tastemaker.prompts.render import plain
from tastemaker.prompts.source import CountTokens, InstructionSource
from tastemaker.prompts.template import Template
from tastemaker.prompts.writing import PartFacts

__all__ = ["CardFacts", "dataset_card"]

_COLUMNS = {
    "template": "template the prompt was rendered from",
    "user_id": "external id of the user",
    "item_id": "external id of the item asked about",
    "label": "1 = liked, 0 = not",
    "timestamp": "moment of the interaction, unix seconds; the prompt shows earlier events only",
    "domain": "empty for data of a single domain",
    "split": "part of the data set",
    "row": "index of the interaction in the tables it was built from",
    "candidates": "external ids of the items to choose from, in the order shown",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_SHOWN_TEMPLATES = 60


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        parts: Part → facts counted while it was written.
        sources: Part → its instructions, for lengths and an example.
        templates: What they were rendered with.
        format: Of the files.
        checked: Share of prompts that was checked for leaks while building, 0 to 1.
        near_duplicates: Training examples dropped because they nearly repeated others.
        recipe: YAML of the recipe that makes the data set again.
        counters: Unit → how many of it each text has.
        sample: Examples of each part whose lengths are counted.
        note: On texts that a chat model wrote; empty where none did.
    """

    parts: Mapping[str, PartFacts]
    sources: Mapping[str, InstructionSource]
    templates: Sequence[Template]
    format: str
    checked: float
    near_duplicates: int
    recipe: str
    counters: Mapping[str, CountTokens]
    sample: int = 2_000
    note: str = ""

    @property
    def tables(self) -> Tables:
        """What the instructions were made from."""
        return next(iter(self.sources.values())).binder.tables


def dataset_card(facts: CardFacts) -> str:
    """Text of a data set's `README.md`, with the YAML head that `datasets` and the hub read."""
    tables = facts.tables
    title = plain(tables.source)
    form = find_format(facts.format)
    samples = {part: _sample(source, facts.sample) for part, source in facts.sources.items()}
    sections = [
        _head(facts, samples, title=title),
        f"# {title} as instructions",
        f"Made by tastemaker from {title}, in the form `{form.name}`: {form.meaning}.",
        _promise(facts.checked),
        "## Parts",
        _table(_counts(facts)),
        f"An interaction counts as liked when `{tables.schema.label}`.",
        _repeats(facts),
        plain(facts.note),
        "## Answers",
        *_answers(facts.parts),
        "## Lengths of question and answer",
        f"Of at most {facts.sample:,} evenly spaced instructions of each part.",
        _table(_lengths(samples, facts.counters)),
        "## Columns",
        _table([["column", "type", "meaning"], *_schema(facts, samples)]),
        "## Templates",
        _table(_templates(facts)),
        *_example(samples),
        "## Licence",
        plain(tables.licence) or "The source states no licence; ask its owner before sharing this.",
        "## Making it again",
        "Save this as `recipe.yaml` and run `tastemaker build recipe.yaml`:",
        f"~~~~yaml\n{facts.recipe.strip()}\n~~~~",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _sample(source: InstructionSource, size: int) -> pl.DataFrame:
    places = np.unique(np.linspace(0, len(source) - 1, min(size, len(source))).astype(np.int64))
    return source.of_places(places, split=source.split).frame()


def _head(facts: CardFacts, samples: Mapping[str, pl.DataFrame], *, title: str) -> str:
    parts = [part for part, one in facts.parts.items() if one.rows]
    total = sum(one.rows for one in facts.parts.values())
    size = next((name for limit, name in _SIZES if total < limit), "n>1M")
    head = {
        "pretty_name": f"{title} as instructions",
        "license": "other",
        "task_categories": ["text-generation"],
        "tags": ["recommendation", "instruction-tuning"],
        "size_categories": [size],
        "configs": load_patterns(parts, facts.format, like=next(iter(samples.values()))),
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _promise(checked: float) -> str:
    audit = {0.0: "no finished prompt was", 1.0: "every finished prompt was"}.get(
        checked, f"{checked:.0%} of the finished prompts were"
    )
    return (
        "Every prompt shows only events strictly earlier than its target, not those of its second; "
        f"while building, {audit} read back and checked for that, and none failed. "
        "`tastemaker data audit` checks all of it again by other means."
    )


def _counts(facts: CardFacts) -> list[list[str]]:
    rows = [["part", "instructions", "examples", "users", "items", "liked", "from", "to"]]
    for part, one in facts.parts.items():
        examples, (liked, labelled) = facts.sources[part].examples, one.liked
        rows.append(
            [
                part,
                f"{one.rows:,}",
                f"{one.examples:,}",
                f"{len(np.unique(examples.users[examples.users >= 0])):,}",
                f"{len(np.unique(examples.items[examples.items >= 0])):,}",
                f"{liked / labelled:.1%}" if labelled else "–",
                _moment(one.first, is_clock=facts.tables.schema.is_clock),
                _moment(one.last, is_clock=facts.tables.schema.is_clock),
            ]
        )
    return rows


def _repeats(facts: CardFacts) -> str:
    told = [
        f"{one.repeated / one.rows:.2%} of {part}" for part, one in facts.parts.items() if one.rows
    ]
    near = (
        f" {facts.near_duplicates:,} near-duplicate training examples were left out."
        if facts.near_duplicates
        else ""
    )
    return f"Instructions equal to an earlier one, prompt and answer: {', '.join(told)}.{near}"


def _answers(parts: Mapping[str, PartFacts]) -> list[str]:
    few = {part: one for part, one in parts.items() if one.answers}
    if any(one.rows and not one.answers for one in parts.values()):
        return ["There are too many different answers to list."]
    rows = [["answer", *few]]
    for answer in sorted({answer for one in few.values() for answer in one.answers}):
        shares = [one.answers.get(answer, 0) / one.rows for one in few.values()]
        rows.append([f"`{answer}`", *(f"{share:.1%}" for share in shares)])
    return [_table(rows)]


def _lengths(
    samples: Mapping[str, pl.DataFrame], counters: Mapping[str, CountTokens]
) -> list[list[str]]:
    rows = [["part", "unit", "median", "95 %", "longest"]]
    for part, frame in samples.items():
        for unit, count in counters.items():
            if frame.height:
                values = np.percentile(np.asarray(count(_texts(frame))), [50, 95, 100])
                rows.append([part, unit, *(f"{value:,.0f}" for value in values)])
    return rows


def _schema(facts: CardFacts, samples: Mapping[str, pl.DataFrame]) -> list[list[str]]:
    frame = next(iter(samples.values()))
    schema = find_format(facts.format).arrange(frame.clear()).schema
    return [
        [f"`{name}`", _kind(kind), _COLUMNS.get(name, "text for the trainer")]
        for name, kind in schema.items()
        if name not in PROVENANCE or name in _COLUMNS
    ]


def _kind(kind: Any) -> str:
    shown = str(kind).replace("String", "text")
    return "list of messages" if "Struct" in shown else shown


def _templates(facts: CardFacts) -> list[list[str]]:
    rows = [["template", "task", "instructions", "reference"]]
    used = {name: 0 for name in (template.label for template in facts.templates)}
    for one in facts.parts.values():
        for name, count in one.templates.items():
            used[name] = used.get(name, 0) + count
    for template in facts.templates[:_SHOWN_TEMPLATES]:
        rows.append(
            [
                f"`{plain(template.label)}`",
                template.task,
                f"{used[template.label]:,}",
                plain(template.reference) or "none given",
            ]
        )
    if rest := facts.templates[_SHOWN_TEMPLATES:]:
        count = sum(used[template.label] for template in rest)
        rows.append([f"… and {len(rest)} more", "", f"{count:,}", ""])
    return rows


def _texts(frame: pl.DataFrame) -> list[str]:
    """System part, prompt and answer of each row as one text."""
    return frame.select(
        text=pl.concat_str("system", "prompt", "completion", separator="\n").str.strip_chars("\n")
    )["text"].to_list()


def _example(samples: Mapping[str, pl.DataFrame]) -> list[str]:
    """The first instruction, in a fence that nothing in it closes."""
    filled = [frame for frame in samples.values() if frame.height]
    if not filled:
        return []
    text = _texts(filled[0].head(1))[0]
    fence = "~" * (1 + max([3, *map(len, re.findall("~+", text))]))
    return [f"{fence}text\n{text}\n{fence}"]


def _moment(time: int | None, *, is_clock: bool) -> str:
    """The day; the step where times only count."""
    if time is None:
        return "–"
    return datetime.fromtimestamp(time, UTC).date().isoformat() if is_clock else f"step {time:,}"


def _cell(text: str) -> str:
    """A text on one line that ends no cell."""
    return " ".join(text.replace("|", "\\|").split())


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
