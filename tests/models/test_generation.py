from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from tastemaker.errors import UserError
from tastemaker.eval.ranking import ranks_of
from tastemaker.models import beams
from tastemaker.models.conversations import Messages
from tastemaker.models.generation import Generated, generate_items, rank_of_targets
from tastemaker.models.language import LanguageModel, quiet_loading
from tastemaker.models.scoring import score_candidates
from tastemaker.models.seq2seq import encode_sources, encode_targets, is_seq2seq, padded
from tastemaker.models.token_trie import CatalogueTexts

Tiny = Callable[..., LanguageModel]
Small = Callable[..., LanguageModel]

NAMES = ["Alien", "Aliens", "Toy Story", "The Matrix", "Fargo", "Heat", "item_ 12"]
TEXTS = [
    f"{name}{more}" for name, more in product(NAMES, ["", " 2", " 3 of 7", " 36", " 37", " 9"])
]
TEXTS += [f"item_{number}" for number in (300, 301, 345, 346, 3457, 9, 98, 987)]
PROMPTS: list[Messages] = [
    [{"role": "user", "content": f"user_{place} liked {', '.join(TEXTS[place : 2 * place])}."}]
    for place in (1, 7, 3)
]
KINDS = ["t5", "bart", "llama"]


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tiny_seq2seq: Tiny, small: Small) -> LanguageModel:
    return small("llama") if request.param == "llama" else tiny_seq2seq(request.param)


every_kind = pytest.mark.parametrize("model", KINDS, indirect=True)


def exhaustive(
    language_model: LanguageModel, prompts: Sequence[Messages], texts: Sequence[str]
) -> NDArray[np.float64]:
    """Each text behind each prompt, by the model's own forward pass: [prompts, texts]."""
    if not is_seq2seq(language_model.model):
        return np.stack(score_candidates(language_model, prompts, [texts] * len(prompts)))
    labels, _ = padded(encode_targets(language_model.tokenizer, texts), -100)
    found = []
    for source in encode_sources(language_model.tokenizer, prompts):
        with torch.inference_mode():
            inputs = {"input_ids": torch.tensor([source] * len(texts)), "labels": labels}
            scores = language_model.model(**inputs).logits.log_softmax(-1).double()
        said = scores.gather(2, labels.clamp(min=0)[..., None])[..., 0]
        found.append((said * (labels >= 0)).sum(1).numpy())
    return np.stack(found)


def assert_same(found: Generated, expected: Generated) -> None:
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-4)
    assert (found.texts == expected.texts).all()


@every_kind
def test_as_many_beams_as_texts_equal_exhaustive_scoring(model: LanguageModel) -> None:
    assert len(TEXTS) == 50
    catalogue = CatalogueTexts.of(model, TEXTS)
    found = generate_items(model, PROMPTS, catalogue, k=50, beams=50)
    expected = exhaustive(model, PROMPTS, catalogue.texts)
    order = np.argsort(-expected, axis=1, kind="stable")
    assert found.texts.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert (found.texts == order).all()
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(expected, order, axis=1), rtol=1e-5, atol=1e-4
    )
    assert np.ptp(found.scores[:, :10]) > 1


@every_kind
def test_length_normalised_scores_are_per_token(model: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(model, TEXTS)
    found = generate_items(model, PROMPTS[:2], catalogue, k=50, beams=50, length_normalised=True)
    lengths = catalogue.trie.lengths[np.argsort(catalogue.trie.order)]
    expected = exhaustive(model, PROMPTS[:2], catalogue.texts) / lengths
    order = np.argsort(-expected, axis=1, kind="stable")
    assert (found.texts == order).all()
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("normalised", [False, True])
@every_kind
def test_what_is_given_up_could_not_have_been_found(model: LanguageModel, normalised: bool) -> None:
    """The k best of k asked for are the first of all asked for, with the same beams."""
    catalogue = CatalogueTexts.of(model, TEXTS)
    few, all_ = (
        generate_items(model, PROMPTS, catalogue, k=k, beams=50, length_normalised=normalised)
        for k in (3, 50)
    )
    assert_same(few, Generated(all_.texts[:, :3], all_.scores[:, :3]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_everything_generated_is_in_the_catalogue(kind: str, seed: int, tiny_seq2seq: Tiny) -> None:
    model = tiny_seq2seq(kind, seed)
    found, catalogue = some(model, seed)
    assert_texts_of(found, catalogue, exhaustive(model, PROMPTS, catalogue.texts))


@pytest.mark.parametrize("seed", range(2))
def test_everything_that_a_causal_model_generates_too(seed: int, tiny_llama: LanguageModel) -> None:
    changed = copy.deepcopy(tiny_llama.model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for weights in changed.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
    model = replace(tiny_llama, model=changed)
    found, catalogue = some(model, seed)
    assert_texts_of(found, catalogue, exhaustive(model, PROMPTS, catalogue.texts))


def some(model: LanguageModel, seed: int) -> tuple[Generated, CatalogueTexts]:
    rng = np.random.default_rng(seed)
    catalogue = CatalogueTexts.of(model, rng.choice(TEXTS, size=int(rng.integers(4, 40))).tolist())
    return generate_items(model, PROMPTS, catalogue, k=4, beams=int(rng.integers(4, 7))), catalogue


def assert_texts_of(
    found: Generated, catalogue: CatalogueTexts, expected: NDArray[np.float64]
) -> None:
    full = min(4, len(catalogue))
    assert (found.texts[:, :full] >= 0).all()
    assert (found.texts[:, full:] == -1).all()
    for texts, scores, own in zip(found.texts, found.scores, expected, strict=True):
        assert len(set(texts[:full].tolist())) == full
        assert (np.diff(scores[:full]) <= 0).all()
        np.testing.assert_allclose(scores[:full], own[texts[:full]], rtol=1e-5, atol=1e-4)


@every_kind
def test_batch_mates_padding_and_order_do_not_matter(model: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(model, TEXTS)
    together = generate_items(model, PROMPTS, catalogue, k=5, beams=8)
    backwards = generate_items(model, PROMPTS[::-1], catalogue, k=5, beams=8, batch_tokens=300)
    assert_same(Generated(backwards.texts[::-1], backwards.scores[::-1]), together)
    for place, prompt in enumerate(PROMPTS):
        alone = generate_items(model, [prompt], catalogue, k=5, beams=8)
        row = slice(place, place + 1)
        assert_same(alone, Generated(together.texts[row], together.scores[row]))


@every_kind
def test_excluded_items_do_not_come_and_k_others_do(model: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(model, [*TEXTS, TEXTS[0]])
    best = generate_items(model, PROMPTS, catalogue, k=50, beams=50)
    keep = [5, 0, 30]
    gone = [row[None, : 50 - n] for row, n in zip(best.texts, keep, strict=True)]
    exclude = [np.array(catalogue.items(row)[0]) for row in gone]
    found = generate_items(model, PROMPTS, catalogue, k=5, beams=5, exclude=exclude)
    for texts, scores, all_, own, n in zip(
        found.texts, found.scores, best.texts, best.scores, keep, strict=True
    ):
        left = min(n, 5)
        assert (texts[left:] == -1).all()
        assert (scores[left:] == -np.inf).all()
        assert set(texts[:left]) <= set(all_[50 - n :])
        if n <= 5:
            assert texts[:left].tolist() == all_[50 - n :].tolist()
            np.testing.assert_allclose(scores[:left], own[50 - n :], rtol=1e-5, atol=1e-4)


def test_a_text_goes_when_all_its_items_are_excluded(tiny_t5: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(tiny_t5, ["Heat", "Fargo", "Heat"])
    gone = [np.array([0]), np.array([2, 0, 0])]
    found = generate_items(tiny_t5, PROMPTS[:2], catalogue, k=2, beams=2, exclude=gone)
    assert sorted(found.texts[0].tolist()) == [0, 1]
    assert found.texts[1].tolist() == [1, -1]


def test_one_item_and_no_prompts(tiny_t5: LanguageModel, tiny_llama: LanguageModel) -> None:
    for model in (tiny_t5, tiny_llama):
        catalogue = CatalogueTexts.of(model, ["The Matrix"])
        found = generate_items(model, PROMPTS[:2], catalogue, k=2, beams=3)
        assert found.texts.tolist() == [[0, -1], [0, -1]]
        expected = exhaustive(model, PROMPTS[:2], catalogue.texts)
        np.testing.assert_allclose(found.scores[:, :1], expected, rtol=1e-5, atol=1e-4)
        assert generate_items(model, [], catalogue, k=2).texts.shape == (0, 2)


@every_kind
def test_settings_of_the_model_do_not_leak(model: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(model, TEXTS)
    expected = generate_items(model, PROMPTS, catalogue, k=5, beams=8)
    before = model.model.generation_config
    model.model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_p=0.1,
        num_beams=3,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        length_penalty=9.0,
        forced_bos_token_id=5,
        forced_eos_token_id=1,
        suppress_tokens=[3, 4],
        eos_token_id=before.eos_token_id,
    )
    try:
        assert_same(generate_items(model, PROMPTS, catalogue, k=5, beams=8), expected)
    finally:
        model.model.generation_config = before


@every_kind
def test_reads_through_an_adapter_and_leaves_the_model_as_it_was(model: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(model, TEXTS)
    targets = ["q", "v"] if model.name == "t5" else ["q_proj", "v_proj"]
    with quiet_loading(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        adapted = replace(model, model=get_peft_model(copy.deepcopy(model.model), config))
    attention = model.model.config._attn_implementation
    adapted.model.train()
    found = generate_items(adapted, PROMPTS[:2], catalogue, k=50, beams=50)
    assert adapted.model.training
    assert adapted.model.config._attn_implementation == attention
    adapted.model.eval()
    expected = exhaustive(adapted, PROMPTS[:2], catalogue.texts)
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1), rtol=1e-5, atol=1e-4)
    plain = generate_items(model, PROMPTS[:2], catalogue, k=50, beams=50)
    assert np.abs(plain.scores - found.scores).max() > 0.01


def test_sources_that_cannot_be_shared_are_repeated(
    tiny_t5: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = CatalogueTexts.of(tiny_t5, TEXTS)
    expected = generate_items(tiny_t5, PROMPTS, catalogue, k=5, beams=8)
    asked: list[Any] = []
    monkeypatch.setattr(beams, "_shared_source_attention", lambda *_, **__: asked.append(1))
    monkeypatch.setattr(
        type(tiny_t5.model), "_can_set_attn_implementation", classmethod(lambda _: False)
    )
    assert_same(generate_items(tiny_t5, PROMPTS, catalogue, k=5, beams=8), expected)
    assert not asked


def test_progress_counts_every_prompt(tiny_t5: LanguageModel) -> None:
    counts: list[int] = []
    catalogue = CatalogueTexts.of(tiny_t5, TEXTS[:9])
    generate_items(
        tiny_t5, PROMPTS, catalogue, k=2, beams=2, batch_tokens=60, on_progress=counts.append
    )
    assert sum(counts) == len(PROMPTS)
    assert len(counts) > 1


def test_bad_input_has_a_message(tiny_t5: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(tiny_t5, TEXTS[:9])
    with pytest.raises(UserError, match="5 items cannot be found with 4 beams"):
        generate_items(tiny_t5, PROMPTS, catalogue, k=5, beams=4)
    with pytest.raises(UserError, match="0 items"):
        generate_items(tiny_t5, PROMPTS, catalogue, k=0)
    with pytest.raises(UserError, match="for 1 prompts, but 3"):
        generate_items(tiny_t5, PROMPTS, catalogue, exclude=[np.array([1])])
    with pytest.raises(UserError, match="items 2 to 9 are to be excluded") as caught:
        generate_items(tiny_t5, PROMPTS[:1], catalogue, exclude=[np.array([2, 9])])
    assert "0 to 8" in str(caught.value)


def test_models_that_cannot_follow_branches_are_refused(small: Small) -> None:
    model = small("mamba")
    with pytest.raises(UserError, match="'mamba' has layers that cannot follow"):
        generate_items(model, PROMPTS, CatalogueTexts.of(model, TEXTS[:3]), k=1, beams=2)


def test_a_prompt_beyond_the_context_is_refused(tiny_seq2seq: Tiny) -> None:
    model = tiny_seq2seq("bart")
    long: Messages = [{"role": "user", "content": "liked " * 200}]
    with pytest.raises(UserError, match="more than the 128"):
        generate_items(model, [long], CatalogueTexts.of(model, TEXTS[:3]), k=1, beams=2)


def test_ranks_follow_the_tie_rule_of_full_ranking(tiny_t5: LanguageModel) -> None:
    texts = [TEXTS[place] for place in (0, 1, 2, 3, 1, 1, 0, 4)]
    catalogue = CatalogueTexts.of(tiny_t5, texts)
    found = generate_items(tiny_t5, PROMPTS, catalogue, k=5, beams=5)
    scores = np.empty((len(PROMPTS), len(texts)))
    for row in range(len(PROMPTS)):
        of_text = dict(zip(found.texts[row].tolist(), found.scores[row].tolist(), strict=True))
        scores[row] = [of_text[text] for text in catalogue.text_of_item.tolist()]
    questions = np.repeat(np.arange(len(PROMPTS)), len(texts))
    for target in range(len(texts)):
        labels = np.tile(np.arange(len(texts)) == target, len(PROMPTS)).astype(np.int64)
        expected = ranks_of(scores.ravel(), labels, questions)
        targets = np.full(len(PROMPTS), target)
        assert (rank_of_targets(found, catalogue, targets) == expected).all()


def test_ranks_of_targets_by_hand(tiny_t5: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(tiny_t5, ["Heat", "Fargo", "Heat", "Alien", "Aliens", "Heat"])
    found = Generated(
        np.array([[0, 1, 2], [1, 0, 3], [0, 3, -1]]),
        np.array([[-1.0, -2.0, -2.0], [-1.0, -2.0, -3.0], [-1.0, -2.0, -np.inf]], dtype=np.float32),
    )
    assert rank_of_targets(found, catalogue, np.array([3, 2, 1])).tolist() == [4.5, 3.0, np.inf]
    gone = [np.array([0, 2]), np.array([0, 2, 1]), np.array([5])]
    ranks = rank_of_targets(found, catalogue, np.array([3, 2, 4]), exclude=gone)
    assert ranks.tolist() == [2.5, 1.5, 3.0]
