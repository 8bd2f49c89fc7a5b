"""How each kind of question is answered by a model, and how good its answers are.

    item of all        beams over the catalogue's names      HR, NDCG among all items not met
    item of a list     likelihood of each candidate's name   HR, NDCG among the candidates
    yes or no          log-odds of the two answers           AUC; HR, NDCG among candidates, P5
    number             the likeliest text, read              RMSE, MAE
    words              the likeliest text                    BLEU, ROUGE

Every model is asked the same questions; simple rules answer them too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.errors import DataError
from tastemaker.eval.answers import (
    Draws,
    Measure,
    Result,
    measures_of_labels,
    measures_of_ranks,
    measures_of_ratings,
    measures_of_texts,
)
from tastemaker.eval.ranking import ranks_of
from tastemaker.eval.ratings import parse_ratings
from tastemaker.eval.texts import text_scores
from tastemaker.methods.instructrec_grid import aspects
from tastemaker.methods.posing import Posed, Posing, answer_kind
from tastemaker.models.candidates import candidate_scores, tournament
from tastemaker.models.free_generation import error_rates, generate_texts
from tastemaker.models.generation import generate_items, rank_of_targets
from tastemaker.models.language import LanguageModel
from tastemaker.models.scoring import score_yes_no
from tastemaker.models.token_trie import CatalogueTexts
from tastemaker.prompts.selection import sampled
from tastemaker.recipe import GenerateConfig, TuneConfig
from tastemaker.stage import Reporter

__all__ = ["CUTS", "Answered", "Answerer", "ranks_in_table", "result_of", "unrated"]

CUTS = (1, 3, 5, 10)
_HEADLINE_ORDER = 2  # P5 compares headlines by BLEU-2
_RATED = re.compile(r"^\s*[0-9]+(?:\.[0-9]+)?\s*(?:,\s*|$)")  # a rating before an explanation
Ranks = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answered:
    """What came of some questions.

    Attributes:
        protocol: What was ranked or compared, and against what.
        metrics: Name → figure.
        counts: What else is to be known.
        answers: One row per question: `row`, and what was answered.
        score: The one number that picks a template, larger is better.
    """

    protocol: str
    metrics: Mapping[str, Measure]
    counts: Mapping[str, float]
    answers: pl.DataFrame
    score: float


class Answerer:
    """A model that answers.

    Args:
        posing: Where questions come from.
        model: Causal or encoder-decoder, tuned or not.
        config: Section `generate`.
        tune: Section `tune`, which says how long answers may be.
        draws: How intervals are made.
        report: Told about progress.
    """

    def __init__(
        self,
        posing: Posing,
        model: LanguageModel,
        *,
        config: GenerateConfig,
        tune: TuneConfig,
        draws: Draws,
        report: Reporter,
    ) -> None:
        self._posing, self._model, self._config = posing, model, config
        self._tune, self._draws, self._report = tune, draws, report
        self._catalogues: dict[tuple[str, ...], CatalogueTexts] = {}

    @property
    def name(self) -> str:
        """Of the model."""
        return Path(self._model.name).name

    def answer(self, posed: Posed, *, briefly: bool = False) -> Answered:
        """Answer questions in the way that their kind asks for.

        Args:
            posed: The questions.
            briefly: Leave out what is asked besides: answers without the catalogue, and candidates
                asked one by one.
        """
        kinds: dict[str, Callable[[Posed], Answered]] = {
            "catalogue": partial(self._whole_catalogue, briefly=briefly),
            "candidates": self.ranked,
            "label": partial(self._labelled, briefly=briefly),
            "choice": self._chosen,
            "rating": self._rated,
            "text": self._worded,
        }
        return kinds[str(answer_kind(posed.template))](posed)

    def _whole_catalogue(self, posed: Posed, *, briefly: bool) -> Answered:
        config, targets = self._config, posed.examples.items
        names = self._posing.names(posed.template)
        catalogue = self._catalogue(names)
        excluded = None
        if config.exclude_history:
            past = self._posing.past_items(posed.examples)
            excluded = [items[items != target] for items, target in zip(past, targets, strict=True)]
        with self._report.track("beams, questions", len(posed)) as advance:
            found = generate_items(
                self._model,
                posed.prompts,
                catalogue,
                k=config.k,
                beams=config.beams,
                exclude=excluded,
                length_normalised=config.length_normalised,
                batch_tokens=config.batch_tokens,
                on_progress=advance,
            )
        ranks = rank_of_targets(found, catalogue, targets, exclude=excluded)
        ids = self._posing.split.tables.items["item_id"]
        lists = [ids.gather(items).to_list() for items in catalogue.items(found.texts)]
        answers = self._rows(posed, rank=ranks, items=pl.Series(lists))
        shown = f"{len(catalogue):,} names of items, those met before left out"
        if not config.exclude_history:
            shown = f"{len(catalogue):,} names of items"
        metrics = self._of_ranks(posed, ranks, most=config.k)
        counts = {} if briefly else self._free(posed, names)
        return Answered(shown, metrics, counts, answers, list(metrics.values())[-1].value)

    def _free(self, posed: Posed, names: Sequence[str]) -> dict[str, float]:
        """Shares of wrong answers when nothing keeps the model inside the catalogue."""
        if not self._config.free:
            return {}
        some = sampled(np.arange(len(posed)), self._config.free, seed=self._draws.seed)
        answers = generate_texts(
            self._model,
            [posed.prompts[place] for place in some],
            max_tokens=self._tune.max_target_length,
            beams=self._config.beams,
            n=min(self._config.k, self._config.beams),
            batch_tokens=self._config.batch_tokens,
        )
        rates = error_rates(
            answers, names, histories=self._posing.past_items(posed.examples.take(some))
        )
        return {
            "free: invalid": rates.invalid,
            "free: out of catalogue": rates.out_of_catalogue,
            "free: repeated from history": rates.repeated,
            "free: duplicate": rates.duplicate,
        }

    def ranked(self, posed: Posed, *, origin: str = "") -> Answered:
        """Rank the target of each question among its candidates, whether its prompt lists them.

        Args:
            posed: With candidates.
            origin: Where these come from, for the table.
        """
        assert posed.offered is not None
        names = self._posing.names(posed.template)
        width = posed.offered.shape[1]
        groups = self._config.tournament
        protocol = f"1 of {width} {origin} candidates".replace("  ", " ")
        if posed.template.offers and 0 < groups < width:
            protocol += f" in two rounds of groups of {groups}"
            scores = self._in_rounds(posed, names, count=-(-width // groups))
        else:
            scores = self._likelihoods(posed.prompts, posed.offered.tolist(), names)
        table = np.stack(scores)
        ranks = ranks_in_table(table, posed.offered, posed.examples.items)
        metrics = self._of_ranks(posed, ranks, most=width)
        answers = self._rows(posed, rank=ranks)
        return Answered(protocol, metrics, _chance(width), answers, metrics["HR@1"].value)

    def _likelihoods(
        self, prompts: Any, offered: Sequence[Sequence[int]], names: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        total = sum(map(len, offered))
        with self._report.track("candidates", total) as advance:
            return candidate_scores(
                self._model,
                prompts,
                [[names[item] for item in listed] for listed in offered],
                per_token=self._config.length_normalised,
                batch_tokens=self._config.batch_tokens,
                on_progress=advance,
            )

    def _in_rounds(
        self, posed: Posed, names: Sequence[str], *, count: int
    ) -> list[NDArray[np.float32]]:
        """InstructRec's tournament: prompts list the candidates of a group only."""
        assert posed.offered is not None

        def score(places: Sequence[int], lists: Sequence[Sequence[int]]) -> list[Any]:
            found: list[Any] = [None] * len(places)
            sizes = np.array([len(listed) for listed in lists])
            for size in np.unique(sizes):
                mine = np.flatnonzero(sizes == size).tolist()
                offered = np.array([lists[place] for place in mine], dtype=np.int64)
                # A prompt shows its list only, so any of it may stand for the target.
                examples = posed.examples.take(np.array([places[place] for place in mine]))
                asked = self._posing.listed(posed.template, examples, offered)
                scores = self._likelihoods(asked, offered.tolist(), names)
                for place, one in zip(mine, scores, strict=True):
                    found[place] = one
            return found

        listed = [list(map(int, items)) for items in posed.offered]
        return tournament(score, listed, groups=count, seed=self._draws.seed)

    def _labelled(self, posed: Posed, *, briefly: bool) -> Answered:
        scores = self._odds(posed.prompts, posed.template.choices)
        labels, users = posed.examples.labels, posed.examples.users
        metrics = measures_of_labels(scores, labels, users, draws=self._draws)
        protocol = f"{posed.template.choices[0]} or {posed.template.choices[1]}"
        counts: dict[str, float] = {}
        ranks = posed.template.task == "direct" and self._config.ranked and (labels == 1).any()
        if ranks and not briefly:
            ranked, width = self._ranked_by_odds(posed)
            metrics |= ranked
            protocol += f"; 1 of {width} candidates asked one by one"
            counts = {"questions with candidates": min(self._config.ranked, len(posed))}
            counts |= _chance(width)
        score = metrics["AUC"].value if "AUC" in metrics else metrics["accuracy"].value
        return Answered(protocol, metrics, counts, self._rows(posed, odds=scores), score)

    def _ranked_by_odds(self, posed: Posed) -> tuple[dict[str, Measure], int]:
        """P5's 5-1 to 5-4: each candidate is a question of its own."""
        liked = np.flatnonzero(posed.examples.labels == 1)
        some = posed.examples.take(sampled(liked, self._config.ranked, seed=self._draws.seed))
        offered = self._posing.candidates(some)
        width = offered.shape[1]
        pairs = some.take(np.repeat(np.arange(len(some)), width)).with_items(offered.ravel())
        scores = self._odds(self._posing.asked(posed.template, pairs), posed.template.choices)
        table = scores.reshape(len(some), width)
        ranks = ranks_in_table(table, offered, some.items)
        cuts = [k for k in CUTS if k <= width]
        return measures_of_ranks(ranks, some.users, cuts=cuts, draws=self._draws), width

    def _chosen(self, posed: Posed) -> Answered:
        scores = self._odds(posed.prompts, posed.template.choices)
        right = np.array([text == posed.template.choices[0] for text in posed.answers])
        metrics = measures_of_labels(
            scores, right.astype(np.int8), posed.examples.users, draws=self._draws
        )
        protocol = f"{posed.template.choices[0]} or {posed.template.choices[1]}"
        answers = self._rows(posed, odds=scores)
        return Answered(protocol, metrics, {}, answers, metrics["accuracy"].value)

    def _odds(self, prompts: Any, choices: Sequence[str]) -> NDArray[np.float32]:
        with self._report.track("yes or no, questions", len(prompts)) as advance:
            return score_yes_no(
                self._model,
                prompts,
                choices=(choices[0], choices[1]),
                batch_tokens=self._config.batch_tokens,
                on_progress=advance,
            )

    def _rated(self, posed: Posed) -> Answered:
        texts = self._texts(posed)
        tables = self._posing.split.tables
        actual = tables.interactions["rating"].to_numpy()[posed.examples.rows].astype(np.float64)
        lowest, highest = self._posing.scale
        metrics, counts = measures_of_ratings(
            parse_ratings(texts, lowest=lowest, highest=highest),
            actual,
            posed.examples.users,
            fallback=self._posing.mean_rating,
            draws=self._draws,
        )
        answers = self._rows(posed, text=texts)
        return Answered("the likeliest number", metrics, counts, answers, -metrics["RMSE"].value)

    def _worded(self, posed: Posed) -> Answered:
        texts = self._texts(posed)
        written = list(posed.answers)
        if "rating" in posed.template.fields("answer"):
            texts, written = (list(map(unrated, side)) for side in (texts, written))
        headline = posed.template.fields("answer") == {"headline"}
        scores = text_scores(texts, written, order=_HEADLINE_ORDER if headline else 4)
        metrics = measures_of_texts(scores, posed.examples.users, draws=self._draws)
        counts = {"empty": float(scores.empty.sum())}
        answers = self._rows(posed, text=texts)
        return Answered("the likeliest text", metrics, counts, answers, metrics["rouge_l"].value)

    def _texts(self, posed: Posed) -> list[str]:
        explains = "explanation" in posed.template.fields("answer")
        with self._report.track("texts, questions", len(posed)) as advance:
            found = generate_texts(
                self._model,
                posed.prompts,
                max_tokens=self._tune.max_target_length,
                min_tokens=self._config.min_tokens if explains else 0,
                beams=self._config.text_beams,
                batch_tokens=self._config.batch_tokens,
                on_progress=advance,
            )
        return [texts[0] for texts in found]

    def _catalogue(self, names: Sequence[str]) -> CatalogueTexts:
        key = tuple(names)
        if key not in self._catalogues:
            self._catalogues[key] = CatalogueTexts.of(
                self._model, names, limit=self._tune.max_target_length
            )
        return self._catalogues[key]

    def _of_ranks(self, posed: Posed, ranks: Ranks, *, most: int) -> dict[str, Measure]:
        cuts = [k for k in CUTS if k <= most]
        return measures_of_ranks(ranks, posed.examples.users, cuts=cuts, draws=self._draws)

    def _rows(self, posed: Posed, **columns: Any) -> pl.DataFrame:
        values = {name: pl.Series(column) for name, column in columns.items()}
        return pl.DataFrame({"row": posed.examples.rows, **values})


def result_of(answered: Answered, posed: Posed, *, role: str, model: str) -> Result:
    """A row of the table."""
    return Result(
        task=posed.template.task,
        template=posed.template.label,
        role=role,
        model=model,
        protocol=answered.protocol,
        rows=len(posed),
        users=len(np.unique(posed.examples.users)),
        metrics=answered.metrics,
        counts=answered.counts,
        oracle=aspects(posed.template).oracle,
    )


def _chance(width: int) -> dict[str, float]:
    """What a random order of so many candidates reaches."""
    return {f"chance HR@{k}": k / width for k in CUTS if k <= width}


def ranks_in_table(
    table: NDArray[np.floating[Any]], offered: NDArray[np.int64], targets: NDArray[np.int64]
) -> Ranks:
    """Rank of each target among its candidates.

    Args:
        table: Float [n, candidates], scores.
        offered: int64 [n, candidates], items, each target once among its own.
        targets: int64 [n].

    Raises:
        DataError: a target is not among its candidates, or several times.
    """
    labels = (offered == targets[:, None]).astype(np.int8)
    wrong = np.flatnonzero(labels.sum(axis=1) != 1)
    if len(wrong):
        raise DataError(
            f"question {wrong[0]} lists its own item {labels[wrong[0]].sum()} times among its "
            f"{table.shape[1]} candidates ({len(wrong)} such questions).",
            allowed="lists that hold the item looked for exactly once",
        )
    questions = np.repeat(np.arange(len(table)), table.shape[1])
    return ranks_of(table.ravel(), labels.ravel(), questions)


def unrated(answer: str) -> str:
    """An explanation without the rating in front of it, where there is one.

    >>> unrated("4 , it lasts 10 hours")
    'it lasts 10 hours'
    """
    return _RATED.sub("", answer)
