"""InstructRec on MovieLens: titles ranked by likelihood, beside popularity, neighbours, categories.

    python benchmarks/instructrec.py --data FOLDER --out FOLDER [--model MODEL] [--quick] [--json]

MovieLens-100K (FOLDER/ml-100k) by time. One model learns instructions of recommendation and of
search; each is asked about liked test rows among 9 random, 9 hard and 99 random other films. The
fixed template and the one that is best on validation are both there. Search templates tell of the
target's own categories: their lines begin with "oracle". MODEL is `new-t5` (from nothing), a
folder, or `smollm2` (its adapter only). What is finished in OUT is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from p5 import finished, line_of

from tastemaker.methods.generating import load_results
from tastemaker.recipe import Recipe

FIGURES = ("HR@1", "HR@3", "HR@5", "NDCG@3", "NDCG@5")
RECOMMENDING = (1, 2, 4, 5, 6)  # matching
CHOOSING = (7, 8, 9, 10, 13)  # from candidates
LARGE: dict[str, Any] = {"layers": 2, "width": 96, "heads": 4, "feed_forward": 384, "dropout": 0.0}
SMALL: dict[str, Any] = {"layers": 1, "width": 32, "heads": 2, "feed_forward": 64}


def main() -> None:
    """Train, ask and print one line per model, template and set of candidates."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with ml-100k")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="new-t5")
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("--data is needed, but for --quick")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        for line in lines(options, options.out or Path(scratch)):
            print(json.dumps(line) if options.json else line["row"], flush=True)


def lines(options: argparse.Namespace, out: Path) -> Iterator[dict[str, Any]]:
    """Recommendation first, oracles last."""
    run = finished(recipe(options), out)
    tune = run.manifest("tune")
    assert tune is not None
    summary = tune.summary
    for result in sorted(load_results(run), key=lambda one: one.oracle):
        if "HR@1" not in result.metrics:
            continue
        name = f"{'oracle' if result.oracle else 'recommendation'}: {result.protocol}, "
        name += f"{result.template} ({result.role}), {result.model}"
        chance = {
            key: f"{value:.2f}" for key, value in result.counts.items() if key.startswith("chance")
        }
        note = f"{result.rows} questions {chance or ''}"
        yield line_of(name, result.metrics, note=note, figures=FIGURES)
    row = (
        f"training: {summary['examples']:,} examples, {summary['steps']:,} steps, "
        f"{summary['trained_parameters'] / 1e6:.2f} M weights, {tune.seconds / 60:.0f} min, "
        f"validation loss {summary['best_valid_loss']:.3f}"
    )
    yield {"name": "training", "minutes": round(tune.seconds / 60, 1), "row": row}


def recipe(options: argparse.Namespace) -> Recipe:
    """All of it; with --quick the film ratings inside a package, and hardly any training."""
    quick = options.quick
    numbers = (1, 4, 7, 8) if quick else (*RECOMMENDING, *CHOOSING, 14, 16)
    templates = [f"instructrec/recommend-{number}" for number in numbers]
    data: dict[str, Any] = {"source": "movielens-small"}
    if options.data is not None:
        data = {"source": "ml-100k", "folder": str(options.data / "ml-100k")}
    from_nothing = options.model == "new-t5"
    return Recipe.model_validate(
        {
            "name": f"instructrec-{Path(options.model).name}{'-quick' if quick else ''}",
            "methods": ["instructrec"],
            "data": {**data, "requests": {"min_history": 5}},
            "teach": {},
            "build": {
                "templates": [*templates, "instructrec/search-3", "instructrec/search-8"],
                "candidates": 10,
                "history": 10,
                "min_history": 5,
                "train_examples": 500 if quick else options.examples,
                "valid_examples": 100 if quick else 1000,
                "check": 0.02,
            },
            "tune": {
                "model": options.model,
                "kind": "full" if from_nothing else "lora",
                "new_model": SMALL if quick else LARGE,
                "shots": 320 if quick else None,
                "valid_shots": 32 if quick else 300,
                "max_length": 1024,
                "max_target_length": 128,
                "epochs": options.epochs,
                "batch_size": 64 if from_nothing else 16,
                "learning_rate": 1e-2 if from_nothing else 1e-3,
                "weight_decay": 0.01,
                "warmup_share": 0.05,
            },
            "generate": {
                "examples": 10 if quick else options.questions,
                "valid_examples": 5 if quick else 100,
                "candidates": [{"n": 10}, {"n": 10, "origin": "hard"}, {"n": 100}]
                if not quick
                else [{"n": 10}],
                "tournament": 10,
                "free": 0,
            },
        }
    )


if __name__ == "__main__":
    main()
