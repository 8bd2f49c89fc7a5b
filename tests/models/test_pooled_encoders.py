from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from tastemaker.errors import MissingError, UnknownNameError, UserError
from tastemaker.models.encoders import PooledEncoder, check_encoder, load_encoder
from tastemaker.models.language import LanguageModel, quiet_loading
from tastemaker.models.layers.pooling import POOLINGS, pool
from tastemaker.models.vectors import Vectors

WORDS = ["a", "film", "odd", "even", "war", "quiet", "two", "friends", ".", "[", "]", "sep"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["a quiet war film.", "", "two friends", "odd " * 50, "even film [SEP] odd"]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random layers with a tokenizer of a few words and 40 positions."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *WORDS])}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    plain.normalizer, plain.pre_tokenizer = Lowercase(), BertPreTokenizer()
    plain.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=plain, model_max_length=512, **names).save_pretrained(
        folder
    )
    with torch.random.fork_rng(), quiet_loading():
        torch.manual_seed(0)
        BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=48,
                max_position_embeddings=40,
                initializer_range=0.5,
            )
        ).save_pretrained(folder)
    return folder


@pytest.fixture(params=["bert", "llama"])
def folder(request: pytest.FixtureRequest, bert_folder: Path, llama_folder: Path) -> Path:
    return bert_folder if request.param == "bert" else llama_folder


def states(folder: Path, text: str) -> list[torch.Tensor]:
    """Embeddings and the states behind each layer of a text alone, [tokens, width] each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(text, split_special_tokens=True, return_tensors="pt")
    with torch.no_grad():
        found = model(
            input_ids=inputs["input_ids"], output_hidden_states=True, use_cache=False
        ).hidden_states
    return [layer[0] for layer in found]


def test_each_pooling_is_its_formula(folder: Path) -> None:
    for text in ("a quiet war film.", "two friends"):
        layers = states(folder, text)
        last = layers[-1]
        weights = torch.arange(1.0, len(last) + 1)
        expected = {
            "mean": last.mean(0),
            "cls": last[0],
            "last": last[-1],
            "first_last": ((layers[1] + last) / 2).mean(0),
            "weighted": (weights[:, None] * last).sum(0) / weights.sum(),
        }
        for pooling in POOLINGS:
            encoder = load_encoder(str(folder), pooling=pooling, device="cpu")
            found = encoder.encode([text])[0]
            np.testing.assert_allclose(found, expected[pooling].numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_alone_and_in_a_batch_gets_the_same_vector(folder: Path, pooling: str) -> None:
    encoder = load_encoder(str(folder), pooling=pooling, device="cpu")
    together = encoder.encode(TEXTS, batch_size=100)
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), encoder.dim)
    for batch_size in (1, 3):
        found = encoder.encode(TEXTS[::-1], batch_size=batch_size)[::-1]
        np.testing.assert_allclose(found, together, atol=1e-5, rtol=1e-5)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-5, rtol=1e-5)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(POOLINGS), st.booleans()
)
def test_padding_does_not_matter(lengths: list[int], pooling: Any, left: bool) -> None:
    width = max(lengths) + 1
    layers = torch.randn(3, len(lengths), width, 4)
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, slice(width - length, None) if left else slice(length)] = 1
    found = pool(list(layers), mask, pooling)
    for row in range(len(lengths)):
        alone = layers[:, row, mask[row].bool()][:, None]
        whole = torch.ones(alone.shape[1:3], dtype=torch.int64)
        torch.testing.assert_close(found[row], pool(list(alone), whole, pooling)[0])


def test_long_texts_are_cut_and_counted(bert_folder: Path) -> None:
    encoder = load_encoder(str(bert_folder), pooling="mean", device="cpu")
    assert encoder.max_tokens == 40
    long, cut = encoder.encode(["odd " * 50, "odd " * 38])
    np.testing.assert_allclose(long, cut, atol=1e-5)
    assert encoder.cut_texts == 1
    short = load_encoder(str(bert_folder), pooling="mean", max_tokens=4, device="cpu")
    assert short.max_tokens == 4
    found = short.encode(["odd even film", "odd even war", "odd even"])
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)
    assert short.cut_texts == 2
    for wrong in (0, 41):
        with pytest.raises(UserError, match=f"max_tokens is {wrong}"):
            load_encoder(str(bert_folder), pooling="mean", max_tokens=wrong)


def test_special_tokens_in_texts_are_plain_text(bert_folder: Path, llama_folder: Path) -> None:
    for folder, hostile in ((bert_folder, "odd [SEP] film"), (llama_folder, "odd<|im_end|>film")):
        encoder = load_encoder(str(folder), pooling="mean", device="cpu")
        assert isinstance(encoder, PooledEncoder)
        special = set(encoder._tokenizer.all_special_ids)
        (ids,) = encoder._tokenize([hostile])
        inside = ids[1:-1] if folder == bert_folder else ids
        assert not special & set(inside)


def test_the_name_tells_the_pooling_and_vectors_are_not_mixed(
    bert_folder: Path, tmp_path: Path
) -> None:
    name = str(bert_folder)
    mean, cls = (load_encoder(name, pooling=how, device="cpu") for how in ("mean", "cls"))
    assert (mean.name, mean.pooling) == (f"{name}|mean", "mean")
    assert mean.weights is not None
    assert mean.weights == cls.weights
    Vectors.update(tmp_path, ["a"], ["odd film"], encoder=mean)
    with pytest.raises(Exception, match="cannot join"):
        Vectors.update(tmp_path, ["b"], ["even film"], encoder=cls)
    short = load_encoder(name, pooling="mean", max_tokens=4, device="cpu")
    with pytest.raises(Exception, match="max_tokens 40; 4 cannot join"):
        Vectors.update(tmp_path, ["b"], ["even film"], encoder=short)


def test_the_packaged_language_model_is_an_encoder(smollm2: LanguageModel) -> None:
    check_encoder("smollm2", pooling="weighted")
    encoder = load_encoder("smollm2", pooling="last", device="cpu")
    texts = ["A quiet war film.", "Two friends rob a bank and flee.", ""]
    found = encoder.encode(texts)
    assert (encoder.name, found.shape) == ("smollm2|last", (3, 576))
    ids = smollm2.tokenizer(texts[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = smollm2.model.model(ids).last_hidden_state[0, -1]
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-3, rtol=1e-3)
    assert not found[2].any()


def test_what_is_wrong_is_found_without_loading(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"")
    bert = str(bert_folder)
    cases: list[tuple[str, dict[str, Any], type[UserError], str]] = [
        (bert, {}, UserError, "pooling: mean, cls, last, first_last, weighted"),
        (bert, {"pooling": "first-last"}, UnknownNameError, "did you mean 'first_last'"),
        (bert, {"pooling": "cls", "base_url": "http://x/v1"}, UserError, "takes no base_url"),
        ("minilm", {"pooling": "mean"}, UserError, "pools by itself"),
        ("hashing", {"pooling": "mean"}, UserError, "takes no pooling"),
        ("openai:", {}, UserError, "names no model"),
        ("openai:small", {"pooling": "mean"}, UserError, "takes no pooling"),
        ("openai:small", {}, MissingError, "export OPENAI_API_KEY"),
        ("openai:small", {"base_url": "localhost:80"}, UserError, "is no address"),
        (str(tmp_path), {"pooling": "mean"}, UserError, "holds no model"),
        (str(tmp_path / "bin"), {"pooling": "mean"}, UserError, r"no \*.safetensors"),
        ("smollm2", {}, UserError, "is a plain model"),
    ]
    for name, options, kind, message in cases:
        for attempt in (check_encoder, load_encoder):
            with pytest.raises(kind, match=message):
                attempt(name, **options)
    assert check_encoder(bert, pooling="mean") == bert
    for name in ("hashing", "openai:small"):
        with pytest.raises(UserError, match="takes no max_tokens"):
            load_encoder(name, max_tokens=5)
