"""Data sets written shard by shard: streamed, resumable, in one process or several.

A shard is a block of examples, and what it holds depends on nothing but them. So a killed build
goes on at the first shard that is missing, several processes may make shards in any order, and the
files are the same byte for byte.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.prompts.formats import write_shard
from tastemaker.prompts.source import InstructionSource
from tastemaker.stage import Reporter, atomic_file

__all__ = ["Layout", "PartFacts", "Shard", "write_parts"]

Sources = Mapping[str, InstructionSource]
Check = Callable[[pl.DataFrame], None]
_HASH_SEED = 1
# Polars keeps threads, which a forked process would wait for in vain.
_SPAWN = multiprocessing.get_context("spawn")
_THREADS = "POLARS_MAX_THREADS"


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Attributes:
        format: Name of the format (see `formats`).
        suffix: Ending of its files.
        shard_rows: Examples in each shard.
    """

    format: str
    suffix: str
    shard_rows: int = 50_000


@dataclass(frozen=True)
class Shard:
    """A block of examples and the file it becomes."""

    part: str
    number: int
    start: int
    stop: int
    file: str


@dataclass(frozen=True)
class PartFacts:
    """What is known of a part once it is written.

    Attributes:
        rows: Instructions.
        examples: What they ask about, before any was left out.
        liked: Instructions whose label is 1, and those that have a label at all.
        templates: Template → instructions.
        answers: Answer → instructions, where there are few different ones.
        first: Earliest target, unix seconds.
        last: Latest one.
        repeated: Instructions equal to an earlier one, prompt and answer.
    """

    rows: int = 0
    examples: int = 0
    liked: tuple[int, int] = (0, 0)
    templates: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, int] = field(default_factory=dict)
    first: int | None = None
    last: int | None = None
    repeated: int = 0


_FEW_ANSWERS = 20


def shards_of(sources: Sources, layout: Layout) -> list[Shard]:
    """All shards of a data set, in order; every part has at least one."""
    found = []
    for part, source in sources.items():
        count = max(-(-len(source) // layout.shard_rows), 1)
        for number in range(count):
            start = number * layout.shard_rows
            stop = min(start + layout.shard_rows, len(source))
            file = f"{part}-{number:05d}-of-{count:05d}.{layout.suffix}"
            found.append(Shard(part, number, start, stop, file))
    return found


def write_parts(
    folder: Path,
    sources: Sources,
    *,
    layout: Layout,
    scratch: Path,
    report: Reporter,
    check: Check | None = None,
    workers: int = 1,
    again: Callable[[], tuple[Sources, Check | None]] | None = None,
) -> dict[str, PartFacts]:
    """Write `folder/data/PART-00000-of-00001.SUFFIX` for all parts.

    Args:
        folder: Gets the files once all are there.
        sources: Part → its instructions.
        layout: Format and size of shards.
        scratch: Where shards are kept until then; those found there are not made again.
        report: Shows progress.
        check: Raises when a frame of instructions must not be written.
        workers: Processes.
        again: Makes `sources` and `check` anew in another process; needed for more than one. It
            must be importable, such as a `functools.partial` of a function.

    Raises:
        LeakError: from `check`; nothing of that shard is written.
    """
    shards = shards_of(sources, layout)
    scratch.mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in shards if not _facts_file(scratch, shard).is_file()]
    total = sum(shard.stop - shard.start for shard in missing)
    with report.track("building, examples", total) as advance:
        if workers > 1 and again is not None and len(missing) > 1:
            made = _in_processes(missing, again, sources, layout, scratch, check, workers=workers)
        else:
            made = _here(missing, sources, layout, scratch, check)
        for shard in made:
            advance(shard.stop - shard.start)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    facts = {part: _facts(part, shards, scratch) for part in sources}
    for shard in shards:
        _settle(scratch / shard.file, folder / "data" / shard.file)
    return facts


def _here(
    shards: Sequence[Shard],
    sources: Sources,
    layout: Layout,
    scratch: Path,
    check: Check | None,
) -> Iterator[Shard]:
    for shard in shards:
        _make(shard, sources[shard.part], layout, scratch, check)
        yield shard


def _make(
    shard: Shard, source: InstructionSource, layout: Layout, scratch: Path, check: Check | None
) -> None:
    """Write one shard, then what is known of it: the second says that the first is whole."""
    blocks = list(source.blocks(shard.start, shard.stop))
    frame = pl.concat(blocks) if blocks else source.frame(0, 0)
    if check is not None:
        check(frame)
    write_shard(frame, scratch / shard.file, format=layout.format)
    with atomic_file(_hashes_file(scratch, shard)) as handle:
        texts = frame.select("prompt", "completion").hash_rows(seed=_HASH_SEED)
        np.save(handle, texts.to_numpy())
    with atomic_file(_facts_file(scratch, shard)) as handle:
        handle.write(json.dumps(asdict(_counted(frame, shard))).encode())


def _counted(frame: pl.DataFrame, shard: Shard) -> PartFacts:
    labels, times = frame["label"], frame["timestamp"]
    answers = dict(frame["completion"].value_counts().iter_rows())
    return PartFacts(
        rows=frame.height,
        examples=shard.stop - shard.start,
        liked=(int((labels == 1).sum()), frame.height - labels.null_count()),
        templates=dict(frame["template"].value_counts().sort("template").iter_rows()),
        answers=dict(sorted(answers.items())) if len(answers) <= _FEW_ANSWERS else {},
        first=times.min(),  # type: ignore[arg-type]
        last=times.max(),  # type: ignore[arg-type]
    )


def _facts(part: str, shards: Sequence[Shard], scratch: Path) -> PartFacts:
    """The shards' facts together."""
    mine = [shard for shard in shards if shard.part == part]
    found = [json.loads(_facts_file(scratch, shard).read_text()) for shard in mine]
    hashes = np.concatenate([np.load(_hashes_file(scratch, shard)) for shard in mine])
    times = [one[end] for one in found for end in ("first", "last") if one[end] is not None]
    answers = _summed(found, "answers")
    few = len(answers) <= _FEW_ANSWERS and all(one["answers"] or not one["rows"] for one in found)
    return PartFacts(
        rows=sum(one["rows"] for one in found),
        examples=sum(one["examples"] for one in found),
        liked=(sum(one["liked"][0] for one in found), sum(one["liked"][1] for one in found)),
        templates=_summed(found, "templates"),
        answers=answers if few else {},
        first=min(times, default=None),
        last=max(times, default=None),
        repeated=_repeated(hashes),
    )


def _summed(found: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in found:
        for name, count in one[key].items():
            total[name] = total.get(name, 0) + count
    return total


def _repeated(hashes: NDArray[np.uint64]) -> int:
    hashes.sort()
    return int((hashes[1:] == hashes[:-1]).sum())


def _facts_file(scratch: Path, shard: Shard) -> Path:
    return scratch / f"{shard.file}.json"


def _hashes_file(scratch: Path, shard: Shard) -> Path:
    return scratch / f"{shard.file}.npy"


def _settle(made: Path, place: Path) -> None:
    """Into place by a second name: the shard stays in scratch until the stage is done."""
    place.unlink(missing_ok=True)
    os.link(made, place)


class _Worker:
    """What a process keeps between shards."""

    sources: ClassVar[Sources]
    check: ClassVar[Check | None]


def _in_processes(
    shards: Sequence[Shard],
    again: Callable[[], tuple[Sources, Check | None]],
    sources: Sources,
    layout: Layout,
    scratch: Path,
    check: Check | None,
    *,
    workers: int,
) -> Iterator[Shard]:
    others = workers - 1  # this process makes shards, too, in a thread of its own
    with (
        _threads(max((os.cpu_count() or 1) // workers, 1)),
        ProcessPoolExecutor(
            others, mp_context=_SPAWN, initializer=_start, initargs=(again,)
        ) as pool,
        ThreadPoolExecutor(1) as own,
    ):
        waiting, running = deque(shards), dict[Future[None], Shard]()
        here: Future[None] | None = None
        try:
            while waiting or running:
                if waiting and here not in running:
                    shard = waiting.popleft()
                    here = own.submit(_make, shard, sources[shard.part], layout, scratch, check)
                    running[here] = shard
                while waiting and len(running) - (here in running) < others:
                    shard = waiting.popleft()
                    running[pool.submit(_work, shard, layout, scratch)] = shard
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    shard = running.pop(job)
                    job.result()
                    yield shard
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """How many threads of polars a process that starts meanwhile gets."""
    saved = os.environ.get(_THREADS)
    os.environ[_THREADS] = str(count)
    try:
        yield
    finally:
        if saved is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = saved


def _start(again: Callable[[], tuple[Sources, Check | None]]) -> None:
    _Worker.sources, _Worker.check = again()


def _work(shard: Shard, layout: Layout, scratch: Path) -> None:
    _make(shard, _Worker.sources[shard.part], layout, scratch, _Worker.check)
