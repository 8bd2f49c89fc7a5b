"""The words by which a message can name values and columns of a catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from tastemaker.agents.dialogue.synonyms import COLUMN_WORDS, FAMILIES, SAME, WORDS_FOR
from tastemaker.agents.dialogue.words import forms_of

if TYPE_CHECKING:
    from tastemaker.models.catalogue.facets import Facet

__all__ = ["Family", "Lexicon", "Value", "inflected"]

Family = Literal["time", "price", "length", "other"]
Value = tuple[str, str]  # column and value, as they stand in the catalogue
Forms = tuple[str, ...]

_YEARS = (1000.0, 2200.0)  # of a column whose name says so
_LIKELY_YEARS = (1800.0, 2100.0)  # of one whose name says nothing
_LONGEST = 8  # words of a value that is looked for
# They would be found in almost every message.
_COMMON = """
    a an and any are as at be but by can do few for from good great had has have he her him his
    i if in is it its like me more most my new no none not of off old on one only or other our
    out she so some than that the their them they this to too two up us was we what when who why
    will with yes you your unknown various general
"""
_NO_VALUES = frozenset(_COMMON.split())


@dataclass(frozen=True, eq=False)
class Lexicon:
    """What is looked up while reading.

    Attributes:
        facets: Of the catalogue, by name.
        values: First form → the phrases that begin so, longest first, with what each means.
        columns: Words that mean a column → its name.
        families: Column of numbers → what it is about.
    """

    facets: Mapping[str, Facet]
    values: Mapping[str, tuple[tuple[Forms, tuple[Value, ...]], ...]]
    columns: Mapping[Forms, str]
    families: Mapping[str, Family]

    @classmethod
    def of(
        cls, facets: Iterable[Facet], *, aliases: Mapping[str, Iterable[Value]] | None = None
    ) -> Self:
        """Gather the words of a catalogue.

        Args:
            facets: Lists and categories have values; where two share one, the first has it.
            aliases: Further words → the (column, value) pairs that each stands for.
        """
        known = {facet.name: facet for facet in facets}
        phrases: dict[Forms, tuple[Value, ...]] = {}
        for words, meaning in _phrases(known.values()):
            phrases.setdefault(words, meaning)
        _add_synonyms(phrases)
        for alias, pairs in (aliases or {}).items():
            phrases[forms_of(alias)] = tuple(pairs)
        phrases.pop((), None)
        families = {name: _family(facet) for name, facet in known.items() if facet.kind == "number"}
        return cls(known, _by_first(phrases), _column_words(known, families), families)

    def value_at(self, forms: Sequence[str], place: int) -> tuple[int, tuple[Value, ...]]:
        """How many words from a place on name values, and which; 0 where none does."""
        for words, meaning in self.values.get(_bare(forms[place]), ()):
            part = forms[place : place + len(words)]
            if len(part) == len(words) and all(map(_same, part, words)):
                return len(words), meaning
        return 0, ()

    def column_at(self, forms: Sequence[str], place: int) -> tuple[int, str]:
        """How many words from a place on mean a column, and its name; 0 where none does."""
        for length in (3, 2, 1):
            found = self.columns.get(tuple(forms[place : place + length]))
            if found is not None:
                return length, found
        return 0, ""

    def column_of(self, family: Family) -> str | None:
        """The first column of numbers that is about this."""
        return next((name for name, one in self.families.items() if one == family), None)

    def rating(self) -> str | None:
        """The column of numbers that says how good items are."""
        others = (name for name, family in self.families.items() if family == "other")
        words = {"rating", "score", "stars", "rank"}
        return next((name for name in others if words & set(_name_forms(name))), None)


def inflected(words: Forms) -> Iterator[Forms]:
    """A phrase, its singular and plural, and written as one word.

    >>> sorted(inflected(("comedy",)))
    [('comedies',), ('comedy',)]
    """
    *first, last = words
    yield words
    for ending in _endings(last):
        yield (*first, ending)
    if len(words) == 2 and all(len(word) > 1 for word in words) and words[0].isalpha():
        yield ("".join(words),)
    if "and" in words and len(words) == 3:
        yield (words[0], words[2])


def _endings(word: str) -> Iterator[str]:
    if len(word) < 3 or not word.isalpha():
        return
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y"
    elif word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]
    elif word.endswith("y") and word[-2] not in "aeiou":
        yield word[:-1] + "ies"
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        yield word + "es"
    else:
        yield word + "s"


def _phrases(facets: Iterable[Facet]) -> Iterator[tuple[Forms, tuple[Value, ...]]]:
    """Values in their own words, then in other forms: no form hides a value of its own."""
    found = [
        (forms_of(value), (facet.name, value), facet.kind)
        for facet in facets
        for value in facet.values
        if facet.kind != "number"
    ]
    usable = [one for one in found if _usable(one[0])]
    for words, value, _ in usable:
        yield words, (value,)
    for words, value, kind in usable:
        for other in inflected(words) if kind == "list" else ():
            if _usable(other):
                yield other, (value,)


def _usable(words: Forms) -> bool:
    if not 0 < len(words) <= _LONGEST or _NO_VALUES.issuperset(words):
        return False
    return any(len(word) > 1 and not word.isdigit() for word in words)


def _add_synonyms(phrases: dict[Forms, tuple[Value, ...]]) -> None:
    own = dict(phrases)
    for names in SAME:
        known = next((own[forms] for name in names if (forms := forms_of(name)) in own), None)
        for forms in (other for name in names for other in inflected(forms_of(name))):
            if known is not None:
                phrases.setdefault(forms, known)
    for word, values in WORDS_FOR.items():
        meant = [own.get(forms_of(value)) for value in values]
        if None not in meant:
            pairs = tuple(pair for one in meant if one for pair in one)
            phrases.setdefault(forms_of(word), pairs)


def _by_first(
    phrases: Mapping[Forms, tuple[Value, ...]],
) -> dict[str, tuple[tuple[Forms, tuple[Value, ...]], ...]]:
    found: dict[str, list[tuple[Forms, tuple[Value, ...]]]] = {}
    for words, meaning in phrases.items():
        found.setdefault(_bare(words[0]), []).append((words, meaning))
    return {
        first: tuple(sorted(rows, key=lambda row: -len(row[0]))) for first, rows in found.items()
    }


def _bare(form: str) -> str:
    return form[:-2] if form.endswith("'s") else form.rstrip("'")


def _same(said: str, known: str) -> bool:
    return said == known or _bare(said) == known


def _name_forms(column: str) -> list[str]:
    return [form for part in column.replace("_", " ").split() for form in forms_of(part)]


def _family(facet: Facet) -> Family:
    words, low, high = set(_name_forms(facet.name)), facet.low or 0.0, facet.high or 0.0
    if words & FAMILIES["time"] and _YEARS[0] <= low and high <= _YEARS[1]:
        return "time"
    if words & FAMILIES["price"]:
        return "price"
    if words & FAMILIES["length"]:
        return "length"
    whole = low == int(low) and high == int(high)
    return "time" if whole and _LIKELY_YEARS[0] <= low and high <= _LIKELY_YEARS[1] else "other"


def _column_words(facets: Mapping[str, Facet], families: Mapping[str, Family]) -> dict[Forms, str]:
    found: dict[Forms, str] = {}
    for name in facets:
        for forms in inflected(tuple(_name_forms(name)) or (name,)):
            found.setdefault(forms, name)
    for name, family in families.items():
        if family == "other" and "rating" in _name_forms(name):
            found.setdefault(("rated",), name)
    for name in facets:
        words = set(_name_forms(name))
        about = {families.get(name, "")} | {
            topic for topic, known in COLUMN_WORDS.items() if words & set(known)
        }
        for topic in sorted(about & COLUMN_WORDS.keys()):
            for word in COLUMN_WORDS[topic]:
                for forms in inflected(forms_of(word)):
                    found.setdefault(forms, name)
    return found
