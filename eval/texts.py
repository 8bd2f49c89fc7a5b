"""How close generated texts come to the written ones: BLEU by sacrebleu, ROUGE by rouge-score.

All numbers are times 100, as P5 (Geng et al., RecSys 2022, section 5) and PETER print them: BLEU-4
and ROUGE F1 for explanations, BLEU-2 for headlines. BLEU is of the whole corpus, so no row has one
of its own; what is kept of each row are the counts that it is made of. An empty text matches
nothing: it counts as 0, is not left out, and is counted.

P5's BLEU splits texts at spaces (`tokenize="none"`); sacrebleu's default is `13a`. ROUGE knows the
letters a to z and digits only, so texts in other alphabets get 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.eval.resample import resampled_sums

__all__ = ["ROUGE", "TextScores", "text_scores"]

ROUGE = ("rouge_1", "rouge_2", "rouge_l")
_TYPES = ("rouge1", "rouge2", "rougeL")  # what rouge-score calls them
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TextScores:
    """What the metrics of n texts are made of.

    Attributes:
        order: Longest n-grams of BLEU.
        counts: int64 [n, 2 + 2 order]: words generated, words written, matching n-grams of each
            length, and generated n-grams of each length.
        rouge: float64 [n, 3], F1 of ROUGE-1, ROUGE-2 and ROUGE-L of each text, 0 to 100.
        empty: bool [n], whether nothing was generated.
    """

    order: int
    counts: NDArray[np.int64]
    rouge: Floats
    empty: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.counts)

    def means(self) -> dict[str, float]:
        """`bleu_4` (or another order), `rouge_1`, `rouge_2` and `rouge_l`, 0 to 100.

        NaN without texts.
        """
        found = self._of_sums(self._columns().sum(axis=0)[None])
        return {name: float(values[0]) for name, values in found.items()}

    def draws(self, users: ArrayLike, *, count: int = 1000, seed: int = 0) -> dict[str, Floats]:
        """The same metrics on resamples of users, float64 [count] each.

        Another model's texts for the same users, with the same seed, are drawn alike: the
        difference of two models is a paired one.

        Args:
            users: Integers [n], whose text each is.
            count: Resamples.
            seed: Of the draws.
        """
        return self._of_sums(resampled_sums(self._columns(), users, count=count, seed=seed))

    def _columns(self) -> Floats:
        """What is summed over texts: counts, ROUGE, and 1; float64 [n, 6 + 2 order]."""
        ones = np.ones((len(self), 1))
        return np.concatenate([self.counts.astype(np.float64), self.rouge, ones], axis=1)

    def _of_sums(self, sums: Floats) -> dict[str, Floats]:
        width = self.counts.shape[1]
        rows = sums[:, -1:]
        none = np.full((len(sums), len(ROUGE)), np.nan)
        rouge = np.divide(sums[:, width:-1], rows, out=none, where=rows > 0)
        bleu = np.array([_bleu(one[:width], self.order) for one in sums])
        bleu[rows[:, 0] == 0] = np.nan
        return {f"bleu_{self.order}": bleu, **dict(zip(ROUGE, rouge.T, strict=True))}


def text_scores(
    generated: Sequence[str], written: Sequence[str], *, order: int = 4, tokenize: str = "13a"
) -> TextScores:
    """Compare each generated text with the written one.

    Args:
        generated: n texts.
        written: n texts.
        order: Longest n-grams of BLEU; P5: 4 for explanations, 2 for headlines.
        tokenize: One of sacrebleu's tokenizers, such as `13a`, `intl`, `char` or `none`.

    Raises:
        ValueError: another number of written texts, or an order below 1.
    """
    if len(generated) != len(written):
        raise ValueError(f"{len(generated)} generated texts, {len(written)} written ones")
    if order < 1:
        raise ValueError(f"order = {order}; it is at least 1")
    # Both are slow to import, rouge-score for all of nltk.
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    bleu = BLEU(max_ngram_order=order, tokenize=tokenize, effective_order=True)
    scorer = RougeScorer(list(_TYPES), use_stemmer=False)
    counts = np.zeros((len(written), 2 + 2 * order), dtype=np.int64)
    rouge = np.zeros((len(written), len(_TYPES)))
    for place, (text, reference) in enumerate(zip(generated, written, strict=True)):
        # One row's own BLEU is never used: only what sacrebleu counted for it.
        found = bleu.sentence_score(text, [reference])
        counts[place] = [found.sys_len, found.ref_len, *found.counts, *found.totals]
        scored = scorer.score(reference, text)
        rouge[place] = [100 * scored[name].fmeasure for name in _TYPES]
    empty = np.array([not text.strip() for text in generated], dtype=bool)
    return TextScores(order, counts, rouge, empty)


def _bleu(sums: Floats, order: int) -> float:
    """Corpus BLEU of summed counts, with sacrebleu's default smoothing of missing n-grams."""
    from sacrebleu.metrics import BLEU

    whole = sums.astype(np.int64).tolist()
    found = BLEU.compute_bleu(
        correct=whole[2 : 2 + order],
        total=whole[2 + order :],
        sys_len=whole[0],
        ref_len=whole[1],
        smooth_method="exp",
        max_ngram_order=order,
    )
    return float(found.score)
