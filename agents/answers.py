"""What makes an answer unusable: nothing said, a refusal, a missing end, a loop, and so on.

A rejected answer never becomes knowledge. The checks look at the text and the reason why it ended,
never at what was wanted, so they serve every chain.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from tastemaker.errors import MissingError

__all__ = [
    "REASONS",
    "Acceptance",
    "Verdict",
    "check_language",
    "json_object",
    "whole_sentences",
]

REASONS = ("empty", "refusal", "truncated", "looping", "language", "schema")
Truncated = Literal["fail", "trim", "keep"]

# As providers name them, in lower case.
_CUT_OFF = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
_FILTERED = frozenset({"blocklist", "content_filter", "content_filtered", "guardrail_intervened"})
_FILTERED |= {"image_safety", "prohibited_content", "recitation", "refusal", "safety", "spii"}

# In refusals, only what begins a sentence has a capital letter: "I can't help", but the title
# "I Can't Help Myself". `_as_said` makes those small, and "I" too.
_VERBS = (
    "access|analy[sz]e|answer|assess|assist|browse|complete|comply|conclude|confirm|continue|create"
    "|describe|determine|discuss|do|draw|engage|evaluate|explain|find|fulfill?|generate|give|guess"
    "|help|identify|infer|introduce|list|locate|look|make|offer|open|participate|predict|process"
    "|produce|provide|reason|recall|recommend|respond|satisfy|say|search|see|share|speculate"
    "|summari[sz]e|support|tell|verify|view|write"
)
_FACTS = (
    "access|capability|ability|context|data|details|idea|information|insights?|knowledge|records?"
)
_UNABLE = (
    r"i(?:'m| am) (?:\w+ )?(?:unable|not (?:able|allowed|permitted|designed|programmed)) to\b",
    r"i(?:'m| am) (?:\w+ )?(?:un|not (?:\w+ )?)(?:familiar|aware|comfortable|sure|certain)\b",
    rf"i (?:can't|can ?not|couldn't|could not|won't|will not) (?:\w+ly )?(?:{_VERBS})\b",
    r"i (?:won't|will not) be able to\b",
    r"i (?:do|did)(?:n't| not) (?:\w+ )?(?:have|possess) "
    rf"(?:(?!personal|feelings|opinions)[\w-]+,? ){{0,5}}(?:{_FACTS})\b",
    r"i do(?:n't| not) (?:\w+ )?(?:know|recogni[sz]e|recall|feel comfortable)\b",
    rf"i have no (?:[\w-]+ )?(?:{_FACTS})\b",
    r"i (?:must|have to|need to|will have to) (?:\w+ )?(?:decline|refuse)\b",
    r"i(?:'d|'ll| would| will)? need (?:\w+ )?(?:more|additional|further) ",
)
_IMPOSSIBLE = (
    rf"there(?:'s| is| are) (?:not enough|insufficient|no) (?:\w+ )?(?:{_FACTS})\b",
    rf"there (?:isn't|aren't) (?:enough|any|sufficient) (?:\w+ )?(?:{_FACTS})\b",
    rf"(?:not enough|insufficient|no) (?:\w+ )?(?:{_FACTS})\b",
    r"it(?:'s| is) (?:not possible|impossible) (?:for me )?to\b",
    r"the (?:\w+ )?(?:information|data|context|history)(?: \w+)? (?:is|are) "
    r"(?:not (?:enough|sufficient)|insufficient)\b",
    r"(?:please|(?:could|can) you(?: please)?) (?:provide|clarify|share|specify) ",
    r"(?:can't|cannot|unable to|not able to) (?:help|assist|provide|answer|comply)\b",
    r"(?:that|this)(?:'s| is) not something i\b",
)
_OPENINGS = (
    r"(?:my |our )?apologies\b|i (?:\w+ ){0,2}apologi[sz]e\b|regrettably\b|sorry\b|unfortunately\b",
    r"i(?:'m| am) (?:\w+ )?(?:afraid|designed|sorry)\b|hmm\b|honestly\b|to be (?:honest|clear)\b",
    r"as an? (?:\w+ ){0,2}(?:AI|ai|artificial|language|text|virtual|assistant)\b",
    r"i(?:'m| am) (?:just |only )?an? (?:\w+ ){0,2}(?:AI|ai|artificial|language|assistant)\b",
    r"i(?:'d| would)? (?:aim|appreciate|be|have to|like|love|must|need|should|understand|want)\b",
    r"thank(?:s| you)\b|(?:while|although|though) i\b",
)
_OPENING = rf"(?:{'|'.join(_OPENINGS)})"
_WORDS = r"(?:[^.!?\n]|\.(?=\w)){0,200}?\b"
_REFUSAL = re.compile(
    rf"(?:{_OPENING}{_WORDS})?(?:{'|'.join(_UNABLE)})"
    rf"|(?:{_OPENING}(?:{_WORDS}(?:but|however)|[a-z -]{{0,40}} and)?[,:]? )?"
    rf"(?:{'|'.join(_IMPOSSIBLE)})"
)
_NEGATION = re.compile(
    r"n['’]t\b|\b(?:no|not|cannot|un(?:able|familiar|aware|sure|certain)|decline|refuse|need"
    r"|please|(?:could|can) you|impossible|insufficient)\b",
    re.IGNORECASE,
)
_BEFORE_A_REFUSAL = re.compile(r"[\s*#>\"“_`-]*(?:(?:answer|response)\s*:[\s*]*)?", re.IGNORECASE)
_SENTENCE_BEGIN = re.compile(r"(\A|[.!?:]\s+|\n\s*)([A-Z])(?=[a-z'])")
_REFUSAL_LETTERS, _BRIEF_LETTERS = 400, 240

_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!e\.g)(?<!i\.e)(?<!\b[A-Z])"
    r"[.!?…]+[\"'”’)\]*_]*(?=\s|$)|[。！？]+[”’」』）)]*"
)
_LIST_MARKER = re.compile(r"^[ \t]*(?:\d+[.)]|[-*•+])(?=\s|$)", re.MULTILINE)
_RULE = re.compile(r"([-=_*#~])\1{2,}")
_WORD = re.compile(r"\w+")
_EAST_ASIAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_UNIT = re.compile(rf"[{_EAST_ASIAN}]|[^\W{_EAST_ASIAN}]{{1,30}}|[^\w\s]")
_ALL_LOOP = re.compile(r"(?=.{5,60}\Z)(?!\d+\Z)(.{1,20}?)(?:\s*\1){2,}\W*", re.DOTALL)
_LOOPS = ((4, 16), (3, 24), (2, 80))  # so many rounds, so many units in all
_GRAM = 3
_REPEATS = 12  # of three units; the shortest of these loops has as many, most texts have fewer
_RUN, _LOOP_WORDS, _LOOP_SHARE = 4, 40, 0.35
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL | re.IGNORECASE)
_LANGUAGE_WORDS, _LANGUAGE_SURE = 12, 0.9


class Verdict(NamedTuple):
    """What an answer is worth.

    Attributes:
        text: The usable text; empty when there is none.
        reason: One of `REASONS`, or empty when the text may be used.
        detail: The reason in a sentence.
    """

    text: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Acceptance:
    """Which answers count as knowledge.

    Attributes:
        truncated: An answer cut at the token limit fails, is trimmed to its last whole sentence
            (and fails when it has none), or is kept as it is.
        language: ISO 639-1 code that texts of a dozen words or more must be in; None for any.
        keys: Keys that the answer, a JSON object, must have with texts; empty for plain text.
    """

    truncated: Truncated = "fail"
    language: str | None = None
    keys: tuple[str, ...] = ()

    def judge(self, text: str, finish_reason: str) -> Verdict:
        """Whether an answer may be used, and what of it.

        Args:
            text: As the model gave it.
            finish_reason: As the provider names it.
        """
        said, finish = text.strip(), finish_reason.lower()
        if finish in _FILTERED:
            return Verdict("", "refusal", f"the provider ended it with '{finish_reason}'")
        cut = finish in _CUT_OFF and self.truncated != "keep"
        if not said and cut:
            return Verdict("", "truncated", "cut at the token limit before the first word")
        if not said:
            return Verdict("", "empty", "no text")
        if _refuses(said):
            return Verdict("", "refusal", _beginning(said))
        if loop := _loop(said):
            return Verdict("", "looping", f"says again and again: {_beginning(loop)}")
        if cut:
            whole = whole_sentences(said) if self.truncated == "trim" and not self.keys else ""
            if not whole:
                return Verdict("", "truncated", f"cut at the token limit: …{said[-60:]}")
            said = whole
        return self._judge_content(said)

    def _judge_content(self, said: str) -> Verdict:
        parts = [said]
        if self.keys:
            if wrong := _schema(said, self.keys):
                return Verdict("", "schema", wrong)
            found = json_object(said) or {}
            parts = [str(found[key]) for key in self.keys]
            for part in parts:
                if _refuses(part.strip()):
                    return Verdict("", "refusal", _beginning(part))
                if loop := _loop(part):
                    return Verdict("", "looping", f"says again and again: {_beginning(loop)}")
        if self.language and (other := _other_language(" ".join(parts), self.language)):
            return Verdict("", "language", f"is in '{other}', not '{self.language}'")
        return Verdict(said)


def whole_sentences(text: str) -> str:
    """`text` up to its last sentence that has an end; empty when none has.

    >>> whole_sentences("It won. It has a bright")
    'It won.'
    """
    for end in reversed([found.end() for found in _SENTENCE_END.finditer(text)]):
        whole = text[:end].rstrip()
        last_line = whole[whole.rfind("\n") + 1 :]
        if not _LIST_MARKER.fullmatch(last_line):
            return whole
    return ""


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that is the answer, also inside a code fence; None when it is none.

    >>> json_object('{"a": 1}'), json_object("[1]")
    ({'a': 1}, None)
    """
    fenced = _FENCE.match(text)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def check_language(code: str | None) -> None:
    """Find out whether texts can be checked for their language.

    Raises:
        MissingError: the package that tells languages apart is not installed.
    """
    if code:
        _identifier()


def _refuses(text: str) -> bool:
    """Whether a text begins with a refusal or, when it is brief, has one anywhere."""
    if not _NEGATION.search(text, 0, _REFUSAL_LETTERS):
        return False
    said = _as_said(text[:_REFUSAL_LETTERS])
    if _REFUSAL.match(said):
        return True
    if len(text) > _BRIEF_LETTERS:
        return False
    return any(_REFUSAL.match(said, end.end()) for end in re.finditer(r"[.!?]\s+|\n\s*", said))


def _as_said(text: str) -> str:
    """`text` with straight apostrophes, small letters where sentences begin, and a small "I"."""
    plain = _BEFORE_A_REFUSAL.sub("", text.replace("’", "'"), count=1)
    small = _SENTENCE_BEGIN.sub(lambda found: found[1] + found[2].lower(), plain)
    return re.sub(r"\bI\b", "i", small)


def _loop(text: str) -> str:
    """What a text says again and again; empty when it does not."""
    if (found := _ALL_LOOP.fullmatch(text)) and not found[1].isspace():
        return found[1]
    plain = _RULE.sub(r"\1", _LIST_MARKER.sub("", text.lower()))
    return _repeated(_UNIT.findall(plain)) or _reworded(_WORD.findall(plain))


def _repeated(units: Sequence[str]) -> str:
    """The stretch that stands several times in a row, anywhere in the text; empty for none.

    One pass: units are compared with those a distance before, and where they differ, the last
    place where the same three units stood tells the next distance.
    """
    grams = set(zip(*(units[start:] for start in range(_GRAM)), strict=False))
    if len(units) - len(grams) < _REPEATS:
        return ""
    seen: dict[tuple[str, ...], int] = {}
    distance = equal = 0
    for place in range(_GRAM - 1, len(units)):
        gram = tuple(units[place - _GRAM + 1 : place + 1])
        if distance and units[place] == units[place - distance]:
            equal += 1
            total = equal + distance
            if any(total >= rounds * distance and total >= least for rounds, least in _LOOPS):
                return " ".join(units[place - distance + 1 : place + 1])
        else:
            before = seen.get(gram)
            distance = 0 if before is None else place - before
            equal = _GRAM if distance else 0
        seen[gram] = place
    return ""


def _reworded(words: Sequence[str]) -> str:
    """A run of words that most of the text consists of, with small changes between."""
    if len(words) < _LOOP_WORDS:
        return ""
    counts = Counter(zip(*(words[start:] for start in range(_RUN)), strict=False))
    if len(counts) >= _LOOP_SHARE * (len(words) - _RUN + 1):
        return ""
    return " ".join(counts.most_common(1)[0][0])


def _schema(text: str, keys: Sequence[str]) -> str:
    found = json_object(text)
    if found is None:
        return f"is no JSON object: {_beginning(text)}"
    missing = [key for key in keys if not isinstance(found.get(key), str) or not found[key].strip()]
    if missing:
        return f"has no text under {', '.join(missing)}"
    none = [key for key in keys if found[key].strip().lower() == "none"]
    return f"says None under {', '.join(none)}" if none else ""


def _other_language(text: str, wanted: str) -> str:
    """The language of a text when it surely is another than `wanted`; else empty."""
    if len(_WORD.findall(text)) < _LANGUAGE_WORDS:
        return ""
    found, certainty = _identifier().classify(text)
    return found if found != wanted and certainty >= _LANGUAGE_SURE else ""


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingError(
            "reason.language needs the package py3langid.", remedy="Run: pip install py3langid"
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _beginning(text: str, longest: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}…"
