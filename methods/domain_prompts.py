"""Which rows train, choose and judge models of several domains; the same ones for all of them.

A recipe's domains are known ones, which are trained together, those added afterwards, and unseen
ones, of which no row trains anything. Rows are those of the built prompts, so that a recommender
without a language model learns from exactly what the one with it has read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.domains import domain_names, domains_of
from tastemaker.data.splits import Split
from tastemaker.errors import DataError
from tastemaker.eval.protocol import Requests
from tastemaker.methods.base import load_split
from tastemaker.methods.building import arranged, built_for
from tastemaker.methods.domain_checks import check_names
from tastemaker.methods.planning import PARTS
from tastemaker.models.prompt_ctr import network_names
from tastemaker.recipe import MultiDomainConfig, Recipe
from tastemaker.stage import Run

__all__ = ["Domains", "PromptPart", "prompts_of", "read_domains", "rows_split", "training_prompts"]


@dataclass(frozen=True)
class Domains:
    """Names of all domains of the data.

    Attributes:
        known: Trained together, in the order of the data.
        added: Trained afterwards, one by one, in the order of the recipe.
        unseen: Never trained on.
    """

    known: tuple[str, ...]
    added: tuple[str, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PromptPart:
    """Prompts of a part.

    Attributes:
        texts: One per prompt.
        domains: Name of each prompt's domain.
        labels: int64 [n], 1 for a like.
        rows: int64 [n], interaction rows; the same one twice where several templates ask.
    """

    texts: Sequence[str]
    domains: Sequence[str]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, names: Sequence[str]) -> PromptPart:
        """Those of some domains."""
        kept = [place for place, name in enumerate(self.domains) if name in names]
        return PromptPart(
            [self.texts[place] for place in kept],
            [self.domains[place] for place in kept],
            self.labels[kept],
            self.rows[kept],
        )


def read_domains(config: MultiDomainConfig, split: Split) -> Domains:
    """Sort the domains of the data by what the recipe does with them.

    Raises:
        UnknownNameError: the recipe names a domain that is not there.
        RecipeError: none is left to train on.
        DataError: the data has no domains.
    """
    found = domain_names(split.tables)
    check_names(config, found)
    if config.start:
        kept = network_names(Path(config.start) / "networks")
        known = tuple(name for name in kept if name not in config.removed)
        apart = {*known, *config.added}
        return Domains(known, config.added, tuple(name for name in found if name not in apart))
    known = tuple(name for name in found if name not in (*config.unseen, *config.added))
    return Domains(known, config.added, config.unseen)


def training_prompts(run: Run, recipe: Recipe, part: str) -> PromptPart:
    """Built prompts of `train` or `valid`, of all domains; K of `train` where the recipe says so.

    Raises:
        DataError: prompts whose domain is not known, or a domain to train without any; or, of
            `valid`, without likes and dislikes.
    """
    frame = arranged(run.artefact("build"), PARTS[part])
    count = recipe.tune.shots if part == "train" else recipe.tune.valid_shots
    if count is not None and count < frame.height:
        frame = frame.sample(count, shuffle=True, seed=run.seed)
    split = load_split(run)
    found = _part(frame, split)
    domains = read_domains(recipe.multi_domain, split)
    together = [] if recipe.multi_domain.start else [domains.known]
    for names in (*together, *((name,) for name in domains.added)):
        _require(found, names, part=part)
    return found


def prompts_of(built: Path, requests: Requests, split: Split) -> PromptPart:
    """The built prompt of each request, in their order; the first one where several ask.

    Raises:
        StageError: a request has no prompt.
    """
    return _part(built_for(built, requests), split)


def rows_split(split: Split, parts: Mapping[str, PromptPart], names: Sequence[str]) -> Split:
    """The split whose train and valid rows are those of the prompts of some domains.

    Histories still hold every event before a moment: they are what a prompt shows, too.
    """
    rows = {part: np.unique(prompts.of(names).rows) for part, prompts in parts.items()}
    return replace(split, train=rows["train"], valid=rows["valid"])


def _require(prompts: PromptPart, names: Sequence[str], *, part: str) -> None:
    """Make sure that domains can be trained together, and a state be chosen by AUC."""
    if part == "train":
        for name in names:
            if name not in prompts.domains:
                raise DataError(
                    f"the domain '{name}' has no training prompt.",
                    remedy="Name it under multi_domain.unseen, raise build.train_examples and "
                    "tune.shots, or move the borders of data.split.",
                )
        return
    labels = prompts.of(names).labels
    if len(np.unique(labels)) < 2:
        noun = "domain" if len(names) == 1 else "domains"
        raise DataError(
            f"the {len(labels)} validation prompts of the {noun} {', '.join(names)} do not hold "
            "both likes and dislikes, so no state of training can be chosen.",
            remedy="Raise build.valid_examples and tune.valid_shots, move the borders of "
            f"data.split, or name the {noun} under multi_domain.unseen.",
        )


def _part(frame: pl.DataFrame, split: Split) -> PromptPart:
    rows = frame["row"].cast(pl.Int64).to_numpy()
    events = split.tables.interactions
    domains = domains_of(split.tables, events["item"].to_numpy()[rows], rows=rows)
    if domains.null_count():
        raise DataError(
            f"{domains.null_count()} prompts are of events without a domain.",
            remedy="Name domains for all items: data.columns.domain, or data.domains.",
        )
    texts = ["\n".join(turn["content"] for turn in turns) for turns in frame["prompt"].to_list()]
    labels = events["label"].to_numpy()[rows].astype(np.int64)
    return PromptPart(texts, domains.cast(pl.String).to_list(), labels, rows)
