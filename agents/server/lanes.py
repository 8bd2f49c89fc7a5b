"""Worker threads with a bounded queue, so that one kind of work never holds up another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from tastemaker.agents.server.refusals import Refusal

__all__ = ["Flow", "Lane", "Stopped"]

_T = TypeVar("_T")
Stopped = Callable[[], bool]
_GRACE = 5.0  # seconds that work has to notice that its time is over


class Flow(Generic[_T]):
    """What a worker thread makes, piece by piece, read on the event loop.

    Args:
        seconds: After which the work is told to stop.
        closing: Whether everything is to stop.
    """

    def __init__(self, *, seconds: float, closing: Stopped = lambda: False) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[tuple[_T | None, BaseException | None]] = asyncio.Queue()
        self._seconds, self._until, self._halted = seconds, float("inf"), False
        self._closing = closing

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() > self._until

    def stopped(self) -> bool:
        """Whether the work should stop; for any thread."""
        return self._halted or self.expired or self._closing()

    def stop(self) -> None:
        """Nobody reads any more."""
        self._halted = True

    def fill(self, work: Callable[[Stopped], Iterator[_T]]) -> None:
        """Do the work in this thread; its error goes to the reader."""
        self._until = time.monotonic() + self._seconds
        try:
            for piece in work(self.stopped):
                self._put(piece, None)
            self._put(None, None)
        except BaseException as error:
            self._put(None, error)

    async def read(self, *, seconds: float) -> _T | None:
        """The next piece; None at the end.

        Args:
            seconds: To wait for it.

        Raises:
            TimeoutError: nothing came in that time.
            Refusal: the work goes on long after it was told to stop.
        """
        try:
            async with asyncio.timeout(seconds):
                piece, error = await self._pieces.get()
        except TimeoutError:
            if time.monotonic() > self._until + _GRACE:
                raise Refusal(504, "The answer took too long.", code="timeout") from None
            raise
        if error is not None:
            raise error
        return piece

    def _put(self, piece: _T | None, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (piece, error))


class Lane:
    """A few threads for one kind of work, and a queue in front of them.

    A thread cannot be ended from outside: work that nobody waits for any more keeps its place
    until it is over, so never more than `workers` run.

    Args:
        name: Of the threads.
        workers: Threads.
        waiting: Work that may wait for a thread; more is refused at once.
        patience: Seconds until waiting work is refused.
    """

    def __init__(self, name: str, *, workers: int, waiting: int, patience: float) -> None:
        self.name = name
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"tastemaker-{name}")
        self._free = asyncio.Semaphore(workers)
        self._workers, self._most, self._patience = workers, workers + waiting, patience
        self._inside = 0

    @property
    def running(self) -> int:
        """Work in hand."""
        return min(self._inside, self._workers)

    @property
    def waiting(self) -> int:
        """Work in the queue."""
        return max(0, self._inside - self._workers)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Do work in a thread.

        Raises:
            Refusal: 503, the queue is full or the wait was too long.
        """
        return await asyncio.wrap_future(await self._submit(work))

    async def feed(self, flow: Flow[_T], work: Callable[[Stopped], Iterator[_T]]) -> None:
        """Begin work that is read piece by piece, as soon as there is a thread for it.

        Args:
            flow: Where the pieces are read.
            work: Makes them; its argument says whether to stop.

        Raises:
            Refusal: as `run`.
        """
        await self._submit(lambda: flow.fill(work))

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _submit(self, work: Callable[[], _T]) -> Future[_T]:
        if self._inside >= self._most:
            raise self._busy()
        loop = asyncio.get_running_loop()
        self._inside += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            self._inside -= 1
            raise self._busy() from None
        except BaseException:  # the client left
            self._inside -= 1
            raise
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._leave_on(loop))
        return future

    def _leave_on(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._inside -= 1
        self._free.release()

    def _busy(self) -> Refusal:
        message = "Too many requests are waiting; try again in a moment."
        return Refusal(503, message, code="busy", retry_after=max(1, round(self._patience / 10)))
