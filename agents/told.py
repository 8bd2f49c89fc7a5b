"""What a text says that a user did: stars given, and titles watched, read or bought."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tastemaker.agents.claims import MARKS

__all__ = ["Mention", "invented", "star_claims"]

_MARK = rf"(?P<mark>[{MARKS}])(?:\s*\(\d{{4}}\))?"
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "ten": 10}
_STARS = (
    rf"(?:(?P<digits>\d(?:\.\d)?)|(?P<word>{'|'.join(_NUMBERS)}))(?![\d.]*\d)"
    r"(?:\s*(?:/|out of)\s*(?P<of>\d+|five|ten))?(?P<unit>[\s-]*stars?\b)?"
)
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"\b(?:gave|gives|given|awarded|awards|assigned)\s+{_MARK}\s+(?:an?\s+)?"
        rf"(?:(?:rating|score)\s+of\s+)?(?:only\s+|just\s+|an?\s+)*{_STARS}",
        rf"\b(?:rated|rates|rating|scored|scores)\s+{_MARK}\s+(?:(?:as|at|with|only|just|an?)\s+)*"
        rf"{_STARS}",
        rf"\b{_STARS}(?:\s+ratings?)?\s+(?:to|for)\s+{_MARK}",
        rf"{_MARK}\s*(?:\(|,\s*|:\s*|(?<=\s)(?:with|received|got|earned|(?:was|were)"
        rf"\s+(?:rated|given|awarded))\s+)(?:an?\s+)?{_STARS}",
    )
)
_BARE_END = re.compile(r"\s*(?:\Z|[.,;:!?)](?!\d)|(?:and|but|while|because|since)\b)")
_RANGE = re.compile(r"\s*(?:-|–|to|or)\s*\d")
_GIVEN_TO = re.compile(rf"(?:\s+ratings?)?\s+(?:to|for)\s+[{MARKS}]")
_DOUBTFUL = re.compile(
    r"\b(?:not|never|no|neither|nor|without|cannot|unlike|if|whether|than|instead|would|could|"
    r"might|may|should|will|[Cc]ritics|people|[Ff]ans|others|audiences|everyone|many|most|who|"
    r"average|averaged)\b|n['’]t\b"
)
_DONE = re.compile(
    r"\b(?:watched|saw|seen|viewed|rated|gave|awarded|reviewed|enjoyed|liked|loved|disliked|hated|"
    r"read|played|bought|purchased)\s+(?:both\s+)?(?:the\s+)?"
    r"(?:(?:films?|movies?|books?|novels?|games?|items?|albums?|series|shows?|classics?)\s+)?"
    rf"(?P<marks>[{MARKS}](?:\s*\(\d{{4}}\))?(?:(?:,\s*(?:and\s+)?|\s+and\s+)[{MARKS}])*)"
)


@dataclass(frozen=True)
class Mention:
    """A title in a sentence.

    Attributes:
        items: Dense ids of the items that are called so.
        shown: Whether the question showed one of them.
        title: As questions show it.
    """

    items: tuple[int, ...]
    shown: bool
    title: str


def star_claims(sentence: str, *, highest: float | None) -> Iterator[tuple[str, float]]:
    """Mark of each title that the sentence says was given stars, and how many.

    Args:
        sentence: With marks.
        highest: Highest rating there is; None when there are no ratings.
    """
    if highest is None or _DOUBTFUL.search(sentence):
        return
    for form in _FORMS:
        for found in form.finditer(sentence):
            after = sentence[found.end() :]
            named = found["unit"] or found["of"]
            before_mark = form is _FORMS[-1]
            if before_mark and (not found["unit"] or _GIVEN_TO.match(after)):
                continue
            if form is _FORMS[2] and not found["unit"]:
                continue
            if not named and (found["word"] or not _BARE_END.match(after)):
                continue
            scale = found["of"]
            if _RANGE.match(after) or (scale and _number(scale) != highest):
                continue
            stars = _number(found["digits"] or found["word"])
            if stars <= highest:
                yield found["mark"], stars


def invented(sentence: str) -> Iterator[str]:
    """Marks of the titles that the sentence says the user watched, rated, read or bought."""
    if _DOUBTFUL.search(sentence):
        return
    for found in _DONE.finditer(sentence):
        yield from re.findall(f"[{MARKS}]", found["marks"])
    for form in _FORMS:
        for found in form.finditer(sentence):
            if found["unit"]:
                yield found["mark"]


def _number(text: str) -> float:
    return float(_NUMBERS.get(text.lower(), text))
