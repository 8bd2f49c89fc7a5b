"""Candidates ranked by their likelihood as the answer, as in InstructRec (arXiv 2305.07001).

Beams may leave a list of candidates; the likelihood of each of its texts is a score that cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.errors import UserError
from tastemaker.models.beams import Seq2SeqBeams, shared_sources
from tastemaker.models.conversations import Messages
from tastemaker.models.hidden_states import evaluating
from tastemaker.models.language import LanguageModel
from tastemaker.models.scoring import score_candidates
from tastemaker.models.seq2seq import encode_targets, is_seq2seq, padded, source_batches

__all__ = ["candidate_scores", "tournament"]

Scores = NDArray[np.float32]
Indices = NDArray[np.int64]
Candidate = TypeVar("Candidate")
Score = Callable[
    [Sequence[int], Sequence[Sequence[Candidate]]], Sequence[NDArray[np.floating[Any]]]
]

_ROWS = 512  # hidden states that meet the whole output layer at once
_GAP = 1.0  # between the worst winner of a first round and the best loser


def candidate_scores(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    candidates: Sequence[Sequence[str]],
    *,
    per_token: bool = False,
    batch_tokens: int = 2048,
    on_progress: Callable[[int], None] | None = None,
) -> list[Scores]:
    """Log-probability of each candidate as the whole answer to its prompt, its end included.

    A prompt is read once for all its candidates. Apart from rounding, a score depends neither on
    the other prompts and candidates nor on order or batch size.

    Args:
        language_model: Causal or encoder-decoder, with or without an adapter.
        prompts: n conversations without the answer.
        candidates: Texts the model might answer, for each prompt; there may be none.
        per_token: Divide by the number of tokens, as a measure that does not favour short answers.
            InstructRec does not say whether it does.
        batch_tokens: Tokens of prompts and answers per batch, padding included; what is longer is
            run alone.
        on_progress: Called with the number of candidates that have just been scored.

    Returns:
        n arrays, float32 [candidates of the prompt], natural logarithms, 0 or less.

    Raises:
        UserError: there are not as many lists as prompts, or prompt and candidate are longer than
            the model's context; for causal models see `models.scoring.score_candidates` too.
        StageError: the architecture changes its logits in a way that is not known here.
    """
    if len(candidates) != len(prompts):
        raise UserError(f"{len(prompts)} prompts, but candidates for {len(candidates)}.")
    if not is_seq2seq(language_model.model):
        return score_candidates(
            language_model,
            prompts,
            candidates,
            per_token=per_token,
            batch_tokens=batch_tokens,
            on_progress=on_progress,
        )
    return _of_seq2seq(
        language_model,
        prompts,
        candidates,
        per_token=per_token,
        batch_tokens=batch_tokens,
        on_progress=on_progress,
    )


def _of_seq2seq(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    candidates: Sequence[Sequence[str]],
    *,
    per_token: bool,
    batch_tokens: int,
    on_progress: Callable[[int], None] | None,
) -> list[Scores]:
    """`candidate_scores` of a model that writes its answer with a decoder."""
    scores = [np.empty(len(texts), dtype=np.float32) for texts in candidates]
    asked = [place for place, texts in enumerate(candidates) if len(texts)]
    if not asked:
        return scores
    targets = [encode_targets(language_model.tokenizer, list(candidates[place])) for place in asked]
    model = language_model.model
    with evaluating(model), torch.inference_mode(), shared_sources(model) as share:
        walk = Seq2SeqBeams(
            language_model,
            [prompts[place] for place in asked],
            longest=max(len(target) for listed in targets for target in listed),
            share=share,
        )
        costs = [
            range(len(source) + sum(map(len, listed)))
            for source, listed in zip(walk.sources, targets, strict=True)
        ]
        for places in source_batches(costs, batch_tokens):
            run = _Batch(walk, places, [targets[place] for place in places], batch_tokens)
            for place, found in zip(places, run.scores(per_token=per_token), strict=True):
                scores[asked[place]][:] = found
                if on_progress:
                    on_progress(len(found))
    return scores


class _Batch:
    """Some prompts with their candidates.

    Args:
        walk: Of all prompts.
        places: Which prompts.
        targets: Token ids of the candidates of each.
        batch_tokens: Tokens of candidates that are run together.
    """

    def __init__(
        self,
        walk: Seq2SeqBeams,
        places: Sequence[int],
        targets: Sequence[Sequence[Sequence[int]]],
        batch_tokens: int,
    ) -> None:
        self._walk, self._batch_tokens = walk, batch_tokens
        self._counts = [len(listed) for listed in targets]
        most = max(self._counts)
        rows = [target for listed in targets for target in _filled(listed, most)]
        tokens, mask = padded(rows, 0)
        self._first = walk.begin(places, [])
        shape = (len(places), most, tokens.shape[1])
        self._tokens = tokens.to(self._first.device).view(shape)
        self._mask = mask.to(self._first.device).view(shape).bool()

    def scores(self, *, per_token: bool) -> list[Scores]:
        """float32 [candidates] of each prompt."""
        rows, most, length = self._tokens.shape
        width = max(1, self._batch_tokens // (rows * length))
        parts = [self._sums(start, start + width) for start in range(0, most, width)]
        sums = torch.cat(parts, dim=1)
        if per_token:
            sums = sums / self._mask.sum(-1).clamp(min=1)
        found = sums.cpu().numpy().astype(np.float32)
        return [row[:count] for row, count in zip(found, self._counts, strict=True)]

    def _sums(self, start: int, stop: int) -> Tensor:
        """Sums of log-probabilities of some candidates of each prompt: float64 [B, V]."""
        tokens, mask = self._tokens[:, start:stop], self._mask[:, start:stop]
        states = self._first[:, None].expand(-1, tokens.shape[1], -1, -1)
        if tokens.shape[2] > 1:
            parents = torch.zeros(tokens.shape[:2], dtype=torch.int64, device=tokens.device)
            rest = self._walk.complete(parents, tokens[..., :-1])
            states = torch.cat([states, rest], dim=2)
        wanted, said = states[mask], tokens[mask]
        pairs = zip(wanted.split(_ROWS), said.split(_ROWS), strict=True)
        found = torch.cat([self._walk.output.log_probabilities(*pair) for pair in pairs])
        every = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
        every[mask] = found.double()
        return every.sum(-1)


def tournament(
    score: Score[Candidate],
    candidates: Sequence[Sequence[Candidate]],
    *,
    groups: int = 10,
    seed: int = 0,
) -> list[Scores]:
    """Rank many candidates in two rounds: the best of each group, then these among themselves.

    InstructRec (section 4.4) divides 100 candidates at random into 10 groups of 10. Prompts that
    list their candidates then list those of a group, so `score` is asked with the lists.

    Mind what the two rounds do to metrics: only the winners meet. Whoever loses in its group stands
    behind all of them, even where it would have beaten most; so a hit at the first places says
    something else than in a single round, and places after the winners' are not comparable.

    Args:
        score: Places of prompts, which come more than once, and a list of candidates for each → an
            array of scores for each, larger is better.
        candidates: For each of n prompts.
        groups: Into how many groups; a prompt with no more candidates than that has one round.
        seed: Of the division, which depends on it, the prompt's place and its number of candidates.

    Returns:
        n arrays, float32, one score for each candidate: winners have their score of the second
        round. Losers come behind the worst of them, among themselves in the order of their scores
        of the first round.

    Raises:
        UserError: fewer than 2 groups.
        ValueError: `score` gives another number of scores than it was asked for, or NaN.
    """
    if groups < 2:
        raise UserError(f"a tournament of {groups} groups.", allowed="2 or more")
    divided = [_divided(len(listed), groups, [seed, n]) for n, listed in enumerate(candidates)]
    places = [place for place, parts in enumerate(divided) for _ in parts]
    members = [part for parts in divided for part in parts]
    first = [np.zeros(len(listed)) for listed in candidates]
    final = [[] if parts else list(range(len(first[n]))) for n, parts in enumerate(divided)]
    found = _asked(score, candidates, places=places, chosen=members)
    for place, part, values in zip(places, members, found, strict=True):
        first[place][part] = values
        final[place].append(int(part[values.argmax()]))
    asked = [place for place, chosen in enumerate(final) if chosen]
    last = [np.array(final[place]) for place in asked]
    scores = [np.zeros(len(listed), dtype=np.float32) for listed in candidates]
    found = _asked(score, candidates, places=asked, chosen=last)
    for place, part, values in zip(asked, last, found, strict=True):
        losers = np.setdiff1d(np.arange(len(first[place])), part)
        if losers.size:
            beaten = first[place][losers]
            scores[place][losers] = values.min() - _GAP + beaten - beaten.max()
        scores[place][part] = values
    return scores


def _filled(listed: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    """As many as the longest list of a batch; what is added is empty."""
    return [*listed, *[[]] * (count - len(listed))]


def _divided(count: int, groups: int, seed: Sequence[int]) -> list[Indices]:
    """Places of candidates, in groups of about equal size; none where one round is enough."""
    if count <= groups:
        return []
    return np.array_split(np.random.default_rng(seed).permutation(count), groups)


def _asked(
    score: Score[Candidate],
    candidates: Sequence[Sequence[Candidate]],
    *,
    places: Sequence[int],
    chosen: Sequence[Indices],
) -> list[NDArray[np.float64]]:
    """Scores of chosen candidates of prompts."""
    lists = [
        [candidates[place][one] for one in part] for place, part in zip(places, chosen, strict=True)
    ]
    found = [np.asarray(values, dtype=np.float64) for values in score(places, lists)]
    if [values.shape for values in found] != [(len(listed),) for listed in lists]:
        raise ValueError("scores are not as many as the candidates that were asked about")
    if any(np.isnan(values).any() for values in found):
        raise ValueError("a candidate has no score (NaN), so there is no ranking")
    return found
