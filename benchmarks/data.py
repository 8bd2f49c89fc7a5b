"""Preparing 20 million ratings: ours against RecTools and RecBole, and how fast pasts are found.

    python benchmarks/data.py [--quick] [--json] [--install] [--rounds N] [--folder DIR]

The file has the shape of MovieLens 20M (20,000,263 ratings, 138,493 users, 26,744 items, the rows
user by user) and is made by this program. Every side is a process of its own that reads that same
file, sides alternate, medians are compared. `--install` puts RecTools and RecBole into throw-away
environments inside the folder (RecBole 1.2 needs numpy 1); a side that is not installed is left
out. `--quick` uses a million rows and one round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

USERS, ITEMS = 138_493, 26_744
FULL, QUICK = 20_000_263, 1_000_000
RIVALS = {
    "rectools": ["rectools==0.19.0"],
    "recbole": ["torch==2.13.0", "recbole==1.2.1", "numpy<2", "pandas<2.2", "scipy<1.14"],
}


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--install", action="store_true", help="install the rivals first")
    parser.add_argument("--rounds", type=int, help="runs of each side [3; quick: 1]")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-data"))
    parser.add_argument("--rows", type=int, help="rows of the file")
    parser.add_argument("--worker", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        WORKERS[options.worker[0]](Path(options.worker[1]))
        return
    rows = options.rows or (QUICK if options.quick else FULL)
    folder = options.folder / str(rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, rows)
    if options.install:
        install(options.folder)
    rounds = options.rounds or (1 if options.quick else 3)
    lines = [*preparing(options.folder, folder, rounds=rounds), *pasts(quick=options.quick)]
    for line in lines:
        shown = f"{line['name']}: {line['ratio']}x  {line}"
        print(json.dumps(line) if options.json else shown, flush=True)


def write_files(folder: Path, rows: int) -> None:
    """The ratings as CSV, and the same with RecBole's header."""
    import numpy as np
    import polars as pl

    if (folder / "ratings.csv").exists() and (folder / "ratings" / "ratings.inter").exists():
        return
    random = np.random.default_rng(0)
    users = min(USERS, rows // 20)
    weights = random.lognormal(4.2, 1.1, users) + 20
    counts = np.maximum((weights / weights.sum() * rows).astype(int), 1)
    counts[0] += rows - counts.sum()
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.9
    numbers = random.permutation(random.choice(131_262, ITEMS, replace=False) + 1)
    chosen = random.choice(ITEMS, rows, p=popularity / popularity.sum())
    start = np.repeat(random.integers(789_652_009, 1_427_784_002, users), counts)
    frame = pl.DataFrame(
        {
            "userId": np.repeat(np.arange(1, users + 1), counts),
            "movieId": numbers[chosen],
            "rating": random.integers(1, 11, rows) / 2,
            "timestamp": start + random.integers(0, 86_400 * 30, rows),
        }
    )
    frame.write_csv(folder / "ratings.csv")
    (folder / "ratings").mkdir(exist_ok=True)
    header = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    renamed = frame.rename(dict(zip(frame.columns, header, strict=True)))
    renamed.write_csv(folder / "ratings" / "ratings.inter", separator="\t")


def install(folder: Path) -> None:
    """A throw-away environment per rival."""
    for name, packages in RIVALS.items():
        place = folder / name
        if not (place / "bin" / "python").exists():
            venv.create(place, with_pip=True)
        for group in packages[:2], packages[2:]:
            if group:
                pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", *group]
                subprocess.run(pip, check=True)


def preparing(folder: Path, files: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Seconds from file to usable data, each side in processes of its own, alternating."""
    pythons = {"ours": Path(sys.executable)}
    for name in RIVALS:
        python = folder / name / "bin" / "python"
        if python.exists():
            pythons[name] = python
        else:
            print(f"{name} is not installed: run with --install", file=sys.stderr)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    for _ in range(rounds):
        for name, python in pythons.items():
            for file in files.glob("**/ratings.*"):
                file.read_bytes()  # the same warm cache for every side
            command = [str(python), __file__, "--worker", name, str(files / "ratings.csv")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} failed: {done.stderr[-500:]}", file=sys.stderr)
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    ours = middle(found.pop("ours"))
    lines = []
    for name, runs in found.items():
        for step in ("construct", "all") if runs else ():
            theirs = middle(runs)
            lines.append(
                {
                    "name": f"preparing ratings against {name} ({WHAT[name][step]})",
                    "ours": round(ours["all"], 2),
                    "theirs": round(theirs[step], 2),
                    "ratio": round(theirs[step] / ours["all"], 2),
                    "unit": "s",
                    "note": f"ours: read, checks, numbering, order, split, index of pasts; "
                    f"peak {ours['gigabytes']:.2f} GB against {theirs['gigabytes']:.2f} GB; "
                    f"{rounds} round(s); ours by step {ours}",
                }
            )
    return lines or [{"name": "preparing ratings", "ratio": None, **ours}]


WHAT = {
    "rectools": {
        "construct": "read and Dataset.construct, nothing checked or split",
        "all": "read, construct, time split, user-item matrix",
    },
    "recbole": {
        "construct": "create_dataset",
        "all": "create_dataset and build with a time-ordered ratio split",
    },
}


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """Median of each number."""
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


def pasts(*, quick: bool) -> list[dict[str, Any]]:
    """Rows per second of `Histories.before` against a loop that slices each user's events."""
    import numpy as np

    from tastemaker.data.history import Histories

    events, targets, users = (
        (2_000_000, 100_000, 14_000) if quick else (20_000_000, 1_000_000, USERS)
    )
    random = np.random.default_rng(0)
    times = np.sort(random.integers(0, 10**9, events))
    who = random.integers(0, users, events)
    rows = random.choice(events, targets, replace=False)
    histories = Histories(who, times)
    lines = []
    loop_targets = rows[:20_000]
    for name, run in {
        "before, length 50": lambda: histories.before(rows, max_length=50),
        "before and its padded matrix [n, 50]": lambda: histories.before(
            rows, max_length=50
        ).padded(50),
        "before and the list of its events": lambda: histories.before(rows, max_length=50).events,
    }.items():
        run()
        ours, theirs = [], []
        for _ in range(1 if quick else 5):
            ours.append(targets / clock(run))
            theirs.append(len(loop_targets) / clock(lambda: loop(who, times, loop_targets)))
        rate, other = statistics.median(ours), statistics.median(theirs)
        lines.append(
            {
                "name": f"pasts: {name}, against a loop over targets",
                "ours": round(rate),
                "theirs": round(other),
                "ratio": round(rate / other, 1),
                "unit": "targets/s",
                "note": f"{targets:,} targets, {events:,} events, {users:,} users",
            }
        )
    return lines


def loop(who: Any, times: Any, rows: Any) -> None:
    """What scripts of the field do: a list per user, cut at each target."""
    import numpy as np

    wanted = np.unique(who[rows])
    mine = np.flatnonzero(np.isin(who, wanted))
    order = mine[np.argsort(who[mine], kind="stable")]
    borders = np.searchsorted(who[order], wanted)
    events = dict(zip(wanted.tolist(), np.split(order, borders[1:]), strict=True))
    for row in rows.tolist():
        own = events[who[row]]
        own[times[own] < times[row]][-50:]


def clock(run: Any) -> float:
    """Seconds that `run` takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def report(steps: dict[str, float]) -> None:
    """Print the steps of a worker with its peak memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({**steps, "gigabytes": round(peak, 3)}))


def ours(file: Path) -> None:
    """Read, check, number, order, split, index."""
    from tastemaker.data.loading import read_tables
    from tastemaker.data.readers import open_table
    from tastemaker.data.schema import Policies, Schema, parse_label
    from tastemaker.data.splitters import split_tables

    schema = Schema(
        user="userId",
        item="movieId",
        time="timestamp",
        rating="rating",
        label=parse_label("rating > 3"),
        title=None,
        rating_range=(0.5, 5.0),
    )
    started = time.perf_counter()
    tables = read_tables(open_table(str(file)), schema=schema, policies=Policies(duplicates="drop"))
    read = time.perf_counter()
    split = split_tables(tables, "global_time", valid_from=0.8, test_from=0.9)
    parted = time.perf_counter()
    split.histories.counts(split.test)
    done = time.perf_counter()
    steps = {"tables": read - started, "split": parted - read, "pasts": done - parted}
    report({**steps, "all": done - started})


def rectools(file: Path) -> None:
    """RecTools: its readme's road from a CSV to a data set, then its time split."""
    import pandas as pd  # noqa: TID251 - RecTools takes its frames
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.model_selection import TimeRangeSplitter

    started = time.perf_counter()
    frame = pd.read_csv(file)
    names = {"userId": Columns.User, "movieId": Columns.Item, "rating": Columns.Weight}
    frame = frame.rename(columns={**names, "timestamp": Columns.Datetime})
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    dataset = Dataset.construct(frame)
    constructed = time.perf_counter()
    last = frame[Columns.Datetime].max()
    days = max((last - frame[Columns.Datetime].min()).days // 10, 1)
    splitter = TimeRangeSplitter(f"{days}D", n_splits=1, filter_cold_users=False)
    for _ in splitter.split(dataset.interactions):
        pass
    dataset.get_user_item_matrix()
    done = time.perf_counter()
    report({"construct": constructed - started, "all": done - started})


def recbole(file: Path) -> None:
    """RecBole: its own data set object, then its time-ordered ratio split."""
    import warnings

    warnings.filterwarnings("ignore")
    from recbole.config import Config
    from recbole.data import create_dataset

    sys.argv = sys.argv[:1]  # RecBole reads the command line
    file = file.resolve()
    os.chdir(file.parent)  # it writes its logs where it stands
    columns = ["user_id", "item_id", "rating", "timestamp"]
    split = {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "TO", "mode": "full"}
    settings = {"data_path": str(file.parent), "load_col": {"inter": columns}}
    config = Config(
        model="BPR",
        dataset="ratings",
        config_dict={**settings, "eval_args": split, "show_progress": False},
    )
    started = time.perf_counter()
    dataset = create_dataset(config)
    constructed = time.perf_counter()
    dataset.build()
    done = time.perf_counter()
    report({"construct": constructed - started, "all": done - started})


WORKERS = {"ours": ours, "rectools": rectools, "recbole": recbole}

if __name__ == "__main__":
    main()
