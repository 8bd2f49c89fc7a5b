"""Worker threads with a bounded queue."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tastemaker.agents.server.lanes import Flow, Lane
from tastemaker.agents.server.refusals import Refusal


def lane(workers: int = 1, *, waiting: int = 1, patience: float = 5.0) -> Lane:
    return Lane("test", workers=workers, waiting=waiting, patience=patience)


def test_more_than_the_queue_holds_is_refused_and_places_come_back() -> None:
    async def scene() -> None:
        line, gate = lane(), threading.Event()
        first = [asyncio.create_task(line.run(lambda: gate.wait(10))) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert (line.running, line.waiting) == (1, 1)
        with pytest.raises(Refusal) as refused:
            await line.run(lambda: True)
        assert refused.value.status == 503
        assert int(refused.value.headers["Retry-After"]) >= 1
        gate.set()
        assert await asyncio.gather(*first) == [True, True]
        await asyncio.sleep(0.05)
        assert (line.running, line.waiting) == (0, 0)
        assert await line.run(lambda: 5) == 5
        line.close()

    asyncio.run(scene())


def test_waiting_work_is_refused_in_time_and_left_work_keeps_its_thread() -> None:
    async def scene() -> None:
        line, gate = lane(waiting=5, patience=0.1), threading.Event()
        running = asyncio.create_task(line.run(lambda: gate.wait(10)))
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal):
            await line.run(lambda: True)
        running.cancel()
        await asyncio.sleep(0.05)
        assert line.running == 1  # the thread still works
        left = asyncio.create_task(line.run(lambda: True))
        await asyncio.sleep(0.02)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert line.waiting == 0
        gate.set()
        await asyncio.sleep(0.05)
        assert await line.run(lambda: 5) == 5
        line.close()

    asyncio.run(scene())


def test_pieces_arrive_as_they_are_made_and_an_error_follows_them() -> None:
    async def scene() -> None:
        line, gate = lane(), threading.Event()

        def work(stopped: Callable[[], bool]) -> Iterator[int]:
            yield 1
            gate.wait(10)
            yield 2
            raise ValueError("third")

        flow = Flow[int](seconds=10)
        await line.feed(flow, work)
        assert await flow.read(seconds=5) == 1
        with pytest.raises(TimeoutError):
            await flow.read(seconds=0.01)
        gate.set()
        assert await flow.read(seconds=5) == 2
        with pytest.raises(ValueError, match="third"):
            await flow.read(seconds=5)
        line.close()

    asyncio.run(scene())


def test_work_is_told_when_its_time_is_over() -> None:
    async def scene() -> None:
        line = lane()

        def work(stopped: Callable[[], bool]) -> Iterator[int]:
            while not stopped():
                time.sleep(0.01)
            yield 1

        flow = Flow[int](seconds=0.1)
        assert not flow.stopped()
        await line.feed(flow, work)
        assert await flow.read(seconds=5) == 1
        assert flow.expired
        assert await flow.read(seconds=5) is None
        line.close()

    asyncio.run(scene())
