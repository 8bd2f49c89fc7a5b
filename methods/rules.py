"""What simple rules answer to the questions that a tuned model is asked.

Popularity, neighbours of the history's items and the categories of a history rank items; means
foretell ratings. None of them reads a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.eval.answers import Draws, Result, measures_of_ranks, measures_of_ratings
from tastemaker.eval.ranking import CatalogueScore, full_ranking
from tastemaker.methods.answering import CUTS, ranks_in_table
from tastemaker.methods.instructrec_grid import aspects
from tastemaker.methods.posing import Posed, Posing, answer_kind
from tastemaker.models.category_baseline import FavouriteCategories
from tastemaker.models.ranking_baselines import ItemKNN, PopularItems
from tastemaker.recipe import GenerateConfig

__all__ = ["Rules"]

_ROWS = 1024  # questions that a rule answers at once


class Rules:
    """Simple rules, learnt from the train part when first asked.

    Args:
        posing: Whose data.
        config: Section `generate`.
        draws: How intervals are made.
    """

    def __init__(self, posing: Posing, config: GenerateConfig, *, draws: Draws) -> None:
        self._posing, self._config, self._draws = posing, config, draws

    def results(self, posed: Posed, *, role: str, protocol: str) -> Iterator[Result]:
        """A row of the table for each rule that can answer these questions."""
        kind = answer_kind(posed.template)
        shared: dict[str, Any] = {
            "task": posed.template.task,
            "template": posed.template.label,
            "role": role,
            "protocol": protocol,
            "rows": len(posed),
            "users": len(np.unique(posed.examples.users)),
            "oracle": aspects(posed.template).oracle,
            "rule": True,
        }
        users = posed.examples.users
        if kind in ("catalogue", "candidates"):
            most = self._config.k if posed.offered is None else posed.offered.shape[1]
            cuts = [k for k in CUTS if k <= most]
            for name, score in self._rankers.items():
                metrics = measures_of_ranks(
                    self._ranks(score, posed), users, cuts=cuts, draws=self._draws
                )
                yield Result(model=name, metrics=metrics, **shared)
        if kind == "rating":
            actual = self._column("rating")[posed.examples.rows]
            for name, predicted in self._mean_ratings(posed).items():
                metrics, _ = measures_of_ratings(
                    predicted,
                    actual,
                    users,
                    fallback=self._posing.mean_rating,
                    draws=self._draws,
                )
                counts = {"without a training mean": float(np.isnan(predicted).sum())}
                yield Result(model=name, metrics=metrics, counts=counts, **shared)

    @cached_property
    def _rankers(self) -> dict[str, CatalogueScore]:
        split = self._posing.split
        found: dict[str, CatalogueScore] = {
            PopularItems.name: PopularItems().fit(split).catalogue_scores,
            ItemKNN.name: ItemKNN().fit(split).catalogue_scores,
        }
        categories = self._posing.binder.catalogue.categories
        if categories is not None:
            names = categories.columns[0].series().rank("dense") - 1
            rule = FavouriteCategories(categories.offsets, names.to_numpy())
            found[rule.name] = rule.fit(split).catalogue_scores
        return found

    def _ranks(self, score: CatalogueScore, posed: Posed) -> NDArray[np.float64]:
        """Rank of each target: of all items, or of its candidates."""
        rows = posed.examples.rows
        if posed.offered is None:
            mask = self._config.exclude_history
            return full_ranking(
                score, self._posing.split, part="test", rows=rows, mask_history=mask
            )
        found = []
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            table = np.take_along_axis(score(rows[part]), posed.offered[part], axis=1)
            found.append(ranks_in_table(table, posed.offered[part], posed.examples.items[part]))
        return np.concatenate(found)

    def _mean_ratings(self, posed: Posed) -> dict[str, NDArray[np.float64]]:
        """Mean training rating of each user and of each item, NaN where there is none."""
        train = self._posing.split.train
        ratings = self._column("rating")[train]
        found = {}
        for name, asked in (("user", posed.examples.users), ("item", posed.examples.items)):
            owners = self._column(name)[train].astype(np.int64)
            size = int(max(owners.max(), asked.max())) + 1
            counts = np.bincount(owners, minlength=size)
            sums = np.bincount(owners, weights=ratings, minlength=size)
            means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
            found[f"{name.capitalize()} mean"] = means[asked]
        return found

    def _column(self, name: str) -> NDArray[np.float64]:
        values = self._posing.split.tables.interactions[name].to_numpy()
        return values.astype(np.float64)
