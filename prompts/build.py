"""Interactions to instructions, and instructions to a data set on disk.

Every field of a prompt comes from `Histories`, so from events strictly before its target. What was
built is checked once more by other means in `check_no_leak`, from the finished text alone.
"""

from __future__ import annotations

import re
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
from tastemaker.errors import LeakError, UserError
from tastemaker.prompts.render import display_titles
from tastemaker.prompts.template import Template, find_template
from tastemaker.stage import atomic_file

__all__ = ["check_no_leak", "instructions", "read_dataset", "render_prompts", "write_dataset"]

_FIELDS = ("liked", "disliked", "title")
_SHOWN_PROBLEMS = 10
_QUOTED = r'"[^"\n]*"'


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


def check_no_leak(
    tables: Tables, frame: pl.DataFrame, histories: Histories, *, history: int
) -> None:
    """Prove on finished prompts that nothing in them is from the target's time or later.

    Titles are read back from their double quotes, so the check sees what the model will see. Each
    must be the target's own, once, or that of an item the user had met strictly earlier; a prompt
    may not show more of them than `history`, nor than events before the target. Items that share a
    title count as one.

    Args:
        tables: What the prompts were made from.
        frame: Instructions.
        histories: Index over the interactions of `tables`.
        history: Most recent events a prompt may show.

    Raises:
        LeakError: names the rows and what is wrong with each.
    """
    if frame.is_empty():
        return
    titles = pl.Series(display_titles(tables), dtype=pl.String)
    events = tables.interactions.with_columns(title=titles.gather(tables.interactions["item"]))
    targets = events[frame["row"].to_numpy()]
    shown = _shown_titles(frame, titles=titles, targets=targets)
    first_met = events.group_by("user", "title").agg(first_met=pl.col("time").min())
    shown = shown.join(first_met, on=["user", "title"], how="left")
    limits = np.minimum(histories.counts(frame["row"].to_numpy()), history)
    problems = [
        *_provenance_problems(tables, frame, targets),
        *_title_problems(shown),
        *_count_problems(shown, frame, limits=limits),
    ]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS])
        raise LeakError(f"{len(problems)} problem(s) in the built prompts; first ones:\n{listed}")


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


def _shown_titles(frame: pl.DataFrame, *, titles: pl.Series, targets: pl.DataFrame) -> pl.DataFrame:
    """Each known title in double quotes, in reading order, beside its row's target."""
    text = pl.col("prompt").list.eval(pl.element().struct.field("content")).list.join("\n")
    for name in frame["template"].unique():
        for constant in _quoted_constants(find_template(name)):
            own = text.str.replace(constant, "", literal=True)
            text = pl.when(pl.col("template") == name).then(own).otherwise(text)
    content = frame.with_row_index("place").select(
        "place",
        "row",
        user=targets["user"],
        time=targets["time"],
        target=targets["title"],
        title=text.str.extract_all(_QUOTED),
    )
    quoted = content.explode("title").with_columns(pl.col("title").str.strip_chars('"'))
    return quoted.filter(pl.col("title").is_in(titles.unique().implode()))


def _quoted_constants(template: Template) -> list[str]:
    """What stands in double quotes in every prompt of the template, such as its choices."""
    nothing: dict[str, object] = {"liked": [], "disliked": [], "title": ""}
    text = template.render(**{name: nothing[name] for name in template.fields()})
    return [quoted for quoted in re.findall(_QUOTED, text) if quoted != '""']


def _provenance_problems(
    tables: Tables, frame: pl.DataFrame, targets: pl.DataFrame
) -> Iterator[str]:
    same = pl.DataFrame(
        {
            "user_id": frame["user_id"] == tables.users["user_id"].gather(targets["user"]),
            "item_id": frame["item_id"] == tables.items["item_id"].gather(targets["item"]),
            "label": frame["label"] == targets["label"],
            "timestamp": frame["timestamp"] == targets["time"],
        }
    )
    for column in same.columns:
        for row in frame["row"].filter(~same[column]):
            yield f"row {row}: its {column} is not that of the interaction"


def _title_problems(shown: pl.DataFrame) -> Iterator[str]:
    earlier = (pl.col("first_met") < pl.col("time")).fill_null(value=False)
    is_target = pl.col("title") == pl.col("target")
    repeats = shown.group_by("place", "row", "title", maintain_order=True).agg(
        pl.len().alias("times"), allowed=earlier.first(), is_target=is_target.first()
    )
    # The target's title stands once in every prompt, as the question.
    leaked = ~pl.col("allowed") & (pl.col("times") > pl.col("is_target").cast(pl.UInt32))
    for row, title in repeats.filter(leaked).select("row", "title").iter_rows():
        yield f"row {row}: shows '{title}', which the user had not met before"


def _count_problems(
    shown: pl.DataFrame, frame: pl.DataFrame, *, limits: np.ndarray
) -> Iterator[str]:
    counts = shown.group_by("place").agg(
        pl.len().alias("titles"), targets=(pl.col("title") == pl.col("target")).sum()
    )
    rows = frame.select("row").with_columns(limit=pl.Series(limits)).with_row_index("place")
    joined = rows.join(counts, on="place", how="left").fill_null(0)
    for row, limit, titles, targets in joined.drop("place").iter_rows():
        if targets == 0:
            yield f"row {row}: the target's title does not stand in double quotes in the prompt"
        elif titles - 1 > limit:
            yield f"row {row}: shows {titles - 1} events, at most {limit} came before the target"
