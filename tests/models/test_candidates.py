from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tastemaker.errors import UserError
from tastemaker.models.candidates import candidate_scores, tournament
from tastemaker.models.conversations import Messages
from tastemaker.models.generation import generate_items
from tastemaker.models.language import LanguageModel
from tastemaker.models.scoring import score_candidates
from tastemaker.models.seq2seq import encode_sources, encode_targets
from tastemaker.models.token_trie import CatalogueTexts

Tiny = Callable[..., LanguageModel]

PROMPTS: list[Messages] = [
    [{"role": "user", "content": f"user_{place} liked {'Heat , Fargo , ' * place}Alien ."}]
    for place in (3, 0, 1)
]
LISTS = [["Alien", "Aliens", "Toy Story 3 of 7", "Heat"], [], ["item_345 or item_ 9", "Fargo"]]


def naive(model: LanguageModel) -> list[list[tuple[float, int]]]:
    """Log-probability and number of tokens, one pair of prompt and candidate at a time."""
    found = []
    for source, listed in zip(encode_sources(model.tokenizer, PROMPTS), LISTS, strict=True):
        row = []
        for target in encode_targets(model.tokenizer, listed):
            labels = torch.tensor([target])
            with torch.inference_mode():
                inputs = {"input_ids": torch.tensor([source]), "labels": labels}
                scores = model.model(**inputs).logits[0].log_softmax(-1)
            row.append((float(scores.gather(1, labels.T).double().sum()), len(target)))
        found.append(row)
    return found


def assert_close(found: Sequence[NDArray[np.float32]], expected: Sequence[Sequence[float]]) -> None:
    assert [len(row) for row in found] == [len(row) for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.dtype == np.float32
        np.testing.assert_allclose(row, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 40, 4000])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_equals_one_pair_at_a_time(kind: str, batch_tokens: int, tiny_seq2seq: Tiny) -> None:
    model = tiny_seq2seq(kind)
    expected = naive(model)
    counts: list[int] = []
    found = candidate_scores(
        model, PROMPTS, LISTS, batch_tokens=batch_tokens, on_progress=counts.append
    )
    assert_close(found, [[score for score, _ in row] for row in expected])
    assert sum(counts) == 6
    per_token = candidate_scores(model, PROMPTS, LISTS, per_token=True, batch_tokens=batch_tokens)
    assert_close(per_token, [[score / tokens for score, tokens in row] for row in expected])


def test_equals_what_beams_score(tiny_t5: LanguageModel) -> None:
    texts = LISTS[0]
    found = generate_items(tiny_t5, PROMPTS, CatalogueTexts.of(tiny_t5, texts), k=4, beams=4)
    scores = np.stack(candidate_scores(tiny_t5, PROMPTS, [texts] * 3))
    assert (found.texts == np.argsort(-scores, axis=1)).all()
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1), rtol=1e-5, atol=1e-4)


def test_a_causal_model_scores_as_it_always_did(tiny_llama: LanguageModel) -> None:
    found = candidate_scores(tiny_llama, PROMPTS, LISTS, per_token=True)
    expected = score_candidates(tiny_llama, PROMPTS, LISTS, per_token=True)
    assert_close(found, [row.tolist() for row in expected])


def test_nothing_to_score(tiny_t5: LanguageModel) -> None:
    assert candidate_scores(tiny_t5, [], []) == []
    assert [len(row) for row in candidate_scores(tiny_t5, PROMPTS, [[], [], []])] == [0, 0, 0]
    with pytest.raises(UserError, match="3 prompts, but candidates for 1"):
        candidate_scores(tiny_t5, PROMPTS, [["Heat"]])


class Liking:
    """Scores numbers by how near they are to what each prompt likes, and notes what it is asked."""

    def __init__(self, liked: Sequence[int]) -> None:
        self.liked = liked
        self.rounds: list[list[tuple[int, list[int]]]] = []

    def __call__(
        self, places: Sequence[int], lists: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        self.rounds.append([(p, list(listed)) for p, listed in zip(places, lists, strict=True)])
        return [
            -np.abs(np.array(listed) - self.liked[place] + 0.1)
            for place, listed in zip(places, lists, strict=True)
        ]


def test_a_tournament_has_two_rounds_of_groups() -> None:
    score = Liking([50, 7])
    candidates = [list(range(100)), list(range(40, 63))]
    found = tournament(score, candidates, groups=10, seed=1)
    first, second = score.rounds
    assert len(score.rounds) == 2
    assert [len(listed) for place, listed in first if place == 0] == [10] * 10
    assert sorted(len(listed) for place, listed in first if place == 1) == [2] * 7 + [3] * 3
    for place, listed in enumerate(candidates):
        groups = [group for other, group in first if other == place]
        assert sorted(one for group in groups for one in group) == listed
        near = sorted(listed, key=lambda one: abs(one - score.liked[place] + 0.1))
        winners = [min(group, key=near.index) for group in groups]
        assert sorted(winners) == sorted(second[place][1])
        order = [listed[one] for one in np.argsort(-found[place])]
        assert order[:10] == [one for one in near if one in winners]
        assert order[10:] == [one for one in near if one not in winners]
        assert found[place].dtype == np.float32
    assert [len(group) for _, group in first[:2]] == [10, 10]
    assert first[0][1] != sorted(first[0][1])


def test_the_best_candidate_always_wins_and_good_losers_stand_behind() -> None:
    for seed in range(20):
        found = tournament(Liking([0]), [list(range(100))], seed=seed)[0]
        assert found.argmax() == 0
        losers = np.sort(found)[:90]
        assert losers.max() < np.sort(found)[90]


def test_few_candidates_have_one_round() -> None:
    score = Liking([3, 3, 3])
    found = tournament(score, [[1, 3, 9], [], [4]], groups=3)
    assert [len(asked) for asked in score.rounds if asked] == [2]
    np.testing.assert_allclose(found[0], [-1.9, -0.1, -6.1], rtol=1e-6)
    assert found[1].shape == (0,)
    assert len(found[2]) == 1


def test_the_division_depends_on_seed_and_place_alone() -> None:
    runs = []
    for seed, candidates in (
        (0, [list(range(50))]),
        (0, [list(range(50)), [1]]),
        (1, [list(range(50))]),
    ):
        score = Liking([9, 9])
        tournament(score, candidates, seed=seed)
        runs.append([group for place, group in score.rounds[0] if place == 0])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_bad_tournaments_have_a_message() -> None:
    with pytest.raises(UserError, match="tournament of 1 groups"):
        tournament(Liking([0]), [[1, 2, 3]], groups=1)
    with pytest.raises(ValueError, match="not as many"):
        tournament(lambda places, _: [np.zeros(1) for _ in places], [[1, 2, 3]], groups=2)
    with pytest.raises(ValueError, match="NaN"):
        tournament(
            lambda _, lists: [np.full(len(one), np.nan) for one in lists], [[1, 2, 3]], groups=2
        )
