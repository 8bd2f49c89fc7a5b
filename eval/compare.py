"""The comparison: every model on the same rows, with intervals and paired differences.

Intervals are percentile intervals of a bootstrap over users, one at a time: they are not corrected
for the number of models compared. With few users they are rough, and with one user there are none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import StageError, UnknownNameError
from tastemaker.eval.metrics import METRICS, Scores
from tastemaker.eval.protocol import Requests
from tastemaker.eval.resample import resample

__all__ = ["SMALLER_IS_BETTER", "Comparison", "Row", "Verdict", "compare"]

SMALLER_IS_BETTER = frozenset({"log_loss"})
_JUDGED = ("auc", "within_user_auc")

Draws = Mapping[str, Mapping[str, NDArray[np.float64]]]
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One model under one metric; undefined numbers are NaN.

    Attributes:
        model: Name.
        metric: Key of `METRICS`.
        value: On the compared rows.
        low: Lower end of its interval.
        high: Upper end.
        difference: `value` minus that of the model compared against.
        difference_low: Lower end of the paired interval; both ends 0 for that model itself.
        difference_high: Upper end.
        best: Whether it has the best value of all models.
        tied: Whether it is not best, but its paired interval to the best includes 0 or is unknown.
    """

    model: str
    metric: str
    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    best: bool
    tied: bool


@dataclass(frozen=True)
class Verdict:
    """A model beside the best trivial baseline under one metric.

    Attributes:
        model: Name of a model that is not trivial.
        metric: `"auc"` or `"within_user_auc"`.
        baseline: The trivial baseline with the largest value.
        value: Of the model.
        baseline_value: Of the baseline.
        difference: The model's value minus the baseline's.
        low: Lower end of the paired interval.
        high: Upper end.
    """

    model: str
    metric: str
    baseline: str
    value: float
    baseline_value: float
    difference: float
    low: float
    high: float

    @property
    def beats(self) -> bool:
        """Whether the whole interval of the difference is above 0."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """Whether the whole interval of the difference is below 0."""
        return self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Models on the same rows.

    Attributes:
        rows: Model by model in the order given, metrics in the order of `METRICS`.
        verdicts: Metric by metric, each model that is not trivial beside the best trivial one.
        against: Differences in `rows` are taken to this model.
        trivial: Names of the trivial baselines.
        confidence: Of all intervals, 0 to 1.
        bootstrap: Number of resamples of users.
        seed: Of the resamples.
        n_rows: Rows compared: those that every model scored.
        n_users: Users among them.
        positive_rate: Share of likes among them, 0 to 1.
        unscored: Rows that a model could not score, for the models with any.
    """

    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    against: str
    trivial: tuple[str, ...]
    confidence: float
    bootstrap: int
    seed: int
    n_rows: int
    n_users: int
    positive_rate: float
    unscored: Mapping[str, int]

    @property
    def models(self) -> list[str]:
        """Names of the models in order."""
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics in order."""
        return list(dict.fromkeys(row.metric for row in self.rows))

    def row(self, model: str, metric: str) -> Row:
        """The row of a model under a metric.

        Raises:
            KeyError: no such row.
        """
        for row in self.rows:
            if (row.model, row.metric) == (model, metric):
                return row
        raise KeyError((model, metric))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        values = asdict(self)
        for name in ("rows", "verdicts"):
            values[name] = [_without_nan(entry) for entry in values[name]]
        return values | {"trivial": list(self.trivial), "unscored": dict(self.unscored)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """Read what `to_dict` returned, also after a round trip through JSON."""
        rows = tuple(Row(**_with_nan(entry)) for entry in values["rows"])
        verdicts = tuple(Verdict(**_with_nan(entry)) for entry in values["verdicts"])
        trivial = tuple(values["trivial"])
        return cls(**{**values, "rows": rows, "verdicts": verdicts, "trivial": trivial})


def compare(
    scores: Mapping[str, Scores],
    requests: Requests,
    *,
    against: str,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    trivial: Sequence[str] = (),
) -> Comparison:
    """Compare models on the requests that all of them scored.

    Args:
        scores: Model → log-odds of a like, float [n] as the requests; NaN = cannot score.
        requests: Labelled rows.
        against: The model that differences are taken to.
        bootstrap: Number of resamples of users, the same ones for every model.
        confidence: Of the intervals, between 0 and 1.
        seed: Of the resamples.
        trivial: Models that know nothing but counts; the verdicts compare the others with them.

    Raises:
        UnknownNameError: `against` or a trivial name is not among the models.
        StageError: infinite scores, or no row that every model scored.
        ValueError: arrays of another length than the requests, or unknown labels.
    """
    for name in (against, *trivial):
        if name not in scores:
            raise UnknownNameError("model to compare with", name, scores)
    kept, unscored = _scored(scores, requests)
    rows = requests.select(kept)
    labels, users = rows.labels, rows.groups
    common = {model: np.asarray(values, np.float64)[kept] for model, values in scores.items()}
    values = {
        model: {name: metric(given, labels, users) for name, metric in METRICS.items()}
        for model, given in common.items()
    }
    draws = resample(common, labels, groups=users, count=bootstrap, seed=seed)
    n_users = len(np.unique(users))
    if n_users < 2:
        draws = {model: dict.fromkeys(METRICS, np.empty(0)) for model in scores}
    return Comparison(
        rows=_rows(values, draws, against=against, confidence=confidence),
        verdicts=_verdicts(values, draws, trivial=trivial, confidence=confidence),
        against=against,
        trivial=tuple(trivial),
        confidence=confidence,
        bootstrap=bootstrap,
        seed=seed,
        n_rows=len(rows),
        n_users=n_users,
        positive_rate=float(labels.mean()),
        unscored=unscored,
    )


def _scored(
    scores: Mapping[str, Scores], requests: Requests
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Rows scored by all, bool [n], and the number of rows that each model left out."""
    kept = np.ones(len(requests), dtype=bool)
    unscored = {}
    for model, values in scores.items():
        if np.shape(values) != (len(requests),):
            raise ValueError(
                f"{model}: scores of shape {np.shape(values)} for {len(requests)} rows"
            )
        if np.isinf(values).any():
            raise StageError(f"{model}: {np.isinf(values).sum()} scores are infinite.")
        missing = np.isnan(values)
        kept &= ~missing
        if missing.any():
            unscored[model] = int(missing.sum())
    if not kept.any():
        counts = ", ".join(f"{model} left out {count:,}" for model, count in unscored.items())
        raise StageError(f"none of {len(requests):,} rows is scored by every model: {counts}.")
    return kept, unscored


def _rows(values: Values, draws: Draws, *, against: str, confidence: float) -> tuple[Row, ...]:
    winners = {metric: _best(values, metric, among=list(values)) for metric in METRICS}
    rows: list[Row] = []
    for model, metric in ((model, metric) for model in values for metric in METRICS):
        own, best = draws[model][metric], winners[metric]
        low, high = _interval(own, confidence=confidence)
        below, above = _interval(own - draws[against][metric], confidence=confidence)
        to_best = _interval(own - draws[best][metric], confidence=confidence)
        apart = to_best[0] > 0 or to_best[1] < 0
        defined = not math.isnan(values[model][metric])
        rows.append(
            Row(
                model=model,
                metric=metric,
                value=values[model][metric],
                low=low,
                high=high,
                difference=values[model][metric] - values[against][metric],
                difference_low=below,
                difference_high=above,
                best=model == best and defined,
                tied=model != best and not apart and defined,
            )
        )
    return tuple(rows)


def _verdicts(
    values: Values, draws: Draws, *, trivial: Sequence[str], confidence: float
) -> tuple[Verdict, ...]:
    verdicts = []
    for metric in _JUDGED if trivial else ():
        baseline = _best(values, metric, among=trivial)
        for model in (name for name in values if name not in trivial):
            differences = draws[model][metric] - draws[baseline][metric]
            low, high = _interval(differences, confidence=confidence)
            value, reference = values[model][metric], values[baseline][metric]
            verdicts.append(
                Verdict(model, metric, baseline, value, reference, value - reference, low, high)
            )
    return tuple(verdicts)


def _best(values: Values, metric: str, *, among: Sequence[str]) -> str:
    """The model with the best value, the first of equals; NaN never wins over a number."""
    sign = -1 if metric in SMALLER_IS_BETTER else 1
    found = {model: sign * values[model][metric] for model in among}
    return max(found, key=lambda model: -math.inf if math.isnan(found[model]) else found[model])


def _interval(draws: NDArray[np.float64], *, confidence: float) -> tuple[float, float]:
    """Percentile interval of the resamples on which the metric is defined."""
    defined = draws[~np.isnan(draws)]
    if len(defined) < 2:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _without_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if value != value else value for key, value in entry.items()}


def _with_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float("nan") if value is None else value for key, value in entry.items()}
