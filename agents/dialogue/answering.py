"""Plan first, word after: the items are settled before a model writes a word.

Wish, State ─► items that satisfy every demand ─► cards with evidence ─► words around them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from tastemaker.agents.dialogue.conversations import Said
from tastemaker.agents.dialogue.desk import Desk
from tastemaker.agents.dialogue.planning import Plan
from tastemaker.agents.dialogue.reasons import demands, value_told
from tastemaker.agents.dialogue.wish import Card, Event, State, Wish
from tastemaker.agents.dialogue.wording import PlainWording, Wording, WordingKind, WordingRequest

__all__ = ["Answerer", "PlanFirst"]

_MOST = 20  # items of an answer
_PAST = 10  # events told when the visitor asks what they chose


class Answerer(Protocol):
    """Finds items for a wish and words them."""

    def answer(
        self,
        message: str,
        *,
        wish: Wish,
        state: State,
        earlier: Sequence[Said],
        quick: bool,
        stopped: Callable[[], bool],
    ) -> Iterator[Event]:
        """Cards, where there are any, and text, piece by piece.

        Args:
            message: Of the visitor.
            wish: The message, understood.
            state: What the conversation has come to, this message included.
            earlier: What was said before.
            quick: Whether words by rule do, as after a button.
            stopped: Asked between pieces.
        """


class PlanFirst:
    """Answers from the plan; a small model is enough.

    Args:
        desk: Where things are looked up.
        wording: Writes the words.
    """

    def __init__(self, desk: Desk, wording: Wording) -> None:
        self._desk, self._wording = desk, wording
        self._plain = PlainWording()

    def answer(
        self,
        message: str,
        *,
        wish: Wish,
        state: State,
        earlier: Sequence[Said],
        quick: bool,
        stopped: Callable[[], bool],
    ) -> Iterator[Event]:
        """As `Answerer.answer`."""
        del earlier
        if (told := self._acknowledgement(message, wish=wish, state=state)) is not None:
            yield Event("text", told)
            return
        request = self.request(message, wish=wish, state=state)
        if request.cards and request.kind in ("recommend", "more"):
            yield Event("cards", cards=request.cards)
        by_rule = quick or request.kind not in ("recommend", "more", "small_talk")
        wording = self._plain if by_rule else self._wording
        for piece in wording.words(request, stopped=stopped):
            yield Event("text", piece)

    def request(self, message: str, *, wish: Wish, state: State) -> WordingRequest:
        """Everything that the words rest on."""
        base = WordingRequest(
            message=message,
            state=state,
            kind="small_talk",
            wish=wish,
            preference=self._desk.taste(state),
            named=self._named(wish, state),
            values={facet.name: facet.values for facet in self._desk.catalogue.facets},
        )
        if wish.act in ("recommend", "more", "like", "dislike"):
            return self._recommended(base)
        if wish.act == "why":
            return self._explained(base)
        if wish.act == "about":
            return self._described(base)
        if wish.act == "history":
            return replace(base, kind="history", facts=self._past(state))
        return base

    def _recommended(self, base: WordingRequest) -> WordingRequest:
        desk, state = self._desk, base.state
        many = (state.count or 0) > _MOST
        plan = desk.planner.plan(replace(state, count=_MOST) if many else state)
        cards = desk.cards(plan.items, plan.probabilities, state=state)
        kind: WordingKind = "more" if base.wish.act == "more" else "recommend"
        judged = () if base.message.startswith("/") else self._judgements(base.wish)
        notes = [*judged, *_unknown(base.wish), *_shortage(plan, state)]
        if cards and state.order is not None:
            column, descending = state.order
            told = "highest" if descending else "lowest"
            notes.append(f"Sorted by {value_told(column.replace('_', ' '))}, {told} first.")
        if many:
            notes.append(f"An answer has {_MOST} at most; ask for more to see others.")
        return replace(base, kind=kind if cards else "nothing", cards=cards, notes=tuple(notes))

    def _acknowledgement(self, message: str, *, wish: Wish, state: State) -> str | None:
        """The whole answer where there is nothing to look up; None elsewhere."""
        if wish.act == "reset":
            return "All demands and judgements are forgotten."
        if wish.act in ("like", "dislike") and message.startswith("/"):
            return " ".join(self._judgements(wish))
        if wish.act in ("why", "about") and not self._meant(wish, state):
            told = [*_unknown(wish)]
            if any(place > len(state.last) for place in wish.places):
                told.append(_no_such_place(len(state.last)))
            ask = "Ask for something first; then I can say why."
            name = "Name a title, or a place in the last answer."
            return " ".join(told) or (ask if wish.act == "why" else name)
        return None

    def _judgements(self, wish: Wish) -> Iterator[str]:
        for verb, items in (("like", wish.likes), ("do not like", wish.dislikes)):
            if items:
                titles = ", ".join(f"**{self._desk.title(item)}**" for item in items)
                yield f"Noted: you {verb} {titles}."

    def _explained(self, base: WordingRequest) -> WordingRequest:
        """Evidence for and against items of the last answer, or others that were named."""
        cards = self._cards_of(base)
        facts = tuple(self._desk.explanation(card, base.state) for card in cards)
        return replace(base, kind="why", cards=cards, facts=facts, notes=(*_unknown(base.wish),))

    def _described(self, base: WordingRequest) -> WordingRequest:
        """What the catalogue and the knowledge say about items that were named."""
        facts = tuple(self._desk.description(card) for card in self._cards_of(base))
        return replace(base, kind="about", facts=facts, notes=(*_unknown(base.wish),))

    def _cards_of(self, base: WordingRequest) -> tuple[Card, ...]:
        items = self._meant(base.wish, base.state)
        return self._desk.cards(items, self._desk.chances(items, base.state), state=base.state)

    def _meant(self, wish: Wish, state: State) -> list[int]:
        """Items that a question is about: named ones, else places, else the whole last answer."""
        found = [*wish.mentioned, *wish.similar]
        found += [state.last[place - 1] for place in wish.places if place <= len(state.last)]
        if not (found or wish.places or wish.unknown) and wish.act == "why":
            found = [*state.last]
        return list(dict.fromkeys(found))

    def _past(self, state: State) -> tuple[str, ...]:
        events = self._desk.recommender.history(self._desk.visitor(state), count=_PAST)
        lines = [
            f"- **{self._desk.title(one.item)}**: "
            + (
                f"rated {value_told(one.rating)}"
                if one.rating is not None
                else "liked"
                if one.liked
                else "not liked"
            )
            for one in events
        ]
        return ("\n".join(lines),) if lines else ()

    def _named(self, wish: Wish, state: State) -> dict[int, str]:
        items = (*state.likes, *state.similar, *wish.mentioned)
        return {item: self._desk.catalogue.titles[item] for item in dict.fromkeys(items)}


def _unknown(wish: Wish) -> Iterator[str]:
    """What the catalogue does not have or cannot check, in sentences."""
    for told in wish.unchecked:
        yield f"The catalogue cannot tell '{value_told(told)}', so that is not promised."
    for name in wish.unknown:
        yield f"The catalogue has nothing called '{value_told(name)}'."


def _no_such_place(shown: int) -> str:
    if not shown:
        return "There is no answer with items yet."
    return f"The last answer has {shown} item{'s' if shown > 1 else ''}; name one of these places."


def _shortage(plan: Plan, state: State) -> Iterator[str]:
    """What could not be had, in sentences."""
    asked = demands(state.conditions) or "that"
    if not plan.allowed:
        yield f"Nothing in the catalogue satisfies all of this: {asked}."
        for one in plan.relaxations[:2]:
            yield f"Without '{demands([one.condition])}' there would be {one.items:,}."
        return
    if len(plan.items) >= plan.wanted:
        return
    if plan.items:
        more = " more" if plan.met or plan.shown else ""
        verb = "satisfies" if len(plan.items) == 1 else "satisfy"
        yield f"Only {len(plan.items)}{more} {verb} {asked}."
    else:
        yield f"All {plan.allowed:,} that satisfy {asked} have been shown or judged already."
    parts = [
        f"{count:,} {told}"
        for count, told in (
            (plan.met, "you have met or judged before"),
            (plan.shown, "this conversation has shown"),
        )
        if count
    ]
    if parts and plan.items:
        yield f"Of all {plan.allowed:,}, {' and '.join(parts)}."
