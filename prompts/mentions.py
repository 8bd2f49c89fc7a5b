"""What a finished prompt names, read back from its text alone.

Titles are read from their double quotes, and numbers of items where a template writes lists of
them. Nothing here knows how the prompt was made, so a mistake of the builder is seen and not
repeated. Items that share a title count as one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.errors import UserError
from tastemaker.prompts.fields import INDEX_FIELDS, field_named
from tastemaker.prompts.template import Template

__all__ = [
    "QUOTED",
    "Shape",
    "constants_of",
    "mentioned",
    "own_words",
    "prompt_texts",
    "quoted_titles",
    "shape_of",
]

QUOTED = r'"[^"\n]*"'
_ITEM = "(?:item_)?"
_NUMBERS = rf"\b{_ITEM}\d+\b"
_TOKENS = r"(?:<CI\d+>)+"
_TITLE, _NUMBER, _OTHER = "\ue000", "\ue001", "\ue002"  # private use: no text holds them
_SIDES = (
    {"liked", "disliked"},
    {"liked_works", "disliked_works"},
    {"history"},
    {"history_index"},
    {"liked_before"},
    {"liked_before_index"},
    {"rated_history"},
    {"judged_history"},
    {"reviewed_history"},
)


@dataclass(frozen=True)
class Shape:
    """What a template's prompts should name.

    Attributes:
        own: How often they name their target.
        pasts: How many lists of events they show.
        numbered: Whether items are named by number.
        choices: Whether candidates are shown.
        attributes: Whether values stand without quotes on purpose.
    """

    own: int
    pasts: int
    numbered: bool
    choices: bool
    attributes: bool


@cache
def shape_of(template: Template) -> Shape:
    """The shape of a template, from rendering it with marks in place of values."""
    asked = template.asked
    numbered = bool(asked & INDEX_FIELDS - {"item_index"})
    text = _written(template, {"title": _TITLE, "item_index": _NUMBER})
    called = rf"(?<!\w){_before_numbers(template)}{_NUMBER}(?!\w)"
    numbers = re.findall(called, re.sub(QUOTED, "", text))
    return Shape(
        own=text.count(f'"{_TITLE}"') + (len(numbers) if numbered else 0),
        pasts=sum(bool(asked & side) for side in _SIDES),
        numbered=numbered,
        choices=bool(asked & {"candidates", "candidates_index"}),
        attributes=bool({"attributes", "user_attributes"} & asked)
        or any(field_named(name).role in ("column", "outcome") for name in asked),
    )


def prompt_texts(frame: pl.DataFrame) -> pl.Series:
    """System part and prompt of each instruction as one text."""
    joined = pl.concat_str("system", "prompt", separator="\n").str.strip_chars_start("\n")
    return frame.select(text=joined).to_series()


def mentioned(
    frame: pl.DataFrame,
    texts: pl.Series,
    *,
    names: pl.DataFrame,
    codes: NDArray[np.int64],
    index: pl.Series | None,
    known: Mapping[str, Template],
) -> pl.DataFrame:
    """`place` of the prompt and `code` of the title, for each known item it names.

    Args:
        frame: Instructions; gives the template of each.
        texts: String [n], their prompts.
        names: `title` and its number `code`.
        codes: int64 [n_items], number of each item's title.
        index: String [n_items], what items are called by number; None where they never are.
        known: Name in the column `template` → the template.
    """
    found = [pl.DataFrame(schema={"place": pl.UInt32, "code": pl.UInt32})]
    for name, template in known.items():
        mine = frame["template"] == name
        places = pl.Series("place", mine.arg_true(), dtype=pl.UInt32)
        own = texts.filter(mine)
        for prefix in _before_quoted_others(template):
            own = own.str.replace_all(re.escape(prefix) + QUOTED, prefix.replace("$", "$$"))
        quoted = _quoted(own, constants_of(template)).filter(
            ~pl.col("title").is_in(_quoted_in_lists(template))
        )
        read = [quoted.join(names, on="title").select("place", "code")]
        if index is not None and shape_of(template).numbered:
            called = pl.DataFrame({"said": index, "code": codes}).cast({"code": pl.UInt32})
            before = _before_numbers(template)
            read.append(_numbered(_without_others(own, template), called, before=before))
        found += [one.with_columns(places.gather(one["place"])) for one in read]
    return pl.concat(found)


def quoted_titles(texts: pl.Series, *, titles: pl.Series, constants: Iterable[str]) -> pl.DataFrame:
    """`place` of the text and `title`, for each known title in double quotes.

    Args:
        texts: String [n].
        titles: The known ones.
        constants: What stands in double quotes in every text, once each.
    """
    said = _quoted(texts, constants)
    return said.join(titles.unique().alias("title").to_frame(), on="title", how="semi")


def _quoted(texts: pl.Series, constants: Iterable[str]) -> pl.DataFrame:
    """`place` of the text and `title`, for whatever else stands in double quotes."""
    for constant in constants:
        texts = texts.str.replace(constant, "", literal=True)
    quoted = pl.DataFrame({"title": texts.str.extract_all(QUOTED)}).with_row_index("place")
    return quoted.explode("title").with_columns(pl.col("title").str.strip_chars('"'))


def own_words(template: Template) -> str:
    """The template's own words."""
    return _written(template, {})


@cache
def constants_of(template: Template) -> list[str]:
    """What stands in double quotes in every prompt of the template, such as its choices."""
    return [text for text in re.findall(QUOTED, own_words(template)) if text.strip('" ')]


@cache
def _quoted_in_lists(template: Template) -> list[str]:
    """What the template itself puts in double quotes for each element of a list, as JSON keys."""
    try:
        text = _question(template, _filled(template, "", several=2))
    except UserError:
        return []
    more = Counter(re.findall(QUOTED, text)) - Counter(constants_of(template))
    return [said.strip('"') for said in more]


@cache
def _before_quoted_others(template: Template) -> list[str]:
    """What the template writes before other values than titles that it puts in double quotes.

    A description or a review may be the same as the title of some item.
    """
    values = _filled(template, _OTHER, several=2)
    for name in values:
        field = field_named(name)
        if "title" in field.parts:
            one = tuple(_TITLE if part == "title" else _OTHER for part in field.parts)
            values[name] = [one] * 2
        elif name == "title" or field.role in ("past", "choice"):
            values[name] = [_TITLE] * 2 if field.kind == "texts" else _TITLE
    try:
        text = _question(template, values)
    except UserError:
        return []
    before = {
        sign: set(re.findall(rf'([^{_TITLE}{_OTHER}\n]*)"{sign}"', text))
        for sign in (_TITLE, _OTHER)
    }
    return [
        prefix
        for prefix in sorted(before[_OTHER])
        if len(re.findall(r"[^\W\d_]", prefix)) > 2
        and not any(other.endswith(prefix) for other in before[_TITLE])
    ]


def _written(template: Template, known: Mapping[str, str]) -> str:
    """The question with nothing in place of all values but the known ones."""
    # An empty text is an empty list, too: joined, looped over or tested, it leaves nothing.
    try:
        return _question(template, {**dict.fromkeys(template.fields(), ""), **known})
    except UserError:  # it takes single elements or letters
        return _question(template, {**_filled(template, " ", several=9), **known})


def _question(template: Template, values: Mapping[str, Any]) -> str:
    return "\n".join(template.render_section(part, values) for part in ("system", "prompt"))


def _filled(template: Template, text: str, *, several: int) -> dict[str, Any]:
    """The text in place of every value; lists hold it so many times."""
    found: dict[str, Any] = {}
    for name in template.fields():
        field = field_named(name)
        one = (text,) * len(field.parts) if field.kind == "tuples" else text
        found[name] = text if field.kind == "text" else [one] * several
    return found


@cache
def _lines_of_others(template: Template) -> list[tuple[str, str]]:
    """Patterns of lines that show other values than numbers of items; the lines without those.

    A user's name, a brand or the name of the data may hold any number.
    """
    found = {}
    for several in (1, 0):
        values = _filled(template, _OTHER, several=several)
        for name in INDEX_FIELDS & values.keys():
            values[name] = [_NUMBER] * several if isinstance(values[name], list) else _NUMBER
        try:
            lines = _question(template, values).split("\n")
        except UserError:
            continue
        for line in lines:
            # A line without words of its own could be any line.
            if _OTHER in line and len(re.findall(r"[^\W\d_]", line)) > 2:
                found[_pattern(line)] = _kept(line)
    return list(found.items())


def _pattern(line: str) -> str:
    signs = {_OTHER: r"[^\n]*?", _NUMBER: r"([^\n]*)"}
    parts = re.split(f"([{_OTHER}{_NUMBER}])", line)
    return "(?m)^" + "".join(signs.get(part) or re.escape(part) for part in parts) + "$"


def _kept(line: str) -> str:
    first, *rest = line.replace("$", "$$").replace(_OTHER, "").split(_NUMBER)
    return first + "".join(f"${{{place}}}{part}" for place, part in enumerate(rest, start=1))


def _without_others(texts: pl.Series, template: Template) -> pl.Series:
    """The prompts without quoted titles and whatever else may hold a number."""
    for pattern, kept in _lines_of_others(template):
        texts = texts.str.replace(pattern, kept)
    for constant in re.findall(_NUMBERS, re.sub(QUOTED, "", own_words(template))):
        texts = texts.str.replace(rf"\b{constant}\b", "")
    return texts.str.replace_all(QUOTED, "")


@cache
def _before_numbers(template: Template) -> str:
    """Pattern of what stands before each number of an item, such as `product_`.

    Where that is always the same word, no other number is one of an item: prices and names of
    brands may hold any.
    """
    values = _filled(template, _OTHER, several=2)
    for name in INDEX_FIELDS & values.keys():
        values[name] = [_NUMBER] * 2 if isinstance(values[name], list) else _NUMBER
    try:
        found = set(re.findall(rf"(\w*){_NUMBER}", _question(template, values)))
    except UserError:
        return _ITEM
    return found.pop() if len(found) == 1 and not found & {"", "item_"} else _ITEM


def _numbered(texts: pl.Series, called: pl.DataFrame, *, before: str) -> pl.DataFrame:
    signs = (rf"\b{before}\d+\b", _TOKENS)
    found = [texts.str.extract_all(sign).to_frame("said") for sign in signs]
    places = pl.concat([pl.Series("place", range(len(texts)), dtype=pl.UInt32)] * 2)
    return (
        pl.concat(found)
        .with_columns(places)
        .explode("said")
        .with_columns(pl.col("said").str.replace(rf"^{before}", ""))
        .join(called, on="said", maintain_order="left")
        .select("place", "code")
    )
