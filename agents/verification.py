"""Generated claims checked against the catalogue: what a text says of items, ratings and the past.

Precision before recall: a sentence counts as wrong only when it claims a value that some item has,
and none of the values it claims is the item's own. A text that passes is not proven right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import polars as pl

from tastemaker.agents.claims import (
    Attribute,
    Claim,
    Role,
    attribute_claims,
    sentences,
    words,
    year_claims,
)
from tastemaker.agents.questions import Question, shown_titles
from tastemaker.agents.told import Mention, invented, star_claims
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.render import display_titles, quotable

__all__ = ["Contradiction", "Facts", "correction", "without"]

_KINDS = frozenset(
    {"genre", "category", "tag", "topic", "subject", "style", "type", "shelf", "theme"}
)
_MAKERS = frozenset(
    {
        *("director", "author", "writer", "publisher", "brand", "manufacturer", "developer"),
        *("artist", "composer", "producer", "studio"),
    }
)
_PLACES = frozenset({"country", "city"})
_YEARS = ("year", "release_year", "publication_year", "release_date", "published", "date")
_PLACEHOLDERS = frozenset(["", "unknown", "none", "n/a", "null", "other", "others", "misc"])
# Words of one kind that mean the same: the first of a line stands for all.
_ALIASES = (
    ("sci-fi", "science fiction", "scifi"),
    ("romance", "romantic"),
    ("comedy", "comedic"),
    ("film-noir", "film noir", "noir"),
    ("children", "children's", "childrens", "kids"),
    ("animation", "animated"),
    ("biography", "biographical"),
    ("documentary", "nonfiction film"),
    ("young adult", "ya"),
)
_BOUNDED = 0.5  # distinct values per item with one, at most; a description has one each
_FEW, _LONGEST = 20, 40
_LONGEST_SENTENCE = 2000  # characters; what is longer is no sentence, and is not judged
_OF_YEAR = re.compile(r"\s*\(((?:1[89]|20)\d\d)\)\s*\Z")
_ANY_YEAR = re.compile(r"\b((?:1[89]|20)\d\d)\b")
_QUOTED = re.compile(r"[\"“«]([^\"“”«»\n]{1,200})[\"”»]")
_FIRST_MARK, _UNKNOWN = 0xE100, chr(0xF8FF)  # the first and the last of `MARKS`
_PRIVATE = re.compile("[\ue000-\uf8ff]")


@dataclass(frozen=True)
class Contradiction:
    """A sentence that the catalogue or the history contradicts.

    Attributes:
        sentence: As it stands in the text.
        attribute: Column it speaks of, `year`, `rating` or `history`.
        claimed: What it says.
        actual: What is known; empty when the title was not shown.
        title: What it says that of.
    """

    sentence: str
    attribute: str
    claimed: str
    actual: tuple[str, ...]
    title: str


class _About(TypedDict):
    subjects: list[str]
    own: bool


class Facts:
    """What the catalogue knows about its items.

    Args:
        tables: Items with their columns, and the ratings.
        columns: Item columns to compare with; when empty, those declared as lists or categorical
            and every text column of few, short values.

    Raises:
        UserError: a column that the items have not.
    """

    def __init__(self, tables: Tables, *, columns: Sequence[str] = ()) -> None:
        self._tables = tables
        unknown = sorted(set(columns) - set(tables.items.columns))
        if unknown:
            raise UserError(
                f"the items have no column '{unknown[0]}' to check claims with.",
                allowed=f"columns: {', '.join(tables.items.columns)}",
            )
        chosen = columns or [name for name in tables.items.columns if _is_bounded(tables, name)]
        self._known = [_attribute(name, _cells(tables, name)) for name in chosen]
        self._years = _years(tables)
        self._shown = shown_titles(tables)
        self._listed = display_titles(tables)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What claims are compared with, besides years, ratings and titles."""
        return tuple(known.attribute for known in self._known)

    def contradictions(self, text: str, question: Question) -> tuple[Contradiction, ...]:
        """Claims of a text that are wrong, in its order.

        Args:
            text: An answer.
            question: What was asked; names the item, or the items and events that were shown.
        """
        view = _View(self, question)
        found: list[Contradiction] = []
        for start, end in sentences(text):
            if end - start > _LONGEST_SENTENCE:
                continue
            sentence = text[start:end]
            marked, mentions = view.marked(_PRIVATE.sub(" ", sentence).replace("*", ""))
            if view.own is None and not mentions:
                continue
            found += self._of_sentence(sentence, marked, mentions, view)
        return tuple(found)

    def corrections(self, text: str, question: Question) -> list[tuple[str, str]]:
        """Wrong sentences and what is right, for the template `kar/correction`."""
        return correction(self.contradictions(text, question))

    def _of_sentence(
        self, sentence: str, marked: str, mentions: Mapping[str, Mention], view: _View
    ) -> Iterator[Contradiction]:
        about: _About = {
            "subjects": [mark for mark, one in mentions.items() if one.shown],
            "own": view.own is not None,
        }
        for known in self._known:
            claims = attribute_claims(marked, known.attribute, **about)
            for items, keys in _said(claims, mentions, view):
                actual = known.of(items)
                if actual and not actual & set(keys):
                    claimed = ", ".join(known.names[key] for key in dict.fromkeys(keys))
                    right = tuple(sorted(known.names[key] for key in actual))
                    name = known.attribute.name
                    yield Contradiction(sentence, name, claimed, right, self.title(items[0]))
        for items, told in _said(year_claims(marked, **about), mentions, view):
            right = tuple(dict.fromkeys(self._years[item] for item in items))
            if all(right) and not set(right) & set(told):
                claimed = ", ".join(dict.fromkeys(told))
                yield Contradiction(sentence, "year", claimed, right, self.title(items[0]))
        if view.is_user:
            yield from self._of_past(sentence, marked, mentions, view)

    def _of_past(
        self, sentence: str, marked: str, mentions: Mapping[str, Mention], view: _View
    ) -> Iterator[Contradiction]:
        """Ratings other than those shown, and titles that were not shown at all."""
        wrong: dict[str, Contradiction] = {}
        for mark, stars in star_claims(marked, highest=self._highest):
            one = mentions.get(mark)
            if one is None or not one.shown:
                continue
            given = {rating for item in one.items for rating in view.ratings.get(item, ())}
            if given and stars not in given:
                actual = tuple(f"{rating:g}" for rating in sorted(given))
                wrong[mark] = Contradiction(sentence, "rating", f"{stars:g}", actual, one.title)
        for mark in invented(marked):
            one = mentions.get(mark)
            if one is not None and one.items and not one.shown:
                wrong[mark] = Contradiction(sentence, "history", one.title, (), one.title)
        yield from wrong.values()

    def title(self, item: int) -> str:
        """Title of an item as questions show it."""
        return self._shown[item]

    def keys_of(self, item: int) -> tuple[set[str], set[str]]:
        """What texts may call an item: with its year, and without."""
        whole = {_key(self._shown[item]), _key(self._listed[item])}
        return whole, {_key(_OF_YEAR.sub("", one)) for one in _forms(self, item)} - whole

    def named(self, key: str) -> tuple[int, ...]:
        """Items of the catalogue called so, by the whole title or else without the year."""
        return self._by_title.get(key) or self._by_base.get(key, ())

    @cached_property
    def _by_title(self) -> dict[str, tuple[int, ...]]:
        return _index((item, self.keys_of(item)[0]) for item in range(self._tables.n_items))

    @cached_property
    def _by_base(self) -> dict[str, tuple[int, ...]]:
        return _index((item, self.keys_of(item)[1]) for item in range(self._tables.n_items))

    @cached_property
    def _highest(self) -> float | None:
        """Highest rating; None where there are no ratings."""
        if self._tables.schema.rating is None or not self._tables.interactions.height:
            return None
        span = self._tables.schema.rating_range
        return span[1] if span else float(self._tables.interactions["rating"].to_numpy().max())

    def ratings(self, events: Sequence[int]) -> dict[int, set[float]]:
        """Item → its ratings among some interaction rows."""
        frame = self._tables.interactions
        items, ratings = (frame[name].gather(list(events)).to_list() for name in ("item", "rating"))
        found: dict[int, set[float]] = {}
        for item, rating in zip(items, ratings, strict=True):
            found.setdefault(item, set()).add(float(rating))
        return found


def without(text: str, contradictions: Iterable[Contradiction]) -> str:
    """`text` without the sentences of these contradictions; everything else stays as it is.

    Args:
        text: What they were found in.
        contradictions: See `Facts.contradictions`.
    """
    dropped = frozenset(one.sentence for one in contradictions)
    while True:
        kept = _dropped(text, dropped)
        if kept == text:
            return kept.strip("\n") if dropped else kept
        text = kept


def correction(contradictions: Iterable[Contradiction]) -> list[tuple[str, str]]:
    """(claim, fact) of each, plain: values of the field `corrections`."""
    found: dict[str, list[str]] = {}
    for one in contradictions:
        right = ", ".join(one.actual)
        if one.attribute == "history":
            fact = f"the history shown has no '{one.title}'"
        elif one.attribute == "rating":
            fact = f"the user gave '{one.title}' {right} stars"
        else:
            fact = f"{one.attribute.replace('_', ' ')} of '{one.title}': {right}"
        found.setdefault(quotable(one.sentence), []).append(quotable(fact))
    return [(claim, "; ".join(dict.fromkeys(facts))) for claim, facts in found.items()]


def _dropped(text: str, sentences_: frozenset[str]) -> str:
    gone = [(start, end) for start, end in sentences(text) if text[start:end] in sentences_]
    kept, place = [], 0
    for start, end in gone:
        line = text.rfind("\n", 0, start) + 1
        stop = text.find("\n", end)
        stop = len(text) if stop < 0 else stop
        before, after = text[max(line, place) : start], text[end:stop]
        if not after.strip() and not re.sub(r"\d{1,3}[.)]|[-*•–\s]", "", text[line:start]):
            start, end = max(line, place), min(stop + 1, len(text))  # nothing else on the line
        elif after.strip():
            end += len(after) - len(after.lstrip())
        else:
            start -= len(before) - len(before.rstrip())
        kept.append(text[place:start])
        place = max(place, end)
    return "".join([*kept, text[place:]])


class _View:
    """The items that an answer may speak of, as its question showed them."""

    def __init__(self, facts: Facts, question: Question) -> None:
        self._facts = facts
        self.own = question.entity if question.kind == "item" else None
        self.is_user = question.kind == "user"
        shown = (self.own,) if self.own is not None else tuple(dict.fromkeys(question.items))
        keys = {item: facts.keys_of(item) for item in shown}
        self._whole = _index((item, known[0]) for item, known in keys.items())
        self._base = _index((item, known[1]) for item, known in keys.items())
        self.ratings = facts.ratings(question.events) if self.is_user else {}
        names = {name for item in shown for name in _forms(facts, item)}
        if self.own is not None:
            names |= {_OF_YEAR.sub("", name) for name in names}
        else:
            names = {name for name in names if _OF_YEAR.search(name)}
        said = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
        self._bare = re.compile(rf"(?<!\w)(?:{said})(?!\w)") if said else None

    def marked(self, sentence: str) -> tuple[str, dict[str, Mention]]:
        """The sentence with a mark for every title, and what each mark means."""
        mentions: dict[str, Mention] = {}

        def mark(found: re.Match[str]) -> str:
            said = found[found.lastindex or 0]
            items, shown, year = self._items(said)
            if not items:
                return _UNKNOWN
            title = self._facts.title(items[0])
            one = Mention(items, shown=shown, title=title)
            for sign, known in mentions.items():
                if known == one:
                    return sign + year
            sign = chr(_FIRST_MARK + len(mentions) % 0x1700)
            mentions[sign] = one
            return sign + year

        text = _QUOTED.sub(mark, sentence)
        return (self._bare.sub(mark, text) if self._bare else text), mentions

    def _items(self, said: str) -> tuple[tuple[int, ...], bool, str]:
        """Items meant, whether they were shown, and a year that is no part of the title."""
        key, found = _key(said), _OF_YEAR.search(said)
        base, year = _key(_OF_YEAR.sub("", said)), f" ({found[1]})" if found else ""
        if key in self._whole:
            return self._whole[key], True, ""
        if key in self._base:
            return self._base[key], True, ""
        if known := self._facts.named(key):
            return known, False, ""
        if year and (base in self._base or base in self._whole):
            return self._base.get(base) or self._whole[base], True, year
        return (), False, ""


class _Known:
    """An attribute, and each item's keys.

    Args:
        attribute: Its values.
        names: Key → value as written.
        keys: Of each item.
    """

    def __init__(
        self, attribute: Attribute, names: Mapping[str, str], keys: Sequence[frozenset[str]]
    ) -> None:
        self.attribute, self.names, self._keys = attribute, names, keys

    def of(self, items: Sequence[int]) -> set[str]:
        """Keys of any of these items; empty when one has none, so that nothing can be said."""
        each = [self._keys[item] for item in items]
        return set().union(*each) if all(each) else set()


def _said(
    claims: Iterable[Claim], mentions: Mapping[str, Mention], view: _View
) -> Iterable[tuple[tuple[int, ...], list[str]]]:
    """Items that were shown, and all that is claimed of them."""
    found: dict[tuple[int, ...], list[str]] = {}
    for one in claims:
        if not one.subject:
            found.setdefault((view.own or 0,), []).extend(one.values)
        elif one.subject in mentions and mentions[one.subject].shown:
            found.setdefault(mentions[one.subject].items, []).extend(one.values)
    return found.items()


def _attribute(name: str, cells: Sequence[tuple[str, ...]]) -> _Known:
    role = _role(name)
    same = {words(one): words(line[0]) for line in _ALIASES for one in line}
    names: dict[str, str] = {}
    phrases: dict[tuple[str, ...], str] = {}
    known: dict[tuple[str, ...], frozenset[str]] = {}
    for cell in set(cells):
        keys = set()
        for value in cell:
            said = words(value)
            if not said or value.casefold() in _PLACEHOLDERS or value.startswith("("):
                continue
            first = same.get(said, said) if role == "kind" else said
            key = " ".join(first)
            names.setdefault(key, quotable(value))
            phrases[said] = key
            phrases |= {other: key for other, to in same.items() if role == "kind" and to == first}
            keys.add(key)
        known[cell] = frozenset(keys)
    return _Known(Attribute(name, role, phrases), names, [known[cell] for cell in cells])


def _role(name: str) -> Role:
    noun = Attribute(name, "other", {}).noun
    last = noun.split(" ")[-1]
    for role, nouns in (("kind", _KINDS), ("maker", _MAKERS), ("place", _PLACES)):
        if noun in nouns or (role == "kind" and last in nouns):
            return role  # type: ignore[return-value]
    return "other"


def _cells(tables: Tables, name: str) -> list[tuple[str, ...]]:
    """Values of each item."""
    values = tables.items[name]
    if isinstance(values.dtype, pl.List):
        cells = values.cast(pl.List(pl.String)).to_list()
    else:
        sign = tables.schema.lists.get(name) or ("|" if _is_parted(values) else None)
        texts = values.cast(pl.String).fill_null("").to_list()
        cells = [text.split(sign) if sign else [text] for text in texts]
    return [tuple(one.strip() for one in cell or () if one) for cell in cells]


def _is_parted(values: pl.Series) -> bool:
    return values.dtype == pl.String and bool(values.str.contains("|", literal=True).any())


def _is_bounded(tables: Tables, name: str) -> bool:
    """Whether a column has values that items share, such as genres or brands."""
    values, schema = tables.items[name], tables.schema
    if name in ("item", "item_id", "title", "sampled", *_YEARS, *schema.numeric):
        return False
    if name in schema.lists or name in schema.categorical:
        return True
    if not (values.dtype == pl.String or isinstance(values.dtype, pl.List)):
        return False
    cells = [cell for cell in _cells(tables, name) if cell and cell != ("",)]
    distinct = {value for cell in cells for value in cell}
    if not distinct or max(map(len, distinct)) > _LONGEST:
        return False
    return len(distinct) <= max(_FEW, _BOUNDED * len(cells)) and len(distinct) < len(cells)


def _years(tables: Tables) -> list[str]:
    """Year of each item from its column, else from the end of its title; empty when unknown."""
    titles = [found[1] if (found := _OF_YEAR.search(one)) else "" for one in tables.titles]
    for name in _YEARS:
        if name in tables.items.columns:
            cells = tables.items[name].cast(pl.String).fill_null("").to_list()
            told = [found[1] if (found := _ANY_YEAR.search(one)) else "" for one in cells]
            return [one or other for one, other in zip(told, titles, strict=True)]
    return titles


def _forms(facts: Facts, item: int) -> tuple[str, ...]:
    return facts.title(item), facts._listed[item]


def _key(title: str) -> str:
    return " ".join(title.casefold().split()).strip(" .,;:'")


def _index(named: Iterable[tuple[int, set[str]]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for item, keys in named:
        for key in keys:
            found.setdefault(key, []).append(item)
    return {key: tuple(items) for key, items in found.items()}
