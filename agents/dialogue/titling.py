"""Titles in a message: those that show themselves, and those behind a cue such as "like".

The catalogue finds names by their capitals, quotes and years. Behind a cue a name is also looked
for in small letters, as it stands in the catalogue (`Matrix, The (1999)`), and where the catalogue
has no such title, since then the visitor should be told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tastemaker.agents.dialogue.cues import cue_at
from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.numbers import comparison_at
from tastemaker.agents.dialogue.words import Word, forms_of, is_capitalised

if TYPE_CHECKING:
    from tastemaker.models.catalogue.titles import Mention

__all__ = ["Mentions", "Title", "TitleFinder", "Weight"]

Mentions = Callable[[str], "Sequence[Mention]"]
Weight = Callable[[int], float]

_ALIKE = 85.0  # of a name behind a cue
_SHOWN = 92.0  # of one that only shows itself
_EXACT = 94.0  # of a name in small letters
_SAME = 99.5  # of a whole message
_MOST_OF_A_SERIES = 3  # items that one name stands for
_LONGEST_NAME = 6  # words of a name in small letters
_LONGEST_TITLE = 32  # words and signs of a title with its year
_LONGEST_DATED = 12  # words before its year
_MOST_LOOKUPS = 16  # of one message
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»"}
_MOST_QUOTED = 20  # words in quotation marks
_JOINING = frozenset(["of", "the", "a", "an", "and", "in", "to", "for", "on", "at", "with", "&"])
_PLAIN_CUES = frozenset(
    ["filler", "and", "or", "ask", "pronoun", "restart", "please", "more", "only", "also"]
)
_PRONOUNS = """
    a an the it that this these those them him her me my you your i we us one ones some any more
    something anything nothing everything another to being when how what watching reading
"""
_NO_NAMES = frozenset(_PRONOUNS.split())
_SHORT_ARTICLES = frozenset(["the", "a", "an"])
_ARTICLE = r"(?:The|An?|L'|L[aeo]s?|Une?|D[aei][rse]|El|Il|Los)"
_REST = re.compile(rf"[.!?…]{{0,3}}(?:\s*,\s*{_ARTICLE}(?!\w))?(?:\s*\([^()\n]{{1,90}}\)){{0,4}}")
_YEAR = re.compile(r"\(((?:18|19|20)\d\d)\)\s*$")
_OTHER_NAME = re.compile(r"[^()\n]{0,40}\)\s*\((?:18|19|20)\d\d\)")
_INVERTED = re.compile(rf"^(.+),\s*({_ARTICLE})$")
_BRACKETED = re.compile(r"\s*\([^()]*\)")


@dataclass(frozen=True)
class Title:
    """A name in a message.

    Attributes:
        text: As written.
        items: Dense items that are meant; none where the catalogue has no such title.
    """

    text: str
    items: tuple[int, ...]


class TitleFinder:
    """Finds the titles of one message.

    Args:
        message: As written.
        words: Its words.
        lexicon: Words that are values, not names.
        mentions: Finds titles of the catalogue named in a text.
        weight: How well known an item is: of several with one name the best known is meant.
    """

    def __init__(
        self,
        message: str,
        words: Sequence[Word],
        *,
        lexicon: Lexicon,
        mentions: Mentions,
        weight: Weight | None = None,
    ) -> None:
        self._message, self._words, self._lexicon = message, words, lexicon
        self._mentions, self._weight = mentions, weight
        self._forms = [word.form for word in words]
        self._large = [is_capitalised(words, place) for place in range(len(words))]
        self._size = sum(not one.is_sign and one.form not in _SHORT_ARTICLES for one in words)
        self._lookups = 0

    def shown(self) -> dict[int, tuple[int, Title]]:
        """Titles that show themselves: first word → the word after the last, and the title."""
        found: dict[int, tuple[int, Title]] = {}
        reached = 0
        whole = self._whole()
        if whole is not None:
            return {0: (len(self._words), whole)}
        for mention in self._mentions(self._message):
            if mention.score < _SHOWN or not mention.items or mention.start < reached:
                continue
            if _OTHER_NAME.match(self._message, mention.end):
                continue  # in brackets, before the year of the whole title
            start, end, title = self._extended(mention)
            span = self._span(start, end)
            if span is None or self._is_value(span, mention.end, end) or self._is_word(span):
                continue
            reached = end
            found[span[0]] = (span[1], title)
        self._add_quoted(found)
        self._add_dated(found)
        return found

    def behind_cue(self, place: int, *, strong: bool) -> tuple[int, Title] | None:
        """The title that begins at a word behind a cue, and the word after it.

        Args:
            place: The word.
            strong: Whether the cue takes nothing but names, so that an unknown one is told.
        """
        return self._verbatim(place) or self._capital(place, strong=strong) or self._small(place)

    def _whole(self) -> Title | None:
        """A message that is nothing but a title."""
        names = [word for word in self._words if not word.is_sign]
        signs = len(self._words) - len(names)
        large = sum(word.text[:1].isupper() or word.text.isdigit() for word in names)
        if not 1 <= len(names) <= _LONGEST_NAME or not large or signs > 3:
            return None
        joining = sum(word.form in _JOINING for word in names)
        if large + joining < len(names) or self._is_plain_whole(len(names)):
            return None
        last = names[-1]
        text = self._message[names[0].start : last.end + (self._message[last.end :][:1] == ")")]
        items = self._looked_up(text, score=_SAME)
        return Title(text, items) if items else None

    def _is_plain_whole(self, names: int) -> bool:
        """Whether a whole message is a value or cues, such as "Horror" or "The others"."""
        everything = range(len(self._words))
        if not self._is_plain(everything, sole=True):
            return self._is_plain(everything)
        return names == 1 or self._lexicon.value_at(self._forms, 0)[0] == names

    def _extended(self, mention: Mention) -> tuple[int, int, Title]:
        """With the article, other names and year behind it: `Matrix, The (1999)`."""
        start, end = mention.start, mention.end
        rest = _REST.match(self._message, end)
        stop = rest.end() if rest else end
        text, items = self._message[start:stop], ()  # type: tuple[str, tuple[int, ...]]
        if stop > end and _YEAR.search(text):
            items = self._looked_up(text, score=_ALIKE)
        elif stop > end:
            stop, text = end, self._message[start:end]
        known = items or self._meant(mention)
        return start, stop, Title(text, known)

    def _meant(self, mention: Mention) -> tuple[int, ...]:
        """The items that a mention stands for: the best known one, or several of a series."""
        items = sorted(mention.items, key=self._fame)
        return tuple(items[: 1 if mention.score >= 100 else _MOST_OF_A_SERIES])

    def _fame(self, item: int) -> tuple[float, int]:
        return (-self._weight(item) if self._weight else 0.0, item)

    def _is_value(self, span: tuple[int, int], named: int, end: int) -> bool:
        """Whether a mention is just words for a value: "no War", without quotes or a year."""
        quoted = span[0] > 0 and self._forms[span[0] - 1] in _QUOTES
        if named != end or quoted or self._forms[span[1] - 1] == ")":
            return False
        stop = span[1]
        while stop - span[0] > 1 and (self._forms[stop - 1].isdigit() or self._loose(stop - 1)):
            stop -= 1
        return self._is_plain(range(span[0], stop), sole=True)

    def _is_word(self, span: tuple[int, int]) -> bool:
        """Whether a mention is one word that nothing shows to be a name: "submarine thriller"."""
        names = [place for place in range(*span) if self._forms[place] not in _SHORT_ARTICLES]
        quoted = span[0] > 0 and self._forms[span[0] - 1] in _QUOTES
        if len(names) != 1 or quoted or self._size == 1 or self._large[names[0]]:
            return False
        if span[1] == len(self._forms) or not self._words[names[0]].text[:1].isupper():
            return span[1] - span[0] == 1 or not self._words[names[0]].text[:1].isupper()
        kind = cue_at(self._forms, span[1])[1]
        verdict = kind in ("praise", "blame", "and", "or", "but")
        return not (verdict or self._words[span[1]].is_sign)

    def _loose(self, place: int) -> bool:
        return self._forms[place] in ("from", ",")

    def _add_quoted(self, found: dict[int, tuple[int, Title]]) -> None:
        """Take quotation marks to the titles in them, and names that are no title."""
        spans = {place: start for start, (stop, _) in found.items() for place in range(start, stop)}
        for start, stop in self._quotes():
            inside = sorted({spans[at] for at in range(start, stop) if at in spans})
            whole = [at for at in inside if at <= start + 1 and found[at][0] >= stop - 1]
            if whole:
                found[start] = (max(stop, found[whole[0]][0]), found.pop(whole[0])[1])
                continue
            if self._is_plain(range(start + 1, stop - 1)):
                continue
            text = self._text(start + 1, stop - 1)
            items = self._looked_up(text, score=_ALIKE)
            if items or not inside:
                for at in inside:
                    del found[at]
                found[start] = (stop, Title(text, items))

    def _add_dated(self, found: dict[int, tuple[int, Title]]) -> None:
        """Titles as they stand in the catalogue that nothing but their year shows."""
        taken = {place for start, (stop, _) in found.items() for place in range(start, stop)}
        for at in range(1, len(self._forms) - 2):
            if self._forms[at] != "(" or at in taken or not self._is_year(at):
                continue
            first = max(0, at - _LONGEST_DATED)
            large = [
                place
                for place in range(first, at)
                if self._words[place].text[:1].isupper() or self._words[place].text[:1].isdigit()
            ]
            for start in [place for place in large if taken.isdisjoint(range(place, at))][:4]:
                items = self._looked_up(self._text(start, at + 3), score=_EXACT)
                if items:
                    found[start] = (at + 3, Title(self._text(start, at + 3), items))
                    break

    def _is_year(self, place: int) -> bool:
        """Whether a bracket here holds a year and nothing else."""
        year = self._forms[place + 1]
        return self._forms[place + 2] == ")" and len(year) == 4 and year.isdigit()

    def _span(self, start: int, end: int) -> tuple[int, int] | None:
        """Words and signs that a stretch of characters covers."""
        covered = [
            place for place, word in enumerate(self._words) if word.end > start and word.start < end
        ]
        return (covered[0], covered[-1] + 1) if covered else None

    def _quotes(self) -> list[tuple[int, int]]:
        """Stretches in quotation marks, these included."""
        found: list[tuple[int, int]] = []
        opened, closing = -1, ""
        for place, form in enumerate(self._forms):
            if opened >= 0 and form == closing:
                if 1 < place - opened < _MOST_QUOTED:
                    found.append((opened, place + 1))
                opened = -1
            elif opened < 0 and form in _QUOTES:
                opened, closing = place, _QUOTES[form]
        return found

    def _is_plain(self, places: Sequence[int], *, sole: bool = False) -> bool:
        """Whether words are values, numbers or filler rather than a name.

        Args:
            places: The words, one after another.
            sole: Whether there must be a value among them.
        """
        place, stop, values = places[0], places[-1] + 1, 0
        while place < stop:
            length, _ = self._lexicon.value_at(self._forms, place)
            values += bool(length)
            steps, kind = cue_at(self._forms, place)
            if not length and kind not in _PLAIN_CUES:
                compared = comparison_at(self._forms, place, lexicon=self._lexicon)
                return compared is not None and not sole
            place += length or steps
        return bool(values) or not sole

    def _verbatim(self, place: int) -> tuple[int, Title] | None:
        """A title as it stands in the catalogue, with its year in brackets."""
        last = min(place + _LONGEST_TITLE, len(self._forms)) - 2
        for at in range(place + 1, last):
            if self._forms[at] == "\n":
                break
            if self._forms[at] == "(" and self._is_year(at):
                text = self._text(place, at + 3)
                items = self._looked_up(text, score=_EXACT)
                return (at + 3, Title(text, items)) if items else None
        return None

    def _capital(self, place: int, *, strong: bool) -> tuple[int, Title] | None:
        """A name in capitals; its beginning where only that is a title."""
        stop = self._capital_run(place)
        if stop == place:
            return None
        if self._is_plain(range(place, stop)):
            # "Scary Movie" is a film, "Romantic Comedy" is none.
            valued = stop - place > 1 and self._is_plain(range(place, stop), sole=True)
            items = self._looked_up(self._text(place, stop), score=_SAME) if valued else ()
            return (stop, Title(self._text(place, stop), items)) if items else None
        for end in range(stop, place, -1):
            score = _ALIKE if end == stop else _EXACT
            items = self._looked_up(self._text(place, end), score=score)
            if items:
                return end, Title(self._text(place, end), items)
        return (stop, Title(self._text(place, stop), ())) if strong else None

    def _small(self, place: int) -> tuple[int, Title] | None:
        """A title in small letters."""
        end = place
        while end < min(len(self._forms), place + _LONGEST_NAME):
            if self._words[end].is_sign or self._forms[end] in ("but", "or"):
                break
            end += 1
        for stop in range(end, place, -1):
            if self._is_plain(range(place, stop)):
                return None
            if self._forms[place] in _NO_NAMES and stop - place < 3:
                return None
            items = self._looked_up(self._text(place, stop), score=_EXACT)
            if items:
                return stop, Title(self._text(place, stop), items)
        return None

    def _capital_run(self, place: int) -> int:
        """The word after a run in capitals; the place itself where none begins."""
        if len(self._large) > 2 and all(word.text[:1].isupper() for word in self._words):
            return place  # everything is written large, so it tells nothing
        stop, at = place, place
        while at < len(self._words) and at - stop < 3:
            word = self._words[at]
            if self._large[at] or (at > place and word.text[:1].isdigit()):
                stop = at + 1
            elif at == place or word.form not in _JOINING:
                break
            at += 1
        return stop

    def _looked_up(self, text: str, *, score: float) -> tuple[int, ...]:
        """Items called exactly as a text says, found as if it stood in quotes."""
        if self._lookups >= _MOST_LOOKUPS:
            return ()
        self._lookups += 1
        query = _natural(text.replace('"', ""))
        best = max(
            self._mentions(f'"{query}"'),
            key=lambda one: (one.end - one.start, one.score),
            default=None,
        )
        if best is None or best.score < score:
            return ()
        named, wanted = _bare(query[best.start - 1 : best.end - 1]), _bare(query)
        return self._meant(best) if len(named) >= len(wanted) else ()

    def _text(self, start: int, stop: int) -> str:
        return self._message[self._words[start].start : self._words[stop - 1].end]


def _bare(text: str) -> tuple[str, ...]:
    """The words of a name without its article."""
    forms = forms_of(text)
    return forms[1:] if forms[:1] and forms[0] in _SHORT_ARTICLES else forms


def _natural(title: str) -> str:
    """A catalogue's title as people say it, with its year.

    >>> _natural("Matrix, The (1999)")
    'The Matrix (1999)'
    """
    year = _YEAR.search(title)
    name = _BRACKETED.sub("", title).strip(" .!?…")
    inverted = _INVERTED.match(name)
    if inverted:
        name = f"{inverted[2]} {inverted[1]}".replace("' ", "'")
    return f"{name} ({year[1]})" if year else name
