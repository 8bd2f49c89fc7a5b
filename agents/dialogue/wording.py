"""The words around the items of an answer.

Which items an answer holds is settled before a word is written. Titles, evidence and notes are
written by rule in every wording; a language model adds no more than sentences around them. Models
on this machine are in `local_wording`, others in `remote_wording`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tastemaker.agents.dialogue.guard import cleaned
from tastemaker.agents.dialogue.reasons import demands, is_year, value_told
from tastemaker.agents.dialogue.wish import Card, State, Wish
from tastemaker.models.catalogue.conditions import Condition

__all__ = [
    "PlainWording",
    "Wording",
    "WordingKind",
    "WordingRequest",
    "after",
    "body",
    "card_line",
    "chosen_lead",
    "leads",
    "never",
]

WordingKind = Literal["recommend", "more", "why", "about", "history", "small_talk", "nothing"]
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MOST_TOLD = 90  # characters of the demands; longer ones are not repeated
_GREETING = re.compile(r"\b(?:hi|hello|hey|good (?:morning|evening|afternoon))\b", re.IGNORECASE)
_THANKS = re.compile(r"\b(?:thanks?|thank you|cheers|great|perfect|lovely)\b", re.IGNORECASE)
_BYE = re.compile(r"\b(?:bye|good ?night|see you)\b", re.IGNORECASE)
_INVITATION = "Say what you are in the mood for, or name something that you liked."


def never() -> bool:
    """Nobody has stopped the answer."""
    return False


@dataclass(frozen=True)
class WordingRequest:
    """Everything an answer is worded from.

    Attributes:
        message: Of the visitor.
        state: What the conversation has come to ask for.
        kind: What sort of answer this is; `nothing` where no item was found.
        wish: The message, understood.
        cards: Items of the answer, in their order.
        notes: Sentences that are said whatever else is: what could not be satisfied, and so on.
        facts: Paragraphs that are shown as they are: explanations, what was chosen before.
        preference: Knowledge about the visitor's taste in words; may be empty.
        named: Titles by dense number that the conversation is about and the answer may name.
        values: Column → values of the catalogue, such as genres.
    """

    message: str
    state: State
    kind: WordingKind
    wish: Wish = field(default_factory=Wish)
    cards: tuple[Card, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    preference: str = ""
    named: Mapping[int, str] = field(default_factory=dict)
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Wording(Protocol):
    """Writes answers.

    Attributes:
        name: Shown to people.
    """

    name: str

    def words(
        self, request: WordingRequest, *, stopped: Callable[[], bool] = never
    ) -> Iterator[str]:
        """An answer in pieces that make up its text; Markdown: bold titles and numbered lists.

        Args:
            request: What to word.
            stopped: Asked between pieces; the answer ends early when true.
        """


class PlainWording:
    """Words by rule: the same request gets the same words, different ones get varied words."""

    name = "plain"

    def words(
        self, request: WordingRequest, *, stopped: Callable[[], bool] = never
    ) -> Iterator[str]:
        """As `Wording.words`."""
        yield chosen_lead(request)
        yield from body(request, stopped=stopped)


def body(
    request: WordingRequest,
    *,
    clauses: Mapping[int, str] | None = None,
    stopped: Callable[[], bool] = never,
) -> Iterator[str]:
    """What follows the lead: items, facts and notes.

    Args:
        request: What to word.
        clauses: Place from 1 → a few more words about that item.
        stopped: Asked between pieces.
    """
    if request.kind != "why":
        for place, card in enumerate(request.cards, start=1):
            if stopped():
                return
            lead_in = "\n\n" if place == 1 else "\n"
            yield lead_in + card_line(card, place=place, clause=(clauses or {}).get(place, ""))
    yield from (f"\n\n{fact}" for fact in request.facts)
    yield from after(request)


def after(request: WordingRequest) -> Iterator[str]:
    """The notes, as one paragraph."""
    if request.notes:
        yield "\n\n" + " ".join(request.notes)


def card_line(card: Card, *, place: int, clause: str = "") -> str:
    """One item of a numbered list: its title, and why."""
    told = "; ".join(card.reasons) or _values_line(card)
    more = f". {clause[:1].upper()}{clause[1:]}" if clause else ""
    return f"{place}. **{cleaned(card.title)}**" + (f" — {told}{more}" if told or more else "")


def chosen_lead(request: WordingRequest) -> str:
    """One of `leads`, by what was said and shown."""
    listed = leads(request)
    return listed[_choice(request, len(listed))]


def leads(request: WordingRequest) -> list[str]:
    """First sentences that suit an answer, one or more, all of them true."""
    if request.kind in ("recommend", "more"):
        return _leads_of_items(request)
    if request.kind == "small_talk":
        return [_small_talk(request.message)]
    if request.kind == "nothing":
        asked = _asked(request.state.conditions)
        if asked:
            return [f"Nothing in the catalogue fits {asked}.", f"I found nothing for {asked}."]
        return ["I found nothing that fits.", "Nothing in the catalogue fits."]
    if request.kind == "history":
        if not request.facts and not request.cards:
            return ["There is nothing on record that you chose before."]
        return ["This is what you chose before, newest first:", "What you chose before:"]
    if request.kind == "about":
        return ["Here is what the catalogue says:", "This is what I know about it:"]
    return ["This is what speaks for it, and against it:", "Here is what decided it:"]


def _leads_of_items(request: WordingRequest) -> list[str]:
    count, asked = len(request.cards), _asked(request.state.conditions)
    number = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    this, come = ("This one", "comes") if count == 1 else ("These", "come")
    if request.kind == "more":
        return [
            f"Here {'is' if count == 1 else 'are'} {number} more{f' ({asked})' if asked else ''}:",
            f"{this} {come} next{f', still {asked}' if asked else ''}:",
        ]
    one_or_more = "what fits you best" if count == 1 else f"the {number} that fit you best"
    if asked:
        return [
            f"Here {'is' if count == 1 else 'are'} {one_or_more}: {asked}.",
            f"You asked for {asked}. {this} should suit you best:",
            f"For {asked}, {this.lower()} {come} first:",
        ]
    if request.state.similar and (title := _named(request, request.state.similar[-1])):
        return [
            f"Close to {title}, {this.lower()} {come} first:",
            f"In the direction of {title}, look at {this.lower()}:",
        ]
    if request.state.likes and (title := _named(request, request.state.likes[-1])):
        return [f"Since you liked {title}, {this.lower()} {come} first:"]
    if request.state.user is not None:
        return [
            f"Going by what you chose before, {this.lower()} should suit you:",
            f"{this} should suit you, going by what you chose before:",
        ]
    return [f"{this} would be good to start with:", f"You could begin with {this.lower()}:"]


def _asked(conditions: Sequence[Condition]) -> str:
    """The demands in words; empty where there are none, or too many to repeat."""
    told = demands(conditions)
    if told and all(one.operator != "any_of" for one in conditions):
        told = f"something {'' if told.startswith(('from ', 'up to ')) else 'with '}{told}"
    return told if len(told) <= _MOST_TOLD else ""


def _named(request: WordingRequest, item: int) -> str:
    title = request.named.get(item)
    return cleaned(title) if title else ""


def _small_talk(message: str) -> str:
    if _BYE.search(message):
        return "Goodbye, and enjoy."
    if _THANKS.search(message):
        return f"You are welcome. {_INVITATION}"
    if _GREETING.search(message):
        return f"Hello! {_INVITATION}"
    return f"I recommend from this catalogue and know little else. {_INVITATION}"


def _values_line(card: Card) -> str:
    told = (_value_named(name, value) for name, value in card.values.items())
    return "; ".join(text for text in told if text and len(text) <= _MOST_TOLD)


def _value_named(name: str, value: object) -> str:
    """A value, numbers with the name of their column unless they are years."""
    text = value_told(value)
    bare = isinstance(value, int | float) and not is_year(name)
    return f"{cleaned(name.replace('_', ' '))} {text}" if bare and text else text


def _choice(request: WordingRequest, count: int) -> int:
    seen = f"{request.message}\n{len(request.state.shown)}\n{request.state.last}"
    return int.from_bytes(hashlib.sha256(seen.encode("utf-8", "replace")).digest()[:4]) % count
