"""Whole-word embeddings: the indices of P5's walk, the same wherever the encoder runs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tastemaker.errors import UserError
from tastemaker.models.conversations import Messages
from tastemaker.models.generation import generate_items
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.models.new_tokens import with_tokens
from tastemaker.models.scoring import score_yes_no
from tastemaker.models.seq2seq import encode_sources, encode_targets, padded
from tastemaker.models.token_trie import CatalogueTexts
from tastemaker.models.whole_words import WholeWordT5, whole_word_ids, word_starts

PIECES = ("<pad>", "</s>", "<unk>", "▁user_", "▁item", "_", "12", "73", "91", "▁,", "▁")
STARTS = torch.tensor([piece.startswith("▁") for piece in PIECES])
ENDS = torch.tensor([piece in ("<pad>", "</s>") for piece in PIECES])
PROMPTS: list[Messages] = [
    [{"role": "user", "content": "user_12 item_7391"}],
    [{"role": "user", "content": "Is item_262 liked , or item_<CI3><CI17> or item_5 or user_7 ?"}],
]


def p5s_walk(pieces: Sequence[str], positions: int) -> list[int]:
    """Section 3 of P5 in plain Python; words beyond the table share its last row."""
    found, word = [], 0
    for piece in pieces:
        word += piece.startswith("▁")
        found.append(0 if piece in ("</s>", "<pad>") else min(word, positions - 1))
    return found


def ids_of(pieces: Sequence[str], positions: int = 512) -> list[int]:
    tokens = torch.tensor([[PIECES.index(piece) for piece in pieces]])
    found: list[int] = whole_word_ids(tokens, starts=STARTS, ends=ENDS, positions=positions)[
        0
    ].tolist()
    return found


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ("▁user_ 12 ▁item _ 73 91 </s>", [1, 1, 2, 2, 2, 2, 0]),
        ("▁user_ 12 ▁, ▁item _ 73 </s> <pad> <pad>", [1, 1, 2, 3, 3, 3, 0, 0, 0]),
        ("<pad> <pad> ▁item _ 91 </s>", [0, 0, 1, 1, 1, 0]),  # a decoder's tokenizer pads left
        ("12 ▁item <unk> </s>", [0, 1, 1, 0]),  # nothing has begun a word yet
        ("▁ 12 ▁ ▁item </s>", [1, 1, 2, 3, 0]),  # a space of its own begins one too
        ("</s>", [0]),
    ],
)
def test_hand_made_examples(pieces: str, expected: list[int]) -> None:
    assert ids_of(pieces.split()) == expected


def test_more_words_than_positions_share_the_last_row() -> None:
    assert ids_of(["▁item", "12"] * 4 + ["</s>"], positions=3) == [1, 1, 2, 2, 2, 2, 2, 2, 0]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=40), st.integers(2, 20))
def test_equals_the_plain_walk(pieces: list[str], positions: int) -> None:
    assert ids_of(pieces, positions) == p5s_walk(pieces, positions)


@pytest.fixture
def language_model(t5_folder: Path) -> LanguageModel:
    return load(t5_folder)


def load(folder: Path, **more: Any) -> LanguageModel:
    return load_language_model(str(folder), dtype=torch.float32, device="cpu", seq2seq=True, **more)


@given(text=st.text(alphabet="ab item_user<CI3>/sp0129 ▁,é\n😀", max_size=30))
def test_equals_the_walk_on_any_text(t5_folder: Path, text: str) -> None:
    model = cached(t5_folder)
    tokens = encode_targets(model.tokenizer, [text])[0]
    pieces = model.tokenizer.convert_ids_to_tokens(tokens)
    assert model.model.encoder.words(torch.tensor([tokens]))[0].tolist() == p5s_walk(pieces, 16)


cached = functools.cache(load)


def test_all_pieces_of_an_item_are_one_word(language_model: LanguageModel) -> None:
    tokenizer = language_model.tokenizer
    for text in ("user_12 item_7391", "user_12 item_<CI3><CI17>"):
        tokens = encode_targets(tokenizer, [text])[0]
        words = language_model.model.encoder.words(torch.tensor([tokens]))[0].tolist()
        pieces = tokenizer.convert_ids_to_tokens(tokens)
        item = next(place for place, piece in enumerate(pieces) if piece.startswith("▁item"))
        assert len(pieces) > item + 2
        assert words == [1] * item + [2] * (len(pieces) - item - 1) + [0]


def test_tokens_beyond_the_tokenizer_begin_nothing(language_model: LanguageModel) -> None:
    tokenizer = language_model.tokenizer
    found = word_starts(tokenizer, len(tokenizer) + 5)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert found.tolist() == [piece.startswith("▁") for piece in pieces] + [False] * 5


Recorded = list[Tensor]


@pytest.fixture
def recorded(language_model: LanguageModel) -> Recorded:
    """What the table is asked for."""
    seen: Recorded = []
    table = language_model.model.encoder.whole_words
    table.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_the_same_wherever_the_encoder_runs(
    language_model: LanguageModel, recorded: Recorded
) -> None:
    model, tokenizer = language_model.model, language_model.tokenizer
    sources = encode_sources(tokenizer, PROMPTS)
    expected = [p5s_walk(tokenizer.convert_ids_to_tokens(source), 16) for source in sources]
    tokens, mask = padded(sources, tokenizer.pad_token_id)

    def forward() -> None:
        model.train()(input_ids=tokens, attention_mask=mask, labels=tokens[:, :3].clone())
        model.eval()

    catalogue = CatalogueTexts.of(language_model, ["item_7", "item_9"])
    runs: dict[str, Callable[[], object]] = {
        "training": forward,
        "free generation": lambda: model.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=3, num_beams=2
        ),
        "yes or no": lambda: score_yes_no(language_model, PROMPTS),
        "the catalogue": lambda: generate_items(language_model, PROMPTS, catalogue, k=1, beams=2),
    }
    for name, run in runs.items():
        recorded.clear()
        run()
        # Once a prompt, however many beams; without the two end tokens that beams try a model with.
        rows = [unpadded(row) for found in recorded for row in found.tolist() if any(row)]
        assert sorted(rows) == sorted(map(unpadded, expected)), name


def unpadded(words: list[int]) -> list[int]:
    """Without the end token and padding."""
    return words[: max(place for place, word in enumerate(words) if word) + 1]


def logits(language_model: LanguageModel) -> Tensor:
    tokenizer = language_model.tokenizer
    tokens, mask = padded(encode_sources(tokenizer, PROMPTS), tokenizer.pad_token_id)
    labels, _ = padded(encode_targets(tokenizer, ["Yes.", "No."]), -100)
    with torch.inference_mode():
        found = language_model.model(input_ids=tokens, attention_mask=mask, labels=labels)
    return found.logits


def test_they_change_logits(language_model: LanguageModel) -> None:
    before = logits(language_model)
    table = language_model.model.encoder.whole_words.weight
    assert float(table.detach().std()) > 0.5
    table.data.zero_()
    assert float((logits(language_model) - before).abs().max()) > 1e-3


def test_switched_off_nothing_is_added(language_model: LanguageModel, tmp_path: Path) -> None:
    """The same weights as a plain T5, and as one whose table is zero."""
    language_model.model.encoder.whole_words.weight.data.zero_()
    expected = logits(language_model)
    plain = plain_folder(language_model, tmp_path)
    off = load(plain)
    assert not isinstance(off.model, WholeWordT5)
    torch.testing.assert_close(logits(off), expected)


def plain_folder(language_model: LanguageModel, folder: Path) -> Path:
    """The model without its table."""
    from transformers import T5ForConditionalGeneration

    config = copy.deepcopy(language_model.model.config)
    del config.whole_words
    plain = T5ForConditionalGeneration(config)
    weights = language_model.model.state_dict()
    weights.pop("encoder.whole_words.weight")
    plain.load_state_dict(weights)
    plain.save_pretrained(folder / "plain")
    language_model.tokenizer.save_pretrained(folder / "plain")
    return folder / "plain"


def test_a_plain_t5_gets_a_table_that_changes_nothing(
    language_model: LanguageModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = plain_folder(language_model, tmp_path)
    expected = logits(load(folder))
    capfd.readouterr()
    generator = torch.get_rng_state()
    added = load(folder, whole_words=8)
    assert isinstance(added.model, WholeWordT5)
    assert added.model.encoder.whole_words.weight.shape == (8, 32)
    assert torch.count_nonzero(added.model.encoder.whole_words.weight) == 0
    torch.testing.assert_close(logits(added), expected)
    assert torch.equal(torch.get_rng_state(), generator)
    assert capfd.readouterr() == ("", "")  # transformers would report new weights


def test_saved_and_read_back_it_gives_the_same_logits(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    language_model.model.encoder.whole_words.weight.data.normal_(0, 2)
    language_model.model.save_pretrained(tmp_path / "saved")
    language_model.tokenizer.save_pretrained(tmp_path / "saved")
    for rows in (0, 8):  # what it has stays, whatever is asked for
        again = load(tmp_path / "saved", whole_words=rows)
        assert again.model.encoder.whole_words.weight.shape == (16, 32)
        assert torch.equal(logits(again), logits(language_model))


def test_embeddings_given_from_outside_are_taken_as_they_are(
    language_model: LanguageModel, recorded: Recorded
) -> None:
    tokens = torch.tensor(encode_sources(language_model.tokenizer, PROMPTS[:1]))
    encoder = language_model.model.encoder
    with torch.inference_mode():
        both = encoder.embed_tokens(tokens) + encoder.whole_words(encoder.words(tokens))
        expected = encoder(input_ids=tokens).last_hidden_state
        recorded.clear()
        found = encoder(inputs_embeds=both).last_hidden_state
    assert not recorded
    assert torch.equal(found, expected)


def test_new_tokens_belong_to_the_word_before_them(language_model: LanguageModel) -> None:
    known = len(language_model.tokenizer)
    before = logits(language_model)[..., :known]
    with_tokens(language_model, ["<CI98>", "<CI99>"], seed=1)
    tokens = encode_targets(language_model.tokenizer, ["item_<CI98><CI99> item_<CI99>"])[0]
    words = language_model.model.encoder.words(torch.tensor([tokens]))[0].tolist()
    assert words == p5s_walk(language_model.tokenizer.convert_ids_to_tokens(tokens), 16)
    assert words[-5:] == [1, 1, 2, 2, 0]
    torch.testing.assert_close(logits(language_model)[..., :known], before)


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_only_a_t5_can_have_them(
    kind: str, tiny_seq2seq: Callable[..., LanguageModel], llama_folder: Path, tmp_path: Path
) -> None:
    folder = llama_folder
    if kind == "bart":
        folder = tmp_path / "bart"
        bart = tiny_seq2seq("bart")
        bart.model.save_pretrained(folder)
        bart.tokenizer.save_pretrained(folder)
    with pytest.raises(UserError) as caught:
        load(folder, whole_words=8)
    assert f"is a {kind}, which cannot have whole-word embeddings" in str(caught.value)
    assert "Set tune.whole_words to 0." in str(caught.value)


def test_it_is_refused_where_only_causal_models_are_welcome(t5_folder: Path) -> None:
    with pytest.raises(UserError, match=r"is a sequence-to-sequence model \(t5\)[^\0]*smollm2"):
        load_language_model(str(t5_folder), device="cpu")
