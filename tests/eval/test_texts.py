"""BLEU and ROUGE of generated texts, against the packages themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

import tastemaker.eval.resample as module
from tastemaker.eval.texts import ROUGE, text_scores

WORDS = "the a film plot is great dull , . moving very acting and story's long-winded 4"
CHOICE = WORDS.split()


def sentences(count: int, *, seed: int, least: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(CHOICE, random.integers(least, 14))) for _ in range(count)]


def expected(generated: Sequence[str], written: Sequence[str], *, order: int) -> list[float]:
    """BLEU and the three ROUGE F1, by the packages alone."""
    bleu = BLEU(max_ngram_order=order).corpus_score(list(generated), [list(written)]).score
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = [scorer.score(one, two) for one, two in zip(written, generated, strict=True)]
    rouge = [np.mean([pair[name].fmeasure for pair in pairs]) for name in scorer.rouge_types]
    return [bleu, *(100 * value for value in rouge)]


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_means_are_those_of_sacrebleu_and_rouge_score(order: int, seed: int) -> None:
    generated, written = sentences(40, seed=seed), sentences(40, seed=seed + 100, least=1)
    generated[:3] = written[:3]
    found = text_scores(generated, written, order=order).means()
    assert list(found) == [f"bleu_{order}", *ROUGE]
    assert list(found.values()) == pytest.approx(expected(generated, written, order=order))


def test_perfect_and_foreign_texts() -> None:
    written = ["the plot is very moving and long", "great acting , dull story and plot"]
    assert list(text_scores(written, written).means().values()) == pytest.approx([100.0] * 4)
    nothing = text_scores(["xx yy", "zz"], written).means()
    assert list(nothing.values()) == [0.0] * 4


def test_empty_texts_count_as_nothing_and_are_counted() -> None:
    generated, written = ["the plot is dull", "", " \n"], ["the plot is dull", "great", "moving"]
    found = text_scores(generated, written)
    assert found.empty.tolist() == [False, True, True]
    assert found.rouge.tolist() == [[100.0] * 3, [0.0] * 3, [0.0] * 3]
    assert found.means()["rouge_1"] == pytest.approx(100 / 3)
    assert found.means()["bleu_4"] == pytest.approx(100 * np.exp(1 - 6 / 4))
    only = text_scores(["", ""], ["great", "dull"])
    assert list(only.means().values()) == [0.0] * 4
    assert np.isnan(list(text_scores([], []).means().values())).all()


def test_draws_are_the_metrics_of_copied_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, written = sentences(12, seed=3), sentences(12, seed=4, least=1)
    generated[:4] = written[:4]
    users = np.repeat([7, 3, 9, 5], [4, 3, 3, 2])
    found = text_scores(generated, written).draws(users, count=20, seed=5)
    weights = module.user_weights(4, 20, generator=np.random.default_rng(5)).astype(int)
    for draw, column in enumerate(weights.T):
        times = dict(zip((3, 5, 7, 9), column.tolist(), strict=True))
        copied = [place for place in range(12) for _ in range(times[users[place]])]
        wanted = expected([generated[i] for i in copied], [written[i] for i in copied], order=4)
        assert [values[draw] for values in found.values()] == pytest.approx(wanted)
    monkeypatch.setattr(module, "_CELLS", 9)
    parts = text_scores(generated, written).draws(users, count=20, seed=5)
    for name, values in found.items():
        np.testing.assert_allclose(parts[name], values)


def test_words_are_cut_as_asked() -> None:
    generated, written = ["good,long film today"], ["good , long film today"]
    assert text_scores(generated, written).means()["bleu_4"] == pytest.approx(100.0)
    assert text_scores(generated, written, tokenize="none").means()["bleu_4"] < 60


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="1 generated texts, 2 written"):
        text_scores(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="order = 0"):
        text_scores(["a"], ["a"], order=0)
    with pytest.raises(ValueError, match="groups"):
        text_scores(["a"], ["a"]).draws([1, 2])


@pytest.mark.slow
def test_slow_packages_are_imported_when_needed_only() -> None:
    code = "import sys, tastemaker.eval.texts as _; sys.exit('nltk' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
