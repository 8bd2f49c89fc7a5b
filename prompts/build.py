"""Interactions to instructions, and instructions to a data set on disk.

Every field of a prompt comes from `Histories`, so from events strictly before its target. What was
built is checked once more by other means in `prompts.audit`, from the finished text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from tastemaker.data.history import Histories, Past
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.render import display_titles
from tastemaker.prompts.template import Template
from tastemaker.stage import atomic_file

__all__ = ["instructions", "read_dataset", "render_prompts", "write_dataset"]

_FIELDS = ("liked", "disliked", "title")


def instructions(
    tables: Tables,
    histories: Histories,
    rows: ArrayLike,
    *,
    template: Template,
    history: int,
    split: str,
) -> pl.DataFrame:
    """One instruction per interaction row: will the user like this item?

    Args:
        tables: Users, items and interactions.
        histories: Index over the interactions of `tables`.
        rows: int64 [n], interaction row indices of the targets.
        template: Of the fields `liked`, `disliked` and `title`, with two choices.
        history: Most recent events shown; TALLRec: 10.
        split: Written into the column of that name.

    Returns:
        n rows in the order given. `prompt` and `completion` are lists of {role, content} messages;
        `template`, `user_id`, `item_id` (external), `label` int8, `timestamp` int64 (unix
        seconds), `domain`, `split` and `row` int64 say where they come from.

    Raises:
        UserError: the template has other fields, or not two choices.
    """
    positive, negative = _two_choices(template)
    wanted = np.asarray(rows, dtype=np.int64)
    events = tables.interactions[wanted]
    past = histories.before(wanted, max_length=history)
    prompts = render_prompts(tables, past, events["item"].to_numpy(), template=template)
    answers = pl.when(pl.col("label") == 1).then(pl.lit(positive)).otherwise(pl.lit(negative))
    return events.select(
        prompt=_message("user", pl.Series(prompts, dtype=pl.String)),
        completion=_message("assistant", answers),
        template=pl.lit(template.name),
        user_id=tables.users["user_id"].gather(events["user"]),
        item_id=tables.items["item_id"].gather(events["item"]),
        label=pl.col("label"),
        timestamp=pl.col("time"),
        domain=pl.lit(""),
        split=pl.lit(split),
        row=pl.Series(wanted, dtype=pl.Int64),
    )


def render_prompts(
    tables: Tables, past: Past, items: ArrayLike, *, template: Template
) -> list[str]:
    """The prompt of each (past, candidate item) pair.

    Args:
        tables: Gives titles and labels.
        past: n pasts, from `Histories.before` or `Histories.at`.
        items: int [n], dense ids of the candidates.
        template: Of the fields `liked`, `disliked` and `title`.

    Raises:
        UserError: the template needs other fields.
    """
    unknown = sorted(template.fields() - set(_FIELDS))
    if unknown:
        raise UserError(
            f"template '{template.name}' needs {', '.join(unknown)}, which an instruction has not.",
            allowed=f"fields: {', '.join(_FIELDS)}",
        )
    titles = display_titles(tables)
    targets = [titles[item] for item in np.asarray(items).tolist()]
    hidden = [name for name in _FIELDS if name not in template.fields()]
    prompts = []
    for (liked, disliked), title in zip(_parted(tables, past, titles), targets, strict=True):
        values = {"liked": liked, "disliked": disliked, "title": title}
        for name in hidden:
            del values[name]
        prompts.append(template.render(**values))
    return prompts


def write_dataset(folder: Path, parts: Mapping[str, pl.DataFrame], *, card: str) -> None:
    """Write a data set that `datasets.load_dataset(folder)` reads as it is.

    Args:
        folder: Gets `README.md` and `data/PART-00000-of-00001.parquet`.
        parts: `train`, `validation`, `test` → instructions.
        card: Text of the README.
    """
    for part, frame in parts.items():
        with atomic_file(_part_file(folder, part)) as handle:
            pq.write_table(_arrow(frame), handle, compression="zstd")
    with atomic_file(folder / "README.md") as handle:
        handle.write(card.encode())


def read_dataset(folder: Path, part: str, *, limit: int | None = None) -> pl.DataFrame:
    """One part of what `write_dataset` wrote.

    Args:
        folder: The data set.
        part: `train`, `validation` or `test`.
        limit: Read the first so many rows; all when None.
    """
    return pl.read_parquet(_part_file(folder, part), n_rows=limit)


def _part_file(folder: Path, part: str) -> Path:
    return folder / "data" / f"{part}-00000-of-00001.parquet"


def _two_choices(template: Template) -> tuple[str, str]:
    if len(template.choices) != 2:
        raise UserError(
            f"template '{template.name}' has {len(template.choices)} choices.",
            allowed="two: the positive answer, then the negative one",
            remedy='Declare them in its front matter, like choices: ["Yes.", "No."]',
        )
    return template.choices[0], template.choices[1]


def _parted(tables: Tables, past: Past, titles: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Liked and other titles of each past, oldest first."""
    items = tables.interactions["item"].to_numpy()[past.events]
    names = np.array(titles, dtype=object)[items].tolist()
    likes = (tables.interactions["label"].to_numpy()[past.events] == 1).tolist()
    offsets = past.offsets.tolist()
    for start, stop in pairwise(offsets):
        sides: tuple[list[str], list[str]] = ([], [])
        for name, like in zip(names[start:stop], likes[start:stop], strict=True):
            sides[0 if like else 1].append(name)
        yield sides


def _message(role: str, content: pl.Expr | pl.Series) -> pl.Expr:
    column = pl.lit(content) if isinstance(content, pl.Series) else content
    return pl.concat_list(pl.struct(role=pl.lit(role), content=column))


def _arrow(frame: pl.DataFrame) -> pa.Table:
    """As Arrow with 32-bit offsets, which every reader of Parquet data sets understands."""
    text, messages = (
        pa.string(),
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    )
    table = frame.to_arrow()
    plain_types = {"prompt": messages, "completion": messages}
    fields = [
        pa.field(one.name, plain_types.get(one.name, text if _is_text(one.type) else one.type))
        for one in table.schema
    ]
    return table.cast(pa.schema(fields))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
