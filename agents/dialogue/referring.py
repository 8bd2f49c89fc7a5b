"""What a model's sentences refer to: ids and titles of items it has seen become numbered marks.

    "The Matrix (1999) [2571] and [603] are …" ─► "[1] and [2] are …" ─ judged ─► titles put in

Models are asked for ids in square brackets and write titles all the same: beside the id, in bold,
or alone. Behind the marks the guard sees neither; every title is written once, as it should be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tastemaker.agents.dialogue.desk import Desk
from tastemaker.agents.dialogue.guard import MARK, cleaned
from tastemaker.agents.dialogue.names import TitleUse, year_of
from tastemaker.agents.dialogue.wish import Card
from tastemaker.agents.dialogue.words import Word, forms_of, words_of

__all__ = ["References"]

_MOST_MARKS = 99  # what the guard reads as a mark has two digits at most
_LONGEST = 1000  # characters; as much as the guard takes for one sentence
_PREFIX = r"(?:item)?[\s_]*(?:id)?\s*[:=#]?\s*"
_BRACKET = re.compile(r"\[([^\[\]\n]{1,200})\]")
_LABEL = re.compile(rf"\s*{_PREFIX}", re.IGNORECASE)
_PARTS = re.compile(r"\s*(?:[,;]|\band\b)\s*")
_WORD_ALONE = re.compile(r"[^\W\d_]+")
_YEAR_BEHIND = re.compile(r"\s*\((\d{4})\)")
_YEAR_LAST = re.compile(r"\s*\(\d{4}\)\s*$")
_SIGNS_LAST = re.compile(r"[^\w\s*]+$")
_ID_BEHIND = re.compile(rf"\s*[\[(]\s*{_PREFIX}([^\[\]()\n]{{1,200}}?)\s*[\])]", re.IGNORECASE)
_ID_BEFORE = re.compile(rf"\[\s*{_PREFIX}([^\[\]\n]{{1,200}}?)\s*[:,–—-]\s*$", re.IGNORECASE)
_WRAPS = (
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ('"', '"'),
    ("“", "”"),
    ("„", "“"),
    ("«", "»"),
    ("‘", "’"),
    ("'", "'"),
    ("[", "]"),
)
_REPEATED = re.compile(r"(\[\d+\])(?:\s*[:,–—-]?\s*(?:\1|\(\1\)))+")
_ADJACENT = re.compile(r"\[\d+\]\s?\(?\[\d+\]")
_INSIDE_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*\s+")
_AFTER_NAME = re.compile(
    r"\s*(?:[:–—,\[-]|$)|[!?.]*\s+(?:is|was|has|offers|follows|tells|would|might|will|should|and|or)\b"
)
_ARTICLES = ("the", "a", "an")
_BULLETS = " \t*-–•"
_BEFORE_START = ".!?…:\n"
_PLAIN_WORDS = """
    a an and but he her here his how i it its many more most my next no not now one only or our she
    some that the their them there these they this those two we what when where which who why yes
    you your
"""
_NO_NAMES = frozenset(_PLAIN_WORDS.split())


@dataclass(frozen=True)
class _Span:
    """A stretch of a sentence that refers to items."""

    start: int
    end: int
    items: tuple[int, ...]


class References:
    """Reads and writes references to items of one answer.

    One thread may make items known while another one reads sentences.

    Args:
        desk: Titles, ids and values.

    Attributes:
        cards: Items referred to so far; mark [n] means the n-th.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._ids: Mapping[str, int] = {}
        self._cuts: tuple[str, ...] = ()
        self._values = {forms_of(one) for facet in desk.catalogue.facets for one in facet.values}
        self._places: dict[int, int] = {}
        self.cards: list[Card] = []

    def know(self, items: Iterable[int]) -> None:
        """Items that sentences may refer to from now on."""
        found = {self._desk.item_id(item): item for item in items}
        self._ids = {**self._ids, **found}
        cuts = (_cuts(self._desk.title(item)) for item in found.values())
        self._cuts = (*self._cuts, *(one for several in cuts for one in several))

    def whole(self, sentences: Iterable[str]) -> Iterator[str]:
        """The sentences, those put together that were cut inside a title or inside bold words."""
        held = ""
        for sentence in sentences:
            held += sentence
            if len(held) < _LONGEST and self._is_open(held):
                continue
            yield held
            held = ""
        if held:
            yield held

    def marked(self, sentence: str, *, prefer: Callable[[int], bool]) -> str | None:
        """A sentence with marks in place of ids and titles.

        Args:
            sentence: Of a model.
            prefer: Which items are meant rather than others of the same name.

        Returns:
            None where it refers to something unknown, or gives a title the id of another one.
        """
        titles = [*self._titles(sentence, prefer)]
        brackets = self._brackets(sentence, without=titles)
        if brackets is None:
            return None
        text, place = "", 0
        for span in sorted([*titles, *brackets], key=lambda one: one.start):
            if not self._number(span.items):
                return None
            mark = f"[{', '.join(str(self._places[item]) for item in span.items)}]"
            text, place = text + sentence[place : span.start] + mark, span.end
        text = _REPEATED.sub(r"\1", text + sentence[place:])
        return None if _ADJACENT.search(text) else text

    def items(self, marked: str) -> list[int]:
        """The items that the marks of a sentence mean, in its order, each once."""
        places = [int(one) for mark in MARK.finditer(marked) for one in mark[1].split(",")]
        return list(dict.fromkeys(self.cards[place - 1].item for place in places))

    def told(self, marked: str, *, bold: Collection[int]) -> str:
        """A sentence with titles in place of marks.

        Args:
            marked: From `marked`.
            bold: Items whose titles are to be bold.
        """

        def title(place: str) -> str:
            card = self.cards[int(place) - 1]
            return f"**{cleaned(card.title)}**" if card.item in bold else cleaned(card.title)

        return MARK.sub(lambda mark: " and ".join(map(title, mark[1].split(","))), marked)

    def _is_open(self, text: str) -> bool:
        if text.endswith("\n"):
            return False
        return text.count("**") % 2 == 1 or text.rstrip().casefold().endswith(self._cuts)

    def _number(self, items: Iterable[int]) -> bool:
        """Give items their places; False where there are no more of them."""
        for item in items:
            if item in self._places:
                continue
            if len(self.cards) == _MOST_MARKS:
                return False
            one = self._desk.catalogue.item(item)
            values = {name: one.values[name] for name in self._desk.facets if name in one.values}
            self.cards.append(Card(item, one.item_id, one.title, None, values))
            self._places[item] = len(self.cards)
        return True

    def _brackets(self, sentence: str, *, without: Iterable[_Span]) -> list[_Span] | None:
        """References by id outside some spans; None where an id is unknown."""
        taken = [*without]
        found = []
        for bracket in _BRACKET.finditer(sentence):
            if any(one.start < bracket.end() and bracket.start() < one.end for one in taken):
                continue
            inside = bracket[1].strip()
            items = self._items_of(inside)
            if items:
                start, end = bracket.span()
                while wrap := _wrap(sentence, start, end):
                    start, end = start - len(wrap[0]), end + len(wrap[1])
                found.append(_Span(start, end, items))
            elif not any(" " in one or _WORD_ALONE.fullmatch(one) for one in _PARTS.split(inside)):
                return None
        return found

    def _items_of(self, inside: str) -> tuple[int, ...]:
        """The items whose ids stand in a bracket; nothing where it holds anything else."""
        ids = self._ids
        for told in (inside, _LABEL.sub("", inside, count=1)):
            if told in ids:
                return (ids[told],)
        parts = [_LABEL.sub("", one, count=1) for one in _PARTS.split(inside)]
        if not all(one in ids for one in parts):
            return ()
        return tuple(dict.fromkeys(ids[one] for one in parts))

    def _titles(self, sentence: str, prefer: Callable[[int], bool]) -> Iterator[_Span]:
        """References by title, whole titles before the names that begin them."""
        whole = [*self._whole_titles(sentence)]
        yield from whole
        known = frozenset(self._ids.values())
        text = sentence.replace("_", " ")  # which may stand for italics
        spoken = [word for word in words_of(text) if not word.is_sign]
        for use in self._desk.names.uses(spoken):
            start, end, items = use.words[0].start, use.words[-1].end, use.items & known
            if not items or any(one.start < end and start < one.end for one in whole):
                continue
            sure = self._is_name(sentence, use)
            span = self._span(sentence, _Span(start, end, tuple(items)), sure=sure)
            if span is not None:
                best = min(span.items, key=lambda item: (not prefer(item), item))
                yield _Span(span.start, span.end, (best,))

    def _whole_titles(self, sentence: str) -> Iterator[_Span]:
        """References by a title as the catalogue writes it, brackets and year included."""
        folded = sentence.lower()
        end = 0
        found = []
        for item in self._ids.values():
            title = self._desk.title(item)
            place = folded.find(title.lower()) if "(" in title else -1
            if place >= 0:
                found.append((place, -len(title), item))
        for place, length, item in sorted(found):
            span = self._span(sentence, _Span(place, place - length, (item,)), sure=True)
            if span is not None and span.start >= end:
                end = span.end
                yield span

    def _span(self, sentence: str, name: _Span, *, sure: bool) -> _Span | None:
        """A name with year, id and signs around it, where it is meant as a name."""
        start, end, meant = name.start, self._end(sentence, name), frozenset(name.items)
        while True:
            if year := _YEAR_BEHIND.match(sentence, end):
                meant = frozenset(item for item in meant if self._is_of(item, year[1]))
                if not meant:
                    return None
                end, sure = year.end(), True
            elif (behind := _ID_BEHIND.match(sentence, end)) and self._ids.get(behind[1]) in meant:
                meant, end, sure = frozenset([self._ids[behind[1]]]), behind.end(), True
            elif (before := _ID_BEFORE.search(sentence[:start])) and sentence.startswith("]", end):
                if self._ids.get(before[1]) not in meant:
                    return None
                meant, start, sure = frozenset([self._ids[before[1]]]), before.start(), True
                end += 1
            elif wrap := _wrap(sentence, start, end):
                start, end, sure = start - len(wrap[0]), end + len(wrap[1]), True
            else:
                break
        return _Span(start, end, tuple(sorted(meant))) if sure else None

    def _end(self, sentence: str, name: _Span) -> int:
        """Where a name ends with the signs that its title ends with, such as a full stop."""
        rest = sentence[name.end :]
        for item in name.items:
            signs = _SIGNS_LAST.search(_YEAR_LAST.sub("", self._desk.title(item)))
            if signs and rest.startswith(signs[0]) and rest[len(signs[0]) :].strip():
                return name.end + len(signs[0])
        return name.end

    def _is_of(self, item: int, year: str) -> bool:
        """Whether the title, or a number of the item, says this year."""
        one = self._desk.catalogue.item(item)
        return year_of(one.title) == year or float(year) in one.values.values()

    def _is_name(self, sentence: str, use: TitleUse) -> bool:
        """Whether bare words that make a title are meant as one, by their capitals."""
        words = use.words[1:] if use.words[0].form in _ARTICLES and use.words[1:] else use.words
        first, last = words[0], words[-1]
        if not (_is_large(first) and _is_large(last)):
            return False
        if len(words) > 1:
            return True
        if first.form in _NO_NAMES or (first.form,) in self._values:
            return False
        before = sentence[: first.start].rstrip(_BULLETS)
        begins = not before or before[-1] in _BEFORE_START
        return not begins or bool(_AFTER_NAME.match(sentence, last.end))


def _cuts(title: str) -> list[str]:
    """What a title begins with where it would be taken for the end of a sentence."""
    text = f"{title} "
    return [text[: end.end()].strip().casefold() for end in _INSIDE_END.finditer(text)]


def _wrap(text: str, start: int, end: int) -> tuple[str, str] | None:
    """The signs on both sides that set a stretch of a text apart."""
    for opening, closing in _WRAPS:
        if text.endswith(opening, 0, start) and text.startswith(closing, end):
            return opening, closing
    return None


def _is_large(word: Word) -> bool:
    return not word.text[0].islower()
