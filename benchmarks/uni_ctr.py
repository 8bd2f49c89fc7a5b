"""Uni-CTR on domains cut from real data: AUC of every domain, for it and for models without text.

    python benchmarks/uni_ctr.py [movielens] [yelp] --out FOLDER [--data FOLDER] [--quick] [--json]

`movielens`: the ratings inside a package, films parted by genre, a like is more than three stars;
Horror is never trained on, Family is added afterwards. `yelp`: businesses of FOLDER/yelp_text and
sequences of FOLDER/s3rec, users with several visits outside restaurants, as many drawn negatives as
visits in each domain; Beauty & Spas is never trained on, Shopping is added afterwards. All models
of a run learn from the rows of the same prompts and answer the same test rows; states and epochs
are chosen on validation. A domain without a head is scored by the mean of a baseline's heads; the
best head on the test rows is shown as an oracle. What is finished in OUT is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from tastemaker.data.domains import domains_of
from tastemaker.data.splits import Split
from tastemaker.eval.compare import compare
from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import Requests
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.domain_training import Baseline, load_baseline
from tastemaker.methods.pipeline import stages
from tastemaker.recipe import Recipe
from tastemaker.stage import Run

BASELINES = ("shared_bottom", "mmoe", "ple", "star", "deepfm", "dcn", "autoint")
MOVIELENS: dict[str, Any] = {
    "source": "movielens-small",
    "domains": {
        "column": "genres",
        "groups": {
            "Horror": ["Horror"],
            "Family": ["Children", "Animation"],
            "Science Fiction": ["Sci-Fi", "Fantasy"],
            "Crime": ["Crime", "Thriller", "Mystery", "Film-Noir"],
            "Comedy": ["Comedy"],
        },
    },
    "split": {"name": "global_time", "valid_from": 0.8, "test_from": 0.9},
}
GROUPS = ("Beauty & Spas", "Shopping", "Nightlife", "Restaurants")
ROLES = {
    "movielens": {"unseen": "Horror", "added": "Family"},
    "yelp": {"unseen": "Beauty & Spas", "added": "Shopping"},
}
# What is trained below the networks, and on which prompt.
MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"model": "minilm", "kind": "frozen"},
    "minilm-lora": {"model": "minilm", "kind": "lora", "lora": {"layers": 2}},
    "minilm-code": {"model": "minilm", "kind": "frozen", "layout": "code"},
    "minilm-names": {"model": "minilm", "kind": "frozen", "template": "uni_ctr/names"},
    "minilm-ids": {"model": "minilm", "kind": "frozen", "template": "uni_ctr/ids"},
    "minilm-rated": {"model": "minilm", "kind": "frozen", "template": "tallrec/movie"},
    "minilm-sequential": {"model": "minilm", "kind": "frozen", "indexing": "sequential"},
    "smollm2": {"model": "smollm2", "kind": "frozen"},
}


def main() -> None:
    """Run every recipe and print a line per model and domain."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="movielens, yelp")
    parser.add_argument("--data", type=Path, help="folder with yelp_text and s3rec")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", default=["minilm"], choices=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[7])
    parser.add_argument("--examples", type=int, default=6000, help="built training prompts")
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--plain", action="store_true", help="yelp: names without categories")
    parser.add_argument("--ablations", action="store_true", help="no ladders, no LLM, one network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts = options.parts or ["movielens"]
    if "yelp" in parts and options.data is None:
        parser.error("yelp needs --data")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        for part in parts:
            for model in options.models:
                for seed in options.seeds:
                    for line in lines(part, model, seed, options=options, out=out):
                        print(json.dumps(line) if options.json else line["row"], flush=True)


def lines(
    part: str, model: str, seed: int, *, options: argparse.Namespace, out: Path
) -> Iterator[dict[str, Any]]:
    """One recipe: AUC by domain of everything in its comparison, then the oracles."""
    found = recipe(part, model, seed, options=options, out=out)
    run = Run(out / found.name, seed=seed)
    with run.lock():
        for stage in stages(found, until="evaluate"):
            if not run.is_current(stage):
                run.execute(stage)
    split, requests = load_split(run), load_requests(run, "test")
    frame = pl.read_parquet(run.artefact("evaluate") / "scores.parquet")
    names = [name for name in frame.columns if name not in requests.frame.columns]
    scores = {name: frame[name].to_numpy() for name in names}
    head = found.name
    tune, train = run.manifest("tune"), run.manifest("train")
    assert tune is not None
    assert train is not None
    told = tune.summary["variants"]["model"]
    yield {
        "name": f"{head}: training",
        "minutes": round(tune.seconds / 60, 1),
        "row": f"{head}: tune {tune.seconds / 60:.1f} min (all variants), {told['examples']:,} "
        f"prompts, {told['trained_parameters'] / 1e6:.1f} M weights, {told['steps']} steps, best "
        f"{told['best_step']}; baselines {train.seconds / 60:.1f} min",
    }
    for domain, mask in parts_of(split, requests):
        yield from judged(f"{head}: {domain}", scores, requests, mask)
    unseen = ROLES[part]["unseen"]
    yield from oracles(f"{head}: {unseen}", found, run, split, requests)


def parts_of(split: Split, requests: Requests) -> Iterator[tuple[str, Any]]:
    """Every domain and which requests are of it."""
    domains = domains_of(split.tables, requests.items, rows=requests.rows).cast(pl.String)
    for name in domains.unique().sort().to_list():
        yield name, (domains == name).to_numpy()


def judged(
    head: str, scores: dict[str, Any], requests: Requests, mask: Any
) -> Iterator[dict[str, Any]]:
    """A line for each model, with the interval of a bootstrap over users."""
    mine = requests.select(mask)
    if len(np.unique(mine.labels)) < 2:
        return
    table = compare(
        {name: values[mask] for name, values in scores.items()},
        mine,
        against="Liked share + item mean (same rows)",
        trivial=(),
        bootstrap=1000,
        confidence=0.95,
        seed=0,
    )
    for one in table.rows:
        if one.metric == "auc":
            row = f"{head}: {one.model}: AUC {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"
            row += f" ({table.n_rows} rows, {table.n_users} users)"
            yield {"name": f"{head}: {one.model}", "auc": one.value, "row": row}


def oracles(
    head: str, found: Recipe, run: Run, split: Split, requests: Requests
) -> Iterator[dict[str, Any]]:
    """The best head of each baseline on the unseen domain's test rows: no model could know it."""
    unseen = found.multi_domain.unseen[0]
    mask = dict(parts_of(split, requests))[unseen]
    mine = requests.select(mask)
    for one in map(Baseline, found.train.backbone):
        heads = load_baseline(run, split, one, config=found.train).head_scores(mine)
        each = [auc(column.astype(np.float64), mine.labels) for column in heads.T]
        told = ", ".join(f"{value:.3f}" for value in each)
        row = f"{head}: ORACLE {one.name}: best head AUC {max(each):.3f} (heads: {told})"
        yield {"name": f"{head}: oracle {one.name}", "auc": max(each), "row": row}


def recipe(part: str, model: str, seed: int, *, options: argparse.Namespace, out: Path) -> Recipe:
    """One data set, one language model, one seed."""
    quick = options.quick
    told = dict(MODELS[model])
    template, layout = told.pop("template", "uni_ctr/full"), told.pop("layout", "paper")
    indexing = told.pop("indexing", "random")
    data = MOVIELENS if part == "movielens" else yelp(options.data, out, plain=options.plain)
    named = [part, *(["plain"] if options.plain else []), *(["quick"] if quick else [])]
    likes, most = (5, 20) if part == "movielens" else (3, 4)
    ablations = ["no_ladders", "no_llm", "general_only"] if options.ablations else []
    return Recipe.model_validate(
        {
            "name": "-".join([*named, model, str(options.examples), f"seed{seed}"]),
            "seed": seed,
            "methods": ["uni_ctr"],
            "data": {**data, "requests": {"min_history": 5, "per_user": 2 if quick else most}},
            "build": {
                "templates": template,
                "likes": likes,
                "indexing": indexing,
                "min_history": 5,
                "train_examples": 300 if quick else options.examples,
                "valid_examples": 150 if quick else max(options.examples // 5, 200),
                "check": 0.1,
            },
            "multi_domain": {**ROLES[part], "layout": layout, "ablations": ablations},
            "tune": {
                **told,
                "shots": None,
                "batch_size": 32,
                "epochs": 1 if quick else options.epochs,
                "learning_rate": 1e-3,
                "warmup_share": 0.05,
                "weight_decay": 0.01,
                "metric": "auc",
                "patience": 2,
                "max_length": 1024,
            },
            "train": {
                "backbone": BASELINES[:1] if quick else BASELINES,
                "epochs": 1 if quick else 15,
                "patience": 3,
                "batch_size": 256,
            },
        }
    )


def yelp(data: Path, out: Path, *, plain: bool) -> dict[str, Any]:
    """Users with at least four visits to spas and shops; a place of a sequence is its time.

    A business is called by its name, unless `plain` with two more of its categories.
    """
    events = out / "yelp-events.parquet"
    items = out / f"yelp-items{'-plain' if plain else ''}.parquet"
    if not items.is_file():
        listed = pl.read_ndjson(data / "yelp_text" / "items.jsonl")
        chosen = pl.col("categories").list.eval(pl.element().is_in(GROUPS[:2])).list.any()
        wanted = set(listed.filter(chosen)["id"].to_list())
        rows = []
        for line in (data / "s3rec" / "Yelp.txt").read_text(encoding="utf-8").splitlines():
            user, *visits = map(int, line.split())
            if sum(item in wanted for item in visits) >= 4:
                rows += [(user, item, place) for place, item in enumerate(visits)]
        frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
        frame.write_parquet(events)
        if not plain:
            kinds = pl.col("categories").list.set_difference(list(GROUPS)).list.sort()
            told = pl.format("{} ({})", "title", kinds.list.head(2).list.join(", "))
            listed = listed.with_columns(title=told)
        listed.rename({"id": "item_id"}).write_parquet(items)
    return {
        "interactions": str(events),
        "items": str(items),
        "columns": {
            "rating": None,
            "label": "implicit",
            "time_unit": "step",
            "lists": {"categories": "|"},
        },
        "policies": {"duplicates": "keep"},
        "domains": {"column": "categories", "groups": list(GROUPS)},
        "negatives": {"per_positive": 1},
        "filters": {"users": 700},
        "split": {"name": "user_time_ratio", "valid": 0.1, "test": 0.1},
    }


if __name__ == "__main__":
    main()
