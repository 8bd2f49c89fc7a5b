"""Carries conversations to a chat model and their answers back, in whatever order they come.

A model of this process gets batches; a remote one as many requests at a time as the recipe allows,
repeated with growing pauses while trouble may pass. Replies are kept here until whoever collects
them says that they are stored: an interrupt at any moment loses no answer that has arrived.
"""

from __future__ import annotations

import contextlib
import queue
import random
import string
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from tastemaker.agents.knowledge import Message
from tastemaker.agents.limits import Budget, BudgetReached, Price, Rate
from tastemaker.agents.troubles import Trouble, diagnose

__all__ = ["Batches", "Carrier", "Patience", "Reply", "Sender", "tokens_about", "tokens_at_most"]

_LETTERS = string.ascii_letters.encode()
_LETTERS_PER_TOKEN = 2  # English has four or five; of all else every byte may be a token
_JITTER = 0.25
_LOOK_AGAIN = 1.0  # seconds; only after an interrupt that swallowed a signal
_SHORTLY = 0.001  # seconds

Conversation = Sequence[Message]


class Reply(NamedTuple):
    """What came back for one conversation.

    Attributes:
        place: Of the conversation.
        message: The answer; None when there is none.
        trouble: What happened instead.
        seconds: From sending to answer; in a batch, its wall time divided by its size.
    """

    place: int
    message: AIMessage | None
    trouble: Trouble | None
    seconds: float


@dataclass(frozen=True)
class Patience:
    """How long a remote model is given.

    Attributes:
        tries: Requests for one conversation at most, while trouble may pass.
        first_pause: Seconds before the second try, where the server names none; doubles each time.
        longest_pause: Seconds, likewise; what the server asks for is never shortened.
        in_a_row: So many conversations given up one after the other end the job.
    """

    tries: int = 6
    first_pause: float = 0.5
    longest_pause: float = 60.0
    in_a_row: int = 20

    def pause(self, failed: int, *, chance: random.Random) -> float:
        """Seconds to wait after so many failed tries (from 1 on), spread by chance."""
        whole = min(self.longest_pause, self.first_pause * 2.0 ** (failed - 1))
        return whole * chance.uniform(1 - _JITTER, 1 + _JITTER)


def tokens_at_most(messages: Conversation) -> int:
    """Tokens of a conversation, not fewer than any usual tokenizer would count."""
    tokens = 8 * len(messages) + 8
    for message in messages:
        text = message["content"].encode("utf-8", "replace")
        others = len(text.translate(None, _LETTERS))
        tokens += others + (len(text) - others) // _LETTERS_PER_TOKEN
    return tokens


def tokens_about(messages: Conversation) -> int:
    """Tokens of a conversation, as English has them: four bytes each."""
    return sum(len(message["content"].encode("utf-8", "replace")) for message in messages) // 4


class Carrier(Protocol):
    """What brings replies."""

    def arrived(self) -> list[Reply]:
        """Wait for replies; empty when no more will come. Those not stored yet come again."""

    def stored(self, count: int) -> None:
        """Forget so many of the replies that `arrived` told last, from the first on."""

    def stop(self) -> None:
        """Send nothing more; what is on its way still arrives."""


class Batches:
    """Asks a model of this process batch by batch, longest conversations first.

    An error of the model itself is raised: it is that of all conversations.

    Args:
        model: Answers whole batches.
        conversations: Messages of each.
        batch_size: Conversations a batch.
        budget: Where it is used up, the last reply has a trouble of scope `job`.
        changes: Parameters that differ from the model's own.
    """

    def __init__(
        self,
        model: BaseChatModel,
        conversations: Sequence[Conversation],
        *,
        batch_size: int,
        budget: Budget,
        changes: Mapping[str, Any],
    ) -> None:
        self._model, self._conversations, self._changes = model, conversations, changes
        self._batch_size, self._budget = batch_size, budget
        sizes = [sum(len(message["content"]) for message in one) for one in conversations]
        order = sorted(range(len(sizes)), key=lambda place: -sizes[place])
        self._todo, self._replies = deque(order), deque[Reply]()

    def arrived(self) -> list[Reply]:
        """The replies of the next batch, if those of the last are stored."""
        if not self._replies and self._todo:
            self._ask()
        return list(self._replies)

    def stored(self, count: int) -> None:
        """Forget the first replies."""
        for _ in range(count):
            self._replies.popleft()

    def stop(self) -> None:
        """Ask nothing more."""
        self._todo.clear()

    def _ask(self) -> None:
        places = list(islice(self._todo, self._batch_size))
        refused: BudgetReached | None = None
        for count in range(len(places)):
            try:
                self._budget.reserve(0, 0)
            except BudgetReached as error:
                places, refused = places[:count], error
                break
        began = time.perf_counter()
        asked = [list(self._conversations[place]) for place in places]
        found = self._model.batch(asked, **self._changes)
        seconds = (time.perf_counter() - began) / max(1, len(places))
        self._replies.extend(
            Reply(place, answer, None, seconds) for place, answer in zip(places, found, strict=True)
        )
        for _ in places:
            self._todo.popleft()
        if refused is not None:
            stop = Trouble("job", "budget", str(refused))
            self._replies.append(Reply(self._todo[0], None, stop, 0.0))
            self._todo.clear()


class Sender:
    """Asks a remote model, several conversations at a time, from threads of its own.

    Args:
        model: Is called from several threads; must not repeat requests by itself.
        conversations: Messages of each.
        concurrency: Requests at a time.
        patience: How often and how long.
        rate: Shared with other senders of the same job.
        budget: Likewise.
        price: Tells the cost of an answer.
        max_tokens: Of an answer at most.
        changes: Parameters that differ from the model's own.
    """

    def __init__(
        self,
        model: BaseChatModel,
        conversations: Sequence[Conversation],
        *,
        concurrency: int,
        patience: Patience,
        rate: Rate,
        budget: Budget,
        price: Price | None,
        max_tokens: int,
        changes: Mapping[str, Any],
    ) -> None:
        self._model, self._conversations = model, conversations
        self._patience, self._rate, self._budget = patience, rate, budget
        self._price, self._max_tokens, self._changes = price, max_tokens, dict(changes)
        self._stopped = threading.Event()
        self._todo = queue.SimpleQueue[int]()
        # The deque holds what is not stored yet; the queue only wakes whoever waits for it.
        self._replies, self._news = deque[Reply](), queue.SimpleQueue[None]()
        # So few answers are paid for and not stored yet, whenever the process is killed.
        self._most_waiting = max(16, 2 * concurrency)
        for place in range(len(conversations)):
            self._todo.put(place)
        workers = min(concurrency, len(conversations))
        # Daemons: a second Ctrl-C must not wait for a server.
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        self._ended = deque[None]()

    def arrived(self) -> list[Reply]:
        """Wait for replies; empty when no more will come. Those not stored yet come again."""
        for thread in self._threads if not self._stopped.is_set() else ():
            if thread.ident is None:
                thread.start()
        while True:
            # Looked at before the replies are. A thread that an interrupt kept from starting counts
            # for nothing: the job is stopped, and it will send nothing.
            started = sum(thread.ident is not None for thread in self._threads)
            working = len(self._ended) < started
            if replies := list(self._replies.copy()):
                return replies
            if not working:
                return []
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=_LOOK_AGAIN)

    def stored(self, count: int) -> None:
        """Forget the first replies."""
        for _ in range(count):
            self._replies.popleft()

    def stop(self) -> None:
        """Send nothing more; what is on its way still arrives."""
        self._stopped.set()

    def _work(self) -> None:
        chance = random.Random()
        while not self._stopped.is_set():
            if len(self._replies) >= self._most_waiting:
                self._stopped.wait(_SHORTLY)
                continue
            try:
                place = self._todo.get_nowait()
            except queue.Empty:
                break
            try:
                reply = self._ask(place, chance)
            except BaseException as error:
                # A thread that dies in silence would take its conversation with it.
                reply = Reply(place, None, Trouble("job", "unknown", repr(error)), 0.0)
            if reply is not None:
                self._replies.append(reply)
                if reply.trouble is not None and reply.trouble.scope == "job":
                    self._stopped.set()
                self._tell()
        self._ended.append(None)
        self._tell()

    def _tell(self) -> None:
        """One signal is enough: who takes it looks at all replies afterwards."""
        if self._news.empty():
            self._news.put(None)

    def _ask(self, place: int, chance: random.Random) -> Reply | None:
        """Ask until there is an answer or no hope; None when the job was stopped meanwhile."""
        messages = self._conversations[place]
        most = tokens_at_most(messages)
        tokens = most + self._max_tokens
        trouble: Trouble | None = None
        for failed in range(self._patience.tries):
            if trouble is not None and self._rest(trouble, failed, chance):
                return None
            try:
                reserved = self._budget.reserve(most, self._max_tokens, wait=True)
            except BudgetReached as error:
                return Reply(place, None, Trouble("job", "budget", str(error)), 0.0)
            go = self._rate.wait(tokens, sleep=self._stopped.wait)
            if not go or self._stopped.is_set():
                self._budget.settle(reserved, None)
                return None
            found = self._once(place, reserved, tokens)
            trouble = found.trouble
            if trouble is None or trouble.scope != "passing":
                return found
            if trouble.wait is not None:
                self._rate.hold(trouble.wait)
        return Reply(place, None, trouble, 0.0)

    def _once(self, place: int, reserved: float, tokens: int) -> Reply:
        began = time.perf_counter()
        cost: float | None = reserved
        try:
            answer = self._model.invoke(list(self._conversations[place]), **self._changes)
            cost = self._cost(answer, reserved)
            if used := (answer.usage_metadata or {}).get("total_tokens"):
                self._rate.give_back(tokens - used)
            return Reply(place, answer, None, time.perf_counter() - began)
        except Exception as error:
            trouble = diagnose(error)
            cost = reserved if trouble.billed else None
            return Reply(place, None, trouble, time.perf_counter() - began)
        finally:
            self._budget.settle(reserved, cost)

    def _rest(self, trouble: Trouble, failed: int, chance: random.Random) -> bool:
        """Wait before the next try; True when the job was stopped meanwhile."""
        pause = self._patience.pause(failed, chance=chance)
        if trouble.wait is not None:
            pause = max(trouble.wait, min(pause, trouble.wait + self._patience.first_pause))
        return self._stopped.wait(pause)

    def _cost(self, answer: AIMessage, reserved: float) -> float:
        """What an answer cost; at worst what was reserved, where the provider does not count."""
        usage: Any = answer.usage_metadata
        if self._price is None or not usage:
            return reserved
        return self._price.of(usage.get("input_tokens") or 0, usage.get("output_tokens") or 0)
