"""How good generated answers are: one table for ranks, ratings, yes or no, and texts.

Every figure comes with an interval from resampled users. Ranks beyond a list count as not found;
nothing else is left out of any figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.eval.metrics import auc
from tastemaker.eval.ratings import ParsedRatings, rating_draws, rating_errors
from tastemaker.eval.resample import resample, resampled_sums
from tastemaker.eval.texts import TextScores

__all__ = [
    "Draws",
    "Measure",
    "Result",
    "mean_measure",
    "measures_of_labels",
    "measures_of_ranks",
    "measures_of_ratings",
    "measures_of_texts",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """How intervals are made.

    Attributes:
        count: Resamples of users.
        confidence: Share of them inside an interval, above 0 and below 1.
        seed: Of the draws.
    """

    count: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def interval(self, draws: Floats) -> tuple[float, float]:
        """Lower and upper end of what resamples gave, float64 [count]."""
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(draws, [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True)
class Measure:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What one model reaches with one template.

    Attributes:
        task: Kind of question, such as `sequential`.
        template: Its name; of a baseline, which reads no prompt, too.
        role: Why this template: `fixed`, `best on validation`, `unseen` or `asked for`.
        model: Who answered.
        protocol: What was ranked or compared, and against what.
        rows: Questions.
        users: Who they are about.
        metrics: Name → figure.
        counts: What else is to be known, such as answers that could not be read.
        oracle: Whether the prompt tells something of the target that no recommender knows.
        rule: Whether a simple rule answered, which reads no prompt.
    """

    task: str
    template: str
    role: str
    model: str
    protocol: str
    rows: int
    users: int
    metrics: Mapping[str, Measure]
    counts: Mapping[str, float] = field(default_factory=dict)
    oracle: bool = False
    rule: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        values = asdict(self)
        for measure in values["metrics"].values():
            measure.update({key: None for key, one in measure.items() if np.isnan(one)})
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        metrics = {
            name: Measure(**{key: np.nan if end is None else end for key, end in one.items()})
            for name, one in values["metrics"].items()
        }
        return cls(**{**values, "metrics": metrics})


def mean_measure(values: Floats, users: ArrayLike, *, draws: Draws) -> Measure:
    """The mean of one number per question, and its interval.

    Args:
        values: float64 [n].
        users: Integers [n].
        draws: How to resample.
    """
    columns = np.stack([values, np.ones(len(values))], axis=1)
    sums = resampled_sums(columns, users, count=draws.count, seed=draws.seed)
    return Measure(float(values.mean()), *draws.interval(sums[:, 0] / sums[:, 1]))


def measures_of_ranks(
    ranks: Floats, users: ArrayLike, *, cuts: Sequence[int], draws: Draws
) -> dict[str, Measure]:
    """HR@k and NDCG@k of one target per question, as fractions.

    Args:
        ranks: float64 [n], from 1; infinite where the target was not found.
        users: Integers [n].
        cuts: The ks.
        draws: How to resample.
    """
    found = {}
    for k in cuts:
        hit = ranks <= k
        gains = np.where(hit, 1 / np.log2(1 + np.where(hit, ranks, 1.0)), 0.0)
        found[f"HR@{k}"] = mean_measure(hit.astype(np.float64), users, draws=draws)
        if k > 1:
            found[f"NDCG@{k}"] = mean_measure(gains, users, draws=draws)
    return found


def measures_of_ratings(
    predicted: ParsedRatings | ArrayLike,
    actual: Floats,
    users: ArrayLike,
    *,
    fallback: float,
    draws: Draws,
) -> tuple[dict[str, Measure], dict[str, float]]:
    """RMSE and MAE, and how many answers were unreadable or beyond the scale."""
    errors = rating_errors(predicted, actual, fallback=fallback)
    drawn = rating_draws(
        predicted, actual, users, fallback=fallback, count=draws.count, seed=draws.seed
    )
    metrics = {
        "RMSE": Measure(errors.rmse, *draws.interval(drawn["rmse"])),
        "MAE": Measure(errors.mae, *draws.interval(drawn["mae"])),
    }
    return metrics, {"unparsable": errors.unparsable, "out of range": errors.out_of_range}


def measures_of_texts(scores: TextScores, users: ArrayLike, *, draws: Draws) -> dict[str, Measure]:
    """BLEU and ROUGE, 0 to 100."""
    means = scores.means()
    drawn = scores.draws(users, count=draws.count, seed=draws.seed)
    return {name: Measure(means[name], *draws.interval(drawn[name])) for name in means}


def measures_of_labels(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    users: ArrayLike,
    *,
    draws: Draws,
) -> dict[str, Measure]:
    """AUC (where there are both kinds of label) and share of right answers of log-odds."""
    right = ((scores > 0) == (labels == 1)).astype(np.float64)
    found = {"accuracy": mean_measure(right, users, draws=draws)}
    if len(np.unique(labels)) == 2:
        drawn = resample(
            {"it": scores}, labels, groups=np.asarray(users), count=draws.count, seed=draws.seed
        )
        value = float(auc(scores, labels))
        found["AUC"] = Measure(value, *draws.interval(drawn["it"]["auc"]))
    return found
