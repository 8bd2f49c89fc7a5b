"""What the server serves: a chat, as it must look from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from tastemaker.agents.dialogue.wish import Card
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.models.catalogue.facets import Facet

__all__ = ["ChatService", "Event"]


class Event(Protocol):
    """A piece of an answer, in the order in which it is to be shown."""

    @property
    def kind(self) -> str:
        """What it is.

        `text` adds to the answer, `cards` are its items, `notes` tell how the message was
        understood, `done` is the last one.
        """
        ...

    @property
    def text(self) -> str:
        """Of `text` and `notes`."""
        ...

    @property
    def cards(self) -> tuple[Card, ...]:
        """Of `cards`."""
        ...


class ChatService(Protocol):
    """A chat that several threads may use at once.

    Whatever a visitor got wrong is a `UserError` whose message may be shown to them; it never names
    the conversation of somebody else.
    """

    @property
    def models(self) -> Sequence[str]:
        """Names that clients may ask for; the first is the default."""
        ...

    @property
    def facets(self) -> Sequence[Facet]:
        """What items can be asked for by."""
        ...

    def start(self, *, user: str | None) -> str:
        """Begin a conversation.

        Args:
            user: External id of a known user; None: a new visitor.

        Returns:
            Its id, which nobody can guess.
        """
        ...

    def reply(
        self, conversation: str, message: str, *, stopped: Callable[[], bool]
    ) -> Iterator[Event]:
        """Answer a message, piece by piece.

        Args:
            conversation: Its id.
            message: Words, or `/like 2`, `/dislike 1`, `/why 2`, `/reset`; numbers are places in
                the last answer, from 1.
            stopped: Whether to stop early; asked often.

        Raises:
            BusyError: another message of this conversation is being answered.
        """
        ...

    def continued(self, messages: Sequence[tuple[str, str]], *, user: str | None) -> str:
        """The conversation that these messages belong to, begun anew if it is not known.

        Args:
            messages: Role (`user` or `assistant`) and text of all but the newest message.
            user: As for `start`.
        """
        ...

    def transcript(self, conversation: str) -> dict[str, Any]:
        """Plain values: `id`, `user`, `messages` (`role`, `text`, `cards`, `at`) and `state`."""
        ...

    def users(self, query: str, *, count: int = 20) -> list[dict[str, Any]]:
        """Known users whose id begins with a text: `user_id` and `events`, the number of theirs."""
        ...

    def recommend(
        self,
        *,
        user: str | None,
        likes: Sequence[str],
        dislikes: Sequence[str],
        conditions: Sequence[Condition],
        count: int,
    ) -> tuple[Card, ...]:
        """The best items for a user or a new visitor; items are named by id or title."""
        ...

    def similar(
        self, *, items: Sequence[str], conditions: Sequence[Condition], count: int
    ) -> tuple[Card, ...]:
        """Items that resemble others, which are named by id or title."""
        ...
