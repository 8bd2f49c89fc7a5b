"""Processes that run one command together, started by `torchrun` or `accelerate launch`.

The process of rank 0 is the main one: it holds the run, prints, and does ordinary stages alone. The
others, its helpers, wait for its orders, take part in distributed stages and print nothing. All
talk through the launcher's key-value store rather than through a process group: such waiting has
no time limit, occupies no GPU, and leaves the group to whoever trains.

    main    | data … build … | order: tune ─► tune | barrier | evaluate … report
    helper  | (waits)        | ─────────────► tune | barrier | ends
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from typing import Any

from tastemaker.errors import StageError, TastemakerError, UserError

__all__ = [
    "alone",
    "barrier",
    "broadcast",
    "is_main",
    "launched",
    "orders",
    "rank",
    "release",
    "together",
    "world_size",
]

# Seconds: all processes must have started within `_JOIN`; a helper that failed lets the main
# process speak first for `_GRACE`; one that was stopped lets it end first for `_LINGER`.
_JOIN, _GRACE, _LINGER, _PAUSE = 600.0, 20.0, 3.0, 0.1
_STOPPED, _FAILED = "stopped", "failed"

# What makes libraries believe that others take part.
_LAUNCH = {"MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK"}
_LAUNCH |= {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"}
_LAUNCH_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")
_KEPT = {"ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"}


def rank() -> int:
    """Number of this process among those launched together; 0 when there is only one.

    Raises:
        UserError: `RANK` or `WORLD_SIZE` in the environment make no sense.
    """
    return _place()[0]


def world_size() -> int:
    """Number of processes launched together, 1 without a launcher.

    Raises:
        UserError: `RANK` or `WORLD_SIZE` in the environment make no sense.
    """
    return _place()[1]


def is_main() -> bool:
    """Whether this process writes artefacts and prints.

    Raises:
        UserError: `RANK` or `WORLD_SIZE` in the environment make no sense.
    """
    return rank() == 0


@contextmanager
def launched() -> Iterator[None]:
    """What every process of a launch runs; does nothing without a launcher.

    A helper prints nothing inside and ends with the block. When one process fails, all end, and
    the reason is printed once: by the main process, or by the helper when only that knows.

    Raises:
        UserError: the environment makes no sense, or not all processes have started in 10 minutes.
        SystemExit: at the end of a helper's block.
    """
    global _group
    if world_size() == 1:
        yield
        return
    _group = _join()
    try:
        with _leading(_group) if is_main() else _helping(_group):
            yield
    finally:
        _group = None


@contextmanager
def alone() -> Iterator[None]:
    """Hide the launch, so that libraries used inside do not wait for other processes."""
    if world_size() == 1:
        yield
        return
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name in _LAUNCH or (name.startswith(_LAUNCH_PREFIXES) and name not in _KEPT)
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def together(order: Any) -> Iterator[None]:
    """In the main process: have the helpers do the same; ends when every process has done it.

    Outside of `launched` this is `alone`.

    Args:
        order: What `orders` yields in the helpers; JSON-able.

    Raises:
        StageError: a helper failed.
    """
    if _group is None:
        with alone():
            yield
        return
    _group.broadcast(order)
    _take_device()
    yield
    _group.barrier()
    _forget_state()


def orders() -> Iterator[Any]:
    """In a helper: each order given with `together`, until `release`."""
    while _group is not None and (order := _group.broadcast(None)) is not None:
        _take_device()
        yield order
        _group.barrier()
        _forget_state()
    barrier()
    _leave_process_group()


def release() -> None:
    """In the main process: let the helpers end, as nothing is left to do together."""
    global _group
    if _group is not None:
        _group.broadcast(None)
        _group.barrier()
        _group = None
        _leave_process_group()


def broadcast(value: Any) -> Any:
    """The main process's `value`, in every process; all must call it. It is JSON-able."""
    return value if _group is None or world_size() == 1 else _group.broadcast(value)


def barrier() -> None:
    """Wait, as long as it takes, until every process has come here; all must call it."""
    if _group is not None and world_size() > 1:
        _group.barrier()


class _Stopped(Exception):
    """The main process has failed and says why itself."""

    def __init__(self, code: int) -> None:
        self.code = code


class _Group:
    """The processes of one launch, which must make the same calls in the same order.

    Args:
        store: A `torch.distributed.Store` that all of them reach.
        rank: Number of this process.
        size: Number of processes.
    """

    def __init__(self, store: Any, *, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self._calls = 0

    def broadcast(self, value: Any) -> Any:
        self._calls += 1
        key = f"value/{self._calls}"
        if self.rank == 0:
            self.store.set(key, json.dumps(value))
        self._until(lambda: bool(self.store.check([key])))
        return json.loads(self.store.get(key))

    def barrier(self, *, limit: float = float("inf")) -> bool:
        """Whether all have come within `limit` seconds."""
        self._calls += 1
        key = f"barrier/{self._calls}"
        self.store.add(key, 1)
        return self._until(lambda: int(self.store.add(key, 0)) >= self.size, limit=limit)

    def stop(self, code: int) -> None:
        """In the main process: tell the helpers that it has failed, while it can be reached."""
        self.store.set(_STOPPED, str(code))
        time.sleep(3 * _PAUSE)

    def fail(self, reason: str) -> int | None:
        """In a helper: report a failure; the exit code of a main process that has failed too."""
        self.store.set(_FAILED, f"process {self.rank} of {self.size} failed: {reason}")
        try:
            self._until(lambda: False, limit=_GRACE)
        except _Stopped as stop:
            return stop.code
        return None

    def _until(self, ready: Callable[[], bool], *, limit: float = float("inf")) -> bool:
        ending = time.monotonic() + limit
        try:
            while not ready():
                self._hear()
                if time.monotonic() > ending:
                    return False
                time.sleep(_PAUSE)
        except RuntimeError as error:
            raise StageError("the connection to the other processes is lost") from error
        return True

    def _hear(self) -> None:
        """Learn of a failure elsewhere."""
        if self.rank and self.store.check([_STOPPED]):
            raise _Stopped(int(self.store.get(_STOPPED)))
        if not self.rank and self.store.check([_FAILED]):
            raise StageError(self.store.get(_FAILED).decode())


_group: _Group | None = None


def _place() -> tuple[int, int]:
    size, own = os.environ.get("WORLD_SIZE") or "1", os.environ.get("RANK", "")
    if size.isdecimal() and int(size) == 1:
        return 0, 1
    if size.isdecimal() and own.isdecimal() and int(own) < int(size):
        return int(own), int(size)
    raise UserError(
        f"the environment has WORLD_SIZE '{size}' and {f'RANK {own!r}' if own else 'no RANK'}.",
        allowed="Both are set by torchrun and accelerate launch: RANK from 0 to WORLD_SIZE - 1.",
        remedy="Start with torchrun --nproc-per-node N -m tastemaker …, or unset WORLD_SIZE.",
    )


def _join() -> _Group:
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, own, size = next(rendezvous("env://", timeout=timedelta(seconds=_JOIN)))
        group = _Group(PrefixStore("tastemaker", store), rank=own, size=size)
        complete = group.barrier(limit=_JOIN)
    except (RuntimeError, StageError, ValueError) as error:
        raise UserError(
            f"process {rank()} of {world_size()} cannot reach the others: {error}",
            remedy="Start all with torchrun or accelerate launch, or unset WORLD_SIZE.",
        ) from error
    if not complete:
        raise UserError(
            f"not all of the {size} processes have started within {_JOIN / 60:.0f} minutes.",
            remedy="Start all with torchrun or accelerate launch, or unset WORLD_SIZE.",
        )
    return group


@contextmanager
def _leading(group: _Group) -> Iterator[None]:
    try:
        yield
        release()
    except BaseException as error:
        with suppress(RuntimeError):  # the store has gone: so has the launcher
            group.stop(_exit_code(error))
        raise


@contextmanager
def _helping(group: _Group) -> Iterator[None]:
    shown, code = sys.stderr, 0
    try:
        with _silence():
            yield
    except _Stopped as stop:
        time.sleep(_LINGER)  # a launcher ends the main process when a helper ends badly before it
        code = stop.code
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = _report(group, error, to=shown)
    sys.exit(code)


def _report(group: _Group, error: Exception, *, to: Any) -> int:
    known = isinstance(error, TastemakerError)
    reason = str(error) if known else "".join(traceback.format_exception(error))
    told = None
    with suppress(RuntimeError, StageError):  # the store has gone, the main process maybe with it
        told = group.fail(reason)
    if told is None:
        to.write(f"error: process {group.rank} of {group.size} failed: {reason}\n")
        return _exit_code(error)
    time.sleep(_LINGER)
    return told


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
    return code if isinstance(code, int) else 1


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def _silence() -> Iterator[None]:
    with redirect_stdout(_Nowhere()), redirect_stderr(_Nowhere()):
        yield


def _take_device() -> None:
    """Make "cuda" mean the GPU of this process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _forget_state() -> None:
    """Or accelerate would go on believing that the helpers take part."""
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


def _leave_process_group() -> None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
