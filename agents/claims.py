"""What sentences claim about items, read with patterns: precision before recall.

Titles have been replaced by marks (`MARKS`) before. Only claim forms about the item itself count,
such as "is a horror film", "belongs to the genre of", "directed by" or "released in 1994"; negated,
comparative and hypothetical mentions do not. Everything is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["MARKS", "Attribute", "Claim", "attribute_claims", "sentences", "words", "year_claims"]

MARKS = "\ue100-\uf8ff"  # private use: one character stands for a title
Role = Literal["kind", "maker", "place", "other"]

_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]*]*(?=\s|$)")
_ABBREVIATED = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Vol|etc)|\b[A-Z]|\b[A-Za-z]\.[A-Za-z])\.$"
)
_AFTER = re.compile(r"\s*(?:[a-z]|\(\d{4}\))")  # no sentence begins like this
_SPACE = re.compile(r"\s*")
_BULLET = re.compile(r"\s*(?:(?:[-*•–]|\d{1,3}[.)])\s+)?")
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_WORKS = frozenset(
    {
        *("film", "films", "movie", "movies", "picture", "flick", "feature", "series", "show"),
        *("book", "books", "novel", "novels", "story", "stories", "tale", "game", "games"),
        *("album", "record", "song", "title", "titles", "work", "works", "production", "piece"),
        *("item", "items", "product", "products", "classic", "classics", "entry", "epic", "gem"),
        *("masterpiece", "outing", "adaptation", "genre", "category"),
    }
)
# What may end a phrase without such a noun; "is a crime" or "is a mystery" says nothing.
_HEADS = frozenset(
    {"comedy", "drama", "thriller", "western", "documentary", "musical", "film noir"}
)
_JOINED = frozenset({",", "/", "and", "or", "-", "–"})
_ENDS = frozenset(
    {
        *("for", "of", "about", "with", "in", "by", "from", "like", "than", "to", "at", "on", "as"),
        *("that", "which", "who", "where", "when", "but", "because", "since", "so", "while"),
        *("is", "was", "are", "were", "has", "had", "remains", "set", "a", "an", "the"),
        *(",", ";", ":", ".", "!", "?", ")", "("),
    }
)
_PREFIXES = frozenset({"non", "anti", "pseudo", "quasi"})
_AHEAD = 7  # words of a phrase before its value, at most

_THING = r"(?:film|movie|picture|book|novel|story|series|show|game|album|item|product|title|work)"
_SUBJECT = rf"(?P<subject>[{MARKS}]|\AThis\b|\b(?:[Ii]t|(?:[Tt]his|[Tt]he) {_THING})\b)"
_ASIDE = r"(?:\s*\([^()]*\))?"
_ADVERB = r"(?:(?:also|truly|really|essentially|primarily|mainly|mostly|generally|widely|best)\s+)?"
_NAMED_AS = (
    r"(?:(?:considered|(?:regarded|classified|categori[sz]ed|described|listed|known) as)\s+)?"
)
_IS = re.compile(
    rf"{_SUBJECT}{_ASIDE}(?:,?\s+(?:which|that))?(?:['’]s|\s+(?:is|was|remains))\s+"
    rf"{_ADVERB}{_NAMED_AS}"
    r"(?:an?|the|one of the)\s+"
)
_APPOSED = re.compile(rf"(?P<subject>[{MARKS}]){_ASIDE},\s+(?:an?|the)\s+")
_OPENED = re.compile(r"(?P<subject>\A)An?\s+")
_MIX = re.compile(r"(?:\w+\s+)?(?:mix|mixture|blend|combination|fusion)\s+of\s+", re.IGNORECASE)
_BELONGS = re.compile(
    r"(?:\b(?P<needs>belongs? to|falls? (?:in|into|under|within)|fits? (?:in|into)|is part of|"
    rf"(?:is|was) an? (?:\w+ )?{_THING} (?:in|from|of|within))|"
    r"\b(?:categori[sz]ed (?:as|under|in)|classified (?:as|under)|(?:listed|filed) under))"
    r"\s+(?:the\s+)?(?P<of>(?:genres?|category|categories) of\s+)?",
    re.IGNORECASE,
)
_VERBS = {
    "director": r"directed|helmed",
    "author": r"written|authored|penned",
    "writer": r"written|penned",
    "publisher": r"published",
    "brand": r"made|manufactured|sold|produced",
    "manufacturer": r"made|manufactured|produced",
    "developer": r"developed",
    "artist": r"performed|recorded",
    "composer": r"composed",
    "producer": r"produced",
    "studio": r"produced|made",
}
_PLACES = {
    "country": r"(?:produced|made|manufactured) in|comes? from",
    "city": r"(?:located|based|situated) in",
}
_YEAR = r"(?P<year>(?:1[89]|20)\d\d)(?!\d|s\b|-)"
_MONTH = (
    r"(?:(?:January|February|March|April|May|June|July|August|September|October|November|December)"
    r"\s+(?:\d{1,2},?\s+)?)?"
)
_RELEASED = re.compile(
    r"(?<![\w-])(?:released|published|issued|premiered|debuted|launched|came out)"
    rf"(?: (?:theatrically|worldwide|first))?\s+(?:back\s+)?(?:in|on)\s+(?:the year\s+)?"
    rf"{_MONTH}{_YEAR}"
)
_OF_PHRASE = re.compile(_YEAR)
_BESIDE = re.compile(rf"(?P<subject>[{MARKS}])\s*\({_YEAR}\)")
_BEFORE = re.compile(rf"\b[Tt]he\s+{_YEAR}\s+(?:\w+\s+){{0,2}}?{_THING},?\s+(?P<subject>[{MARKS}])")
_NEGATED = re.compile(r"\b(?:not|never|no|neither|nor|without|hardly|cannot)\b|n['’]t\b")
_HYPOTHETICAL = re.compile(
    r"\b(?:[Uu]nlike|[Ii]f|[Ww]hether|[Cc]ompared|[Cc]ontrary|than|instead|would|could|might|may|"
    r"should|mistaken|wrongly)\b"
)
_OTHER_WORK = re.compile(
    r"\b(?:based|adapted|adaptation|original|remake|sequel|prequel|soundtrack|score|remastered|"
    r"re-?released|re-?issued|DVD|video|edition|anniversary|translated|translation|first|trilogy|franchise|predecessor|successor)\b",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?:\s*\([^()]*\))?[,\s]*(?:[\w'’-]+\s+){0,6}\Z")
_APART = re.compile(r"\b(?:and|or|but|while|with|like|watched|saw|rated|gave|user|who)\b")
_PRONOUN = re.compile(rf"\b(?:[Ii]t|(?:[Tt]his|[Tt]he) {_THING})\s+(?:is|was)\s+\Z")


@dataclass(frozen=True)
class Attribute:
    """A column whose values sentences may claim.

    Attributes:
        name: The column.
        role: Which claim forms there are besides "its NAME is VALUE".
        phrases: Words of a value, as `words` gives them → its key.
    """

    name: str
    role: Role
    phrases: Mapping[tuple[str, ...], str]
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        """Find out how many words the longest value has."""
        object.__setattr__(self, "longest", max(map(len, self.phrases), default=0))

    @property
    def noun(self) -> str:
        """Name of one value: `genre` for the column `genres`."""
        name = self.name.replace("_", " ").lower()
        if name.endswith("ies"):
            return f"{name[:-3]}y"
        return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


class Claim(NamedTuple):
    """What a sentence says of a title.

    Attributes:
        subject: The title's mark; empty when the sentence does not name it.
        values: Keys of the values claimed, or a year.
        at: Where in the sentence.
    """

    subject: str
    values: tuple[str, ...]
    at: int


def words(text: str) -> tuple[str, ...]:
    """Words in lower case, hyphens and other signs left out, `&` read as `and`.

    >>> words("Sci-Fi & Fantasy")
    ('sci', 'fi', 'and', 'fantasy')
    """
    lowered = text.lower().replace("&", " and ").replace("’", "'")
    return tuple(one for one in _TOKEN.findall(lowered) if one[0].isalnum())


def sentences(text: str) -> list[tuple[int, int]]:
    """Borders of each sentence, without the sign of a list before it and the space after it."""
    found, start = [], 0
    for line in text.splitlines(keepends=True):
        stop = start + len(line.rstrip())
        bullet = _BULLET.match(text, start, stop)
        begin = bullet.end() if bullet else start
        found += [span for span in _parted(text, begin, stop) if span[0] < span[1]]
        start += len(line)
    return found


def _parted(text: str, begin: int, stop: int) -> Iterator[tuple[int, int]]:
    paired = text.count('"', begin, stop) % 2 == 0
    quotes, seen = 0, begin
    for end in _END.finditer(text, begin, stop):
        quotes += text.count('"', seen, end.end())
        seen = end.end()
        follows = _SPACE.match(text, seen, stop).end()  # type: ignore[union-attr]
        if (paired and quotes % 2) or _AFTER.match(text, seen, stop):
            continue
        if _ABBREVIATED.search(text, max(begin, seen - 8), seen):
            continue
        if end[0].endswith(('"', "”", "»")) and follows < stop and not text[follows].isupper():
            continue  # a title that ends with a sign, inside its sentence
        yield begin, seen
        begin = follows
    yield begin, stop


def attribute_claims(
    sentence: str, attribute: Attribute, *, subjects: Sequence[str], own: bool
) -> Iterator[Claim]:
    """Values of an attribute that a sentence claims.

    Args:
        sentence: With marks.
        attribute: Its values and name.
        subjects: Marks of the titles in the sentence.
        own: Whether the whole text is about one item, so that claims need not name it.
    """
    if _HYPOTHETICAL.search(sentence):
        return
    if attribute.role == "kind":
        yield from _kinds(sentence, attribute, subjects=subjects, own=own)
    if _NEGATED.search(sentence):
        return
    for form in _forms(attribute):
        for found in form.finditer(sentence):
            subject = _subject(sentence, found.start(), subjects=subjects, own=own)
            values, _ = _listed(_tokens(sentence, found.end()), attribute)
            if values and subject is not None and not _elsewhere(sentence, found.start()):
                yield Claim(subject, values, found.start())


def year_claims(sentence: str, *, subjects: Sequence[str], own: bool) -> Iterator[Claim]:
    """Years of release that a sentence claims; arguments as for `attribute_claims`."""
    yield from _years_beside(sentence)
    if _HYPOTHETICAL.search(sentence):
        return
    for form in (_IS, _APPOSED):
        for found in form.finditer(sentence):
            year = _OF_PHRASE.match(sentence, found.end())
            subject = _resolved(sentence, found, subjects=subjects, own=own)
            if year and subject is not None:
                yield Claim(subject, (year["year"],), found.start())
    if _NEGATED.search(sentence):
        return
    for found in _RELEASED.finditer(sentence):
        subject = _subject(sentence, found.start(), subjects=subjects, own=own)
        if subject is not None and not _elsewhere(sentence, found.start()):
            yield Claim(subject, (found["year"],), found.start())


def _years_beside(sentence: str) -> Iterator[Claim]:
    for found in _BESIDE.finditer(sentence):
        yield Claim(found["subject"], (found["year"],), found.start())
    for found in _BEFORE.finditer(sentence):
        if not _elsewhere(sentence, found.start()):
            yield Claim(found["subject"], (found["year"],), found.start())


def _kinds(
    sentence: str, attribute: Attribute, *, subjects: Sequence[str], own: bool
) -> Iterator[Claim]:
    for form in (_IS, _APPOSED, *([_OPENED] if own else [])):
        for found in form.finditer(sentence):
            subject = _resolved(sentence, found, subjects=subjects, own=own)
            values = _phrase(sentence, found.end(), attribute)
            if values and subject is not None:
                yield Claim(subject, values, found.start())
    if _NEGATED.search(sentence):
        return
    for found in _BELONGS.finditer(sentence):
        values, after = _listed(_tokens(sentence, found.end()), attribute)
        named = found["of"] or not found["needs"] or after in _WORKS | {"genres", "categories"}
        subject = _subject(sentence, found.start(), subjects=subjects, own=own)
        if values and named and subject is not None:
            yield Claim(subject, values, found.start())


def _forms(attribute: Attribute) -> Iterator[re.Pattern[str]]:
    noun = re.escape(attribute.noun)
    plural = re.escape(attribute.name.replace("_", " ").lower())
    called = rf"(?:{noun}|{plural})"
    yield re.compile(
        rf"(?:\b(?:[Ii]ts|[{MARKS}]['’]s)\s+(?:main |primary )?{called}\s+"
        rf"(?:is|are|was|were|includes?)\s+|\A{called}\s*:\s*)(?:the\s+)?",
        re.IGNORECASE,
    )
    if attribute.role == "maker":
        verbs = _VERBS.get(attribute.noun)
        yield re.compile(rf"\b(?:by|from) (?:the )?{noun}\s+", re.IGNORECASE)
        if verbs:
            yield re.compile(rf"\b(?:{verbs}) by\s+(?:the\s+)?(?:{noun}\s+)?", re.IGNORECASE)
    if attribute.role == "place":
        yield re.compile(rf"\b(?:{_PLACES[attribute.noun]})\s+(?:the\s+)?", re.IGNORECASE)


def _phrase(sentence: str, start: int, attribute: Attribute) -> tuple[str, ...]:
    """Values that the noun phrase at `start` consists of."""
    mix = _MIX.match(sentence, start)
    if mix:
        return _listed(_tokens(sentence, mix.end()), attribute)[0]
    tokens = _tokens(sentence, start)
    for place, token in enumerate(tokens[:_AHEAD]):
        if token in _ENDS and token != ",":
            break
        values, after = _listed(tokens[place:], attribute)
        # "noir-inspired" and "non-comedy" are no values.
        if not values or after == "-" or _PREFIXES & set(tokens[max(place - 2, 0) : place]):
            continue
        ends = after in _ENDS or not after or after in _JOINED
        return values if after in _WORKS or (ends and values[-1] in _HEADS) else ()
    return ()


def _listed(tokens: Sequence[str], attribute: Attribute) -> tuple[tuple[str, ...], str]:
    """Keys of the values that the tokens begin with, and the token after them."""
    found: list[str] = []
    place = 0
    while True:
        ahead = place
        while found and ahead < len(tokens) and tokens[ahead] in _JOINED:
            ahead += 1
        key, length = _value(tokens[ahead:], attribute)
        if not key:
            break
        found.append(key)
        place = ahead + length
    return tuple(found), tokens[place] if place < len(tokens) else ""


def _value(tokens: Sequence[str], attribute: Attribute) -> tuple[str, int]:
    """The longest value that the tokens begin with, and how many of them it is."""
    said: list[str] = []
    best = ("", 0)
    for length, token in enumerate(tokens, start=1):
        if token == "&":
            token = "and"
        if token[0].isalnum():
            said.append(token.replace("’", "'"))
        elif token not in ("-", ".", "'"):
            break
        if len(said) > attribute.longest:
            break
        key = attribute.phrases.get(tuple(said))
        if key and token[0].isalnum():
            best = (key, length)
    return best


def _tokens(sentence: str, start: int, most: int = 24) -> list[str]:
    """Words and signs from `start` on."""
    found: list[str] = []
    for token in _TOKEN.finditer(sentence, start):
        found.append(token[0].lower())
        if len(found) == most:
            break
    return found


def _resolved(
    sentence: str, found: re.Match[str], *, subjects: Sequence[str], own: bool
) -> str | None:
    """The mark meant by a mark or pronoun; empty: the item the text is about; None: unknown."""
    told = found["subject"]
    if told in subjects:
        return told or None
    if re.match(f"[{MARKS}]", told):
        return None
    if own:
        stranger = set(re.findall(f"[{MARKS}]", sentence[: found.start()])) - set(subjects)
        return None if stranger else ""
    alone = len(set(re.findall(f"[{MARKS}]", sentence))) == len(subjects) == 1
    return subjects[0] if alone and told != "This" else None


def _subject(sentence: str, at: int, *, subjects: Sequence[str], own: bool) -> str | None:
    """What a claim without a subject of its own is about; None when that is not sure."""
    before = sentence[:at]
    mark = max((before.rfind(one) for one in subjects), default=-1)
    stranger = re.search(rf"[{MARKS}]", before[mark + 1 :])
    if own:
        return None if stranger else ""
    if stranger:
        return None
    if re.match(rf"[Ii]ts\b|[{MARKS}]", sentence[at:]):
        told = sentence[at]
        if told in subjects:
            return told
        return subjects[0] if len(subjects) == 1 else None
    if mark < 0:
        return None
    between = before[mark + 1 :]
    if len(subjects) == 1 and _PRONOUN.search(between):
        return before[mark]
    near = _BETWEEN.fullmatch(between) is not None and not _APART.search(between)
    return before[mark] if near else None


def _elsewhere(sentence: str, at: int) -> bool:
    """Whether the words up to there speak of another work than the item."""
    return _OTHER_WORK.search(sentence, 0, at) is not None
