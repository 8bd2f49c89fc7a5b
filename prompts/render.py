"""Hostile text made plain, so that data stays data inside a prompt.

A title or review may contain chat-template tokens, control or bidirectional characters, or quotes
that fake the structure of a prompt. Language models and their tokenizers are unknown here, so the
rule does not list tokens: it breaks every bracket that could open one. Jinja syntax needs no care,
because values are never read as templates.
"""

from __future__ import annotations

import re
import unicodedata

from tastemaker.data.tables import Tables

__all__ = ["article_first", "display_titles", "plain"]

# Control, format (bidirectional, zero-width, tag), surrogate and private-use characters.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co"})
# Tokens such as <|im_end|>, </s>, <<SYS>> and <start_of_turn> all begin with an angle bracket and
# no space. The further characters are those that Unicode normalisation can turn into the first.
_ANGLE = re.compile("[<\u226e\ufe64\uff1c](?! )")
# [INST], [/INST], [CLS], [gMASK], [TOOL_CALLS].
_SQUARE = re.compile("[\\[\ufe47\uff3b](/?[\\w-]+)[\\]\ufe48\uff3d]")
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


def display_titles(tables: Tables, *, longest: int = 150) -> list[str]:
    """Title of each item as prompts show it: plain, of bounded length, free of double quotes.

    Prompts put titles in double quotes; without inner ones a title cannot fake the end of its own,
    and the titles of a finished prompt can be read back.

    Args:
        tables: Gives the titles, one per dense item id.
        longest: Characters; longer titles are cut at a word (KAR §2: 150).

    Returns:
        One title per item, never empty.
    """
    return [_shortened(plain(title), longest) for title in tables.items["title"].to_list()]


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


def _shortened(title: str, longest: int) -> str:
    title = title.replace('"', "'")
    if len(title) > longest:
        head = title[: longest + 1]
        title = head.rpartition(" ")[0].rstrip() or title[:longest]
    return title or "Untitled"
