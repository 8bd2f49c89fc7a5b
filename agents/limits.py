"""How fast and how much: requests and tokens a minute, pauses a server asks for, and budgets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tastemaker.errors import StageError, UserError

__all__ = ["Budget", "BudgetReached", "Price", "Rate"]

_MINUTE = 60.0


@dataclass(frozen=True)
class Price:
    """Money per million tokens, in any one currency.

    Attributes:
        prompt: Of what is asked.
        completion: Of what is answered.
    """

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost of so many tokens.

        >>> Price(prompt=1.0, completion=4.0).of(500_000, 250_000)
        1.5
        """
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class BudgetReached(StageError):
    """The next request could cost more than is allowed."""


class Rate:
    """Lets requests through no faster than allowed; shared by threads.

    Requests are spaced evenly, so that a job does not begin with a burst of a whole minute; after a
    pause that the server asked for they are spaced anew.

    Args:
        requests: A minute; None for no limit.
        tokens: A minute, prompt and answer together; None for no limit.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        requests: float | None = None,
        tokens: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        # Seconds that a request and a token take up, and until when they are taken.
        self._units = [_MINUTE / speed if speed else 0.0 for speed in (requests, tokens)]
        self._free = [clock(), clock()]  # with all that wait in line
        self._passed = [clock(), clock()]  # with all that were let through
        self._held = clock()
        self._holds = 0  # a place in the line counts until the next hold only
        self._lock = threading.Lock()

    def wait(self, tokens: int, *, sleep: Callable[[float], bool]) -> bool:
        """Come back when a request of about so many tokens may be sent.

        Args:
            tokens: Of prompt and answer.
            sleep: Waits so many seconds; True when the job has been stopped meanwhile.

        Returns:
            Whether it may be sent; False when the job has been stopped.
        """
        gaps = [size * unit for size, unit in zip((1, tokens), self._units, strict=True)]
        start, holds = 0.0, -1
        while True:
            with self._lock:
                if holds != self._holds:
                    start, holds = max(*self._free, self._clock()), self._holds
                    self._free = [start + gap for gap in gaps]
                left = start - self._clock()
                if left <= 0:
                    passed = zip(self._passed, gaps, strict=True)
                    self._passed = [max(one, start + gap) for one, gap in passed]
                    return True
            if sleep(left):
                return False

    def give_back(self, tokens: int) -> None:
        """Let others have tokens that a request was let through with and did not use."""
        saved = max(0, tokens) * self._units[1]
        with self._lock:
            self._free[1] -= saved
            self._passed[1] -= saved

    def hold(self, seconds: float) -> None:
        """Let nothing through for so many seconds: the server asked for it."""
        with self._lock:
            until = self._clock() + seconds
            if until > self._held:
                self._held = until
                self._free = [max(until, one) for one in self._passed]
                self._holds += 1


class Budget:
    """Refuses the request that could go beyond what is allowed; shared by threads.

    A request is counted at its highest possible cost until its answer tells the true one.

    Args:
        max_requests: Requests that may be sent, repeated ones included; None for no limit.
        max_cost: Money that may be spent; None for no limit.
        price: Needed for `max_cost`.
        spent: Money spent earlier.

    Raises:
        UserError: there is a `max_cost` without a price.
    """

    def __init__(
        self,
        *,
        max_requests: int | None = None,
        max_cost: float | None = None,
        price: Price | None = None,
        spent: float = 0.0,
    ) -> None:
        if max_cost is not None and price is None:
            raise UserError(
                "max_cost means nothing without a price.",
                remedy="Give the price per million tokens.",
            )
        self._max_requests, self._max_cost, self._price = max_requests, max_cost, price
        self._settled = threading.Condition()
        self.requests, self.spent, self._reserved, self._open = 0, spent, 0.0, 0

    def reserve(self, prompt_tokens: int, completion_tokens: int, *, wait: bool = False) -> float:
        """Make room for one request.

        Args:
            prompt_tokens: At most.
            completion_tokens: At most.
            wait: Whether to wait for requests that other threads have sent, as long as they may
                turn out to be cheaper than what was reserved for them.

        Returns:
            What was reserved, for `settle`.

        Raises:
            BudgetReached: it could go beyond what is allowed.
        """
        most = self._price.of(prompt_tokens, completion_tokens) if self._price else 0.0
        with self._settled:
            while wait and self._open and self._beyond(most):
                self._settled.wait()
            if self._max_requests is not None and self.requests >= self._max_requests:
                raise BudgetReached(f"max_requests of {self._max_requests:,} is reached.")
            if self._beyond(most):
                raise BudgetReached(
                    f"max_cost of {self._max_cost:g} is reached: {self.spent:.4f} spent, and the "
                    f"next request could cost {most:.4f}."
                )
            self.requests += 1
            self._reserved += most
            self._open += most > 0
        return most

    def settle(self, reserved: float, cost: float | None) -> None:
        """Replace what was reserved by the true cost; None: it cost nothing known."""
        with self._settled:
            self._open -= reserved > 0
            self._reserved = self._reserved - reserved if self._open else 0.0  # no drift
            self.spent += cost or 0.0
            self._settled.notify_all()

    def _beyond(self, most: float) -> bool:
        after = self.spent + self._reserved + most
        return self._max_cost is not None and after > self._max_cost
