"""`tastemaker data audit`: proof on a finished run that nothing comes from the future.

Every check derives anew, from the saved tables alone, what a stage may have known, and compares
with what the stage wrote or with what a model is fed. Settings are read from the manifests, so a
run is judged by what was asked for when it was made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import registry
from tastemaker.data.audit import (
    audit_evidence,
    audit_split,
    no_problems,
    problem_frame,
    with_other_answers,
)
from tastemaker.data.audit_requests import audit_negatives, audit_requests
from tastemaker.data.findings import AuditReport, Finding, judged
from tastemaker.data.id_probe import audit_ids
from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests, requests
from tastemaker.methods.base import load_split
from tastemaker.methods.building import audit_build
from tastemaker.models.base import Recommender
from tastemaker.models.baselines import ItemMean, LikedShare, LikedShareAndItemMean
from tastemaker.models.feature_recommender import FeatureRecommender
from tastemaker.models.text_vectors import TextVectors, text_columns
from tastemaker.prompts.audit import shown_ids
from tastemaker.prompts.template import find_templates
from tastemaker.recipe import Recipe
from tastemaker.stage import Run

__all__ = ["audit", "audit_baselines", "audit_knowledge_use", "audit_recommender"]

_BATCH = 200_000  # targets whose features are looked at together
_FITTED_ROWS = 500_000  # enough training rows to tell whether a fit looks elsewhere
_TEMPLATES = {"build": ("templates",), "reason": ("user_template", "item_template")}
_ASKED: tuple[Literal["valid", "test"], ...] = ("valid", "test")
_ORDER = ("teach", "build", "tune", "reason", "encode", "train")


def audit(recipe: Recipe, run: Run) -> AuditReport:
    """Check everything that the run holds.

    Args:
        recipe: Names the methods whose stages are looked at.
        run: Its data stage must be finished; stages that are not are told as skipped.

    Raises:
        UserError: the data stage has not been run.
    """
    split = load_split(run)
    findings, skipped = _data_findings(run, split), list[str]()
    if findings[0].severity == "fail":
        return AuditReport(findings, ["everything else: the parts of the split are wrong"])
    findings += audit_ids(split, shown_by=_shows_ids(recipe, run, split))
    models: list[Callable[[], Recommender]] = [ItemMean, LikedShare]
    if split.tables.interactions["label"].gather(split.train).n_unique() > 1:
        models.append(LikedShareAndItemMean)
    else:
        skipped.append(f"{LikedShareAndItemMean.name}: all training labels are the same")
    findings += audit_baselines(split, models)
    for stage, check in _stage_audits(recipe):
        reason = _unusable(run, stage)
        if reason:
            skipped.append(f"{stage}: {reason}")
        else:
            findings += check(run, split)
    return AuditReport(findings, skipped)


def audit_baselines(split: Split, models: Sequence[Callable[[], Recommender]]) -> list[Finding]:
    """What baselines learn does not change when all answers outside training do.

    Each is fitted twice, on the split and on a copy in which labels, ratings and items of all rows
    that training must not see are others. What it saves must agree to the last byte, and so must
    its scores of events outside training that come after none of these rows.

    Args:
        split: What they are fitted on; of a large train part evenly spaced rows are taken.
        models: Each makes a recommender that has not been fitted.
    """
    train = split.train[:: max(1, len(split.train) // _FITTED_ROWS)]
    other, changed = with_other_answers(split)
    asked = _unaffected(split, changed)
    return [
        _same_fit(
            make,
            replace(split, train=train),
            replace(other, train=train),
            asked=asked,
            changed=int(changed.sum()),
        )
        for make in models
    ]


def audit_recommender(
    split: Split, model: FeatureRecommender, asked: Sequence[Requests]
) -> list[Finding]:
    """The history fed for every training row and request, and the vocabulary.

    Args:
        split: What the model was trained on.
        model: Fitted.
        asked: What it scores.
    """
    targets = _targets(split, asked)
    users, times = (targets[name].to_numpy().astype(np.int64) for name in ("user", "time"))
    batches = (model.evidence(users[part], times[part]) for part in _slices(targets.height))
    name = f"{model.name}: histories"
    evidence = audit_evidence(split.tables, name, targets=targets, batches=batches)
    return [evidence, _vocabulary(split, model)]


def audit_knowledge_use(
    split: Split,
    features: Sequence[TextVectors],
    asked: Sequence[Requests],
    *,
    texts: pl.DataFrame,
) -> list[Finding]:
    """Each text serves its own user or item, and only targets later than the text's last event.

    Args:
        split: What the model was trained on.
        features: `user_text` and `item_text` as the model is fed them.
        asked: What the model scores.
        texts: `kind`, `entity` (dense) and `cut_time` of each text, those of a kind in the order of
            their vectors.
    """
    targets = _targets(split, asked)
    users, items, times = (
        targets[name].to_numpy().astype(np.int64) for name in ("user", "item", "time")
    )
    parts = [
        text_columns(features, users=users[p], items=items[p], times=times[p])
        for p in _slices(targets.height)
    ]
    problems, used = [no_problems()], {}
    for kind in ("user", "item"):
        row = np.concatenate([np.empty(0, np.int32), *(part[f"{kind}_text"] for part in parts)])
        owners = texts.filter(pl.col("kind") == kind)["entity"]
        served = targets.with_columns(text=pl.Series(row)).filter(pl.col("text") >= 0)
        used[kind] = served.height
        foreign = served.filter(owners.gather(served["text"]).ne_missing(served[kind]))
        problems.append(problem_frame(foreign, pl.lit(f"is served the text of another {kind}")))
        cuts = texts.filter(pl.col("kind") == kind)["cut_time"].gather(served["text"])
        # Only an item's text may rest on no event at all.
        early = served.with_columns(cut=cuts).filter(
            (pl.col("time") <= pl.col("cut")).fill_null(kind == "user")
        )
        text = pl.format("is served a text that knows its {} up to time {}", pl.lit(kind), "cut")
        problems.append(problem_frame(early, text))
    finding = judged(
        "knowledge: use",
        pl.concat(problems),
        tables=split.tables,
        checked=targets.height,
        noun="feature rows",
        passed=f"{used['user']:,} have a user text, made from earlier events only",
        failed="are served texts that know too much",
        user_texts_served=used["user"],
        item_texts_served=used["item"],
    )
    return [finding]


def _data_findings(run: Run, split: Split) -> list[Finding]:
    manifest = run.manifest("data")
    config = manifest.config if manifest else {}
    findings = audit_split(split, protocol=config.get("split", {}).get("name"))
    if findings[0].severity == "fail":
        return findings  # rows that do not exist cannot be followed any further
    findings += audit_negatives(split.tables)
    folder = run.artefact("data")
    for pattern in ("requests-*.parquet", "candidates-*.parquet"):
        for path in sorted(folder.glob(pattern)):
            findings += audit_requests(split, pl.read_parquet(path), name=path.stem)
    return findings


def _shows_ids(recipe: Recipe, run: Run, split: Split) -> str | None:
    """What of this recipe shows item numbers as text; None when nothing does."""
    stages = {name for name, _ in _stage_audits(recipe)}
    names = []
    for stage, keys in _TEMPLATES.items():
        if stage in stages:
            manifest = run.manifest(stage)
            config = manifest.config if manifest else getattr(recipe, stage).model_dump()
            for key in keys:
                named = config[key] or ()  # none named: the packaged ones, which show no ids
                names += [named] if isinstance(named, str) else [*named]
    return shown_ids(split.tables, find_templates(names))


def _stage_audits(
    recipe: Recipe,
) -> list[tuple[str, Callable[[Run, Split], Sequence[Finding]]]]:
    methods = [registry.load("method", name) for name in recipe.methods]
    checks = {stage: check for method in methods for stage, check in method.audits.items()}
    if any("build" in make(recipe).needs for one in methods for make in one.stages.values()) or (
        "build" in recipe.model_fields_set
    ):
        checks["build"] = audit_build
    if "teach" in recipe.model_fields_set:
        from tastemaker.methods.teaching import audit_teach

        checks["teach"] = audit_teach
    return [(stage, checks[stage]) for stage in _ORDER if stage in checks]


def _unusable(run: Run, stage: str) -> str:
    """Why a stage's artefact cannot be judged; empty when it can."""
    manifest = run.manifest(stage)
    if manifest is None:
        return "has not been run"
    for need, digest in manifest.inputs.items():
        if run.manifest(need) is None or run.digest_of(need) != digest:
            return f"was made from an earlier '{need}' stage; run it again"
    return ""


def _targets(split: Split, asked: Sequence[Requests]) -> pl.DataFrame:
    """Every row a model is trained, selected or judged on: `row`, `user`, `item`, `time`."""
    rows = np.concatenate([split.train, split.valid])
    events = split.tables.interactions[rows].select("user", "item", "time")
    own = pl.concat([pl.DataFrame({"row": rows}), events], how="horizontal")
    frames = [own, *(questions.frame.select(own.columns) for questions in asked)]
    return pl.concat([frame.cast(pl.Int64) for frame in frames])


def _slices(length: int) -> Iterator[slice]:
    return (slice(start, start + _BATCH) for start in range(0, length, _BATCH))


def _unaffected(split: Split, changed: NDArray[np.bool_]) -> Requests:
    """All valid and test events whose user has no changed row strictly before them."""
    first = (
        split.tables.interactions.filter(pl.Series(changed))
        .group_by("user")
        .agg(first=pl.col("time").min())
    )
    asked = Requests(pl.concat([requests(split, part).frame for part in _ASKED]))
    limits = asked.frame.join(first, on="user", how="left", maintain_order="left")
    return asked.select((limits["time"] <= limits["first"]).fill_null(True).to_numpy())


def _same_fit(
    make: Callable[[], Recommender], split: Split, other: Split, *, asked: Requests, changed: int
) -> Finding:
    models = [make().fit(one) for one in (split, other)]
    name = f"{models[0].name}: training only"
    scores, moved = (model.score(asked) for model in models)
    differ = ~((scores == moved) | (np.isnan(scores) & np.isnan(moved)))
    learned = _saved(models[0]) == _saved(models[1])
    text = pl.lit("its score changed with answers that training must not see")
    finding = judged(
        name,
        problem_frame(asked.frame.filter(pl.Series(differ)), text),
        tables=split.tables,
        checked=len(asked),
        noun="scores",
        passed=f"same fit and scores with {changed:,} other answers outside training",
        failed=f"changed with {changed:,} other answers outside training",
        fit_changed=not learned,
        answers_changed=changed,
    )
    if learned or finding.severity == "fail":
        return finding
    summary = f"what it learned changed with {changed:,} other answers outside training"
    return Finding(name, "fail", summary, details=finding.details)


def _saved(model: Recommender) -> dict[str, bytes]:
    """What a fitted model writes, byte by byte."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _vocabulary(split: Split, model: FeatureRecommender) -> Finding:
    """Embeddings of their own belong to the items and ratings of the train part alone."""
    train = split.tables.interactions[split.train]
    if "sampled" in train.columns:
        train = train.filter(~pl.col("sampled"))
    counts = train.group_by("item").len()
    due = counts.filter(pl.col("len") >= model.min_count)["item"].cast(pl.Int64)
    own = pl.Series(model.space.own_items)
    odd = pl.concat(
        [
            _items(own.filter(~own.is_in(due.implode())), "has an embedding, though too rare"),
            _items(due.filter(~due.is_in(own.implode())), "has no embedding of its own"),
        ]
    )
    ratings = train["rating"].unique().sort().to_numpy()
    finding = judged(
        f"{model.name}: vocabulary",
        odd,
        tables=split.tables,
        checked=split.tables.n_items,
        noun="items",
        passed=f"the {len(due):,} with {model.min_count} or more training events have embeddings",
        failed="do not follow from the train part",
    )
    shown = model.space.own_ratings  # none where no step carries a rating
    if finding.severity == "pass" and len(shown) and not np.array_equal(ratings, shown):
        summary = "its ratings are not those of the train part"
        return Finding(finding.check, "fail", summary, details=finding.details)
    return finding


def _items(items: pl.Series, problem: str) -> pl.DataFrame:
    frame = items.sort().alias("item").to_frame().with_columns(row=-1)
    return problem_frame(frame, pl.lit(problem))
