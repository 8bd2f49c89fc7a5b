"""Which factors matter in a scenario: asked of the model once, then curated by people (KAR §2).

The answer is read as a list, shown as lines of YAML, and pasted into the recipe after a look at it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tastemaker.agents.questions import Question, shown_titles
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.prompts.render import quotable

__all__ = ["as_recipe_lines", "elicitation", "parse_factors"]

_MOST, _LONGEST, _MOST_WORDS = 12, 50, 6
_FENCE = re.compile(r"```\w*\n?|```")
_JSON = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,2}[.):])\s+(.*\S)", re.MULTILINE)
_INLINE = re.compile(r"(?<!\w)\(?\d{1,2}[.)]\s+")
_EXPLAINED = re.compile(r"\s*(?::|\s[-–—]\s|\().*", re.DOTALL)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|can|will|should|may|prefers?|likes?|i|you|we|they)\b",
    re.IGNORECASE,
)


def elicitation(tables: Tables, *, things: str, seed: int, examples: int = 10) -> Question:
    """The question of which factors matter, for `kar/factors_users` or `kar/factors_items`.

    Args:
        tables: Whose titles serve as examples.
        things: What is recommended, in the plural, such as `movies`.
        seed: Of the titles drawn.
        examples: How many.
    """
    titles = shown_titles(tables)
    drawn = np.random.default_rng(seed).permutation(len(titles))[:examples].tolist()
    values = {"things": quotable(things), "examples": [titles[item] for item in drawn]}
    return Question("scenario", 0, tables.source, values, items=tuple(drawn))


def parse_factors(text: str) -> tuple[str, ...]:
    r"""The factors that an answer lists, at most 12, each once, in its order.

    Reads JSON, numbered or bulleted lines, and commas; explanations, sentences and long entries
    are left out.

    >>> parse_factors("1. **Genre**: what it is\n2. Mood or tone\n3. genre")
    ('genre', 'mood or tone')

    Raises:
        UserError: it lists none.
    """
    found: dict[str, str] = {}
    for entry in _entries(_FENCE.sub("", text).strip()):
        said = _cleaned(entry)
        if said:
            found.setdefault(said.casefold(), said)
    if not found:
        said = " ".join(text.split())
        raise UserError(
            f"the answer lists no factors: '{said[:120]}'",
            allowed="a numbered or bulleted list, a line parted by commas, or a JSON list of "
            f"entries of at most {_MOST_WORDS} words",
            remedy="Ask a larger model, or write the list yourself: reason.factors",
        )
    return tuple(found.values())[:_MOST]


def as_recipe_lines(factors: Sequence[str]) -> str:
    """Lines of YAML to paste below `reason:`.

    >>> print(as_recipe_lines(["genre", "mood: light"]))
      factors: [genre, "mood: light"]
    """
    return f"  factors: [{', '.join(map(_as_yaml, factors))}]"


def _entries(text: str) -> Iterator[str]:
    """Texts of the list, still as written."""
    listed = _json(text)
    if listed is not None:
        yield from _leaves(listed)
        return
    lines = _ITEM.findall(text)
    if len(lines) > 1:
        yield from lines
    elif len(parts := _INLINE.split(text)) > 2:
        yield from (part.strip(" ,;") for part in parts[1:])
    elif "\n" in text and "," not in text:
        yield from text.splitlines()
    else:
        whole = lines[0] if lines else text
        intro, colon, after = whole.partition(":")
        yield from re.split(r"[,;\n]\s*(?:and\s+)?", after if colon and "," not in intro else whole)


def _json(text: str) -> Any:
    """The JSON list or object inside an answer; None when there is none that can be read."""
    found = _JSON.search(text)
    try:
        return json.loads(found[0]) if found else None
    except ValueError:
        return None


def _leaves(value: object) -> Iterator[str]:
    """Texts of a JSON list; of an object its first list, else its keys."""
    if isinstance(value, list):
        for one in value:
            if isinstance(one, str):
                yield one
            elif isinstance(one, dict):
                yield next((text for text in one.values() if isinstance(text, str)), "")
    elif isinstance(value, dict):
        lists = [one for one in value.values() if isinstance(one, list)]
        yield from _leaves(lists[0]) if lists else value


def _cleaned(entry: str) -> str:
    """A factor in small letters but for names; empty when the entry is none."""
    said = quotable(_EXPLAINED.sub("", entry.replace("*", "").replace("`", "")))
    said = said.replace("_", " ").replace(";", ",").strip(" .,'\"[]{}")
    count = len(said.split())
    if not said or count > _MOST_WORDS or len(said) > _LONGEST or _VERB.search(said):
        return ""
    if not any(letter.isalpha() for letter in said):
        return ""
    first, *rest = said.split(" ")
    plainly = first[:1].isupper() and first[1:].islower()
    return " ".join([first.lower() if plainly else first, *rest])


def _as_yaml(text: str) -> str:
    bare = re.fullmatch(r"[A-Za-z][\w /'-]*\w", text) and text.lower() not in (
        *("yes", "no", "on", "off", "true", "false", "null"),
        "y",
        "n",
    )
    return text if bare else json.dumps(text, ensure_ascii=False)
