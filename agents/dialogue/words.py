"""A message as words, each with its place in the text and the form it is looked up by.

Forms are casefolded and have no accents. A hyphen inside a word parts it and vanishes ("sci-fi" is
two words, as is "sci fi"); any other sign is a word of its own, since signs end clauses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Word", "folded", "forms_of", "is_capitalised", "words_of"]

_LONGEST = 8000  # characters of a message that are read at all
_APOSTROPHES = str.maketrans("’‘ʼ`", "''''")
_PIECE = re.compile(
    r"\n+"
    r"|'?\d+(?:[.,]\d+)*(?:'?s|st|nd|rd|th)?(?!\w)"  # 1994, 1,200, 1990s, 2nd, '90s
    r"|(?:[^\W\d_]\.){2,}"  # E.T.
    r"|(?:[Mm]rs?|[DdJSj]r|[SsM]t|[Vv]s|Prof)\.(?=\s)"
    r"|[^\W\d_]+(?:'[^\W\d_]+)*"
    r"|\w+"
    r"|[^\w\s]"
)
_HYPHENS = frozenset("-‐‑")


@dataclass(frozen=True)
class Word:
    """One word, number or sign.

    Attributes:
        text: As written.
        form: What it is looked up by.
        start: First character in the message.
        end: Character after its last one.
    """

    text: str
    form: str
    start: int
    end: int

    @property
    def is_sign(self) -> bool:
        """Whether it is neither word nor number."""
        return not any(sign.isalnum() for sign in self.form)


def words_of(message: str) -> list[Word]:
    """The words of a message; time is linear in its length.

    >>> [word.form for word in words_of("Sci-Fi, 1990s?")]
    ['sci', 'fi', ',', '1990s', '?']
    """
    text = message[:_LONGEST].translate(_APOSTROPHES)
    found = []
    for piece in _PIECE.finditer(text):
        if piece[0] in _HYPHENS and _inside_word(text, piece.start()):
            continue
        start, end = piece.span()
        form = folded(piece[0])
        if len(form) > 1:
            form = form.rstrip(".") or form  # Jr. is Jr, wherever it stands
        found.append(Word(message[start:end], form, start, end))
    return found


def forms_of(text: str) -> tuple[str, ...]:
    """The forms of a short text without its signs.

    >>> forms_of("Film-Noir")
    ('film', 'noir')
    """
    return tuple(word.form for word in words_of(text) if not word.is_sign)


def folded(text: str) -> str:
    """The text casefolded and without accents."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(sign for sign in parts if not unicodedata.combining(sign))


def is_capitalised(words: Sequence[Word], place: int) -> bool:
    """Whether a word is written large where the grammar does not ask for it."""
    if not words[place].text[:1].isupper() or words[place].form in ("i", "i'm", "i'd", "i've"):
        return False
    return place > 0 and words[place - 1].form not in {".", "!", "?", "\n", ":"}


def _inside_word(text: str, place: int) -> bool:
    """Whether the sign stands between letters."""
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    return (before.isalpha() and after.isalnum()) or (before.isalnum() and after.isalpha())
