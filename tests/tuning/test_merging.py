"""A merged model is a model like any other, or it is not there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tastemaker.errors import SaveCheckError, UserError
from tastemaker.models.adapters import with_adapter
from tastemaker.models.language import load_language_model, quiet_loading
from tastemaker.stage import Run, Stage, Workspace
from tastemaker.tuning import merging
from tastemaker.tuning.merging import merge

IDS = torch.tensor([[1, 4093, 198, 17, 300, 9]])


def save_adapter(base: Path, folder: Path, **changes: Any) -> Path:
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **changes}
    model = load_language_model(str(base), dtype=torch.float32, device="cpu").model
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(1)
        config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings)
        get_peft_model(model, config).save_pretrained(folder)
    return folder


def attached(base: Path, adapter: Path) -> torch.Tensor:
    model = load_language_model(str(base), dtype=torch.float32, device="cpu")
    return logits(with_adapter(model, adapter).model)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(folder, tmp_path_factory.mktemp("adapter"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_dora": True, "use_rslora": True},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=["lora", "dora", "head", "embedding", "saved head"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_merged_model_loads_with_plain_transformers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Any]
) -> None:
    adapter = save_adapter(folder, tmp_path / "adapter", **changes)
    done = merge(str(folder), adapter, tmp_path / "merged")
    assert done.folder == tmp_path / "merged"
    assert (done.precision, done.reload_difference) == ("float32", 0)
    assert done.adapter_difference < 1e-4
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "peft", None)  # importing it fails
        model = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32)
    expected = attached(folder, adapter)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if "modules_to_save" not in changes:  # PEFT saves an untrained copy of it
        assert (logits(plain) - expected).abs().max() > 0.1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert done.bytes == sum(file.stat().st_size for file in done.folder.iterdir())


def test_the_folder_is_whole_and_names_no_place(
    folder: Path, adapter: Path, tmp_path: Path
) -> None:
    done = merge(str(folder), adapter, tmp_path / "merged")
    names = {file.name for file in done.folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if "adapter" in name or name.endswith(".bin")]
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (done.folder, folder))
    chat = [{"role": "user", "content": "Yes?"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(
        chat, tokenize=False
    )
    assert ours.encode("Heat (1995)") == theirs.encode("Heat (1995)")
    for file in done.folder.glob("*.json"):
        assert str(folder) not in file.read_text()
        assert str(tmp_path) not in file.read_text()


def test_bfloat16_is_rounded_once(folder: Path, adapter: Path, tmp_path: Path) -> None:
    exact = merge(str(folder), adapter, tmp_path / "float32")
    half = merge(str(folder), adapter, tmp_path / "bfloat16", dtype=torch.bfloat16)
    assert (half.precision, half.reload_difference) == ("bfloat16", 0)
    assert 1e-3 < half.adapter_difference < 1
    assert half.bytes < exact.bytes
    for done in (exact, half):
        assert json.loads((done.folder / "config.json").read_text())["dtype"] == done.precision
    one, other = (load_file(done.folder / "model.safetensors") for done in (exact, half))
    assert one.keys() == other.keys()
    assert all(torch.equal(value.bfloat16(), other[name]) for name, value in one.items())


@pytest.mark.parametrize("tolerance", ["RELOAD_TOLERANCE", "MERGE_TOLERANCE"])
def test_a_failed_check_leaves_nothing(
    folder: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: str
) -> None:
    monkeypatch.setattr(merging, tolerance, -1.0)
    with pytest.raises(SaveCheckError, match="gives other logits"):
        merge(str(folder), adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_dies_is_never_read(
    folder: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(model: Any, place: Path) -> None:
        place.mkdir()
        (place / "config.json").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_write", dies)
        patch.setattr(merging.shutil, "rmtree", lambda *_, **__: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            merge(str(folder), adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == [".merged.new"]
    merge(str(folder), adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_what_is_refused(folder: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    with pytest.raises(UserError, match="is there already and not empty"):
        merge(str(folder), adapter, tmp_path / "taken")
    with pytest.raises(UserError, match="is a whole model already"):
        merge(str(folder), folder, tmp_path / "new")
    with pytest.raises(UserError, match="holds no adapter"):
        merge(str(folder), tmp_path, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A run with a finished `tune` stage and nothing else."""

    def tune(space: Workspace) -> Mapping[str, Any]:
        save_adapter(folder, space.out / "adapter")
        return {}

    stage = Stage("tune", (), tune, config={"model": str(folder)})
    Run(tmp_path / "run").execute(stage)
    return tmp_path / "run"


def test_the_command(tastemaker: Callable[..., Any], run: Path) -> None:
    found = tastemaker("merge", "run", cwd=run.parent)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].startswith("run/merged  ")
    assert lines[0].endswith(" MB, float32")
    assert lines[1].startswith("logits differ by at most ")
    assert lines[2].endswith("transformers serve run/merged")
    assert (run / "merged" / "model.safetensors").is_file()
    again = tastemaker("merge", "run", cwd=run.parent)
    assert again.returncode == 2
    assert "run/merged is there already and not empty." in again.stderr
    half = tastemaker("merge", "run", "--out", "half", "--precision", "bfloat16", cwd=run.parent)
    assert half.returncode == 0, half.stderr
    assert half.stdout.splitlines()[0].endswith(" MB, bfloat16")


def test_the_command_without_a_tuned_model(tastemaker: Callable[..., Any], tmp_path: Path) -> None:
    found = tastemaker("merge", "nothing", cwd=tmp_path)
    assert found.returncode == 2
    assert "nothing holds no finished 'tune' stage" in found.stderr
    assert not (tmp_path / "nothing").exists()
