"""A comparison in plain words and short numbers, shared by terminal, README and report."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence

from tastemaker.eval.compare import SMALLER_IS_BETTER, Comparison, Row, Verdict

__all__ = [
    "METRIC_TITLES",
    "basis",
    "better",
    "clean",
    "difference_text",
    "interval_text",
    "listed",
    "number",
    "summary",
    "title_of",
    "verdict_lines",
]

METRIC_TITLES = {"auc": "AUC", "within_user_auc": "Within-user AUC", "log_loss": "Log loss"}
MINUS = "\N{MINUS SIGN}"
_FEW_USERS = 30


def title_of(metric: str) -> str:
    """How a metric is called on paper."""
    return METRIC_TITLES.get(metric, metric.replace("_", " "))


def better(metric: str) -> str:
    """Which direction is better."""
    return "smaller is better" if metric in SMALLER_IS_BETTER else "larger is better"


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals, a real minus sign, and "n/a" for NaN.

    >>> number(0.7461), number(0.0123, signed=True), number(float("nan"))
    ('0.746', '+0.012', 'n/a')
    """
    if math.isnan(value):
        return "n/a"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    if float(text) == 0:
        text = "0.000"
    return text.replace("-", MINUS)


def interval_text(low: float, high: float, *, signed: bool = False) -> str:
    """An interval in brackets, or "" when it is unknown.

    >>> interval_text(0.731, 0.76)
    '[0.731, 0.760]'
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def difference_text(entry: Row | Verdict) -> str:
    """A signed difference with its paired interval."""
    low, high = (
        (entry.difference_low, entry.difference_high)
        if isinstance(entry, Row)
        else (entry.low, entry.high)
    )
    interval = interval_text(low, high, signed=True)
    return f"{number(entry.difference, signed=True)} {interval}".strip()


def clean(text: str) -> str:
    """One line without control, format or unpaired characters, so that no terminal obeys it.

    >>> clean("DIN" + chr(27) + "[31m red")
    'DIN [31m red'
    """
    kept = (" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    return " ".join("".join(kept).split())


def listed(names: Iterable[str]) -> str:
    """Names in a sentence; semicolons part them where a name has a comma of its own.

    >>> listed(["DIN", "KAR", "TALLRec"])
    'DIN, KAR and TALLRec'
    """
    *most, last = [clean(name) for name in names]
    comma = any("," in name for name in (*most, last))
    parting, final = ("; ", "; and ") if comma else (", ", " and ")
    return f"{parting.join(most)}{final}{last}" if most else last


def summary(comparison: Comparison) -> str:
    """The outcome in one paragraph: who beats the trivial baselines, and who does not."""
    judged = [verdict for verdict in comparison.verdicts if verdict.metric == "auc"]
    if not judged:
        return (
            "No trivial baseline stands beside these models, so the numbers cannot tell whether "
            "they learned anything beyond counting."
        )
    return f"{_sentence(judged)} {_ranking_sentence(comparison)}".strip()


def verdict_lines(comparison: Comparison) -> list[str]:
    """One line for each model and judged metric, those that fail first."""
    ordered = sorted(comparison.verdicts, key=lambda verdict: verdict.beats)
    return [_line(verdict) for verdict in ordered]


def basis(comparison: Comparison) -> str:
    """What the numbers rest on."""
    text = (
        f"All models answer the same {comparison.n_rows:,} rows of {comparison.n_users:,} users "
        f"({comparison.positive_rate:.0%} liked); {comparison.confidence:.0%} intervals come from "
        f"{comparison.bootstrap:,} resamples of users, differences are paired."
    )
    if comparison.n_users < _FEW_USERS:
        text += f" {_plural(comparison.n_users, 'user')} are few: read the intervals as rough."
    if comparison.unscored:
        left = ", ".join(
            f"{clean(model)} {count:,}" for model, count in comparison.unscored.items()
        )
        text += f" Left out are rows that a model could not score ({left})."
    return text


def _sentence(judged: Sequence[Verdict]) -> str:
    """On AUC: how many, and which do not."""
    failing = [verdict.model for verdict in judged if not verdict.beats]
    baseline = f"{clean(judged[0].baseline)} (AUC {number(judged[0].baseline_value)})"
    total = len(judged)
    if not failing:
        whole = "The one model beats" if total == 1 else f"All {total} models beat"
        return f"{whole} the best trivial baseline on AUC, {baseline}."
    if len(failing) == total:
        whole = "The one model does not beat" if total == 1 else f"None of the {total} models beats"
        return (
            f"{whole} the best trivial baseline on AUC, {baseline}: {listed(failing)} "
            f"{'has' if total == 1 else 'have'} not been shown to learn anything beyond counting."
        )
    passing = [verdict.model for verdict in judged if verdict.beats]
    return (
        f"{len(passing)} of {total} models {'beats' if len(passing) == 1 else 'beat'} the best "
        f"trivial baseline on AUC, {baseline}: {listed(passing)}. "
        f"{listed(failing)} {'does' if len(failing) == 1 else 'do'} not."
    )


def _ranking_sentence(comparison: Comparison) -> str:
    """On within-user AUC: who ranks a user's own items better than the best trivial baseline."""
    judged = [verdict for verdict in comparison.verdicts if verdict.metric == "within_user_auc"]
    if not judged:
        return ""
    baseline = f"{clean(judged[0].baseline)} ({number(judged[0].baseline_value)})"
    passing = [verdict.model for verdict in judged if verdict.beats]
    if not passing:
        return f"In ordering one user's own items (within-user AUC), none beats {baseline}."
    verb = "beats" if len(passing) == 1 else "beat"
    only = "" if len(passing) == len(judged) else "only "
    return (
        f"In ordering one user's own items (within-user AUC), "
        f"{only}{listed(passing)} {verb} {baseline}."
    )


def _line(verdict: Verdict) -> str:
    model, baseline = clean(verdict.model), clean(verdict.baseline)
    verb = "beats" if verdict.beats else "does not beat"
    text = (
        f"{model} {verb} {baseline} on {title_of(verdict.metric)}: {number(verdict.value)} against "
        f"{number(verdict.baseline_value)}, difference {difference_text(verdict)}"
    )
    if verdict.beats:
        return f"{text}."
    if verdict.worse:
        return f"{text}; it is worse."
    known = not math.isnan(verdict.low)
    return f"{text}; {'the interval includes 0' if known else 'no interval is known'}."


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
