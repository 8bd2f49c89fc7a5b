"""A conversation, turn by turn: the one entry for the terminal, the server and anybody's program.

    message ─ understood ─► Wish ─► State, on disk ─► items ─ worded, streamed ─► answer, on disk

With a small model the plan comes first and the model words it; a tool-calling model looks things up
itself. Either way only items of the catalogue that satisfy what was stated are named.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Literal, Protocol

from tastemaker.agents.database import Closing
from tastemaker.agents.dialogue.answering import Answerer
from tastemaker.agents.dialogue.commands import COMMANDS, Command, parse_command, wish_of
from tastemaker.agents.dialogue.conversations import Conversations, Said, history_key
from tastemaker.agents.dialogue.desk import Desk
from tastemaker.agents.dialogue.planning import visitor_of
from tastemaker.agents.dialogue.refining import refined
from tastemaker.agents.dialogue.states import plain_card, plain_state, state_from_plain
from tastemaker.agents.dialogue.wish import Card, Event, State, Wish
from tastemaker.errors import BusyError, UserError
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.models.catalogue.facets import Facet

__all__ = ["Chat", "Event", "Understanding"]

_MESSAGE = 4000  # characters
_EARLIER = 20  # messages that an answer may look back on
_HOUSEKEEPING = ("user", "export", "help")  # commands that ask for no items
_KEPT = "\n\t\u200c\u200d"  # joiners of letters and of emoji are no control characters


class Understanding(Protocol):
    """Turns a message into a wish."""

    def __call__(self, message: str, *, state: State, quick: bool = False) -> tuple[Wish, str]:
        """What the message asks for, and a note where a model could not be asked.

        Args:
            message: Of the visitor.
            state: What the conversation has come to.
            quick: Whether words alone must do.
        """


class Chat(Closing):
    """All conversations about one catalogue; threads may share one object.

    Args:
        desk: Catalogue, recommender, tables and knowledge.
        conversations: Where they are kept.
        understand: Turns a message into a wish.
        answerer: Finds items for a wish and words them.
        model: Name of the chat model.
    """

    def __init__(
        self,
        desk: Desk,
        conversations: Conversations,
        *,
        understand: Understanding,
        answerer: Answerer,
        model: str,
    ) -> None:
        self._desk, self._conversations = desk, conversations
        self._understand, self._answerer = understand, answerer
        self._busy: set[str] = set()
        self._turn = threading.Lock()
        self.models: Sequence[str] = (model,)

    def close(self) -> None:
        """Close the file of conversations; what was said is safe already."""
        self._conversations.close()

    @property
    def facets(self) -> Sequence[Facet]:
        """What the catalogue can be asked by."""
        return self._desk.catalogue.facets

    def start(self, *, user: str | None = None) -> str:
        """Begin a conversation; its id.

        Args:
            user: External id of a known user, whose history counts; None for a new visitor.

        Raises:
            UserError: an unknown user.
        """
        if user is not None:
            self._desk.tables.user_index(user)
        return self._conversations.start(user)

    def reply(
        self,
        conversation: str,
        message: str,
        *,
        stopped: Callable[[], bool] = lambda: False,
        trusted: bool = False,
    ) -> Generator[Event]:
        """Answer a message, piece by piece; the last event is `done`.

        The message is kept before anything is answered. Where the caller leaves early, or
        `stopped` says so, what was said until then is kept.

        Args:
            conversation: From `start` or `continued`.
            message: Words, or a command such as `/like 2`.
            stopped: Asked between pieces.
            trusted: Whether whoever types may become any user: those who run the chat themselves.

        Raises:
            UserError: an unknown conversation, an empty or too long message, a wrong command.
            BusyError: the conversation is being answered.
        """
        text = _clean(message)
        with self._held(conversation):
            state = self._state(conversation)
            command = parse_command(text)
            if command is not None and command.name in _HOUSEKEEPING:
                if command.name == "user" and not trusted:
                    raise UserError("/user is for those who run the chat themselves.")
                yield from self._housekept(conversation, command, state, text)
                return
            wish, note = self._wish(command, text, state)
            state = refined(state, wish, values_of=self._desk.values_of)
            self._say(conversation, "user", text, state)
            yield from self._answered(
                conversation,
                text,
                wish=wish,
                state=state,
                quick=command is not None,
                note=note,
                stopped=stopped,
            )

    def answer(self, conversation: str, message: str, *, trusted: bool = False) -> Event:
        """The whole answer at once: the `done` event of `reply`."""
        *_, last = self.reply(conversation, message, trusted=trusted)
        return last

    def continued(self, messages: Sequence[tuple[str, str]], *, user: str | None = None) -> str:
        """The conversation that given messages belong to, for clients that keep them themselves.

        Messages that were said here are known again; others are read once more, without words.

        Args:
            messages: Role (`user` or `assistant`) and text, in order, the new message left out.
            user: External id of a known user.

        Raises:
            UserError: an unknown user.
        """
        if messages:
            known = self._conversations.resume(history_key(messages, user=user))
            if known is not None:
                return known
        conversation = self.start(user=user)
        for role, text in messages:
            self._replay(conversation, role, text)
        return conversation

    def recommend(
        self,
        *,
        user: str | None = None,
        likes: Sequence[str] = (),
        dislikes: Sequence[str] = (),
        conditions: Sequence[Condition] = (),
        count: int = 10,
    ) -> tuple[Card, ...]:
        """The best items for a visitor, without words.

        Args:
            user: External id of a known user.
            likes: Items that count as liked, by external id or title.
            dislikes: Likewise.
            conditions: What the items must satisfy.
            count: How many at most, 1 to 100.

        Raises:
            UserError: an unknown user, item, column or value.
        """
        desk = self._desk
        state = State(
            user=None if user is None else desk.tables.user_index(user),
            likes=tuple(desk.numbers(likes)),
            dislikes=tuple(desk.numbers(dislikes)),
            conditions=desk.checked(conditions),
            count=count,
        )
        plan = desk.planner.plan(state)
        return desk.cards(plan.items, plan.probabilities, state=state, why=False)

    def similar(
        self, *, items: Sequence[str], conditions: Sequence[Condition] = (), count: int = 10
    ) -> tuple[Card, ...]:
        """Items like the given ones, without words.

        Raises:
            UserError: an unknown item, column or value.
        """
        desk = self._desk
        numbers = desk.numbers(items)
        state = State(similar=tuple(numbers), conditions=desk.checked(conditions))
        hits = desk.catalogue.similar(
            numbers, conditions=state.conditions, count=count, without=numbers
        )
        found = [hit.item for hit in hits]
        return desk.cards(found, desk.chances(found, state), state=state, why=False)

    def transcript(self, conversation: str) -> dict[str, Any]:
        """A conversation as plain values: `id`, `user`, `messages`, `state`.

        Raises:
            UserError: no such conversation.
        """
        said = self._conversations.messages(conversation)
        return {
            "id": conversation,
            "user": self._conversations.user(conversation),
            "messages": [
                {"role": one.role, "text": one.text, "cards": one.cards, "at": one.created}
                for one in said
            ],
            "state": self._conversations.state(conversation),
        }

    def listed(self, *, limit: int = 50) -> list[dict[str, Any]]:
        """Conversations, the latest first: `id`, `user`, `first`, `changed`."""
        return self._conversations.newest(limit)

    def users(self, query: str = "", *, count: int = 20) -> list[dict[str, Any]]:
        """Known users whose id begins with some text: `user_id`, `events`."""
        return self._desk.users(query, count=count)

    def _answered(
        self,
        conversation: str,
        message: str,
        *,
        wish: Wish,
        state: State,
        quick: bool,
        note: str,
        stopped: Callable[[], bool],
    ) -> Iterator[Event]:
        """Stream an answer and keep it, whole or as far as it came."""
        pieces: list[str] = []
        cards: tuple[Card, ...] = ()
        earlier = self._conversations.messages(conversation, newest=_EARLIER + 1)[:-1]
        try:
            for event in self._answerer.answer(
                message, wish=wish, state=state, earlier=earlier, quick=quick, stopped=stopped
            ):
                if event.kind == "cards":
                    cards = event.cards
                else:
                    pieces.append(event.text)
                yield event
                if stopped():
                    break
            else:
                if note:
                    pieces.append(f"\n\n({note})")
                    yield Event("text", pieces[-1])
        finally:
            text = "".join(pieces).strip()
            if text or cards:
                state = _having_shown(state, tuple(card.item for card in cards))
                self._say(conversation, "assistant", text, state, cards=cards)
        yield Event("done", text, cards)

    def _wish(
        self, command: Command | None, text: str, state: State, *, quick: bool = False
    ) -> tuple[Wish, str]:
        if command is not None:
            return wish_of(command, state), ""
        return self._understand(text, state=state, quick=quick)

    def _housekept(
        self, conversation: str, command: Command, state: State, text: str
    ) -> Iterator[Event]:
        """Commands that ask for no items."""
        if command.name == "export":
            raise UserError("/export is answered by the program that you type in.")
        if command.name == "help":
            told = "\n".join(COMMANDS.values())
        else:
            user = command.rest or None
            state = replace(
                state, user=None if user is None else self._desk.tables.user_index(user)
            )
            self._conversations.attach(conversation, user)
            events = 0 if user is None else len(self._desk.recommender.met(visitor_of(state)))
            told = (
                "You are a new visitor now."
                if user is None
                else f"You are user {user} now, with {events} items in your history."
            )
        self._say(conversation, "user", text, state)
        self._say(conversation, "assistant", told, state)
        yield Event("text", told)
        yield Event("done", told)

    def _replay(self, conversation: str, role: str, text: str) -> None:
        """Read a message that was said elsewhere: demands and items count, words are not redone."""
        state = self._state(conversation)
        if role != "user":
            state = _having_shown(state, self._desk.named(text))
            self._say(conversation, "assistant", text, state)
            return
        cleaned = _clean(text)
        with suppress(UserError):  # what is refused now was refused then, too
            command = parse_command(cleaned)
            if command is None or command.name not in _HOUSEKEEPING:
                wish, _ = self._wish(command, cleaned, state, quick=True)
                state = refined(state, wish, values_of=self._desk.values_of)
        self._say(conversation, "user", text, state)

    def _state(self, conversation: str) -> State:
        """What a conversation has come to."""
        user = self._conversations.user(conversation)
        plain = self._conversations.state(conversation)
        return state_from_plain(plain, self._desk.tables, user=user)

    def _say(
        self,
        conversation: str,
        role: Literal["user", "assistant"],
        text: str,
        state: State,
        *,
        cards: Sequence[Card] = (),
    ) -> None:
        plain = plain_state(state, self._desk.tables)
        self._conversations.add(
            conversation, Said(role, text, [plain_card(card) for card in cards], plain)
        )

    @contextmanager
    def _held(self, conversation: str) -> Iterator[None]:
        """One answer at a time in a conversation."""
        with self._turn:
            if conversation in self._busy:
                raise BusyError(
                    "this conversation is being answered.",
                    remedy="Wait for the answer, or stop it.",
                )
            self._busy.add(conversation)
        try:
            yield
        finally:
            with self._turn:
                self._busy.discard(conversation)


def _having_shown(state: State, items: tuple[int, ...]) -> State:
    """The state once items have been shown; unchanged where there are none."""
    if not items:
        return state
    return replace(state, shown=tuple(dict.fromkeys((*state.shown, *items))), last=items)


def _clean(message: str) -> str:
    """A message without control characters.

    Raises:
        UserError: nothing is left, or it is too long.
    """
    kept = "".join(
        sign for sign in message if sign in _KEPT or unicodedata.category(sign)[0] != "C"
    ).strip()
    if not kept:
        raise UserError("the message is empty.", remedy="Write what you are looking for.")
    if len(kept) > _MESSAGE:
        raise UserError(
            f"the message has {len(kept):,} characters.",
            allowed=f"at most {_MESSAGE:,}",
            remedy="Write it shorter.",
        )
    return kept
