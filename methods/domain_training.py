"""Stage `train` of Uni-CTR: recommenders without a language model, on the rows of its prompts.

A backbone of `models/multi_domain` is one network with a head for each domain; one of `models/ctr`
is trained once for every domain, on that domain's rows alone. Both get the added domains as
Uni-CTR does: with everything that was there before frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.errors import RecipeError, UnknownNameError
from tastemaker.eval.protocol import Requests
from tastemaker.methods.base import Contender, Scores, load_split
from tastemaker.methods.domain_prompts import (
    read_domains,
    rows_split,
    training_prompts,
)
from tastemaker.methods.featuring import declared_features, declared_texts, plan_of
from tastemaker.methods.naming import shown_backbone
from tastemaker.models.base import Recommender
from tastemaker.models.baselines import ItemMean, LikedShareAndItemMean
from tastemaker.models.ctr.options import known_options
from tastemaker.models.multi_domain.recommender import MultiDomainRecommender
from tastemaker.models.multi_domain.separate import SeparateDomains
from tastemaker.recipe import Recipe, TrainConfig
from tastemaker.stage import Reporter, Run, Stage, Workspace

__all__ = [
    "ROWS",
    "Baseline",
    "baseline_contenders",
    "baseline_names",
    "check_baselines",
    "domain_train_stage",
    "load_baseline",
    "trained_splits",
]

ROWS = "rows.parquet"
_NAMING = {"unseen", "added", "start", "removed"}  # decide which rows train what
_SEVERAL, _ONE = "multi-domain backbone", "backbone"
_SAME_ROWS = "same rows"
Multi = MultiDomainRecommender | SeparateDomains


@dataclass(frozen=True)
class Baseline:
    """A recommender of several domains.

    Attributes:
        backbone: A file of `models/multi_domain` or of `models/ctr`.
    """

    backbone: str

    @property
    def separate(self) -> bool:
        """Whether every domain has a model of its own."""
        return self.backbone not in registry.names(_SEVERAL)

    @property
    def name(self) -> str:
        """Shown to people."""
        shown = shown_backbone(self.backbone)
        return f"{shown} per domain" if self.separate else shown

    @property
    def about(self) -> str:
        """One line on what it is."""
        if self.separate:
            return "One model for each domain, on its rows alone; unseen: the mean of all."
        return "Shared parts and a head for each domain; unseen: the mean of all heads."

    @property
    def make(self) -> Any:
        """The class of its network."""
        return registry.load(_ONE if self.separate else _SEVERAL, self.backbone)


def domain_train_stage(recipe: Recipe) -> Stage:
    """Stage `train`: see the head of this file."""
    shots = {name: getattr(recipe.tune, name) for name in ("shots", "valid_shots")}
    domains = recipe.multi_domain.model_dump(mode="json", include=_NAMING)
    return Stage(
        name="train",
        needs=("data", "build"),
        run=lambda space: _train(recipe, space),
        config={"train": recipe.train.model_dump(mode="json"), **shots, **domains},
    )


def baseline_names(recipe: Recipe) -> tuple[str, ...]:
    """As the comparison shows them: trained ones, then counts."""
    trained = tuple(Baseline(one).name for one in recipe.train.backbone)
    return (*trained, *(_shown(one) for one in _counts(recipe)))


def baseline_contenders(recipe: Recipe, run: Run, split: Split) -> tuple[Contender, ...]:
    """Trained recommenders, and counts on the rows that these were trained on."""
    key = {"train": run.digest_of("train")}

    def trained(one: Baseline) -> Any:
        def score(requests: Requests, report: Reporter) -> Scores:
            del report
            return load_baseline(run, split, one, config=recipe.train).score(requests)

        return score

    def counted(one: Recommender) -> Any:
        def score(requests: Requests, report: Reporter) -> Scores:
            del report
            return one.fit(trained_splits(run, split)[0]).score(requests)

        return score

    return (
        *(
            Contender(one.name, one.about, {**key, "backbone": one.backbone}, trained(one))
            for one in map(Baseline, recipe.train.backbone)
        ),
        *(
            Contender(
                _shown(one),
                f"{one.name}, counted on the training rows of the known domains only.",
                {**key, "counts": one.name},
                counted(one),
                trivial=True,
            )
            for one in _counts(recipe)
        ),
    )


def load_baseline(run: Run, split: Split, one: Baseline, *, config: TrainConfig) -> Multi:
    """A trained one of a finished run.

    Args:
        run: Its stage `train` is finished.
        split: Of the run.
        one: Which.
        config: Section `train` of the recipe.
    """
    kind = SeparateDomains if one.separate else MultiDomainRecommender
    texts = declared_texts(config, split.tables)
    folder = run.artefact("train") / one.backbone
    return kind.load(folder, split=trained_splits(run, split)[1], texts=texts)


def trained_splits(run: Run, split: Split) -> tuple[Split, Split]:
    """The split with the rows that trained the baselines: of known domains, and of added ones too.

    Args:
        run: Its stage `train` is finished.
        split: Of the run.
    """
    frame = pl.read_parquet(run.artefact("train") / ROWS)
    known = frame.filter(~pl.col("added"))
    first, second = (
        {part: rows.filter(part=part)["row"].to_numpy() for part in ("train", "valid")}
        for rows in (known, frame)
    )
    return (
        replace(split, train=first["train"], valid=first["valid"]),
        replace(split, train=second["train"], valid=second["valid"]),
    )


def check_baselines(recipe: Recipe) -> None:
    """Find unknown backbones and options before anything is written.

    Raises:
        UnknownNameError: no such backbone, or an option that none of them has.
        RecipeError: knowledge or a search, which these baselines do not have.
    """
    config = recipe.train
    known = [*registry.names(_SEVERAL), *registry.names(_ONE)]
    for name in config.backbone:
        if name not in known:
            raise UnknownNameError("backbone", name, known)
    if config.ablations or config.search is not None:
        raise RecipeError(
            "train: uni_ctr's baselines read no generated knowledge and are not searched.",
            remedy="Remove train.ablations and train.search.",
        )
    options = {option for one in config.backbone for option in known_options(Baseline(one).make)}
    for option in config.options:
        if option not in options:
            raise UnknownNameError("option of train.backbone", option, options)


def _counts(recipe: Recipe) -> tuple[Recommender, ...]:
    return (ItemMean(), LikedShareAndItemMean(history=recipe.build.history))


def _shown(one: Recommender) -> str:
    return f"{one.name} ({_SAME_ROWS})"


def _train(recipe: Recipe, space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    domains = read_domains(recipe.multi_domain, split)
    prompts = {part: training_prompts(space.run, recipe, part) for part in ("train", "valid")}
    there = set(prompts["train"].domains)
    # A model that is gone on from may know domains that these tables do not have.
    first = tuple(name for name in domains.known if name in there) or domains.added
    later = tuple(name for name in domains.added if name not in first)
    known = rows_split(split, prompts, first)
    trained = rows_split(split, prompts, (*first, *later))
    _rows(known, trained).write_parquet(space.out / ROWS)
    summary: dict[str, Any] = {"rows": len(known.train), "added": later}
    for one in map(Baseline, recipe.train.backbone):
        with space.report.track(f"training {one.name}, epochs", recipe.train.epochs) as step:
            model = _new(one, recipe.train, first, split=split, space=space, on_progress=step)
            model.fit(known)
            for name in later:
                model.add_domain(trained, name)
        model.save(space.out / one.backbone)
        summary[one.name] = {"domains": list(model.domains)}
    line = f"{len(recipe.train.backbone)} baselines on {len(known.train):,} rows"
    return {**summary, "line": line}


def _rows(known: Split, trained: Split) -> pl.DataFrame:
    """Columns `row`, `part`, and whether only an added domain is trained on the row."""
    frames = []
    for part in ("train", "valid"):
        rows = trained.part(part)
        added = ~np.isin(rows, known.part(part))
        frames.append(pl.DataFrame({"row": rows, "part": part, "added": added}))
    return pl.concat(frames)


def _new(
    one: Baseline,
    config: TrainConfig,
    domains: Sequence[str],
    *,
    split: Split,
    space: Workspace,
    on_progress: Any,
) -> Multi:
    """A baseline as the recipe wants it, not trained yet."""
    kind = SeparateDomains if one.separate else MultiDomainRecommender
    options = known_options(one.make)
    return kind(
        one.name,
        one.backbone,
        domains=domains,
        features=declared_features(config, split.tables),
        dim=config.embedding_dim,
        min_count=config.min_count,
        plan=plan_of(config, seed=space.seed),
        options={name: value for name, value in config.options.items() if name in options},
        texts=declared_texts(config, split.tables),
        scratch=space.scratch / one.backbone,
        on_progress=on_progress,
    )
