"""What is found in a message while it is interpreted, and what holds and stands at a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tastemaker.agents.dialogue.demands import Demands, Joint, Phrase
from tastemaker.agents.dialogue.lexicon import Value
from tastemaker.agents.dialogue.marks import Mark
from tastemaker.agents.dialogue.wish import Step
from tastemaker.agents.dialogue.words import Word

__all__ = ["Clause", "Cursor", "Findings", "Named", "Role"]

Role = Literal["", "similar", "liked", "disliked", "about", "seen", "history", "why"]


@dataclass
class Named:
    """A title or places, and what they are named for."""

    role: Role
    text: str
    items: tuple[int, ...]
    known: bool = True


@dataclass
class Findings:
    """What a message holds.

    Attributes:
        demands: Values and bounds.
        lifted: Values that are no longer demanded or refused.
        withdrawn: Columns that no longer matter.
        named: Titles and places with what they are for.
        places: In the last answer.
        steps: Relative to the last answer.
        order: As in `Wish`.
        count: As in `Wish`.
        topic: Words to search by.
        unchecked: Demands that the catalogue cannot check.
        signals: Kinds of cues that were met: `why`, `more`, `reset`, `ask` …
        additional: Whether demands come on top of earlier ones.
    """

    demands: Demands = field(default_factory=Demands)
    lifted: list[Value] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    order: tuple[str, bool] | None = None
    count: int | None = None
    topic: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    signals: set[str] = field(default_factory=set)
    additional: bool = False


@dataclass
class Clause:
    """What holds at a place of a clause.

    Attributes:
        refusing: Whether, and by which kind of word, what follows is refused.
        fresh: Whether nothing has been refused by it yet.
        role: What titles are named for.
        joint: What stands between the last demand and the next.
        scope: `topic`, `drop` or `indifferent`, or nothing.
        topical: Words that the topic has in this scope.
        chain: Phrases that the next one may join.
        columns: Columns named.
        named: Titles and places named.
        refused_at: The word that refuses.
        refused_words: How many words that no column knows it has refused.
    """

    refusing: Literal["", "no", "not"] = ""
    fresh: bool = False
    role: Role = ""
    joint: Joint = ""
    scope: str = ""
    topical: int = 0
    chain: list[Phrase] | None = None
    columns: list[str] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    refused_at: int = 0
    refused_words: int = 0


@dataclass
class Cursor:
    """A place among the marks of a message.

    Attributes:
        words: Of the message.
        marks: Cover them.
        message: As written.
        place: Index of the mark that is looked at.
    """

    words: Sequence[Word]
    marks: Sequence[Mark]
    message: str
    place: int = 0

    def following(self) -> Mark | None:
        """The next mark that is not filler."""
        for mark in self.marks[self.place + 1 :]:
            if mark.kind != "filler":
                return mark
        return None

    def next_kind(self) -> str:
        """Kind of the next mark; empty at the end."""
        after = self.place + 1
        return self.marks[after].kind if after < len(self.marks) else ""

    def form(self, mark: Mark) -> str:
        """The forms of its words."""
        return " ".join(word.form for word in self.words[mark.start : mark.stop])

    def text(self, mark: Mark) -> str:
        """Its words as written."""
        return self.between(mark.start, mark.stop)

    def between(self, start: int, stop: int) -> str:
        """Words from `start` up to `stop` as written."""
        return self.message[self.words[start].start : self.words[stop - 1].end]
