"""Re-rankers with knowledge, with plain item facts in its place, and without: MAP@7 and NDCG@7.

    python benchmarks/rerank.py --out FOLDER [--data ML-100K] [--knowledge FOLDER]
        [--models dlcm mir prm setrank] [--seeds 3] [--json] [--quick]

Lists as in KAR: 4 events of a user and 6 items drawn at random, of which the user met none. Without
--data the packaged MovieLens is taken. --knowledge is what benchmarks/ctr_knowledge.py wrote from
the same data; lists then begin after the last event that the text of their user rests on, in all
parts and on all sides. Without it there are two sides: nothing, and title, genre and year of every
item, encoded.

Every training leaves one file in --out, named after all it depends on; what is there is not trained
again. Each training runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctr import plain_facts, say
from ctr_data import MIN_COUNT, features, ml_100k, movielens
from numpy.typing import NDArray

from tastemaker.data.splits import PARTS, Split
from tastemaker.eval.lists import map_at, ndcg_at, paired_difference
from tastemaker.methods.base import load_split
from tastemaker.methods.encoding import knowledge_texts
from tastemaker.models.baselines import ItemMean
from tastemaker.models.encoders import load_encoder
from tastemaker.models.rerank.lists import RankingLists, ranking_lists
from tastemaker.models.rerank.recommender import LIST_PLAN, ListRecommender
from tastemaker.models.text_vectors import TextVectors
from tastemaker.registry import names
from tastemaker.stage import Run, atomic_file, digest

DIM, LIST_SEED, K = 32, 7, 7
QUICK_EPOCHS, QUICK_STEP, QUICK_TEXTS = 2, 8, 200
NAMES = {"dlcm": "DLCM", "mir": "MIR", "prm": "PRM", "setrank": "SetRank"}
SIDES = {"plain": "nothing", "facts": "plain item facts", "knowledge": "knowledge"}
PAIRS = (("knowledge", "plain"), ("facts", "plain"), ("knowledge", "facts"))
ALWAYS, NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max

Scores = NDArray[np.floating[Any]]
Found = dict[str, dict[str, list[Scores]]]
Measure = Callable[..., NDArray[np.float64]]
Measures = Mapping[str, Measure]
LIKED: Measures = {"MAP@7": partial(map_at, k=K), "NDCG@7": partial(ndcg_at, k=K)}
KAR: Measures = {
    "MAP@7": partial(map_at, k=K, divisor="found", empty=0.0),
    "NDCG@7": partial(ndcg_at, k=K, empty=0.0),
}
AGGREGATIONS = {
    "lists with a like; precisions over the likes that 7 places can hold": LIKED,
    "as KAR: all lists, 0 without a like; precisions over the likes found (`found`)": KAR,
}


def main() -> None:
    """Train what is missing, then show everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of ml-100k [ratings of a package]")
    parser.add_argument("--out", type=Path, help="one file per training")
    parser.add_argument("--knowledge", type=Path, help="what benchmarks/ctr_knowledge.py wrote")
    known = names("re-ranker")
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one model, one seed, few lists")
    options = parser.parse_args()
    if not (options.out or options.quick):
        parser.error("--out FOLDER is needed")
    torch.set_num_threads(1)
    if options.quick:
        options.models, options.seeds = options.models[:1], 1
    with tempfile.TemporaryDirectory() as kept:
        options.out = options.out or Path(kept)
        options.out.mkdir(parents=True, exist_ok=True)
        bench = Bench(options)
        show(bench, bench.scores(), as_json=options.json)


class Bench:
    """One data set, its lists, and the texts of each side."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.split = ml_100k(options.data) if options.data else movielens()
        self.texts: dict[str, tuple[TextVectors, ...]] = {"plain": (), "facts": (self._facts(),)}
        after = None
        if options.knowledge:
            self.texts["knowledge"] = known_texts(options.knowledge, self.split)
            user = self.texts["knowledge"][0]
            assert user.after is not None
            after = np.where(user.after == NEVER, ALWAYS, user.after)
        self.lists = {
            part: ranking_lists(self.split, part, seed=LIST_SEED, after=after) for part in PARTS
        }
        if options.quick:
            self.lists = {part: thinned(lists) for part, lists in self.lists.items()}
        self.plan = replace(LIST_PLAN, epochs=QUICK_EPOCHS) if options.quick else LIST_PLAN

    @property
    def test(self) -> RankingLists:
        """What all are judged on."""
        return self.lists["test"]

    def scores(self) -> Found:
        """Scores of the test lists: side → model → seeds."""
        found: Found = {side: {name: [] for name in self.options.models} for side in self.texts}
        for seed in range(self.options.seeds):
            for model in self.options.models:
                for side in self.texts:
                    found[side][model].append(self._kept(side, model, seed))
        return found

    def orders(self) -> dict[str, Scores]:
        """Scores that need no training; equal ones stand for all their orders."""
        items = self.test.items
        events = self.split.tables.interactions["item"].to_numpy()[self.split.train]
        counts = np.bincount(events, minlength=self.split.tables.n_items)
        return {
            "random order (expected)": np.zeros(items.shape),
            "item mean": ItemMean().fit(self.split).log_odds(items),
            "item popularity": counts[items].astype(np.float64),
        }

    def _kept(self, side: str, model: str, seed: int) -> Scores:
        name = f"{side}-{model}-{seed}"
        file = self.out / f"{name}-{self._tag(side)}.npz"
        if not file.is_file():
            start = time.perf_counter()
            made = ListRecommender(
                model,
                model,
                features=features(self.split),
                dim=DIM,
                min_count=MIN_COUNT,
                plan=replace(self.plan, seed=seed),
                texts=self.texts[side],
            ).fit(self.split, self.lists["train"], self.lists["valid"])
            scored = made.score(self.test)
            with atomic_file(file) as handle:
                np.savez(handle, test=scored)
            seconds = round(time.perf_counter() - start, 1)
            say(name, {"seconds": seconds, "epochs": len(made.curve)})
        return np.load(file)["test"]

    def _tag(self, side: str) -> str:
        """What a training depends on, its model and seed apart."""
        arrays = [
            getattr(lists, name)
            for lists in self.lists.values()
            for name in ("user", "moment", "items", "labels")
        ]
        for text in self.texts[side]:
            arrays += [text.matrix, text.rows, np.zeros(0) if text.after is None else text.after]
        sums = [zlib.crc32(np.ascontiguousarray(array).data) for array in arrays]
        return digest([sums, self.plan, DIM, MIN_COUNT])[:8]

    def _facts(self) -> TextVectors:
        """Title, genre and year of every item (with --quick of some), encoded once per folder."""
        items = np.arange(self.split.tables.n_items)
        if self.options.quick:
            items = items[:: max(1, len(items) // QUICK_TEXTS)]
        told = plain_facts(self.split)
        texts = [told[item] for item in items]
        file = self.out / f"facts-{digest(texts)[:8]}.npy"
        if not file.is_file():
            matrix = load_encoder("minilm").encode(texts)
            with atomic_file(file) as handle:
                np.save(handle, matrix)
        rows = np.full(self.split.tables.n_items, -1)
        rows[items] = np.arange(len(items))
        return TextVectors("item_text", "item", np.load(file), rows)


def known_texts(folder: Path, split: Split) -> tuple[TextVectors, TextVectors]:
    """User and item texts of the run in the folder, which must be of the same users and items."""
    run = Run(folder / "run", seed=7)
    theirs = load_split(run).tables
    for ours, other in (
        (split.tables.users["user_id"], theirs.users["user_id"]),
        (split.tables.items["item_id"], theirs.items["item_id"]),
    ):
        if ours.to_list() != other.to_list():
            raise SystemExit(f"{folder} was written from other data; give the same --data")
    return knowledge_texts(run, split)


def thinned(lists: RankingLists) -> RankingLists:
    """Every so manieth list."""
    return lists.select(np.arange(len(lists)) % QUICK_STEP == 0)


def show(bench: Bench, found: Found, *, as_json: bool) -> None:
    """One table per pair of sides and aggregation, then JSON."""
    for line in about(bench):
        print(f"\n{line}")
    lines: list[dict[str, Any]] = []
    for side, base in PAIRS:
        if side in found:
            for aggregation, measures in AGGREGATIONS.items():
                print(f"\n{SIDES[side]} (with) minus {SIDES[base]} (without); {aggregation}\n")
                lines += table(bench, found, side, base, measures)
    if as_json:
        for line in lines:
            print(json.dumps(line))


def about(bench: Bench) -> list[str]:
    """What the lists are, and which of them have texts."""
    test, split = bench.test, bench.split
    sizes = ", ".join(f"{len(lists):,} {part}" for part, lists in bench.lists.items())
    seen = np.isin(test.items, split.tables.interactions["item"].to_numpy()[split.train])
    told = [
        f"Lists: {sizes}. Of the test lists of {test.items.shape[1]}, {test.liked.sum():,} hold a "
        f"like; {len(np.unique(test.user)):,} users, {len(np.unique(test.user[test.liked])):,} "
        f"with a like. {1 - seen[test.real].mean():.1%} of their events are of items without a "
        "training event, as no drawn item is.",
        f"± is the standard deviation over {bench.options.seeds} seed(s). A difference is "
        "averaged over seeds, with its 95 % interval over users.",
    ]
    for side, texts in bench.texts.items():
        for text in texts:
            told.append(f"{SIDES[side]}, {text.name}: {covered(text, test)}.")
    if bench.options.quick:
        told.append(f"--quick: every {QUICK_STEP}th list, some texts; the numbers mean nothing.")
    return told


def covered(text: TextVectors, test: RankingLists) -> str:
    """Share of test lists, or of their items, that have a text in time."""
    users, moments = test.user.astype(np.int64), test.moment
    if text.of == "user":
        return f"{(text.usable(users, moments) >= 0).mean():.1%} of the test lists"
    usable = text.usable(test.items.astype(np.int64), moments[:, None]) >= 0
    shares = [usable[rows].mean() for rows in (test.real, ~test.real)]
    return f"{shares[0]:.1%} of the events in test lists, {shares[1]:.1%} of the drawn items"


def table(
    bench: Bench, found: Found, side: str, base: str, measures: Measures
) -> list[dict[str, Any]]:
    """Print one table; returns a line for JSON per figure."""
    heads = "".join(f" {name} without | with | difference |" for name in measures)
    print(f"| model |{heads}\n|---|" + "---|" * 3 * len(measures))
    if base == "plain":
        for name, scores in bench.orders().items():
            cells = [
                f"{mean(measure, scores, bench.test):.4f} | | " for measure in measures.values()
            ]
            print(f"| {name} | " + "| ".join(cells) + "|")
    lines = []
    for model, with_texts in found[side].items():
        cells = []
        for name, measure in measures.items():
            pair = {"with": with_texts, "without": found[base][model]}
            runs = {
                one: [mean(measure, scores, bench.test) for scores in seeds]
                for one, seeds in pair.items()
            }
            gap = difference(measure, pair, bench.test)
            cells += [
                spread(runs["without"]),
                spread(runs["with"]),
                f"{gap['difference']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]",
            ]
            lines.append(figure(f"{model} {name}", runs, gap, side, base, measures is KAR))
        print(f"| {NAMES.get(model, model)} | " + " | ".join(cells) + " |")
    return lines


def mean(measure: Measure, scores: Scores, lists: RankingLists) -> float:
    """Over the lists where the measure is defined."""
    return float(np.nanmean(measure(scores, lists.labels)))


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    told = f"{statistics.fmean(values):.4f}"
    return told + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def difference(
    measure: Measure, pair: Mapping[str, list[Scores]], lists: RankingLists
) -> dict[str, float]:
    """With minus without, averaged over seeds list by list, and its interval."""
    first, second = (
        np.mean([measure(scores, lists.labels) for scores in pair[one]], axis=0)
        for one in ("with", "without")
    )
    gap = paired_difference(first, second, lists.user, seed=0)
    return {"difference": gap.value, "low": gap.low, "high": gap.high}


def figure(
    name: str,
    runs: Mapping[str, list[float]],
    gap: Mapping[str, float],
    side: str,
    base: str,
    as_kar: bool,
) -> dict[str, Any]:
    """One figure for JSON: means over seeds, and the paired difference."""
    ours, theirs = (statistics.fmean(runs[one]) for one in ("with", "without"))
    note = f"{SIDES[side]} against {SIDES[base]}, {len(runs['with'])} seed(s)"
    note += ", as KAR aggregates" if as_kar else ""
    ratio = ours / theirs
    figures = {"ours": ours, "theirs": theirs, "ratio": ratio, **gap}
    return {"name": name, **figures, "unit": "fraction", "note": note}


if __name__ == "__main__":
    main()
