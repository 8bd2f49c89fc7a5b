"""Instructions in the file formats that trainers read, and back.

A *canonical* frame has the columns `system` ("" when there is none), `prompt`, `completion`, for
preference pairs also `rejected`, and then `PROVENANCE`. A format arranges such a frame as its
trainer wants it and restores it from there. A data set is a folder: `format.json` names its format,
`data/PART-*.parquet` or `.jsonl` holds the shards of each part, and the head of `README.md` names
the parts for `datasets.load_dataset`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.stage import atomic_file

__all__ = [
    "PROVENANCE",
    "Format",
    "dataset_info",
    "find_format",
    "format_names",
    "load_patterns",
    "read_shards",
    "write_format",
    "write_shard",
]

PROVENANCE = (
    "template",
    "user_id",
    "item_id",
    "label",
    "timestamp",
    "domain",
    "split",
    "row",
    "candidates",
)
_TEXTS = ("system", "prompt", "completion")
_FORMAT_FILE = "format.json"
_FACTORY_COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "system": "system"},
    "sharegpt": {"messages": "conversations", "system": "system"},
}
_FACTORY_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
}
# Also keeps the texts of one row group below the 2 GiB that 32-bit offsets can address.
_GROUP_ROWS = 65_536

_Columns = dict[str, pl.Expr]
_Reading = Callable[[str], pl.Expr]


@dataclass(frozen=True)
class Format:
    """A shape of instructions on disk.

    Attributes:
        name: As in `format.json`.
        suffix: Ending of its files.
        meaning: One line for help texts.
        outward: Whether there are pairs → its columns, made of canonical ones.
        inward: Whether there are pairs → canonical columns, made of its own.
        pair_column: Column that only its preference form has; None when it has no such form.
        provenance: Whether it keeps `PROVENANCE`.
    """

    name: str
    suffix: Literal["parquet", "jsonl"]
    meaning: str
    outward: Callable[[bool], _Columns]
    inward: Callable[[bool], _Columns]
    pair_column: str | None = "rejected"
    provenance: bool = True

    def arrange(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A canonical frame as this format wants it, row by row.

        Raises:
            UserError: there are preference pairs, which this format cannot hold.
        """
        pairs = "rejected" in frame.columns
        if pairs and self.pair_column is None:
            fit = [one.name for one in _FORMATS.values() if one.pair_column is not None]
            raise UserError(
                f"format '{self.name}' has no form for preference pairs.",
                allowed=f"with pairs: {', '.join(fit)}",
                remedy="Choose one of these formats, or build without pairs.",
            )
        known = frame.columns
        kept = [name for name in PROVENANCE if name in known] if self.provenance else []
        return _typed(frame).select(*_named(self.outward(pairs)), *kept)

    def restore(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The canonical frame that `arrange` was given, without what the format leaves out."""
        kept = [name for name in PROVENANCE if name in frame.columns]
        pairs = self.pair_column in frame.columns
        return _typed(frame.select(*_named(self.inward(pairs)), *kept))


def format_names() -> list[str]:
    """Names of the formats, the default first."""
    return list(_FORMATS)


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UnknownNameError: no such format; the message offers the nearest one.
    """
    if name not in _FORMATS:
        raise UnknownNameError("format", name, _FORMATS)
    return _FORMATS[name]


def write_shard(frame: pl.DataFrame, path: Path, *, format: str) -> None:
    """Write canonical rows as one file; equal rows give equal bytes.

    Args:
        frame: Canonical.
        path: `FOLDER/data/PART-00000-of-00001.SUFFIX`; appears complete or not at all.
        format: One of `format_names()`.

    Raises:
        UnknownNameError: no such format.
        UserError: the frame has preference pairs, which the format cannot hold.
    """
    shape = find_format(format)
    arranged = shape.arrange(frame)
    with atomic_file(path) as handle:
        if shape.suffix == "parquet":
            _write_parquet(arranged, handle)
        else:
            arranged.write_ndjson(handle)


def write_format(folder: Path, name: str) -> None:
    """Note in `format.json` which format the shards of a data set have.

    Raises:
        UnknownNameError: no such format.
    """
    with atomic_file(folder / _FORMAT_FILE) as handle:
        handle.write(json.dumps({"format": find_format(name).name}).encode() + b"\n")


def read_shards(folder: Path, part: str, *, limit: int | None = None) -> pl.DataFrame:
    """The canonical rows of one part of a data set, its shards in the order of their names.

    Args:
        folder: Of the data set.
        part: Such as `train`.
        limit: Read the first so many rows; all when None.

    Returns:
        Canonical rows; without `PROVENANCE` when the format leaves it out. JSON lines do not say
        what type a column without values has: such ids become int64.

    Raises:
        UserError: the folder is no data set, or has no such part.
    """
    shape = _format_of(folder)
    found = sorted((folder / "data").glob(f"*.{shape.suffix}"))
    files = [file for file in found if file.name.startswith(f"{part}-")]
    if not files:
        parts = sorted({file.name.split("-", 1)[0] for file in found})
        raise UserError(
            f"{folder} has no part '{part}'.",
            allowed=f"parts: {', '.join(parts) or 'none'}",
            remedy="Choose one of them." if parts else "Build the data set again.",
        )
    if shape.suffix == "parquet":
        return shape.restore(pl.read_parquet(files, n_rows=limit, glob=False))
    return shape.restore(_read_lines(files, limit, empty=shape.arrange(_EMPTY)))


def load_patterns(
    parts: Sequence[str], format: str, *, like: pl.DataFrame | None = None
) -> list[dict[str, Any]]:
    """Value of `configs` in the head of a data set's `README.md`.

    With it `datasets.load_dataset(FOLDER)` finds every part as the split of that name.

    Args:
        parts: Names of the parts with at least one row; `datasets` refuses an empty split.
        format: Of the shards.
        like: Canonical rows, whose types are then declared; none are looked at. Needed for JSON
            lines with nulls: `datasets` takes the types from the first 10 MiB and stops at values
            in a column that was empty there.

    Raises:
        UnknownNameError: no such format.
        UserError: `datasets` does not allow a part's name.
    """
    shape = find_format(format)
    for part in parts:
        if not re.fullmatch(r"\w+", part, flags=re.ASCII):
            raise UserError(
                f"a part cannot be called '{part}'.",
                allowed="letters, digits and underscores",
                remedy="Rename it.",
            )
    files = [{"split": part, "path": f"data/{part}-*.{shape.suffix}"} for part in parts]
    config: dict[str, Any] = {"config_name": "default", "data_files": files}
    if like is not None:
        schema = shape.arrange(like.clear()).schema
        config["features"] = [{"name": name, **_feature(kind)} for name, kind in schema.items()]
    return [config]


def dataset_info(
    name: str, parts: Sequence[str], *, format: str, pairs: bool
) -> dict[str, dict[str, Any]]:
    """Content of LLaMA-Factory's `dataset_info.json`, to lie beside `README.md`.

    An entry points at the whole folder (`script_url`, which LLaMA-Factory hands to `load_dataset`
    as it is) and names its split. Through `file_name` it would read single files, or all files of
    a sub-folder, and would guess their types, which fails where a column begins with nulls.

    Args:
        name: Of the data set; the entries are called `NAME_PART`.
        parts: As for `load_patterns`.
        format: `alpaca` or `sharegpt`.
        pairs: Whether the data set holds preference pairs.

    Raises:
        UnknownNameError: no such format.
        UserError: LLaMA-Factory does not read the format.
    """
    if find_format(format).name not in _FACTORY_COLUMNS:
        raise UserError(
            f"LLaMA-Factory does not read format '{format}'.",
            allowed=f"formats: {', '.join(_FACTORY_COLUMNS)}",
            remedy="Build the data set in one of these.",
        )
    columns = dict(_FACTORY_COLUMNS[format])
    if pairs:
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    elif format == "alpaca":
        columns["response"] = "output"
    shared: dict[str, Any] = {"formatting": format, "ranking": pairs, "columns": columns}
    if format == "sharegpt":
        shared["tags"] = dict(_FACTORY_TAGS)
    return {f"{name}_{part}": {"script_url": ".", "split": part, **shared} for part in parts}


def _trl_out(pairs: bool) -> _Columns:
    return {"prompt": _asked(), **_answers(pairs, _assistant)}


def _trl_in(pairs: bool) -> _Columns:
    return _asked_back(pl.col("prompt")) | _answers_back(pairs, _content)


def _trl_text_out(pairs: bool) -> _Columns:
    above = pl.when(pl.col("system") != "").then(pl.col("system") + "\n\n").otherwise(pl.lit(""))
    return {"prompt": above + pl.col("prompt") + "\n", **_answers(pairs, pl.col)}


def _trl_text_in(pairs: bool) -> _Columns:
    asked = {"system": pl.lit(""), "prompt": pl.col("prompt").str.strip_suffix("\n")}
    return asked | _answers_back(pairs, pl.col)


def _messages_out(_: bool) -> _Columns:
    return {"messages": _asked(("assistant", "completion"))}


def _messages_in(_: bool) -> _Columns:
    asked = _asked_back(pl.col("messages"), answers=1)
    return asked | {"completion": _content("messages")}


def _alpaca_out(pairs: bool) -> _Columns:
    prompt = pl.col("prompt")
    halves = prompt.str.splitn("\n", 2)
    first, rest = halves.struct.field("field_0"), halves.struct.field("field_1").fill_null("")
    # LLaMA-Factory drops an empty half together with the newline that would join it.
    two = (first != "") & (rest != "")
    return {
        "instruction": pl.when(two).then(first).otherwise(prompt),
        "input": pl.when(two).then(rest).otherwise(pl.lit("")),
        **_answers(pairs, pl.col, alone="output"),
        "system": pl.col("system"),
    }


def _alpaca_in(pairs: bool) -> _Columns:
    first, rest = pl.col("instruction"), pl.col("input")
    prompt = pl.when(rest == "").then(first).otherwise(first + "\n" + rest)
    answers = _answers_back(pairs, pl.col, alone="output")
    return {"system": pl.col("system"), "prompt": prompt, **answers}


def _sharegpt_out(pairs: bool) -> _Columns:
    gpt = partial(_said, "gpt")
    turns = [_said("human", "prompt"), *([] if pairs else [gpt("completion")])]
    answers = _answers(pairs, gpt) if pairs else {}
    return {"conversations": pl.concat_list(turns), **answers, "system": pl.col("system")}


def _sharegpt_in(pairs: bool) -> _Columns:
    turns = pl.col("conversations").list
    columns = {"system": pl.col("system"), "prompt": turns.first().struct.field("value")}
    if pairs:
        return columns | _answers_back(pairs, lambda name: pl.col(name).struct.field("value"))
    return columns | {"completion": turns.last().struct.field("value")}


def _openai_out(pairs: bool) -> _Columns:
    if not pairs:
        return _messages_out(pairs)
    return {
        "input": pl.struct(_asked().alias("messages")),
        "preferred_output": _assistant("completion"),
        "non_preferred_output": _assistant("rejected"),
    }


def _openai_in(pairs: bool) -> _Columns:
    if not pairs:
        return _messages_in(pairs)
    return {
        **_asked_back(pl.col("input").struct.field("messages")),
        "completion": _content("preferred_output"),
        "rejected": _content("non_preferred_output"),
    }


_LISTED = (
    Format("trl", "parquet", "TRL, prompt and answer as messages", _trl_out, _trl_in),
    Format(
        "trl-text",
        "parquet",
        "TRL, prompt and answer as plain text; a system text becomes part of the prompt for good",
        _trl_text_out,
        _trl_text_in,
    ),
    Format(
        "messages",
        "parquet",
        "whole conversations in one column of messages; not for preference pairs",
        _messages_out,
        _messages_in,
        pair_column=None,
    ),
    Format("alpaca", "jsonl", "instruction, input and output", _alpaca_out, _alpaca_in),
    Format("sharegpt", "jsonl", "conversations of human and gpt", _sharegpt_out, _sharegpt_in),
    Format(
        "openai",
        "jsonl",
        "what OpenAI fine-tuning accepts and nothing else, so without provenance",
        _openai_out,
        _openai_in,
        pair_column="non_preferred_output",
        provenance=False,
    ),
)
_FORMATS = {one.name: one for one in _LISTED}


def _named(columns: _Columns) -> list[pl.Expr]:
    return [column.alias(name) for name, column in columns.items()]


def _answers(pairs: bool, shaped: _Reading, *, alone: str = "completion") -> _Columns:
    if pairs:
        return {"chosen": shaped("completion"), "rejected": shaped("rejected")}
    return {alone: shaped("completion")}


def _answers_back(pairs: bool, text: _Reading, *, alone: str = "completion") -> _Columns:
    if pairs:
        return {"completion": text("chosen"), "rejected": text("rejected")}
    return {"completion": text(alone)}


def _asked(*answers: tuple[str, str]) -> pl.Expr:
    """The system message, where there is one, then the user's, then those of `answers`."""
    turns = (("system", "system"), ("user", "prompt"), *answers)
    whole = pl.concat_list([_turn(role, text) for role, text in turns])
    return whole.list.slice((pl.col("system") == "").cast(pl.Int64))


def _asked_back(messages: pl.Expr, *, answers: int = 0) -> _Columns:
    contents = [messages.list.get(place).struct.field("content") for place in (0, -1 - answers)]
    system = pl.when(messages.list.len() > 1 + answers).then(contents[0]).otherwise(pl.lit(""))
    return {"system": system, "prompt": contents[1]}


def _turn(role: str, text: str) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), pl.col(text).alias("content"))


def _assistant(text: str) -> pl.Expr:
    return pl.concat_list(_turn("assistant", text))


def _content(messages: str) -> pl.Expr:
    return pl.col(messages).list.last().struct.field("content")


def _said(speaker: str, text: str) -> pl.Expr:
    return pl.struct(pl.lit(speaker).alias("from"), pl.col(text).alias("value"))


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    """With canonical types, also where a column holds nulls only."""
    whole, texts = pl.Int64(), (*_TEXTS, "rejected", "template", "domain", "split")
    types: dict[str, pl.DataType] = dict.fromkeys(texts, pl.String())
    types |= {"label": pl.Int8(), "timestamp": whole, "row": whole}
    listed = frame.schema.get("candidates")
    inner = listed.inner if isinstance(listed, pl.List) else None
    item = _known(frame.schema.get("item_id"), inner) or whole
    types |= {"user_id": _known(frame.schema.get("user_id")) or whole, "item_id": item}
    types["candidates"] = pl.List(_known(inner) or item)
    return frame.cast({name: kind for name, kind in types.items() if name in frame.columns})


def _known(*kinds: Any) -> Any:
    """The first type that is one, and not that of a column of nulls."""
    return next((kind for kind in kinds if kind is not None and kind != pl.Null), None)


_EMPTY = _typed(pl.DataFrame(schema=dict.fromkeys((*_TEXTS, *PROVENANCE), pl.Null())))


def _write_parquet(frame: pl.DataFrame, handle: IO[bytes]) -> None:
    """Write with 32-bit offsets, which every reader of Parquet data sets understands."""
    whole = frame.rechunk()
    slices = [_narrow_table(part.to_arrow()) for part in whole.iter_slices(_GROUP_ROWS)]
    table = pa.concat_tables(slices or [_narrow_table(whole.to_arrow())])
    pq.write_table(table, handle, compression="zstd", row_group_size=_GROUP_ROWS)


def _narrow_table(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([pa.field(one.name, _narrow(one.type)) for one in table.schema]))


def _narrow(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_list(kind):
        return pa.list_(_narrow(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _narrow(one.type)) for one in kind])
    text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return pa.string() if text else kind


def _read_lines(files: Sequence[Path], limit: int | None, *, empty: pl.DataFrame) -> pl.DataFrame:
    frames: list[pl.DataFrame] = []
    for content in (file.read_bytes() for file in files):
        left = None if limit is None else limit - sum(frame.height for frame in frames)
        if frames and left == 0:
            break
        if content:
            frames.append(pl.read_ndjson(BytesIO(content), n_rows=left, infer_schema_length=None))
    return pl.concat(frames, how="vertical_relaxed") if frames else empty


def _format_of(folder: Path) -> Format:
    try:
        name = json.loads((folder / _FORMAT_FILE).read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder} is not a data set of instructions: {_FORMAT_FILE} cannot be read ({error}).",
            allowed=f'a folder whose {_FORMAT_FILE} says {{"format": NAME}}',
            remedy="Build the data set again.",
        ) from error
    return find_format(str(name))


def _feature(kind: Any) -> dict[str, Any]:
    """A type in the notation of a card's head."""
    if isinstance(kind, pl.List):
        inner = _feature(kind.inner)
        return {"list": inner.get("struct") or inner["dtype"]}
    if isinstance(kind, pl.Struct):
        return {"struct": [{"name": one.name, **_feature(one.dtype)} for one in kind.fields]}
    return {"dtype": "string" if kind == pl.String else str(kind).lower()}
