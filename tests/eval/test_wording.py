from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import pytest

from tastemaker.eval import report, wording
from tastemaker.eval.compare import Comparison, Verdict, compare
from tastemaker.eval.wording import basis, clean, listed, number, summary, verdict_lines


@pytest.fixture(scope="module")
def comparison(taste: Any) -> Comparison:
    scores, asked = taste
    return compare(scores, asked, against="DIN", bootstrap=50, trivial=["Item mean"])


def _judged(comparison: Comparison, **outcomes: tuple[float, float]) -> Comparison:
    """The comparison with verdicts of the given intervals on AUC."""
    verdicts = tuple(
        Verdict(model, "auc", "Item mean", 0.7 + (low + high) / 2, 0.7, (low + high) / 2, low, high)
        for model, (low, high) in outcomes.items()
    )
    return replace(comparison, verdicts=verdicts)


def test_none_beats(comparison: Comparison) -> None:
    judged = _judged(comparison, DIN=(-0.02, 0.01), KAR=(-0.01, 0.03))
    assert summary(judged) == (
        "None of the 2 models beats the best trivial baseline on AUC, Item mean (AUC 0.700): "
        "DIN and KAR have not been shown to learn anything beyond counting."
    )
    assert summary(_judged(comparison, DIN=(-0.02, 0.01))) == (
        "The one model does not beat the best trivial baseline on AUC, Item mean (AUC 0.700): "
        "DIN has not been shown to learn anything beyond counting."
    )


def test_some_beat(comparison: Comparison) -> None:
    judged = _judged(comparison, DIN=(-0.02, 0.01), KAR=(0.01, 0.03), TALLRec=(-0.3, -0.1))
    assert summary(judged) == (
        "1 of 3 models beats the best trivial baseline on AUC, Item mean (AUC 0.700): KAR. "
        "DIN and TALLRec do not."
    )


def test_all_beat(comparison: Comparison) -> None:
    judged = _judged(comparison, DIN=(0.01, 0.02), KAR=(0.01, 0.03))
    assert summary(judged) == (
        "All 2 models beat the best trivial baseline on AUC, Item mean (AUC 0.700)."
    )


def test_without_trivial_baselines_nothing_is_claimed(taste: Any) -> None:
    scores, asked = taste
    bare = compare({"DIN": scores["DIN"]}, asked, against="DIN", bootstrap=10)
    assert summary(bare).startswith("No trivial baseline stands beside these models")
    assert verdict_lines(bare) == []


def test_an_interval_that_touches_zero_does_not_beat(comparison: Comparison) -> None:
    nan = float("nan")
    judged = _judged(
        comparison, even=(0.0, 0.04), worse=(-0.04, -0.02), good=(0.02, 0.04), unknown=(nan, nan)
    )
    assert verdict_lines(judged) == [
        "even does not beat Item mean on AUC: 0.720 against 0.700, difference "
        "+0.020 [0.000, +0.040]; the interval includes 0.",
        "worse does not beat Item mean on AUC: 0.670 against 0.700, difference "
        "−0.030 [−0.040, −0.020]; it is worse.",
        "unknown does not beat Item mean on AUC: n/a against 0.700, difference "
        "n/a; no interval is known.",
        "good beats Item mean on AUC: 0.730 against 0.700, difference +0.030 [+0.020, +0.040].",
    ]


def test_within_user_auc_has_a_sentence_of_its_own(comparison: Comparison) -> None:
    failing = [
        verdict.model
        for verdict in comparison.verdicts
        if verdict.metric == "within_user_auc" and not verdict.beats
    ]
    assert "SmolLM2-135M, not tuned" in failing
    own = summary(comparison).split("In ordering one user's own items (within-user AUC), ")[1]
    assert own.startswith("only ")
    assert "KAR (DIN + knowledge)" in own
    assert not any(model in own for model in failing)


def test_basis_names_rows_users_and_what_is_missing(comparison: Comparison) -> None:
    assert basis(comparison).startswith("All models answer the same 1,500 rows of 60 users (")
    assert "few" not in basis(comparison)
    rough = basis(replace(comparison, n_users=16, unscored={"LLM": 1200}))
    assert "16 users are few: read the intervals as rough." in rough
    assert "could not score (LLM 1,200)" in rough


def test_terminal_commands_are_taken_out() -> None:
    assert clean("a\x1b[2J\r\nb\u202ec\ud800d\u2028e") == "a [2J b c d e"
    assert listed(["a, b", "c"]) == "a, b; and c"
    assert listed(["a\nb"]) == "a b"
    assert number(-0.0001, signed=True) == "0.000"


def test_examples_in_docstrings_hold() -> None:
    for module in (wording, report):
        outcome = doctest.testmod(module)
        assert outcome.attempted > 0
        assert outcome.failed == 0
