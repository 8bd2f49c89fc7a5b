"""P5 and OpenP5 on real data: three ways to number items, beside counts and the papers' rows.

    python benchmarks/p5.py [sequential] [movielens] --data FOLDER --out FOLDER [--quick] [--json]

`sequential`: S3-Rec's Beauty and Sports (FOLDER/s3rec), all test users, full ranking. A T5 that
starts from nothing learns the sequential prompts of one numbering; the state with the best
validation loss is kept, and nothing is chosen on test. Beside it: popularity, item kNN, and the
rules that know nothing but numbers, under each numbering and under P5's own, which counts items
through complete sequences, here of users in a random order. `movielens`: MovieLens-100K
(FOLDER/ml-100k) by time, rating, direct and sequential prompts in one model. What is finished in
OUT is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from tastemaker.data.item_index import ItemIndex
from tastemaker.data.splits import Split
from tastemaker.eval.answers import Draws, Measure, Result, measures_of_ranks
from tastemaker.eval.ranking import full_ranking, ranked_rows
from tastemaker.methods.base import load_split
from tastemaker.methods.generating import load_results
from tastemaker.methods.pipeline import stages
from tastemaker.models.ranking_baselines import ItemKNN, NextNumber, PopularItems
from tastemaker.recipe import Recipe
from tastemaker.stage import Run

INDEXINGS = ("random", "sequential", "collaborative")
CUTS = (5, 10)
COLUMNS = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
PUBLISHED = {
    "beauty": {
        "P5-S, prompt 2-3, its own numbering": (0.0503, 0.0370, 0.0659, 0.0421),
        "P5 without leaking ids, run by the authors of TIGER": (0.0163, 0.0107, 0.0254, 0.0136),
        "OpenP5, random": (0.0318, 0.0226, 0.0464, 0.0273),
        "OpenP5, sequential": (0.0457, 0.0336, 0.0622, 0.0389),
        "OpenP5, collaborative": (0.0421, 0.0285, 0.0601, 0.0346),
    },
    "sports": {
        "P5-S, prompt 2-3, its own numbering": (0.0272, 0.0169, 0.0361, 0.0198),
        "P5 without leaking ids, run by the authors of TIGER": (0.0061, 0.0041, 0.0095, 0.0052),
    },
}
_DRAWS = Draws(count=1000, confidence=0.95, seed=0)


def main() -> None:
    """Train, ask and print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="sequential, movielens")
    parser.add_argument("--data", type=Path, help="folder with s3rec and ml-100k")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["beauty", "sports"])
    parser.add_argument("--indexings", nargs="+", default=list(INDEXINGS))
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--examples", type=int, help="training examples; all of them when left")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("--data is needed, but for --quick")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        for line in lines(options, out):
            print(json.dumps(line) if options.json else line["row"], flush=True)


def lines(options: argparse.Namespace, out: Path) -> Iterator[dict[str, Any]]:
    """All lines of the parts asked for."""
    parts = options.parts or ["sequential", "movielens"]
    if options.quick:
        yield from movielens(options, out)
        return
    if "sequential" in parts:
        for dataset in options.datasets:
            yield from sequential(dataset, options, out)
    if "movielens" in parts:
        yield from movielens(options, out)


def sequential(dataset: str, options: argparse.Namespace, out: Path) -> Iterator[dict[str, Any]]:
    """One data set: rules, three trained models, published rows."""
    told = False
    for indexing in options.indexings:
        run = finished(sequential_recipe(dataset, indexing, options), out)
        split = load_split(run)
        if not told:
            yield from rules(dataset, split)
            told = True
        yield from numbers(dataset, split, indexing, ItemIndex.load(run.artefact("build")))
        for result in load_results(run):
            if result.model.endswith("tuned"):
                name = f"{dataset}, {indexing}: T5, {result.template} ({result.role})"
                yield line_of(name, result.metrics, note=cost(run, result))
    for name, figures in PUBLISHED.get(dataset, {}).items():
        measures = {key: Measure(one, one, one) for key, one in zip(COLUMNS, figures, strict=True)}
        yield line_of(f"{dataset}: {name} (published)", measures, note="")


def sequential_recipe(dataset: str, indexing: str, options: argparse.Namespace) -> Recipe:
    """One numbering of one data set."""
    return Recipe.model_validate(
        {
            "name": f"p5-{dataset}-{indexing}",
            "methods": ["p5"],
            "data": {
                "source": f"s3-rec:{dataset}",
                "folder": str(options.data / "s3rec"),
                "split": {"name": "leave_one_out"},
                "requests": {"min_history": 1},
            },
            "build": {
                "templates": [*(f"p5/2-{number}" for number in (3, 1, 2, 4, 5, 6)), "p5/2-13"],
                "history": 10,
                "min_history": 1,
                "indexing": indexing,
                "check": 0.02,
                "valid_examples": 2000,
            },
            "tune": {**TUNE, "epochs": options.epochs, "shots": options.examples},
            "generate": {"beams": 20, "k": 10, "free": 500},
        }
    )


TUNE: dict[str, Any] = {
    "model": "new-t5",
    "kind": "full",
    "whole_words": 512,
    "new_model": {"layers": 2, "width": 64, "heads": 4, "feed_forward": 256, "dropout": 0.0},
    "valid_shots": 1000,
    "batch_size": 64,
    "micro_batch": 64,
    "learning_rate": 1e-2,
    "weight_decay": 0.01,
    "warmup_share": 0.05,
    "evaluate_every": 500,
}


def finished(recipe: Recipe, out: Path) -> Run:
    """The run of a recipe, up to its answers."""
    run = Run(out / recipe.name, seed=recipe.seed)
    with run.lock():
        for stage in stages(recipe, until="generate"):
            if not run.is_current(stage):
                run.execute(stage)
    return run


def rules(dataset: str, split: Split) -> Iterator[dict[str, Any]]:
    """What counts reach, and P5's numbering by number alone."""
    for rule in (PopularItems(), ItemKNN()):
        yield ranked(f"{dataset}: {rule.name}", rule.fit(split).catalogue_scores, split)
    walked = np.random.default_rng(0).permutation(split.tables.n_users)
    events = split.tables.interactions.with_columns(
        turn=pl.Series(walked).gather(split.tables.interactions["user"])
    )
    order = events.sort("turn", "time", maintain_order=True)["item"]
    first = order.unique(maintain_order=True).to_numpy()
    leaking = np.empty(split.tables.n_items, dtype=np.int64)
    leaking[first] = np.arange(len(first))
    probe = NextNumber(leaking).fit(split)
    name = f"{dataset}: largest number + 1, + 2, … under P5's numbering"
    yield ranked(name, probe.catalogue_scores, split)


def numbers(
    dataset: str, split: Split, indexing: str, index: ItemIndex
) -> Iterator[dict[str, Any]]:
    """The better rule that knows nothing but numbers; tokens of communities have no next one."""
    if indexing == "collaborative":
        return
    texts = pl.Series(index.texts)
    for rule in ("largest", "last"):
        probe = NextNumber(texts, rule=rule).fit(split)  # type: ignore[arg-type]
        name = f"{dataset}, {indexing}: {rule} number + 1, + 2, …"
        yield ranked(name, probe.catalogue_scores, split)


def ranked(name: str, score: Any, split: Split) -> dict[str, Any]:
    """A rule under full ranking, history left out."""
    rows = ranked_rows(split, "test")
    ranks = full_ranking(score, split, part="test")
    users = split.tables.interactions["user"].to_numpy()[rows]
    return line_of(name, measures_of_ranks(ranks, users, cuts=CUTS, draws=_DRAWS), note="")


def cost(run: Run, result: Result) -> str:
    """What training took, and what happens without the constraint."""
    tune = run.manifest("tune")
    assert tune is not None
    summary = tune.summary
    free = {
        name.removeprefix("free: "): f"{share:.3f}"
        for name, share in result.counts.items()
        if name.startswith("free")
    }
    return (
        f"{result.rows:,} users; {summary['trained_parameters'] / 1e6:.2f} M weights, "
        f"{summary['steps']:,} steps, {tune.seconds / 60:.0f} min; valid loss "
        f"{summary['best_valid_loss']:.3f}; without the catalogue {free}"
    )


def movielens(options: argparse.Namespace, out: Path) -> Iterator[dict[str, Any]]:
    """Rating, direct and sequential prompts by one model, on rows of everyone."""
    started = time.perf_counter()
    run = finished(movielens_recipe(options), out)
    for result in load_results(run):
        name = f"movielens: {result.template} ({result.role}), {result.model}"
        note = f"{result.rows:,} questions, {result.protocol}"
        yield line_of(name, result.metrics, note=note, figures=tuple(result.metrics))
    yield {
        "name": "movielens: time",
        "seconds": round(time.perf_counter() - started, 1),
        "row": f"movielens: {time.perf_counter() - started:.0f} s this time",
    }


def movielens_recipe(options: argparse.Namespace) -> Recipe:
    """MovieLens-100K; with --quick the small one inside a package, and hardly any training."""
    data: dict[str, Any] = {"source": "movielens-small"}
    if options.data is not None:
        data = {"source": "ml-100k", "folder": str(options.data / "ml-100k")}
    tune = {**TUNE, "valid_shots": 1000, "epochs": options.epochs, "shots": options.examples}
    generate: dict[str, Any] = {"beams": 20, "examples": 1000, "ranked": 200, "free": 200}
    if options.quick:
        tune |= {"shots": 640, "valid_shots": 50, "epochs": 1, "evaluate_every": None}
        tune["new_model"] = {"layers": 1, "width": 32, "heads": 2, "feed_forward": 64}
        generate = {"beams": 10, "examples": 30, "ranked": 3, "free": 3}
    return Recipe.model_validate(
        {
            "name": "p5-movielens-quick" if options.quick else "p5-movielens",
            "methods": ["p5"],
            "data": {**data, "requests": {"min_history": 1}},
            "build": {
                "templates": [
                    *("p5/1-1", "p5/1-2", "p5/1-4", "p5/1-10"),
                    *("p5/2-3", "p5/2-1", "p5/2-13"),
                    *("p5/5-1", "p5/5-4", "p5/5-7", "p5/5-8"),
                ],
                "repeats": {"rating": 1, "sequential": 1, "direct": 1},
                "candidates": 100,
                "history": 10,
                "min_history": 1,
                "negatives": 1,
                "check": 0.02,
                "valid_examples": 2000,
            },
            "tune": tune,
            "generate": generate,
        }
    )


def line_of(
    name: str, metrics: Any, *, note: str, figures: tuple[str, ...] = COLUMNS
) -> dict[str, Any]:
    """A row of the table, and the same for --json."""
    shown = [
        f"{key} {one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"
        for key, one in metrics.items()
        if key in figures
    ]
    values = {key: round(one.value, 5) for key, one in metrics.items()}
    return {"name": name, **values, "note": note, "row": "  ".join([name, *shown, note])}


if __name__ == "__main__":
    main()
