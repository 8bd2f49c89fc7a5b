"""A message as marks: what each stretch of words is, before it is said what it is for.

    titles · comparisons · values · orders · places · counts · cues · other words

Where several could begin at a word, a title comes first and otherwise the longest. A title counts
as such when the catalogue finds it in the message; behind words such as "like" or "I loved" a name
is looked for even where nothing else shows that it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.agents.dialogue.amounts import cardinal, ordinal
from tastemaker.agents.dialogue.cues import cue_at
from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.numbers import comparison_at, order_at
from tastemaker.agents.dialogue.titling import Mentions, TitleFinder, Weight
from tastemaker.agents.dialogue.words import Word, words_of

__all__ = ["Mark", "marks_of"]

_NAMING_CUES = frozenset(["similar", "liked", "hated", "about"])  # take nothing but names
_TITLE_CUES = frozenset(["similar", "liked", "hated", "seen", "about", "history"])
_PLAIN_CUES = frozenset(["filler", "and", "or", "ask", "pronoun", "restart", "please", "more"])
_ENDS = frozenset([".", "!", "?", ";", "\n", "…"])
_NOUNS = """
    one ones film films movie movies book books item items title titles suggestion suggestions
    recommendation recommendations option options pick picks result results
"""
_PLACE_NOUNS = frozenset(_NOUNS.split())
_PLACE_WORDS = frozenset(["number", "no", "nr", "item", "option", "#", "№", "num"])
_COUNTED = """
    more others ideas things products games songs albums choices flicks tips other alternatives
    examples
"""
_ITEM_NOUNS = _PLACE_NOUNS.union(_COUNTED.split())
_COUNTING = """
    me us give show recommend suggest list find name get want need top best exactly just only
    another next first
"""
_ASKS_FOR_COUNT = frozenset(_COUNTING.split())
_NOUNS_OF_NAMES = frozenset(["the", "film", "movie", "book", "novel", "game"])
_MOST = 100  # items that anybody asks for


@dataclass(frozen=True)
class Mark:
    """A stretch of words.

    Attributes:
        kind: `title`, `value`, `comparison`, `order`, `column`, `places`, `count`, `end`, `pause`,
            `word`, or the kind of a cue.
        start: Index of its first word.
        stop: Index of the word after its last one.
        data: `Title`, values, `Comparison`, order, column, places or count.
    """

    kind: str
    start: int
    stop: int
    data: Any = None


def marks_of(
    message: str,
    *,
    lexicon: Lexicon,
    mentions: Mentions,
    shown: int,
    weight: Weight | None = None,
) -> tuple[list[Word], list[Mark]]:
    """The words of a message, and its marks in order; every word belongs to one mark.

    Args:
        message: What was written; may be hostile.
        lexicon: Words of the catalogue.
        mentions: Finds titles named in a text.
        shown: Items of the last answer, which places may point at.
        weight: How well known an item is.
    """
    words = words_of(message)
    finder = TitleFinder(message, words, lexicon=lexicon, mentions=mentions, weight=weight)
    return words, _Scanner(words, finder, lexicon=lexicon, shown=shown).marks()


class _Scanner:
    def __init__(
        self, words: Sequence[Word], finder: TitleFinder, *, lexicon: Lexicon, shown: int
    ) -> None:
        self._words, self._finder, self._lexicon, self._shown = words, finder, lexicon, shown
        self._forms = [word.form for word in words]
        self._titles = finder.shown()

    def marks(self) -> list[Mark]:
        found: list[Mark] = []
        place = 0
        while place < len(self._words):
            mark = self._at(place, found)
            found.append(mark)
            place = mark.stop
        return found

    def _at(self, place: int, before: Sequence[Mark]) -> Mark:
        if place in self._titles:
            stop, title = self._titles[place]
            return Mark("title", place, stop, title)
        if self._forms[place] in _ENDS or not self._forms[place].strip():
            return Mark("end", place, place + 1)
        pointed = self._places(place, before)
        if pointed is None and self._after_title_cue(before):
            named = self._name(place, before)
            if named is not None:
                return named
        return self._longest(place, pointed, before)

    def _longest(self, place: int, pointed: Mark | None, before: Sequence[Mark]) -> Mark:
        """The longest of what may begin here; the earlier in this list where two are as long."""
        found = [
            pointed,
            self._comparison(place),
            self._value(place),
            self._order(place),
            self._count(place, before),
            self._column(place),
            self._cue(place),
        ]
        marks = [mark for mark in found if mark is not None]
        if marks:
            return max(marks, key=lambda mark: mark.stop - mark.start)
        sign = self._words[place].is_sign
        return Mark("pause" if sign else "word", place, place + 1)

    def _after_title_cue(self, before: Sequence[Mark]) -> bool:
        """Whether a name may follow here: behind a cue, or behind "and" and another title."""
        for mark in reversed(before):
            if mark.kind == "filler" and self._forms[mark.start] in _NOUNS_OF_NAMES:
                continue
            if mark.kind in ("and", "or") and len(before) > 1:
                return any(one.kind == "title" for one in before[-3:])
            return mark.kind in _TITLE_CUES
        return False

    def _name(self, place: int, before: Sequence[Mark]) -> Mark | None:
        strong = before[-1].kind in _NAMING_CUES
        found = self._finder.behind_cue(place, strong=strong)
        return Mark("title", place, *found) if found else None

    def _comparison(self, place: int) -> Mark | None:
        found = comparison_at(self._forms, place, lexicon=self._lexicon)
        if found is None or any(at in self._titles for at in range(place, found.stop)):
            return None
        return Mark("comparison", place, found.stop, found)

    def _value(self, place: int) -> Mark | None:
        length, values = self._lexicon.value_at(self._forms, place)
        return Mark("value", place, place + length, values) if length else None

    def _column(self, place: int) -> Mark | None:
        length, column = self._lexicon.column_at(self._forms, place)
        return Mark("column", place, place + length, column) if length else None

    def _order(self, place: int) -> Mark | None:
        stop, order = order_at(self._forms, place, lexicon=self._lexicon)
        return Mark("order", place, stop, order) if stop > place else None

    def _cue(self, place: int) -> Mark | None:
        length, kind = cue_at(self._forms, place)
        if kind is None or any(at in self._titles for at in range(place + 1, place + length)):
            return None
        return Mark(kind, place, place + length)

    def _places(self, place: int, before: Sequence[Mark]) -> Mark | None:
        """The second, number 3, #2, the last one, the first two, both, 2 behind "why"."""
        form, after = self._forms[place], self._form(place + 1)
        if form in _PLACE_WORDS and (form != "no" or self._form(place + 1) == "."):
            start = place + 2 if after in (".", ":") else place + 1
            number = cardinal(self._form(start)) if start < len(self._forms) else None
            return self._place_mark(place, start + 1, number)
        if form in ("the", "your"):
            return self._ordinal_places(place, place + 1)
        if form in ("first", "second", "third", "last") or ordinal(form):
            listed = bool(before) and before[-1].kind in ("why", "liked", "hated", "and", "pause")
            return self._ordinal_places(place, place) if listed else None
        if form == "both" and self._shown and self._closes(place + 1):
            return Mark("places", place, place + 1, tuple(range(1, min(self._shown, 2) + 1)))
        number = cardinal(form)
        verdict = bool(after) and cue_at(self._forms, place + 1)[1] in ("praise", "blame")
        if number is None or not self._shown:
            return None
        if (self._takes_number(before) or verdict) and self._closes(place + 1):
            return self._place_mark(place, place + 1, number)
        return None

    def _takes_number(self, before: Sequence[Mark]) -> bool:
        """Whether a bare number here points at an item of the last answer."""
        kinds = [mark.kind for mark in before if mark.kind not in ("pause",)]
        if not kinds:
            return False
        listed = kinds[-1] in ("and", "or") and len(kinds) > 1 and kinds[-2] == "places"
        cued = kinds[-1] in ("why", "liked", "hated", "similar", "about", "places", "not", "ask")
        return listed or cued

    def _place_mark(self, start: int, stop: int, number: float | None) -> Mark | None:
        if number is None or number != int(number) or not 1 <= number <= _MOST:
            return None
        return Mark("places", start, stop, (int(number),))

    def _ordinal_places(self, start: int, place: int) -> Mark | None:
        """An ordinal, or "last" or "first" with how many, and nothing but a noun behind."""
        form = self._form(place)
        number = ordinal(form)
        if number is None and form != "last":
            return None
        many = cardinal(self._form(place + 1)) if form in ("first", "last") else None
        stop = place + 2 if many is not None and self._forms[place + 1] != "one" else place + 1
        noun = self._form(stop) in _PLACE_NOUNS
        if not self._closes(stop + noun):
            return None
        places = self._counted(form, number, int(many) if stop > place + 1 and many else 1)
        return Mark("places", start, stop + noun, places) if places else None

    def _counted(self, form: str, number: int | None, many: int) -> tuple[int, ...]:
        if form == "last":
            return tuple(range(max(self._shown - many, 0) + 1, self._shown + 1))
        first = number or 1
        return tuple(range(first, first + min(many, _MOST)))

    def _closes(self, place: int) -> bool:
        """Whether nothing follows that would make an ordinal or number part of something else."""
        form = self._form(place)
        if not form or self._words[place].is_sign:
            return True
        if self._lexicon.value_at(self._forms, place)[0]:
            return False
        return cue_at(self._forms, place)[1] is not None and form not in _ITEM_NOUNS

    def _count(self, place: int, before: Sequence[Mark]) -> Mark | None:
        """How many items: three films, top 10, give me 5."""
        form = self._forms[place]
        if form == "couple" and self._form(place + 1) == "of":
            return Mark("count", place, place + 2, 2)
        number = cardinal(form)
        if number is None or number != int(number) or not 1 <= number <= _MOST:
            return None
        asked = place > 0 and self._forms[place - 1] in _ASKS_FOR_COUNT
        if form == "one":
            single = self._form(place + 1) in _ITEM_NOUNS - {"one", "ones", "other"}
            fits = single or (asked and self._closes(place + 1) and self._form(place + 1) != "of")
        else:
            fits = self._counts_items(place + 1, asked=asked)
        return Mark("count", place, place + 1, int(number)) if fits else None

    def _counts_items(self, place: int, *, asked: bool) -> bool:
        """Whether items follow within a few words: 5 really good romantic comedies."""
        for at in range(place, min(place + 5, len(self._forms))):
            if self._forms[at] in _ITEM_NOUNS or self._lexicon.value_at(self._forms, at)[0]:
                return True
            if self._words[at].is_sign or self._forms[at] in ("of", "and", "or"):
                break
            if comparison_at(self._forms, at, lexicon=self._lexicon):
                return asked or at > place
        return asked and self._closes(place)

    def _form(self, place: int) -> str:
        return self._forms[place] if 0 <= place < len(self._forms) else ""
