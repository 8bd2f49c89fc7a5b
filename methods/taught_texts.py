"""What a teacher wrote, brought into the form that templates put into their sentences.

A taste becomes a verb phrase in the third person, so that "The user {{ preference }}" reads well; a
wish becomes one sentence in the first person. What cannot be brought into it is unusable, with the
reason in a few words. Nothing is invented: words are only cut, or put into the right person.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tastemaker.agents.claims import sentences, words
from tastemaker.prompts.render import quotable

__all__ = ["Taught", "taste_phrase", "wish_sentence"]

_THIRD = {
    **{
        verb: f"{verb}s"
        for verb in (
            *("prefer", "like", "love", "enjoy", "appreciate", "favor", "favour", "want", "need"),
            *(
                "seek",
                "seem",
                "appear",
                "tend",
                "lean",
                "value",
                "choose",
                "look",
                "listen",
                "read",
            ),
            *("play", "buy", "collect", "care", "gravitate", "express", "show", "use", "hope"),
            *("wish", "crave", "desire", "adore", "admire", "focus", "opt", "go", "plan", "try"),
        )
    },
    "watch": "watches",
    "express": "expresses",
    "wish": "wishes",
    "focus": "focuses",
    "go": "goes",
    "try": "tries",
    "have": "has",
    "am": "is",
    "are": "is",
    "was": "was",
    "do": "does",
}
_FIRST = {third: first for first, third in _THIRD.items()} | {"is": "am", "was": "was"}
_MODALS = frozenset({"would", "might", "may", "will", "can", "could", "must"})
_ADVERBS = r"(?P<adverbs>(?:(?:\w+ly|also|often|always|most)\s+)*)"
_LEAD = (
    r"(?:(?:overall|in general|in short|sure|certainly|yes)[,:!]?\s+"
    r"|(?:based on|from|given|judging by|according to)\b[^,]{1,120},\s+"
    r"|it (?:seems|appears|looks like|is likely|is clear)(?: that)?\s+)*"
)
_NOUN = (
    r"(?:user|person|customer|reader|viewer|player|shopper|buyer|listener|individual|consumer"
    r"|reviewer|gamer|writer|author)"
)
_SUBJECT = rf"(?:(?:this|the|a|an|our|each|such an?)\s+{_NOUN}s?|{_NOUN}s?|they|he|she|i)\b"
_OF_SUBJECT = re.compile(
    rf"{_LEAD}{_SUBJECT}['’](?:s)?\s+(?:\w+\s+)?(?:preference|taste|interest)s?\s+"
    r"(?:is|are|lies?|seems? to be)\s+(?:for|in|towards?)?\s*(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_OPENED = re.compile(
    rf"{_LEAD}(?P<subject>{_SUBJECT})(?P<short>['’](?:m|re|s|d|ve|ll)\b)?\s+{_ADVERBS}"
    r"(?P<verb>[A-Za-z]+)(?P<rest>\b.*)",
    re.IGNORECASE | re.DOTALL,
)
_BARE = re.compile(
    rf"{_LEAD}{_ADVERBS}(?P<verb>[A-Za-z]+)(?P<rest>\b.*)", re.IGNORECASE | re.DOTALL
)
_SHORT = {"m": "am", "re": "are", "s": "is", "d": "would", "ve": "have", "ll": "will"}
_LABEL = re.compile(
    r"(?:(?:answer|preferences?|taste|summary|need|intention|output)\s*:\s*)+", re.IGNORECASE
)
_EDGES = " \t*_#>`-•"
_QUOTED = re.compile(r"[\"“'‘](?P<inner>[^\"“”]*)[\"”'’]")
_FIRST_PERSON = re.compile(r"\b(?:I|I['’](?:m|d|ve|ll)|[Mm]y|[Mm]e|[Ww]e|[Oo]ur)\b")
_ECHO = re.compile(r"\bthe user (?:prefers|likes)\b", re.IGNORECASE)
_LOOKING = re.compile(r"(?:i am |i'm )?looking for\b", re.IGNORECASE)
_POSSESSIVE = re.compile(r"\b(?:his or her|his|their)\b(?=\s+\w)", re.IGNORECASE)
_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")


class Taught(NamedTuple):
    """A text that a template can show.

    Attributes:
        text: Empty when it is unusable.
        reason: Why, in a few words; empty when it is usable.
    """

    text: str
    reason: str = ""


def taste_phrase(
    said: str, *, longest: int, hidden: Sequence[str] = (), shown: Sequence[str] = ()
) -> Taught:
    """A verb phrase in the third person, without a full stop.

    >>> taste_phrase("This user prefers horror games.", longest=200).text
    'prefers horror games'

    Args:
        said: What the teacher answered.
        longest: Characters.
        hidden: Titles that it must not name.
        shown: Titles that the teacher saw: a list of them is no taste.
    """
    found = _phrase(said)
    return found if found.reason else _judged(found.text, longest, hidden=hidden, shown=shown)


def _phrase(said: str) -> Taught:
    """The verb phrase, of any length, whatever it names."""
    text = _first_sentence(said).rstrip(" .!;,")
    if own := _OF_SUBJECT.fullmatch(text):
        return Taught(f"prefers {own['rest'].strip()}")
    found = _OPENED.fullmatch(text)
    if found:
        verb = _verb(found)
        rest = f" {found['verb']}{found['rest']}" if found["short"] else found["rest"]
    else:
        found = _BARE.fullmatch(text)
        verb, rest = (found["verb"].lower(), found["rest"]) if found else ("", "")
        if verb not in _THIRD and verb not in _FIRST:
            return Taught("", "no verb phrase" if text else "empty")
    assert found is not None
    third = _THIRD.get(verb, verb)
    if third not in _MODALS and not third.endswith("s"):
        return Taught("", "no verb phrase")
    return Taught(f"{found['adverbs'].lower()}{third}{rest}")


def wish_sentence(said: str, *, longest: int, hidden: Sequence[str] = ()) -> Taught:
    """One sentence in the first person, with a full stop.

    >>> wish_sentence("The customer wants a game for a child", longest=200).text
    'I want a game for a child.'

    Args:
        said: What the teacher answered.
        longest: Characters.
        hidden: Titles that it must not name.
    """
    text = _first_sentence(said).rstrip(" .!;,")
    if not text:
        return Taught("", "empty")
    if not _FIRST_PERSON.search(text):
        found = _OPENED.fullmatch(text)
        if found and not found["short"] and found["verb"].lower() in (*_FIRST, *_THIRD, *_MODALS):
            verb = found["verb"].lower()
            rest = _POSSESSIVE.sub("my", found["rest"])
            text = f"I {found['adverbs'].lower()}{_FIRST.get(verb, verb)}{rest}"
        elif _LOOKING.match(text):
            text = f"I am {text[0].lower()}{text[1:]}"
        else:
            return Taught("", "not in the first person")
    return _judged(f"{text[0].upper()}{text[1:]}.", longest, hidden=hidden)


def _verb(found: re.Match[str]) -> str:
    """The verb, also one that is joined to its subject."""
    if found["short"]:
        return _SHORT[found["short"][1:].lower()]
    return found["verb"].lower()


def _first_sentence(said: str) -> str:
    """The first sentence of the first line that is no heading, on one line, made plain."""
    lines = [_bare(line) for line in said.strip().splitlines()]
    for line in filter(None, lines):
        if line.endswith(":"):
            continue
        line = re.sub(r"^\d+[.)]\s+", "", line)
        line = _bare(_LABEL.sub("", line, count=1))
        spans = sentences(line)
        if spans:
            start, stop = spans[0]
            return quotable(_bare(line[start:stop]))
    return ""


def _bare(line: str) -> str:
    """Without the signs around it, quotes only where they hold the whole."""
    line = line.strip(_EDGES)
    whole = _QUOTED.fullmatch(line)
    return whole["inner"].strip(_EDGES) if whole else line


def _judged(text: str, longest: int, *, hidden: Sequence[str], shown: Sequence[str] = ()) -> Taught:
    text = " ".join(text.split())
    if len(text) > longest:
        return Taught("", "too long")
    if len(text.split()) < 2:
        return Taught("", "too short")
    if _ECHO.search(text):
        return Taught("", "repeats the question")
    if any(_names(text, _YEAR.sub("", title)) for title in hidden):
        return Taught("", "names the target")
    if any(_names(text, _YEAR.sub("", title)) for title in shown):
        return Taught("", "names what was liked")
    return Taught(text)


def _names(text: str, title: str) -> bool:
    """Whether a text names a title; one of a single word counts only when written the same."""
    name = words(title)
    if len(name) > 1:
        return f" {' '.join(name)} " in f" {' '.join(words(text))} "
    return bool(title) and bool(re.search(rf"(?<=\s){re.escape(title)}(?!\w)", text))
