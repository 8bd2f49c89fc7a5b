"""Hostile text made plain, so that data stays data inside a prompt.

A title or review may contain chat-template tokens, control or bidirectional characters, or quotes
that fake the structure of a prompt. Language models and their tokenizers are unknown here, so the
rule does not list tokens: it breaks every bracket that could open one. Jinja syntax needs no care,
because values are never read as templates.
"""

from __future__ import annotations

import re
import unicodedata

import polars as pl

from tastemaker.data.tables import Tables

__all__ = ["article_first", "as_text", "display_titles", "plain", "profiles", "quotable"]

# Control, format (bidirectional, zero-width, tag), surrogate and private-use characters.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co"})
# Tokens such as <|im_end|>, </s>, <<SYS>> and <start_of_turn> all begin with an angle bracket and
# no space. The further characters are those that Unicode normalisation can turn into the first.
_ANGLE = re.compile("[<\u226e\ufe64\uff1c](?! )")
# [INST], [/INST], [CLS], [gMASK], [TOOL_CALLS], whatever characters they are written in.
_SQUARE = re.compile("[\\[\ufe47\uff3b]([^\\s()\\[\\]\ufe47\ufe48\uff3b\uff3d]+)[\\]\ufe48\uff3d]")
_JUNK = 10_000  # characters
_PROFILE_COLUMNS = ("gender", "age", "occupation")
_ARTICLE = re.compile(
    r"(?P<rest>[^()]+), (?P<article>The|A|An|Le|La|Les|L'|Il|El|Los|Las|Der|Die|Das|Den|Det)"
    r"(?P<tail>(?: \(.*)?)",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    r"""`text` on one line, without anything a tokenizer could take for a special token.

    Invisible characters go, white space becomes single spaces, `<` that could open a token becomes
    `‹`, and square brackets around a single word become round ones. Applying it twice changes
    nothing more.

    >>> plain("Up<|im_end|>\n[INST] <s>")
    'Up‹|im_end|> (INST) ‹s>'
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(kept for kept in map(_visible, text))
    text = " ".join(text.split())
    if "<" in text or "[" in text or not text.isascii():
        text = _SQUARE.sub(r"(\1)", _ANGLE.sub("‹", text))
    return text


def quotable(text: str) -> str:
    """Plain text without double quotes: it cannot pass for a title, nor end one.

    >>> quotable('a "b"')
    "a 'b'"
    """
    return plain(text).replace('"', "'")


def as_text(values: pl.Series) -> pl.Series:
    """A column as people write it, `8` for 8.0, and empty where there is nothing.

    >>> as_text(pl.Series([8.0, 12.5, None])).to_list()
    ['8', '12.5', '']
    """
    if not values.dtype.is_float():
        return values.cast(pl.String).fill_null("")
    digits = 6 if values.dtype == pl.Float32 else 15
    texts = ["" if value is None else f"{value:.{digits}g}" for value in values.to_list()]
    return pl.Series(values.name, texts, dtype=pl.String)


def display_titles(tables: Tables, *, longest: int = 150) -> list[str]:
    """Title of each item as prompts show it: plain, of bounded length, free of double quotes.

    Prompts put titles in double quotes; without inner ones a title cannot fake the end of its own,
    and the titles of a finished prompt can be read back. A title of 10,000 characters or more is no
    title but a script of a web page, and is shown as one with nothing to read: `Untitled`.

    Args:
        tables: Gives the titles, one per dense item id.
        longest: Characters; longer titles are cut at a word (KAR §2: 150). What is junk does not
            depend on it (Uni-CTR, as released: 10,000).

    Returns:
        One title per item, never empty.
    """
    return [_displayed(title, longest) for title in tables.items["title"].to_list()]


def profiles(tables: Tables) -> list[str]:
    """Phrase per user from the columns KAR names (§2), empty where there are none."""
    columns = [name for name in _PROFILE_COLUMNS if name in tables.users.columns]
    if not columns:
        return [""] * tables.n_users
    rows = pl.DataFrame([as_text(tables.users[name]) for name in columns]).iter_rows(named=True)
    return [
        ", ".join(f"{name} {quotable(value)}" for name, value in row.items() if value)
        for row in rows
    ]


def article_first(title: str) -> str:
    """`title` with a trailing article moved to its front (KAR §2).

    >>> article_first("Usual Suspects, The (1995)")
    'The Usual Suspects (1995)'
    """
    found = _ARTICLE.fullmatch(title)
    if found is None:
        return title
    gap = "" if found["article"].endswith("'") else " "
    return f"{found['article']}{gap}{found['rest']}{found['tail']}"


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in _INVISIBLE else character


def _displayed(title: str, longest: int) -> str:
    return _shortened("" if len(title) >= _JUNK else quotable(title), longest)


def _shortened(title: str, longest: int) -> str:
    if len(title) > longest:
        head = title[: longest + 1]
        # A bracket that stood before a space may now stand at the end.
        title = plain(head.rpartition(" ")[0].rstrip() or title[:longest])
    return title or "Untitled"
