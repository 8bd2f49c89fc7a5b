"""The card of an instruction data set: what is in it, where it comes from, how to make it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
import yaml

from tastemaker.data.tables import Tables
from tastemaker.prompts.render import plain
from tastemaker.prompts.template import Template

__all__ = ["dataset_card"]

_COLUMNS = {
    "prompt": "list of {role, content} messages: the question",
    "completion": "list of {role, content} messages: the answer",
    "template": "template the prompt was rendered from",
    "user_id": "external id of the user",
    "item_id": "external id of the target item",
    "label": "1 = liked, 0 = not",
    "timestamp": "moment of the interaction, unix seconds; the prompt shows earlier events only",
    "domain": "empty for data of a single domain",
    "split": "part of the data set",
    "row": "index of the interaction in the tables it was built from",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(
    parts: Mapping[str, pl.DataFrame],
    *,
    tables: Tables,
    template: Template,
    command: str,
    count_tokens: Callable[[Sequence[str]], Sequence[int]] | None = None,
) -> str:
    """Text of a data set's `README.md`, with the YAML head the Hugging Face hub reads.

    Args:
        parts: `train`, `validation`, `test` → instructions.
        tables: What they were made from; gives source, licence and label rule.
        template: What they were rendered with.
        command: Makes the data set again.
        count_tokens: Texts → number of tokens of each; without it only characters are counted.
    """
    title = plain(tables.source)
    sections = [
        _head(parts, title=title),
        f"# {title} as instructions",
        f"Made by tastemaker from {title}: {plain(template.task)}",
        "Every prompt shows only events strictly earlier than its target, not those of its second.",
        "## Parts",
        _table(_counts(parts)),
        f"An interaction counts as liked when `{tables.schema.label}`.",
        "## Lengths of prompt and completion",
        _table(_lengths(parts, count_tokens)),
        "## Columns",
        _table([["column", "meaning"], *([f"`{name}`", text] for name, text in _COLUMNS.items())]),
        "## Template",
        f"`{plain(template.name)}`: {plain(template.reference) or 'no reference given'}",
        *_example(parts),
        "## Licence",
        plain(tables.licence) or "The source states no licence; ask its owner before sharing this.",
        "## Making it again",
        f"```\n{command}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _head(parts: Mapping[str, pl.DataFrame], *, title: str) -> str:
    total = sum(frame.height for frame in parts.values())
    size = next((name for limit, name in _SIZES if total < limit), "n>1M")
    files = [{"split": part, "path": f"data/{part}-*.parquet"} for part in parts]
    head = {
        "pretty_name": f"{title} as instructions",
        "license": "other",
        "task_categories": ["text-generation"],
        "tags": ["recommendation", "instruction-tuning"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _counts(parts: Mapping[str, pl.DataFrame]) -> list[list[str]]:
    rows = [["part", "rows", "users", "items", "liked", "from", "to"]]
    for part, frame in parts.items():
        liked, times = frame["label"].mean(), frame["timestamp"]
        rows.append(
            [
                part,
                f"{frame.height:,}",
                f"{frame['user_id'].n_unique():,}",
                f"{frame['item_id'].n_unique():,}",
                "–" if not isinstance(liked, float) else f"{liked:.1%}",
                _day(times.min()),
                _day(times.max()),
            ]
        )
    return rows


def _lengths(
    parts: Mapping[str, pl.DataFrame],
    count_tokens: Callable[[Sequence[str]], Sequence[int]] | None,
) -> list[list[str]]:
    rows = [["part", "unit", "median", "95 %", "longest"]]
    counters = {"characters": lambda texts: [len(text) for text in texts], "tokens": count_tokens}
    for part, frame in parts.items():
        texts = _texts(frame)
        for unit, count in counters.items():
            if count is not None and texts:
                values = np.percentile(np.asarray(count(texts)), [50, 95, 100])
                rows.append([part, unit, *(f"{value:,.0f}" for value in values)])
    return rows


def _texts(frame: pl.DataFrame) -> list[str]:
    """All messages of each row as one text."""
    contents = pl.concat_list("prompt", "completion").list.eval(
        pl.element().struct.field("content")
    )
    return frame.select(text=contents.list.join("\n"))["text"].to_list()


def _example(parts: Mapping[str, pl.DataFrame]) -> list[str]:
    """The first instruction; its titles are single-line, so they cannot close the fence."""
    filled = [frame for frame in parts.values() if frame.height]
    return [f"~~~~text\n{_texts(filled[0].head(1))[0]}\n~~~~"] if filled else []


def _day(second: object) -> str:
    return (
        datetime.fromtimestamp(second, UTC).date().isoformat() if isinstance(second, int) else "–"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
