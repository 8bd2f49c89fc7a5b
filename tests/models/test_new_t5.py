"""A T5 that starts from nothing: how its tokenizer cuts, and what its shape may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration

from tastemaker.errors import UserError
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.models.new_t5 import T5Shape, make_t5, new_tokenizer
from tastemaker.models.new_tokens import with_tokens
from tastemaker.models.seq2seq import encode_targets
from tastemaker.models.whole_words import WholeWordT5

SHAPE = T5Shape(
    layers=1, width=16, heads=2, feed_forward=32, vocabulary=200, dropout=0.1, whole_words=8
)
TITLES = [
    "Heat (1995)",
    "Amélie",
    "Toy Story 2",
    "Se7en",
    "Léon: The Professional (1994)",
    "M*A*S*H",
]
TEXTS = [*TITLES, "user_1 likes item_27 , item_301"]
CLUSTERS = ("<CI0>", "<CI3>", "<CI17>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return new_tokenizer(TEXTS * 5, vocabulary=200, tokens=CLUSTERS)


def pieces(tokenizer: Any, text: str) -> list[str]:
    found: list[str] = tokenizer.convert_ids_to_tokens(encode_targets(tokenizer, [text])[0])
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7391", ["▁739", "1"]),
        ("0", ["▁0"]),
        ("007", ["▁007"]),
        ("12345678", ["▁123", "456", "78"]),
        ("12 101", ["▁12", "▁101"]),
        ("item_7391", ["▁item_", "739", "1"]),
        ("user_12", ["▁user_", "12"]),
        ("item_<CI3><CI17>", ["▁item_", "<CI3>", "<CI17>"]),
        ("item_<CI3><CI17> , item_<CI0>", ["▁item_", "<CI3>", "<CI17>", "▁,", "▁item_", "<CI0>"]),
        ("", []),
    ],
)
def test_how_texts_are_cut(tokenizer: Any, text: str, expected: list[str]) -> None:
    assert pieces(tokenizer, text) == [*expected, "</s>"]


@given(number=st.text(alphabet="0123456789", min_size=1, max_size=12), item=st.booleans())
def test_every_number_is_cut_into_known_groups_of_three(
    tokenizer: Any, number: str, item: bool
) -> None:
    found = pieces(tokenizer, f"item_{number}" if item else number)[:-1]
    groups = [number[start : start + 3] for start in range(0, len(number), 3)]
    assert found == (["▁item_", *groups] if item else ["▁" + groups[0], *groups[1:]])


def test_all_groups_are_known(tokenizer: Any) -> None:
    known = tokenizer.get_vocab()
    groups = [f"{value:0{width}}" for width in (1, 2, 3) for value in range(10**width)]
    assert len(groups) == 1110
    assert all(group in known and "▁" + group in known for group in groups)


HOSTILE = st.lists(
    st.sampled_from(
        ["</s>", "<pad>", "<unk>", "<CI3>", "<CI3", " ", "\n", "😀", "Ω", "\0", "▁", "Heat", "12"]
    )
    | st.text(max_size=3)
).map("".join)


@given(text=HOSTILE)
def test_no_text_holds_the_end_or_padding(tokenizer: Any, text: str) -> None:
    (tokens,) = encode_targets(tokenizer, [text])
    assert tokens[-1] == tokenizer.eos_token_id == 1
    assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & set(tokens[:-1])


@pytest.mark.parametrize("text", [*TITLES, "user_1 likes item_2730 , item_301", "item_<CI3><CI17>"])
def test_what_is_written_is_read_back(tokenizer: Any, text: str) -> None:
    tokens = encode_targets(tokenizer, [text])[0]
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text


def test_unknown_characters_become_the_unknown_token(tokenizer: Any) -> None:
    assert pieces(tokenizer, "Ω Heat") == ["▁", "<unk>", *pieces(tokenizer, "Heat")]


def test_the_same_seed_makes_the_same_weights(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_t5(TEXTS, tmp_path / name, shape=SHAPE, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    one, two, three = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["shared.weight"], three["shared.weight"])
    assert not torch.equal(one["encoder.whole_words.weight"], three["encoder.whole_words.weight"])


@pytest.mark.parametrize("rows", [0, 8])
def test_the_shape_is_the_one_asked_for(tmp_path: Path, rows: int) -> None:
    make_t5(TEXTS, tmp_path / "t5", shape=replace(SHAPE, layers=2, whole_words=rows), seed=0)
    model = load_language_model(str(tmp_path / "t5"), device="cpu", seq2seq=True).model
    assert type(model) is (WholeWordT5 if rows else T5ForConditionalGeneration)
    config = model.config
    assert (config.num_layers, config.num_decoder_layers) == (2, 2)
    assert (config.d_model, config.num_heads, config.d_kv, config.d_ff) == (16, 2, 8, 32)
    assert config.dropout_rate == 0.1
    assert config.vocab_size % 8 == 0
    assert config.vocab_size < 200 + 2220 + 3 + 8


def test_a_vocabulary_without_place_for_all_characters(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_t5(TEXTS, tmp_path / "t5", shape=replace(SHAPE, vocabulary=12), seed=0)
    assert "a vocabulary of 12 has no place for the" in str(caught.value)
    assert "Raise tune.new_model.vocabulary." in str(caught.value)
    assert not (tmp_path / "t5").exists()


def test_heads_that_cannot_share_the_width() -> None:
    with pytest.raises(UserError) as caught:
        replace(SHAPE, heads=3)
    assert "a width of 16 cannot be shared by 3 heads" in str(caught.value)
    assert "a number of heads that divides the width" in str(caught.value)


# Whole tokens that a model does not know yet.


def load(folder: Path) -> LanguageModel:
    return load_language_model(str(folder), dtype=torch.float32, device="cpu", seq2seq=True)


@pytest.fixture(params=["tied llama", "untied llama", "t5"])
def stranger(
    request: pytest.FixtureRequest,
    llama_folder: Path,
    t5_folder: Path,
    tmp_path: Path,
) -> LanguageModel:
    """A model that has never seen clusters numbered from 90 on."""
    folder = t5_folder if request.param == "t5" else llama_folder
    found = load(folder)
    if request.param == "untied llama":
        found.model.config.tie_word_embeddings = False
        found.model.lm_head.weight = torch.nn.Parameter(found.model.lm_head.weight.detach() * 2)
    return found


NEW = ("<CI90>", "<CI91>", "<CI92>")


def test_new_tokens_are_whole_and_drawn_like_the_others(stranger: LanguageModel) -> None:
    model, tokenizer = stranger.model, stranger.tokenizer
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    known = len(tokenizer)
    before = [table.weight.detach()[:known].clone() for table in tables]
    found = with_tokens(stranger, NEW, seed=4)
    ids = tokenizer.convert_tokens_to_ids(list(NEW))
    assert ids == [known, known + 1, known + 2]
    cut = tokenizer("item_<CI90><CI92> , item_<CI91>", split_special_tokens=True)["input_ids"]
    assert [token for token in cut if token in ids] == [ids[0], ids[2], ids[1]]
    tables = [found.model.get_input_embeddings(), found.model.get_output_embeddings()]
    assert (tables[0].weight is tables[1].weight) == tied
    assert found.model.config.vocab_size == len(tables[0].weight) >= known + 3
    for table, old in zip(tables, before, strict=True):
        assert torch.equal(table.weight[:known], old)
        fresh = table.weight.detach()[known : known + 3]
        assert len({tuple(row) for row in fresh.tolist()}) == 3
        spread = float((fresh - old.mean(0)).std() / old.std(0).mean())
        assert 0.7 < spread < 1.4


def test_new_tokens_follow_from_the_seed(t5_folder: Path) -> None:
    first, same, other = (
        with_tokens(load(t5_folder), NEW, seed=seed).model.shared.weight[-3:] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("stranger", ["tied llama", "t5"], indirect=True)
def test_saved_with_new_tokens_it_is_read_back(stranger: LanguageModel, tmp_path: Path) -> None:
    with_tokens(stranger, NEW, seed=4)
    stranger.model.save_pretrained(tmp_path / "saved")
    stranger.tokenizer.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    text = "item_<CI90><CI92>"
    assert again.tokenizer(text)["input_ids"] == stranger.tokenizer(text)["input_ids"]
    for table in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(
            getattr(again.model, table)().weight, getattr(stranger.model, table)().weight
        )


def test_known_tokens_change_nothing(t5_folder: Path) -> None:
    model = load(t5_folder)
    before = model.model.shared.weight.detach().clone()
    with_tokens(model, CLUSTERS, seed=1)
    assert torch.equal(model.model.shared.weight, before)
