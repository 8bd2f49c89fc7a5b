"""The last two stages of every recipe: score the same rows with everything, and report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tastemaker.data.splits import Split
from tastemaker.errors import StageError, UnknownNameError
from tastemaker.eval.compare import Comparison, compare
from tastemaker.eval.protocol import Requests
from tastemaker.eval.slices import judge_slices
from tastemaker.methods.base import Contender, Method, Scores, load_requests, load_split
from tastemaker.models.base import Recommender
from tastemaker.models.baselines import ItemMean, LikedShare, LikedShareAndItemMean
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Stage, Workspace, atomic_file, digest

__all__ = ["COUNTS", "SLICES", "check", "evaluate_stage", "load_comparison"]

SLICES = "slices.json"
_COMPARISON, _WHY = "comparison.json", "uncompared"
COUNTS = LikedShareAndItemMean().name
_TRIVIAL = (ItemMean().name, LikedShare().name, COUNTS)


def check(recipe: Recipe, methods: Sequence[Method]) -> None:
    """Find a comparison against a model that will not be there.

    Raises:
        UnknownNameError: the message lists the models of this recipe.
    """
    known = [*_TRIVIAL, *(name for method in methods for name in method.models(recipe))]
    if recipe.evaluate.against not in (None, *known):
        raise UnknownNameError("model", str(recipe.evaluate.against), known)


def evaluate_stage(recipe: Recipe, methods: Sequence[Method], *, needs: Sequence[str]) -> Stage:
    """Stage `evaluate`: scores of every model on the test requests, and their comparison."""
    settings = recipe.evaluate.model_dump(mode="json", exclude={"batch_tokens"})
    return Stage(
        name="evaluate",
        needs=tuple(needs),
        run=lambda space: _evaluate(recipe, methods, space),
        config={**settings, "model": recipe.tune.model, "precision": recipe.tune.precision},
    )


def load_comparison(run: Run) -> Comparison | str:
    """The comparison of a finished run, or one sentence on why there is none."""
    text = (run.artefact("evaluate") / _COMPARISON).read_text(encoding="utf-8")
    values = json.loads(text)
    return str(values[_WHY]) if _WHY in values else Comparison.from_dict(values)


def _evaluate(recipe: Recipe, methods: Sequence[Method], space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    requests = load_requests(space.run, "test")
    why = _one_label(split, requests)
    if why:
        _write_json(space, _COMPARISON, {_WHY: why})
        _write_json(space, SLICES, [])
        _write_json(space, "models.json", {})
        return {"models": 0, "line": why}
    entries = [*_baselines(recipe, space.run, split)]
    for method in methods:
        entries.extend(method.contenders(recipe, space.run, split))
    scores = {entry.name: _score(entry, requests, space) for entry in entries}
    config = recipe.evaluate
    comparison = compare(
        scores,
        requests,
        against=config.against or COUNTS,
        trivial=[entry.name for entry in entries if entry.trivial],
        bootstrap=config.bootstrap,
        confidence=config.confidence,
        seed=space.seed,
    )
    requests.frame.with_columns(
        **{name: values.astype(np.float32) for name, values in scores.items()}
    ).write_parquet(space.out / "scores.parquet")
    _write_json(space, _COMPARISON, comparison.to_dict())
    slices = [asdict(one) for one in judge_slices(scores, requests, split)]
    _write_json(space, SLICES, _plain(slices))
    _write_json(space, "models.json", {entry.name: entry.about for entry in entries})
    line = f"{len(scores)} models on {comparison.n_rows:,} rows of {comparison.n_users:,} users"
    return {"models": len(scores), "line": line}


def _one_label(split: Split, requests: Requests) -> str:
    """Why nothing can be compared by scores: there are likes only, or none; "" where both are."""
    trained = split.tables.interactions["label"].gather(split.train).to_numpy()
    for part, labels in (("test", requests.labels), ("training", trained)):
        if len(labels) and (labels == labels[0]).all():
            kind = "likes" if labels[0] == 1 else "dislikes"
            return (
                f"Scores are not compared: all {len(labels):,} {part} rows are {kind}, so nothing "
                "is there to tell them from; for implicit data, data.negatives adds it."
            )
    return ""


def _write_json(space: Workspace, name: str, value: Any) -> None:
    with atomic_file(space.out / name) as handle:
        handle.write(json.dumps(value, indent=1).encode())


def _plain(value: Any) -> Any:
    """NaN becomes None, for JSON."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _baselines(recipe: Recipe, run: Run, split: Split) -> list[Contender]:
    """The counts that any model has to beat before it may claim anything."""
    history = recipe.build.history
    key = {"data": run.digest_of("data"), "history": history}
    built: dict[Recommender, str] = {
        ItemMean(): "Smoothed share of likes of the item in training.",
        LikedShare(history=history): f"Share of likes among the user's last {history} events.",
        LikedShareAndItemMean(history=history): "Logistic regression on these two numbers.",
    }

    def scorer(model: Recommender) -> Any:
        return lambda requests, report: model.fit(split).score(requests)

    return [
        Contender(model.name, about, {**key, "name": model.name}, scorer(model), trivial=True)
        for model, about in built.items()
    ]


def _score(entry: Contender, requests: Requests, space: Workspace) -> Scores:
    """Scores of one model, kept by what they depend on, so that a killed run loses at most one."""
    rows = digest(requests.frame.to_dict(as_series=False))
    kept = space.cache / f"{digest({'rows': rows, **entry.key})}.npy"
    if entry.slow and kept.is_file():
        return np.load(kept)
    scores = entry.score(requests, space.report)
    if scores.shape != (len(requests),) or scores.dtype != np.float32:
        raise StageError(
            f"{entry.name} returned scores of shape {scores.shape} and type {scores.dtype}; "
            f"expected float32 ({len(requests)},)"
        )
    if entry.slow:
        with atomic_file(kept) as handle:
            np.save(handle, scores)
    return scores
