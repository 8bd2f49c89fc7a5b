"""Scripted dialogues held with whatever can talk, and what its answers were worth."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tastemaker.testing.dialogues import Dialogue, Turn, satisfying

__all__ = ["Answered", "Verdict", "judged"]

_MARKED = re.compile(r"\*\*(.+?)\*\*")
_DATED = re.compile(r"\((?:18|19|20)\d\d\)")
_ADMISSION = "nothing in the catalogue"  # how an answer says that nothing fits
_SHOWN = str.maketrans("*_", "∗ˍ")  # signs of markup are shown by others that look alike
_LONGEST = 40  # words of a title
_ENOUGH = 3  # items of an answer, where there are as many


class Answered(NamedTuple):
    """An answer.

    Attributes:
        text: All of it.
        items: External ids of the items it recommends, in order.
    """

    text: str
    items: Sequence[str]


@dataclass
class Verdict:
    """Counts over all turns that ask for items.

    Attributes:
        turns: How many there were.
        named: Items named, in cards and in words.
        unknown: Those that are not in the catalogue.
        demanded: Items recommended.
        unfit: Those that do not satisfy everything stated.
        satisfiable: Turns for which there are at least three items not shown before.
        served: Those that got three or more, or as many as were asked for.
        unsatisfiable: Turns for which there is none.
        admitted: Those whose answer has no item and says so.
        faults: Message and what was wrong, for reading.
    """

    turns: int = 0
    named: int = 0
    unknown: int = 0
    demanded: int = 0
    unfit: int = 0
    satisfiable: int = 0
    served: int = 0
    unsatisfiable: int = 0
    admitted: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def exist(self) -> float:
        """Share of named items that are in the catalogue."""
        return 1 - self.unknown / max(self.named, 1)

    @property
    def fit(self) -> float:
        """Share of recommended items that satisfy every stated demand."""
        return 1 - self.unfit / max(self.demanded, 1)

    @property
    def helped(self) -> float:
        """Share of satisfiable turns that got enough items."""
        return self.served / max(self.satisfiable, 1)


def judged(
    dialogues: Iterable[Dialogue],
    films: sqlite3.Connection,
    begin: Callable[[str | None], Callable[[str], Answered]],
    *,
    met: Callable[[str], set[str]] = lambda user: set(),
) -> Verdict:
    """Hold dialogues and judge every answer by SQL.

    Args:
        dialogues: What to say.
        films: From `film_database`.
        begin: A user's external id, or None → what answers the messages of one conversation.
        met: A user's external id → ids of the films in their history, which need not be offered.
    """
    verdict = Verdict()
    titles = {str(row[0]).translate(_SHOWN) for row in films.execute("SELECT title FROM films")}
    for dialogue in dialogues:
        talk = begin(dialogue.user)
        known = met(dialogue.user) if dialogue.user is not None else set()
        shown: set[str] = set()
        last: list[str] = []
        for turn in dialogue.turns:
            answer = talk(turn.message)
            _named(verdict, turn, answer, films=films, titles=titles)
            if not turn.asks:
                continue
            fitting = satisfying(films, _demanded(turn, films, last))
            _judge(verdict, turn, answer, fitting=fitting, open_=fitting - shown - known)
            if answer.items:
                last = list(answer.items)
                shown |= set(last)
    return verdict


def _judge(
    verdict: Verdict, turn: Turn, answer: Answered, *, fitting: set[str], open_: set[str]
) -> None:
    verdict.turns += 1
    verdict.demanded += len(answer.items)
    if unfit := [item for item in answer.items if item not in fitting]:
        verdict.unfit += len(unfit)
        verdict.faults.append(f"{turn.message}: {len(unfit)} items do not satisfy it")
    enough = min(_ENOUGH, turn.count or _ENOUGH)
    if len(open_) >= enough:
        verdict.satisfiable += 1
        served = len(answer.items) >= enough
        served &= turn.count is None or len(answer.items) == min(turn.count, len(open_))
        verdict.served += served
        if not served:
            verdict.faults.append(f"{turn.message}: {len(answer.items)} of {len(open_)} items")
    if not fitting:
        verdict.unsatisfiable += 1
        admitted = not answer.items and _ADMISSION in answer.text.lower()
        verdict.admitted += admitted
        if not admitted:
            verdict.faults.append(f"{turn.message}: not said to be impossible: {answer.text[:80]}")


def _demanded(turn: Turn, films: sqlite3.Connection, last: Sequence[str]) -> str:
    """The condition of a turn, with the bound that the last answer sets."""
    if not (turn.older or turn.newer) or not last:
        return turn.where
    marks = ", ".join("?" * len(last))
    query = f"SELECT min(year), max(year) FROM films WHERE item_id IN ({marks})"
    low, high = films.execute(query, list(last)).fetchone()
    return f"{turn.where} AND year {f'< {low}' if turn.older else f'> {high}'}"


def _named(
    verdict: Verdict, turn: Turn, answer: Answered, *, films: sqlite3.Connection, titles: set[str]
) -> None:
    """Count what an answer names: its items, what it marks, and what looks like a dated title."""
    found = films.execute(
        f"SELECT count(*) FROM films WHERE item_id IN ({', '.join('?' * len(answer.items))})",
        list(answer.items),
    )
    verdict.named += len(answer.items)
    verdict.unknown += len(answer.items) - int(found.fetchone()[0])
    marked = _MARKED.findall(answer.text)
    rest = _MARKED.sub(" ", answer.text)
    ends = [rest[: date.end()].split()[-_LONGEST:] for date in _DATED.finditer(rest)]
    dated = [" ".join(words) for words in ends if not _ends_with_title(words, titles)]
    unknown = [*(name for name in marked if name not in titles), *dated]
    verdict.named += len(marked) + len(ends)
    verdict.unknown += len(unknown)
    verdict.faults += [f"{turn.message}: names {name!r}" for name in unknown]


def _ends_with_title(words: Sequence[str], titles: set[str]) -> bool:
    return any(" ".join(words[start:]) in titles for start in range(len(words)))
