"""Rendering TALLRec prompts: ours against datasets.map and an f-string loop, and at 20 million.

    python benchmarks/prompts.py [--quick] [--json] [--rows N] [--stream N] [--folder DIR]

The table has the shape of MovieLens 20M (titles of its films' lengths) and is made by this program.
Every prompt shows the ten newest events before its target.

* `datasets.map`: the packaged template, compiled by Jinja, called once a row. Its lists of liked
  and disliked titles lie ready in the data set; ours starts from row numbers and finds the
  histories. Titles are made plain beforehand for every side.
* `f-string loop`: the same text written out by hand in Python over lists that lie ready.
* `two processes`: whole builds (render, read back and check, write Parquet), two workers against
  one, both on one core each.
* `stream`: prompts made one block after another in a fresh process, and its peak memory.

All sides of the first two run on one core, alternating, medians. `--quick` takes 60,000 rows, one
round, and streams 2 million.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

HISTORY = 10
TEMPLATE = "tallrec/movie"
USERS, ITEMS = 138_493, 26_744


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, help="targets [1,000,000; quick: 60,000]")
    parser.add_argument(
        "--stream", type=int, help="prompts streamed [20,000,000; quick: 2,000,000]"
    )
    parser.add_argument("--rounds", type=int, help="runs of each side [3; quick: 1]")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-prompts"))
    parser.add_argument("--worker", nargs=3, metavar=("WHAT", "FOLDER", "ROWS"))
    options = parser.parse_args()
    if options.worker:
        what, folder, rows = options.worker
        print(json.dumps(WORKERS[what](Path(folder), int(rows))))
        return
    rows = options.rows or (60_000 if options.quick else 1_000_000)
    stream = options.stream or (2_000_000 if options.quick else 20_000_000)
    rounds = options.rounds or (1 if options.quick else 3)
    for line in measured(options.folder, rows, stream, rounds):
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def measured(folder: Path, rows: int, stream: int, rounds: int) -> Any:
    """The comparisons, one after another."""
    data = prepared(folder, max(stream, 2 * rows))
    small = prepared(folder, max(2 * rows, 200_000))
    found: dict[str, list[dict[str, float]]] = {"ours": [], "map": [], "loop": []}
    for _ in range(rounds):
        for side, runs in found.items():
            runs.append(worker(side, small, rows, cores=1))
    ours = rate(found["ours"])
    for side, name in (("map", "datasets.map, Jinja row by row"), ("loop", "f-string loop")):
        theirs = rate(found[side])
        yield line(
            f"TALLRec prompts against {name}",
            ours,
            theirs,
            f"{rows:,} targets, one core, {rounds} round(s); ours also finds the histories",
        )
    for check in ("unchecked", "checked"):
        one, two, apart = [], [], []
        for _ in range(rounds):
            one.append(worker(f"build-1-{check}", small, rows, cores=1))
            two.append(worker(f"build-2-{check}", small, rows, cores=1, processors=2))
            apart.append(side_by_side(f"build-1-{check}", small, rows))
        ceiling = statistics.median(apart) / rate(one)
        yield line(
            f"whole build, two processes against one ({check})",
            rate(two),
            rate(one),
            f"{rows:,} targets to Parquet, start of the second process included; two builds that "
            f"share nothing, at once, reach {ceiling:.2f}x of one on this machine",
        )
    streamed = worker("stream", data, stream)
    yield {
        "name": f"streaming {stream:,} prompts",
        "ours": round(streamed["gigabytes"], 2),
        "theirs": 2.0,
        "ratio": round(2.0 / streamed["gigabytes"], 2),
        "unit": "GB peak resident memory, against the limit",
        "note": f"{streamed['rows'] / streamed['seconds']:,.0f} prompts/s on all cores, "
        f"{streamed['characters'] / 1e9:.1f} billion characters, tables and index included",
    }


def line(name: str, ours: float, theirs: float, note: str) -> dict[str, Any]:
    """One comparison of rates."""
    return {
        "name": name,
        "ours": round(ours),
        "theirs": round(theirs),
        "ratio": round(ours / theirs, 2),
        "unit": "prompts/s",
        "note": note,
    }


def rate(runs: list[dict[str, float]]) -> float:
    """Median prompts a second."""
    return statistics.median(run["rows"] / run["seconds"] for run in runs)


def worker(
    what: str,
    folder: Path,
    rows: int,
    *,
    cores: int | None = None,
    processors: int | None = None,
    first: int = 0,
) -> dict[str, float]:
    """Run one side in a process of its own, with `cores` threads on that many processors."""
    names = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "ARROW_NUM_THREADS")
    limits = dict.fromkeys(names, str(cores)) if cores else {}
    command = [sys.executable, __file__, "--worker", what, str(folder), str(rows)]
    available = sorted(os.sched_getaffinity(0))[first:][: processors or cores]
    done = subprocess.run(
        command,
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, available),
    )
    if done.returncode:
        raise SystemExit(f"{what} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(what: str, folder: Path, rows: int) -> float:
    """Prompts a second of two processes that know nothing of each other, each on its own core."""
    with ThreadPoolExecutor(2) as both:
        jobs = [both.submit(worker, what, folder, rows, cores=1, first=first) for first in (0, 1)]
        runs = [job.result() for job in jobs]
    return sum(run["rows"] for run in runs) / max(run["seconds"] for run in runs)


def prepared(folder: Path, rows: int) -> Path:
    """Tables of so many events, made once, in a process of their own."""
    place = folder / str(rows)
    if not (place / "schema.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        worker("prepare", place, rows)
    return place


def prepare(folder: Path, rows: int) -> dict[str, float]:
    """Events with 20 to some hundred per user, and titles of realistic length."""
    import numpy as np
    import polars as pl

    from tastemaker.data.schema import LabelRule, Schema
    from tastemaker.data.tables import build_tables

    random = np.random.default_rng(0)
    users = max(min(USERS, rows // 100), 10)
    items = random.choice(ITEMS, rows, p=popularity(ITEMS))
    frame = pl.DataFrame(
        {
            "user": random.integers(0, users, rows),
            "item": items,
            "time": random.integers(789_652_009, 1_427_784_002, rows),
            "rating": random.integers(1, 11, rows) / 2,
        }
    )
    words = ["Night", "of", "the", "Silver", "River", "Return", "Last", "Garden", "Two", "Kings"]
    titles = [
        " ".join(random.choice(words, random.integers(1, 6))) + f" {item} ({1950 + item % 70})"
        for item in range(ITEMS)
    ]
    schema = Schema("user", "item", "time", "rating", LabelRule("rating", ">", 3), title="title")
    catalogue = pl.DataFrame({"item": np.arange(ITEMS), "title": titles})
    build_tables(frame, items=catalogue, schema=schema, source="benchmark").save(folder)
    return {}


def popularity(items: int) -> Any:
    """Probabilities that fall with rank."""
    import numpy as np

    weights = 1 / np.arange(1, items + 1) ** 0.9
    return weights / weights.sum()


def source(folder: Path, rows: int) -> Any:
    """Instructions of `rows` targets with a full history."""
    from tastemaker.data.history import Histories
    from tastemaker.data.tables import Tables
    from tastemaker.prompts.binding import Binder
    from tastemaker.prompts.catalogue import Catalogue
    from tastemaker.prompts.examples import Examples
    from tastemaker.prompts.mixture import Mixture
    from tastemaker.prompts.source import InstructionSource
    from tastemaker.prompts.template import find_template

    tables = Tables.load(folder)
    histories = Histories.from_interactions(tables.interactions)
    chosen = full_histories(histories, tables.interactions.height, rows)
    binder = Binder(histories, Catalogue(tables), history=HISTORY)
    mixture = Mixture.of([find_template(TEMPLATE)])
    return InstructionSource(binder, Examples.of_rows(tables, chosen), mixture, "train")


def full_histories(histories: Any, events: int, rows: int) -> Any:
    """So many targets with a full history, the newest; some again when there are too few."""
    import numpy as np

    found, count = [], 0
    for stop in range(events, 0, -1_000_000):
        block = np.arange(max(stop - 1_000_000, 0), stop)
        found.append(block[histories.counts(block) >= HISTORY])
        count += len(found[-1])
        if count >= rows:
            break
    chosen = np.concatenate(found[::-1])[-rows:]
    return chosen if len(chosen) == rows else np.resize(chosen, rows)


def ours(folder: Path, rows: int) -> dict[str, float]:
    """Rows of the table to finished instructions with their provenance."""
    made = source(folder, rows)
    made.frame(0, 10)
    started, count = time.perf_counter(), 0
    for frame in made.blocks():
        count += frame.height
    return {"rows": count, "seconds": time.perf_counter() - started}


def lists(folder: Path, rows: int) -> dict[str, list[Any]]:
    """Liked and disliked titles and the target of every row, as Python lists."""
    from tastemaker.prompts.template import find_template

    made = source(folder, rows)
    block = made.binder.block(made.examples, find_template(TEMPLATE))
    return {name: value.to_list() for name, value in block.items()}


def by_map(folder: Path, rows: int) -> dict[str, float]:
    """`datasets.map` over the compiled template, one call a row."""
    import datasets

    from tastemaker.prompts.template import find_template

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict(lists(folder, rows))
    section = find_template(TEMPLATE).sections["prompt"]
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        done = data.map(
            lambda row: {"prompt": section.render(row)}, cache_file_name=f"{cache}/map.arrow"
        )
        return {"rows": len(done), "seconds": time.perf_counter() - started}


def by_loop(folder: Path, rows: int) -> dict[str, float]:
    """The same text from an f-string, in a plain loop."""
    found = lists(folder, rows)
    ask = (
        "You are given the movies a user liked and the movies the user did not like. Decide from "
        'them whether the user will like the target movie. Answer only "Yes." or "No.".'
    )
    started, prompts = time.perf_counter(), []
    for liked, disliked, title in zip(
        found["liked"], found["disliked"], found["title"], strict=True
    ):
        first = ' "' + '", "'.join(liked) + '"' if liked else ""
        second = ' "' + '", "'.join(disliked) + '"' if disliked else ""
        prompts.append(
            f"{ask}\nUser Preference:{first}\nUser Unpreference:{second}\n"
            f'Will the user like the target movie "{title}"?'
        )
    seconds = time.perf_counter() - started
    expected = next(source(folder, rows).blocks(0, 1000))["prompt"].to_list()
    if prompts[: len(expected)] != expected:
        raise SystemExit("the loop writes other prompts than the template")
    return {"rows": len(prompts), "seconds": seconds}


def again(folder: Path, rows: int, checked: bool) -> Any:
    """What another process needs to make shards."""
    from tastemaker.prompts.leaks import LeakSearch

    made = source(folder, rows)
    if not checked:
        return {"train": made}, None
    search = LeakSearch(made.binder.tables, history=HISTORY)
    return {"train": made}, lambda frame: search(frame).refuse()


def build(folder: Path, rows: int, *, workers: int, checked: bool) -> dict[str, float]:
    """A whole part written as Parquet shards."""
    from tastemaker.prompts.writing import Layout, write_parts
    from tastemaker.stage import Silent

    sources, check = again(folder, rows, checked)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = time.perf_counter()
        facts = write_parts(
            Path(out) / "data",
            sources,
            layout=Layout("trl", "parquet", shard_rows=min(50_000, max(rows // 16, 1))),
            scratch=Path(out) / "scratch",
            report=Silent(),
            check=check,
            workers=workers,
            again=partial(again, folder, rows, checked),
        )
        return {"rows": facts["train"].rows, "seconds": time.perf_counter() - started}


def stream(folder: Path, rows: int) -> dict[str, float]:
    """Every prompt once, nothing kept."""
    made = source(folder, rows)
    started, count, characters = time.perf_counter(), 0, 0
    for frame in made.blocks():
        count += frame.height
        characters += int(frame["prompt"].str.len_bytes().sum())
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"rows": count, "seconds": seconds, "gigabytes": peak, "characters": characters}


WORKERS: dict[str, Any] = {
    "prepare": prepare,
    "ours": ours,
    "map": by_map,
    "loop": by_loop,
    "stream": stream,
    **{
        f"build-{workers}-{check}": partial(build, workers=workers, checked=check == "checked")
        for workers in (1, 2)
        for check in ("checked", "unchecked")
    },
}


if __name__ == "__main__":
    main()
