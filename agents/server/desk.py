"""What the routes of one server share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self, TypeVar

from fastapi import Depends, Request

from tastemaker.agents.server.lanes import Lane
from tastemaker.agents.server.limits import Limits
from tastemaker.agents.server.metrics import Metrics
from tastemaker.agents.server.service import ChatService

__all__ = ["Desk", "TheDesk"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Desk:
    """A chat, what it may take, and the threads that work for it.

    Attributes:
        chat: What is served.
        limits: How much it may take.
        metrics: What is counted.
        answers: Where answers in words are made.
        lookups: Where everything else is; it never waits for an answer.
        closing: Set when the server is about to end: answers stop where they are.
    """

    chat: ChatService
    limits: Limits
    metrics: Metrics
    answers: Lane
    lookups: Lane
    closing: threading.Event

    @classmethod
    def of(cls, chat: ChatService, *, limits: Limits) -> Self:
        """With threads and metrics of its own."""
        patience = float(limits.wait_seconds)
        answers = Lane(
            "answers",
            workers=limits.answers_at_once,
            waiting=limits.answers_waiting,
            patience=patience,
        )
        lookups = Lane(
            "lookups", workers=limits.workers, waiting=limits.requests_waiting, patience=patience
        )
        metrics = Metrics()
        metrics.watch(answers)
        metrics.watch(lookups)
        return cls(chat, limits, metrics, answers, lookups, threading.Event())

    async def look_up(self, work: Callable[[], _T]) -> _T:
        """Do work that is no answer in words.

        Raises:
            Refusal: 503, too much of it is waiting.
        """
        return await self.lookups.run(work)

    def close(self) -> None:
        """End the threads as soon as their work is over."""
        self.closing.set()
        self.answers.close()
        self.lookups.close()


def _of_request(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(_of_request)]
