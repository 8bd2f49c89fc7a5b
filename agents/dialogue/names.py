"""Titles as they may stand inside a text: whole, without their year, without their article."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tastemaker.agents.dialogue.words import Word, forms_of
from tastemaker.prompts.render import article_first

__all__ = ["TitleNames", "TitleUse", "names_of", "year_of"]

Form = tuple[str, ...]

_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")
_BRACKETS = re.compile(r"\(([^()]*)\)")
_ALSO = re.compile(r"^(?:a\.?k\.?a\.?|also known as)\s+", re.IGNORECASE)
_ARTICLES = frozenset({"the", "a", "an", "le", "la", "les", "il", "el", "los", "las", "der", "die"})
_HEAD = re.compile(r"\s*(?::| - )\s*")


@dataclass(frozen=True)
class TitleUse:
    """Words of a text that are the name of an item.

    Attributes:
        words: As they stand there.
        items: Dense numbers of all that are called so.
        place: Of the first word among the words of the text that are no signs.
    """

    words: tuple[Word, ...]
    items: frozenset[int]
    place: int


class TitleNames:
    """Finds the names of all items of a catalogue in a text, whatever their case.

    Args:
        titles: By dense number.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        self.titles = titles
        found: dict[Form, set[int]] = defaultdict(set)
        for item, title in enumerate(titles):
            for form in names_of(title):
                found[form].add(item)
        self._items = {form: frozenset(items) for form, items in found.items()}
        lengths: dict[str, set[int]] = defaultdict(set)
        for form in self._items:
            lengths[form[0]].add(len(form))
        self._lengths = {word: sorted(known, reverse=True) for word, known in lengths.items()}

    def called(self, form: Form) -> frozenset[int]:
        """Items with exactly this name, in folded words."""
        return self._items.get(form, frozenset())

    def uses(self, words: Sequence[Word]) -> Iterator[TitleUse]:
        """Names among the words of a text, the longest at each place, none inside another.

        Args:
            words: Without signs.
        """
        forms = tuple(word.form for word in words)
        place = 0
        while place < len(forms):
            use = self._use_at(words, forms, place)
            if use is not None:
                yield use
            place += len(use.words) if use is not None else 1

    def _use_at(self, words: Sequence[Word], forms: Form, place: int) -> TitleUse | None:
        for length in self._lengths.get(forms[place], ()):
            items = self._items.get(forms[place : place + length])
            if items and place + length <= len(forms):
                return TitleUse(tuple(words[place : place + length]), items, place)
        return None


def names_of(title: str) -> set[Form]:
    """What an item is called, in folded words: by its title, a second one, or without the article.

    >>> sorted(names_of("Usual Suspects, The (1995)"))
    [('the', 'usual', 'suspects'), ('usual', 'suspects'), ('usual', 'suspects', 'the')]
    """
    bare = _YEAR.sub("", title)
    second = [_ALSO.sub("", inside) for inside in _BRACKETS.findall(bare)]
    found: set[Form] = {forms_of(bare)}
    for name in (_BRACKETS.sub(" ", bare), *second):
        head = _HEAD.split(name)[0]
        for text in {name, *([head] if len(forms_of(head)) > 1 else [])}:
            found |= _with_and_without_article(text.strip())
    return {form for form in found if form}


def year_of(title: str) -> str:
    """The year that a title ends with, in digits; empty without one."""
    match = _YEAR.search(title)
    return match[1] if match else ""


def _with_and_without_article(name: str) -> set[Form]:
    first = forms_of(article_first(name))
    found = {forms_of(name), first}
    if len(first) > 1 and first[0] in _ARTICLES:
        found.add(first[1:])
    return found
