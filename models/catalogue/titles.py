"""Items by what people call them: titles looked up, and titles named inside a message.

A title has several names: `City of Lost Children, The (Cité des enfants perdus, La) (1995)` is
also "the city of lost children", "city of lost children" and "la cité des enfants perdus". Names
are compared as sequences of plain words, without case, accents and punctuation.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tastemaker.errors import MissingError
from tastemaker.models.catalogue.words import FUNCTION_WORDS, KIND_WORDS, ORDINARY_WORDS, THINGS

__all__ = ["Mention", "TitleIndex", "Word", "words_of"]

_LONGEST_TEXT = 4000  # characters of a message that are looked at
_LONGEST_NAME = 200
_LONGEST_TITLE = 1000
_MOST_WORDS = 24  # of a name inside a message
_MOST_SPANS = 12  # of a message compared by spelling
_ALIKE = 85.0  # of 100, for names inside a message
_FOUND = 60.0  # likewise, for names looked up
_CONTAINED = 88.0
_SERIES = 95.0  # a name that several titles begin with
_OTHER_YEAR = 15.0
_LONGER = 0.9  # of the score of a part of a longer name
_SHORTEST = 5  # characters of a name that spelling is compared of
_LEADING = ("the", "a", "an", "le", "les", "el", "der", "das")  # not "die", which is English, too
_ARTICLES = (*_LEADING, "la", "l'", "un", "une", "die", "ein", "eine", "los", "las", "lo", "il")
_YEAR = re.compile(r"\s*[(\[]?\b((?:18|19|20)\d\d)(?:\s*[-–]\s*(?:\d{4})?)?\s*[)\]]?\s*$")
_YEAR_AFTER = re.compile(r"\s*(?:,\s*)?(?:from\s+)?([(\[]?)((?:18|19|20)\d\d)\b(?:\s*[)\]])?")
_BRACKETS = re.compile(r"\s*[(\[]([^()\[\]]*)[)\]]")
_KNOWN_AS = re.compile(r"^\s*(?:a\.?\s*k\.?\s*a\.?|also known as)[\s:]+", re.IGNORECASE)
_TRAILING = re.compile(rf"^(.+),\s+({'|'.join(map(re.escape, _ARTICLES))})$", re.IGNORECASE)
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|&"
    r"|(?:(?![\u3040-\u30ff\u3400-\u9fff])[^\W_][\u0300-\u036f]*)+"
    r"(?:['’](?:[^\W_][\u0300-\u036f]*)+)*"
)
_QUOTED = re.compile(
    r"\"([^\"\n]+)\"|“([^”\n]+)”|«([^»\n]+)»|„([^“”\n]+)[“”]|(?<!\w)['‘]([^\n]+?)['’](?!\w)"
)
_CALLED = re.compile(r"\b(?:called|named|titled|entitled)\s*[:,]?\s*$", re.IGNORECASE)
_NOUN = re.compile(
    r"\b(?:the|that)\s+(?:film|movie|book|novel|game|show|series|album|song|picture|play)\s*:?\s*$",
    re.IGNORECASE,
)
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
_ENDS = frozenset('.!?:;\n"“”«»()[]-–—…')
_PARTING = _ENDS - {":", "-", "–"} | {","}  # names in capitals
_INSIDE = frozenset({"of", "the", "a", "an", "in", "de", "la", "du"})  # a name in capitals
_BETWEEN = _INSIDE | {"and", "to", "for", "on", "at", "with", "from"}  # or two such names
_INDEFINITE = frozenset({"a", "an", "any", "another", "good", "more", "no", "some"})


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        plain: Without case, accents and apostrophes; never empty.
        start: Where it begins in the text.
        end: Where it ends.
    """

    plain: str
    start: int
    end: int


@dataclass(frozen=True)
class Mention:
    """A title named inside a text.

    Attributes:
        start: Where the name begins in the text.
        end: Where it ends, a year included.
        items: Dense items that are called so, ascending.
        score: 100 for the exact name, less for one that is only alike.
    """

    start: int
    end: int
    items: tuple[int, ...]
    score: float


def words_of(text: str) -> list[Word]:
    """Words of a text in order; signs that are written without spaces count one by one."""
    found = []
    for match in _WORD.finditer(text):
        plain = _plain(match.group())
        if plain:
            found.append(Word(plain, match.start(), match.end()))
    return found


class TitleIndex:
    """Names of all titles of a catalogue.

    Args:
        titles: By dense number.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        self._names: dict[str, list[int]] = {}
        self._years: dict[int, int] = {}
        series: dict[str, list[int]] = {}
        for item, title in enumerate(titles):
            names, beginnings, year = _names_of(title[:_LONGEST_TITLE])
            if year is not None:
                self._years[item] = year
            for name in names:
                _note(self._names, name, item)
            for name in beginnings:
                _note(series, name, item)
        self._series = {
            name: items
            for name, items in series.items()
            if name not in self._names or len(items) > 1
        }

    def lookup(self, name: str, *, count: int = 5) -> list[tuple[int, float]]:
        """Items whose title resembles a name, best first, with scores from 0 to 100.

        Args:
            name: As somebody wrote it; a year at its end counts.
            count: At most so many.
        """
        base, year = _parted_year(name[:_LONGEST_NAME])
        key, whole = _key(_in_order(base)), _key(name[:_LONGEST_NAME])
        scores: dict[int, float] = {}
        for exact in dict.fromkeys((key, whole)):
            _raise(scores, self._names.get(exact, ()), 100.0)
            _raise(scores, self._series.get(exact, ()), _SERIES)
        if len(key) > 1:
            for other, score in self._like(key, count=4 * count):
                _raise(scores, self._names[other], score)
        if year is not None:
            for item, score in scores.items():
                far = self._years.get(item, year) != year
                scores[item] = max(score - _OTHER_YEAR, 0.0) if far else score
        ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
        return ordered[:count]

    def mentions(self, text: str) -> list[Mention]:
        """Titles named inside a text, in its order; none overlaps another.

        Exact names come first, the longest before others. Names of ordinary words count only in
        quotes, in capitals where others are not, with their year, or after words such as "called".
        What stands in quotes or capitals and is no name is then compared by spelling.
        """
        message = _Message(text[:_LONGEST_TEXT])
        found = _apart(self._exact(message))
        taken = [(one.start, one.end) for one in found]
        for start, end, quoted in message.spans(taken)[:_MOST_SPANS]:
            alike = self._alike(message, start, end, quoted=quoted)
            if alike is not None and _is_free(alike, taken):
                found.append(alike)
                taken.append((alike.start, alike.end))
        return sorted(found, key=lambda one: one.start)

    @cached_property
    def _keys(self) -> list[str]:
        return sorted(self._names)

    @cached_property
    def _longest(self) -> int:
        return min(max((name.count(" ") + 1 for name in self._names), default=0), _MOST_WORDS)

    def _like(self, key: str, *, count: int) -> Iterator[tuple[str, float]]:
        """Names spelt alike, and longer ones that hold something spelt alike; below 100."""
        extract, fuzz = _rapidfuzz("process").extract, _rapidfuzz("fuzz")
        found = extract(key, self._keys, scorer=fuzz.ratio, limit=count, score_cutoff=_FOUND)
        yield from ((name, min(score, 99.0)) for name, score, _ in found)
        longer = [name for name in self._keys if len(name) > len(key)]
        found = extract(key, longer, scorer=fuzz.partial_ratio, limit=count, score_cutoff=_ALIKE)
        for name, score, _ in found:
            whole_words = f" {key} " in f" {name} "
            yield name, score * (_LONGER if whole_words else _LONGER - 0.1)

    def _items_of(self, key: str) -> list[int]:
        return sorted({*self._names.get(key, ()), *self._series.get(key, ())})

    def _exact(self, message: _Message) -> Iterator[tuple[int, Mention]]:
        """Names that stand in the message word by word, with their numbers of words."""
        words = message.words
        for first in range(len(words)):
            for count in range(min(self._longest, len(words) - first), 0, -1):
                name = " ".join(word.plain for word in words[first : first + count])
                items = self._items_of(name)
                if items:
                    mention = self._mention(message, first, count, name=name, items=items)
                    if mention is not None:
                        yield count, mention

    def _mention(
        self, message: _Message, first: int, count: int, *, name: str, items: Sequence[int]
    ) -> Mention | None:
        start, end = message.words[first].start, message.words[first + count - 1].end
        after = _YEAR_AFTER.match(message.text, end)
        dated = [item for item in items if after and self._years.get(item) == int(after.group(2))]
        if after and dated:
            return Mention(start, after.end(), tuple(dated), 100.0)
        doubtful = _is_ordinary(name) and not (_is_compound(name) and message.is_definite(first))
        if doubtful and not message.shows_title(first, count):
            return None
        return Mention(start, end, tuple(items), 100.0 if name in self._names else _SERIES)

    def _alike(self, message: _Message, start: int, end: int, *, quoted: bool) -> Mention | None:
        """The title that a span was meant to name, if there is one."""
        base, year = _parted_year(message.text[start:end])
        key = _key(base)
        if len(key) < _SHORTEST or _is_ordinary(key):
            return None
        score, items = self._nearest(key)
        if not items and key.count(" ") >= (1 if quoted else 2):
            inside = [name for name in self._keys if f" {key} " in f" {name} "]
            score, items = _CONTAINED, sorted({i for name in inside for i in self._names[name]})
        after = None if year is not None else _YEAR_AFTER.match(message.text, end)
        wanted = year if after is None else int(after.group(2))
        dated = [item for item in items if self._years.get(item) == wanted]
        if dated and after is not None:
            end = after.end()
        return Mention(start, end, tuple(dated or items), score) if items else None

    def _nearest(self, key: str) -> tuple[float, list[int]]:
        found = _rapidfuzz("process").extract(
            key, self._keys, scorer=_rapidfuzz("fuzz").ratio, limit=5, score_cutoff=_ALIKE
        )
        if not found:
            return 0.0, []
        best = found[0][1]
        items = {item for name, score, _ in found if score == best for item in self._names[name]}
        return min(best, 99.0), sorted(items)


class _Message:
    """A text in which titles may be named."""

    def __init__(self, text: str) -> None:
        self.text, self.words = text, words_of(text)
        self._quotes = [
            (match.start(match.lastindex or 0), match.end(match.lastindex or 0))
            for match in _QUOTED.finditer(text)
        ]
        self._has_small = any(
            self._raw(place)[0].islower() and word.plain not in _BETWEEN
            for place, word in enumerate(self.words)
        )

    def shows_title(self, first: int, count: int) -> bool:
        """Whether anything around some words shows that they are meant as a title."""
        start, end = self.words[first].start, self.words[first + count - 1].end
        if any(self.text[a:b].strip() == self.text[start:end] for a, b in self._quotes):
            return True
        before = self.text[max(0, start - 40) : start]
        if _CALLED.search(before):
            return True
        plain = [word.plain for word in self.words[first : first + count]]
        if _NOUN.search(before) and not all(word in FUNCTION_WORDS for word in plain):
            return True
        return self._stands_out(first, count)

    def is_definite(self, first: int) -> bool:
        """Whether no word before these says that any such thing will do."""
        return first == 0 or self.words[first - 1].plain not in _INDEFINITE

    def spans(self, taken: Sequence[tuple[int, int]]) -> list[tuple[int, int, bool]]:
        """Parts in quotes, then parts in capitals, that may be misspelt titles."""
        found = [(start, end, True) for start, end in self._quotes]
        runs = dict.fromkeys([*self._runs(_BETWEEN), *self._runs(_INSIDE)])
        for first, last in runs:
            found.append((self.words[first].start, self.words[last].end, False))
            if self._begins_sentence(first) and last > first:
                found.append((self.words[first + 1].start, self.words[last].end, False))
        return [one for one in found if all(one[1] <= a or b <= one[0] for a, b in taken)]

    def _stands_out(self, first: int, count: int) -> bool:
        """Whether just these words are in capitals, not at the beginning of a sentence."""
        last = first + count - 1
        raw = [self._raw(place) for place in range(first, last + 1)]
        if not self._has_small or raw == ["I"] or not any(word[0].isupper() for word in raw):
            return False
        while raw[0] in _INSIDE and first < last:  # "the" before a name is seldom in capitals
            first, raw = first + 1, raw[1:]
        if self._begins_sentence(first):
            return False
        begins = {first, first - 1} if first and self._begins_sentence(first - 1) else {first}
        # A capital that only begins the sentence is no part of the name.
        return any(end == last and begin in begins for begin, end in self._runs(_INSIDE))

    def _runs(self, joining: frozenset[str]) -> list[tuple[int, int]]:
        """First and last word of each run of capitals; joining words may stand inside."""
        found, place = [], 0
        while place < len(self.words):
            last = place
            if self._is_capital(place):
                while (after := self._next_capital(last, joining)) is not None:
                    last = after
                found.append((place, last))
            place = last + 1
        return found

    def _next_capital(self, place: int, joining: frozenset[str]) -> int | None:
        """The next word in capitals that still belongs to the run."""
        for after in range(place + 1, min(place + 4, len(self.words))):
            gap = self.text[self.words[after - 1].end : self.words[after].start]
            if set(gap) & _PARTING:
                return None
            if self._is_capital(after):
                return after
            if self.words[after].plain not in joining:
                return None
        return None

    def _is_capital(self, place: int) -> bool:
        sign = self._raw(place)[0]
        return sign.isupper() or sign.isdigit()

    def _begins_sentence(self, place: int) -> bool:
        if place == 0:
            return True
        gap = self.text[self.words[place - 1].end : self.words[place].start]
        return bool(set(gap) & _ENDS)

    def _raw(self, place: int) -> str:
        return self.text[self.words[place].start : self.words[place].end]


def _plain(text: str) -> str:
    """A word without case, accents and apostrophes; Roman numerals as digits."""
    if text == "&":
        return "and"
    apart = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(sign for sign in apart if sign.isalnum())
    return _ROMAN.get(kept, kept)


def _key(text: str) -> str:
    return " ".join(word.plain for word in words_of(text))


def _names_of(title: str) -> tuple[list[str], list[str], int | None]:
    """What a title may be called, what it begins with before a colon, and its year; plain words."""
    base, year = _parted_year(title)
    bracketed = [_KNOWN_AS.sub("", inner) for inner in _BRACKETS.findall(base)]
    main = _in_order(_BRACKETS.sub("", base).strip() or base)
    names = dict.fromkeys(
        key
        for name in (main, *map(_in_order, bracketed))
        for key in _with_and_without_article(name)
    )
    head, colon, _ = main.partition(":")
    beginnings = _with_and_without_article(head) if colon else []
    return list(names), [name for name in beginnings if " " in name], year


def _in_order(name: str) -> str:
    """`Matrix, The` as it is said."""
    match = _TRAILING.match(name.strip())
    if match is None:
        return name
    article = match.group(2)
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{match.group(1)}"


def _with_and_without_article(name: str) -> list[str]:
    key = _key(name)
    return [one for one in dict.fromkeys((key, _without_article(key))) if one]


def _parted_year(text: str) -> tuple[str, int | None]:
    """A name without the year at its end, and that year; a name may be nothing but a year."""
    match = _YEAR.search(text)
    if match is None or not words_of(text[: match.start()]):
        return text, None
    return text[: match.start()], int(match.group(1))


def _without_article(key: str) -> str:
    first, _, rest = key.partition(" ")
    return rest if rest and first in _LEADING else key


def _note(names: dict[str, list[int]], name: str, item: int) -> None:
    items = names.setdefault(name, [])
    if not items or items[-1] != item:
        items.append(item)


def _is_ordinary(name: str) -> bool:
    """Whether a name could stand in any sentence: one or two ordinary words, or a number."""
    words = _without_article(name).split(" ")
    if all(word in FUNCTION_WORDS for word in words):
        return True
    if len(words) == 1 and (words[0].isdigit() or len(words[0]) < 3):
        return True
    ordinary = all(word in FUNCTION_WORDS or word in ORDINARY_WORDS for word in words)
    return ordinary and (len(words) <= 2 or words[-1] in KIND_WORDS)


def _is_compound(name: str) -> bool:
    """Whether a name is two things, such as "toy story", that seldom stand so by chance."""
    words = _without_article(name).split(" ")
    return len(words) == 2 and all(word in THINGS for word in words)


def _apart(found: Iterator[tuple[int, Mention]]) -> list[Mention]:
    """Mentions that do not overlap, the longest first."""
    kept: list[Mention] = []
    for _, mention in sorted(found, key=lambda pair: (-pair[0], pair[1].start)):
        if _is_free(mention, [(one.start, one.end) for one in kept]):
            kept.append(mention)
    return kept


def _raise(scores: dict[int, float], items: Sequence[int], score: float) -> None:
    """Give items a score unless they have a better one."""
    for item in items:
        scores[item] = max(scores.get(item, 0.0), score)


def _is_free(mention: Mention, taken: Sequence[tuple[int, int]]) -> bool:
    return all(mention.end <= start or end <= mention.start for start, end in taken)


def _rapidfuzz(name: str) -> Any:
    try:
        return importlib.import_module(f"rapidfuzz.{name}")
    except ModuleNotFoundError:
        raise MissingError(
            "titles are looked up by RapidFuzz, which is not installed.",
            remedy='Run pip install "tastemaker[serve]".',
        ) from None
