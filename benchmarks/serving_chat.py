"""Load on `POST /v1/recommend`: 50 clients at once, against the bare model's batch scoring.

    python benchmarks/serving_chat.py [--run FOLDER] [--encoder minilm|hashing] [--quick] [--json]
        [--clients 50] [--seconds 60] [--rounds 3]

A `tastemaker serve` process answers, a process of its own asks: ten items for one known user after
another, every answer checked. Against it, in this process: the same users' rows scored by
`CtrRecommender.score`, and the same by `LiveCtr`, each followed by sorting. All sides have the
whole machine in turn; medians. Without --run one is made of packaged data; --quick asks for ten
seconds, once.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from chat_run import borrowed, run_of, run_options
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.eval.protocol import candidates
from tastemaker.methods.base import load_split
from tastemaker.methods.recommending import live_recommender
from tastemaker.methods.training import best_recommender
from tastemaker.models.live_ctr import LiveCtr
from tastemaker.models.visitor import Visitor
from tastemaker.recipe import TrainConfig
from tastemaker.stage import Run
from tastemaker.testing.server_process import free_port, running_server

COUNT = 10  # items of an answer
COMPARED = 20  # users whose answers are compared with the bare model's
Best = Callable[[int], NDArray[np.int64]]  # dense user → dense items, best first


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    run_options(parser)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds = options.seconds or (10.0 if options.quick else 60.0)
    if options.ask:
        users = json.load(sys.stdin)
        print(json.dumps(asyncio.run(load(options.ask, users, options.clients, seconds=seconds))))
        return
    rounds = options.rounds or (1 if options.quick else 3)
    run = run_of(options)
    with borrowed(run) as folder:
        lines = compare(folder, options.clients, seconds=seconds, rounds=rounds)
    for line in lines:
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def compare(run: Path, clients: int, *, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """All sides in turn, the server idle while the others compute."""
    split = load_split(Run(run))
    sides = bare(Run(run), split)
    users = shuffled(split.tables.users["user_id"].to_list())
    asked: list[dict[str, Any]] = []
    rates: dict[str, list[float]] = {side: [] for side in sides}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["-m", "tastemaker.cli", "serve", "--run", str(run), "--port", str(port)]
    arguments += ["--model", "none", "--limit", "recommend_per_minute=1000000"]
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(
            arguments, ready=f"{url}/health", log=Path(folder) / "log", limit=120
        ) as server,
    ):
        equal = agreement(url, split, sides["batch scoring by the bare model"], users[:COMPARED])
        for _ in range(rounds):
            asked.append(in_its_own_process(url, users, clients, seconds=seconds))
            for side, best in sides.items():
                rates[side].append(rate(best, split, users, seconds / 3))
        peak = peak_mb(server.pid)
    note = f"{clients} clients, {seconds:g} s, {rounds} round(s); {equal}; server at most {peak} MB"
    return told(asked, rates, note)


def bare(run: Run, split: Split) -> dict[str, Best]:
    """The model alone, as `evaluate` scores rows and as a conversation does."""
    manifest = run.manifest("train")
    if manifest is None:
        raise SystemExit("the run has no trained recommender")
    model = best_recommender(run, split, TrainConfig.model_validate(manifest.config))
    live = live_recommender(run, split)
    now = int(split.tables.interactions["time"].max()) + 1  # type: ignore[arg-type]
    known = np.flatnonzero(live.known)

    def fresh(user: int) -> NDArray[np.int64]:
        return np.setdiff1d(known, live.met(Visitor(user=user)))

    def batch(user: int) -> NDArray[np.int64]:
        items = fresh(user)
        scores = model.score(candidates(split, user, items=items, time=now))
        return items[np.lexsort((items, -scores))][:COUNT]

    def direct(user: int) -> NDArray[np.int64]:
        items = fresh(user)
        scores = live.score(Visitor(user=user), items)
        return items[np.lexsort((items, -scores))][:COUNT]

    sides: dict[str, Best] = {"batch scoring by the bare model": batch}
    if isinstance(live, LiveCtr):
        sides["the model as conversations ask it"] = direct
    return sides


def shuffled(ids: Sequence[Any]) -> list[str]:
    """All users in one random order."""
    order = np.random.default_rng(0).permutation(len(ids))
    return [str(ids[place]) for place in order]


def rate(best: Best, split: Split, users: Sequence[str], seconds: float) -> float:
    """Users a second, one after another."""
    dense = [split.tables.user_index(user) for user in users]
    best(dense[0])  # kernels and caches warm up outside the clock
    began, done = time.perf_counter(), 0
    for user in itertools.cycle(dense):
        best(user)
        done += 1
        if time.perf_counter() - began > seconds:
            break
    return done / (time.perf_counter() - began)


def agreement(url: str, split: Split, best: Best, users: Sequence[str]) -> str:
    """How many of the server's items the bare model would have named, too."""
    ids = split.tables.items["item_id"].cast(str).to_list()
    common = 0
    with httpx.Client(trust_env=False, timeout=60) as client:
        for user in users:
            answer = client.post(f"{url}/v1/recommend", json={"user": user, "count": COUNT})
            named = [item["item_id"] for item in answer.raise_for_status().json()["items"]]
            theirs = [ids[item] for item in best(split.tables.user_index(user))]
            common += len({*named} & {*theirs})
    return f"{common} of {COUNT * len(users)} items as by the bare model"


def in_its_own_process(
    url: str, users: Sequence[str], clients: int, *, seconds: float
) -> dict[str, Any]:
    """The load, from a process that shares nothing with the sides."""
    command = [sys.executable, __file__, "--ask", url]
    command += ["--clients", str(clients), "--seconds", str(seconds)]
    told = subprocess.run(
        command, check=True, input=json.dumps(users), stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(told.stdout)
    return found


async def load(url: str, users: Sequence[str], clients: int, *, seconds: float) -> dict[str, Any]:
    """Clients that ask again as soon as they are answered, until the time is over.

    Requests under way then are finished and counted, with the time that they take.
    """
    answers: list[float] = []
    errors: list[str] = []
    turn = itertools.cycle(users)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=url, trust_env=False, timeout=60, limits=limits
    ) as client:

        async def ask() -> None:
            while time.perf_counter() < until:
                began = time.perf_counter()
                if trouble := await trouble_of(client, next(turn)):
                    errors.append(trouble)
                else:
                    answers.append(time.perf_counter() - began)

        until = time.perf_counter() + 2  # connections, kernels and caches warm up
        await asyncio.gather(*(ask() for _ in range(clients)))
        answers.clear()
        began = time.perf_counter()
        until = began + seconds
        await asyncio.gather(*(ask() for _ in range(clients)))
        whole = time.perf_counter() - began
    return {"rate": len(answers) / whole, "seconds": answers, "errors": errors}


async def trouble_of(client: httpx.AsyncClient, user: str) -> str:
    """What is wrong with one answer; nothing as a rule."""
    try:
        answer = await client.post("/v1/recommend", json={"user": user, "count": COUNT})
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != httpx.codes.OK:
        return f"status {answer.status_code}"
    items = {item["item_id"] for item in answer.json()["items"]}
    return "" if len(items) == COUNT else f"{len(items)} items"


def told(
    asked: Sequence[dict[str, Any]], rates: dict[str, list[float]], note: str
) -> list[dict[str, Any]]:
    """One line against each side, with the times of single answers in the note."""
    ours = statistics.median(found["rate"] for found in asked)
    times = np.concatenate([np.array(found["seconds"]) for found in asked]) * 1000
    errors = [error for found in asked for error in found["errors"]]
    middle, p95, p99 = np.percentile(times, [50, 95, 99]) if len(times) else (0, 0, 0)
    wrong = f"{len(errors)} errors" + (f" ({', '.join(sorted({*errors}))})" if errors else "")
    note = (
        f"{wrong} in {len(times) + len(errors):,} requests, p50 {middle:.0f} ms, p95 {p95:.0f} ms, "
        f"p99 {p99:.0f} ms; {note}"
    )
    return [
        {
            "name": f"POST /v1/recommend against {side}",
            "ours": round(ours, 1),
            "theirs": round(statistics.median(found), 1),
            "ratio": round(ours / statistics.median(found), 2),
            "unit": "answers/s",
            "note": note,
        }
        for side, found in rates.items()
    ]


def peak_mb(process: int) -> int:
    """The most memory that a process had, in MB."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024)
    return 0


if __name__ == "__main__":
    main()
