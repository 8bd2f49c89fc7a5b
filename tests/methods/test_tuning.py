"""The tune stage in whole runs: the toy world, a real tokenizer, a small model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tastemaker.methods import tuning
from tastemaker.methods.pipeline import stages
from tastemaker.models.language import load_language_model, quiet_loading
from tastemaker.recipe import load_recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

Call = Callable[..., Any]
WEIGHTS = "adapter_model.safetensors"
RECIPE: dict[str, Any] = {
    "name": "world",
    "methods": ["tallrec"],
    "data": {
        "interactions": "r.csv",
        "items": "i.csv",
        "split": {"valid_from": 0.7, "test_from": 0.85},
        "requests": {"min_history": 1, "per_user": 1},
    },
    "build": {
        "templates": "tallrec/item",
        "history": 3,
        "train_examples": 16,
        "valid_examples": 8,
    },
    "tune": {
        "model": "tiny",
        "shots": 8,
        "epochs": 2,
        "learning_rate": 0.02,
        "batch_size": 4,
        "precision": "float32",
    },
    "evaluate": {"bootstrap": 20},
}
STREAM = {
    "build": {
        "templates": "tallrec/stream",
        "history": 4,
        "anchor": 4,
        "min_history": 1,
        "train_examples": None,
    },
    "tune": {"rows": "streamed", "shots": None, "epochs": 1, "batch_size": 64},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path, llama_folder: Path) -> Path:
    """Tables of the world, a recipe, and the model under a name of its own: `tiny`."""
    tables = checkerboard(n_users=24, n_items=20, events=12, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(tmp_path / "r.csv")
    tables.items.select("item_id", "title", "genres").write_csv(tmp_path / "i.csv")
    (tmp_path / "tiny").symlink_to(llama_folder)
    write(tmp_path)
    return tmp_path


def write(folder: Path, name: str = "world.yaml", **sections: dict[str, Any]) -> Path:
    """A recipe that differs in some sections."""
    changed = {
        part: {**values, **sections.get(part, {})} if isinstance(values, dict) else values
        for part, values in RECIPE.items()
    }
    (folder / name).write_text(yaml.safe_dump(changed))
    return folder / name


def run_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, out: str = "run", until: str = "tune"
) -> Run:
    monkeypatch.chdir(folder)
    recipe = load_recipe(Path("world.yaml"))
    run = Run(Path(out), seed=recipe.seed)
    for stage in stages(recipe, until=until):
        run.execute(stage)
    return run


def adapter(run: Run | Path, name: str = "adapter") -> dict[str, torch.Tensor]:
    place = run.artefact("tune") / name if isinstance(run, Run) else run
    found: dict[str, torch.Tensor] = load_file(place / WEIGHTS)
    return found


def assert_same(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, atol: float = 1e-5
) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=atol)


def scores(folder: Path, run: str = "runs/world") -> pl.DataFrame:
    return pl.read_parquet(folder / run / "evaluate" / "scores.parquet")


def texts(folder: Path) -> dict[str, str]:
    binary = {".safetensors", ".parquet", ".npy"}
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in binary]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def alpaca(folder: Path, rows: int = 12, name: str = "general.json", **changes: Any) -> Path:
    """Instructions about anything; every third has an input."""
    found = [
        {
            "instruction": f"Say the number {place}.",
            "input": "in words" if place % 3 == 0 else "",
            "output": f"\n{place}, of course.",
            **changes,
        }
        for place in range(rows)
    ]
    (folder / name).write_text(json.dumps(found))
    return folder / name


GENERAL = {"data": "general.json", "valid_examples": 4, "epochs": 2, "learning_rate": 0.02}
GENERAL |= {"batch_size": 4}


# The whole way


def test_a_run_keeps_the_adapter_and_scores_both(
    tastemaker: Call, folder: Path, llama_folder: Path
) -> None:
    found = tastemaker("run", "world.yaml", cwd=folder)
    assert found.returncode == 0, found.stderr
    assert "8 examples, 4 steps, validation loss" in found.stdout
    assert "reload checked" in found.stdout

    place = folder / "runs" / "world" / "tune"
    assert sorted(path.name for path in (place / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        WEIGHTS,
        "tuning.json",
    ]
    config = json.loads((place / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    card = (place / "adapter" / "README.md").read_text()
    assert "8 training instructions, rendered with `tallrec/item`." in card
    assert "| learning_rate | 0.02 |" in card
    for name, text in texts(place).items():
        assert str(llama_folder) not in text, name
        assert str(folder) not in text, name
        assert str(Path.home()) not in text, name

    summary = json.loads((place / "manifest.json").read_text())["summary"]
    assert (summary["examples"], summary["valid_examples"], summary["steps"]) == (8, 8, 4)
    assert summary["metric"] == "auc"
    assert [one["step"] for one in summary["curve"] if "valid_auc" in one] == [2, 4]
    assert [one["step"] for one in summary["curve"] if "loss" in one] == [1, 2, 3, 4]
    plain = scores(folder)
    assert {"tiny zero-shot", "tiny + LoRA", "Liked share"} <= set(plain.columns)
    assert (plain["tiny zero-shot"] - plain["tiny + LoRA"]).abs().max() > 0.01
    page = (folder / "runs" / "world" / "report" / "index.html").read_text()
    assert "Validation AUC while tuning" in page

    other = ["--set", "evaluate.answer_score=double_softmax"]
    again = tastemaker("evaluate", "world.yaml", *other, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "tune      up to date" in again.stdout
    softmax = scores(folder)
    assert softmax["tiny + LoRA"].abs().max() < 1  # differences of probabilities
    assert (softmax["tiny + LoRA"] - plain["tiny + LoRA"]).abs().max() > 0.01


@pytest.mark.slow
def test_streamed_rows_learn_the_same_as_single_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A step of everything: another arrangement would have other batches otherwise.
    step = {**STREAM["tune"], "lora": {"dropout": 0.0}, "batch_size": 1000}
    write(folder, build=STREAM["build"], tune=step)
    run = run_recipe(folder, monkeypatch, until="evaluate")
    streamed = run.manifest("tune")
    assert streamed is not None
    before, after = streamed.summary["tokens"]
    assert after < 0.6 * before
    assert streamed.summary["examples"] > 50
    assert "tiny + LoRA" in pl.read_parquet(run.artefact("evaluate") / "scores.parquet").columns

    write(folder, build=STREAM["build"], tune={**step, "rows": "single"})
    shutil.copytree(folder / "run", folder / "other")
    single = run_recipe(folder, monkeypatch, out="other")
    assert_same(adapter(run), adapter(single), atol=1e-3)
    one, other = (found.manifest("tune").summary["curve"] for found in (run, single))  # type: ignore[union-attr]
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-4)


def test_a_model_tuned_whole(tastemaker: Call, folder: Path) -> None:
    alpaca(folder)
    write(folder, tune={"kind": "full", "learning_rate": 1e-3, "instruction_tuning": GENERAL})
    found = tastemaker("run", "world.yaml", "--until", "evaluate", cwd=folder)
    assert found.returncode == 0, found.stderr
    assert {"tiny zero-shot", "tiny + tuning"} <= set(scores(folder).columns)
    place = folder / "runs" / "world" / "tune"
    record = json.loads((place / "model" / "tuning.json").read_text())
    assert record["base"]["name"] == "tiny"
    for name, text in texts(place).items():
        assert str(folder) not in text, name
        assert ".scratch" not in text, name
    first, second = (
        load_file(place / part / "model.safetensors") for part in ("instruction_tuned", "model")
    )
    base = load_file(folder / "tiny" / "model.safetensors")
    moves = [
        max(float((after[name] - value).abs().max()) for name, value in before.items())
        for before, after in ((base, first), (first, second))
    ]
    assert (
        1e-4 < moves[1] < 0.2 * moves[0]
    )  # the second stage goes on from the first, in small steps
    merged = tastemaker("merge", "runs/world", cwd=folder)
    assert merged.returncode == 2
    assert "tune/model is a whole model already" in merged.stderr
    assert not (folder / "runs" / "world" / "merged").exists()


@pytest.fixture
def bare(folder: Path, llama_folder: Path) -> Path:
    """`tiny` without a chat template."""
    (folder / "tiny").unlink()
    shutil.copytree(llama_folder, folder / "tiny", ignore=shutil.ignore_patterns("*.jinja"))
    file = folder / "tiny" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("chat_template", None)
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_a_base_without_chat_template_in_alpacas_wrapper(tastemaker: Call, bare: Path) -> None:
    refused = tastemaker("tune", "world.yaml", cwd=bare)
    assert refused.returncode == 2
    assert "the tokenizer has no chat template" in refused.stderr
    assert "set tune.wrapper to alpaca" in refused.stderr
    assert not (bare / "runs" / "world" / "tune").exists()

    write(bare, tune={"wrapper": "alpaca"})
    found = tastemaker("run", "world.yaml", "--until", "evaluate", cwd=bare)
    assert found.returncode == 0, found.stderr
    assert {"tiny zero-shot", "tiny + LoRA"} <= set(scores(bare).columns)
    merged = tastemaker("merge", "runs/world", cwd=bare)
    assert merged.returncode == 0, merged.stderr
    tokenizer = AutoTokenizer.from_pretrained(bare / "runs" / "world" / "merged")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Do it.\nWith this."}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text.startswith("Below is an instruction that describes a task, paired with an input")
    assert text.endswith("### Instruction:\nDo it.\n\n### Input:\nWith this.\n\n### Response:\n")


# Two stages, and going on


class Killed(BaseException):
    pass


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let the process die after so many steps of a stage; tells the steps of each stage begun."""
    real = tuning.tune

    def arm(*, stage: int = 0, step: int = 0) -> list[int]:
        steps: list[int] = []

        def tune(*arguments: Any, on_step: Callable[[int], None], **named: Any) -> Any:
            steps.append(0)

            def count(done: int) -> None:
                steps[-1] += done
                if len(steps) == stage and steps[-1] == step:
                    raise Killed
                on_step(done)

            if len(steps) == stage and step == 0:
                raise Killed
            return real(*arguments, on_step=count, **named)

        monkeypatch.setattr(tuning, "tune", tune)
        return steps

    return arm


@pytest.mark.slow
def test_two_stages_go_on_after_any_kill(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dying: Callable[..., list[int]]
) -> None:
    alpaca(folder)
    write(folder, tune={"instruction_tuning": GENERAL})
    whole = run_recipe(folder, monkeypatch, out="whole")
    manifest = whole.manifest("tune")
    assert manifest is not None
    told = manifest.summary["instruction_tuning"]
    assert (told["steps"], told["left_out"], len(told["curve"])) == (4, 0, 6)
    kept = whole.artefact("tune") / "instruction_tuned"
    assert {"adapter_config.json", WEIGHTS, "tuning.json"} <= {one.name for one in kept.iterdir()}

    for stage, step in ((1, 3), (2, 0)):
        dying(stage=stage, step=step)
        with pytest.raises(Killed):
            run_recipe(folder, monkeypatch, out="killed")
    dying(stage=1, step=3)  # the first stage is there: this is the second one
    with pytest.raises(Killed):
        run_recipe(folder, monkeypatch, out="killed")
    assert not (folder / "killed" / "tune").exists()
    steps = dying()
    killed = run_recipe(folder, monkeypatch, out="killed")
    assert steps == [4]
    for name in ("adapter", "instruction_tuned"):
        assert_same(adapter(whole, name), adapter(killed, name))
    again = killed.manifest("tune")
    assert again is not None
    assert again.summary["curve"] == manifest.summary["curve"]


@pytest.mark.slow
def test_the_second_stage_begins_where_the_first_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(alpaca(folder).read_text())
    for row in rows[:3]:  # longer than the model can read: left out, and counted
        row["output"] = "word " * 300
    (folder / "general.json").write_text(json.dumps(rows))
    more = {"instruction_tuning": {**GENERAL, "valid_examples": 1}}
    write(folder, tune={**more, "learning_rate": 1e-7, "epochs": 1})
    run = run_recipe(folder, monkeypatch)
    manifest = run.manifest("tune")
    assert manifest is not None
    assert manifest.summary["instruction_tuning"]["left_out"] in (2, 3)
    first = adapter(run, "instruction_tuned")
    assert_same(first, adapter(run))
    assert max(float(value.abs().max()) for name, value in first.items() if "lora_B" in name) > 0.01

    # Another run goes on from there; its recipe lies elsewhere, and paths are seen from it.
    (folder / "other").mkdir()
    place = Path("..") / "run" / "tune" / "adapter"
    data = {"interactions": "../r.csv", "items": "../i.csv"}
    path = write(
        folder / "other",
        data=data,
        tune={"adapter": str(place), "learning_rate": 1e-7, "epochs": 1},
    )
    recipe = load_recipe(path.relative_to(folder))
    next_run = Run(Path("next"), seed=recipe.seed)
    for stage in stages(recipe, until="tune"):
        next_run.execute(stage)
    assert_same(first, adapter(next_run))
    (stage,) = [one for one in stages(recipe) if one.name == "tune"]
    assert next_run.is_current(stage)
    file = run.artefact("tune") / "adapter" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"x")  # the same shape, other weights
    assert not next_run.is_current(stage)


# What is refused


def strangers_adapter(folder: Path) -> str:
    model = load_language_model(str(folder / "tiny"), dtype=torch.float32, device="cpu").model
    with quiet_loading():
        shape = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
        get_peft_model(model, shape).save_pretrained(folder / "strange")
    record = {"base": {"name": "another", "identity": "0123"}}
    (folder / "strange" / "tuning.json").write_text(json.dumps(record))
    return "strange"


def general(**changes: Any) -> list[str]:
    values = {"data": "general.json", "valid_examples": 4, **changes}
    return [f"tune.instruction_tuning={json.dumps(values)}"]


def unreadable(folder: Path) -> None:
    (folder / "general.json").write_text("instruction: none")


def numbers(folder: Path) -> None:
    alpaca(folder, output=[[1, 2]])


def no_output(folder: Path) -> None:
    (folder / "general.json").write_text(json.dumps([{"prompt": "a", "instruction": "b"}] * 9))


def empty_adapter(folder: Path) -> None:
    (folder / "empty").mkdir()


BEFORE: dict[str, tuple[Callable[[Path], Any] | None, list[str], str]] = {
    "no file": (None, general(), "there is no file 'general.json'"),
    "not JSON": (unreadable, general(), "general.json cannot be read: "),
    "no text": (numbers, general(), "general.json cannot be read: "),
    "other columns": (no_output, general(), "general.json has no output"),
    "too few rows": (alpaca, general(valid_examples=12), "has 12 rows, and 12 are kept"),
    "no adapter": (None, ["tune.adapter=nowhere"], "tune.adapter: 'nowhere' is no folder."),
    "empty adapter": (empty_adapter, ["tune.adapter=empty"], "'empty' holds no adapter"),
    "whole model": (
        strangers_adapter,
        ["tune.adapter=strange", "tune.kind=full"],
        "tune.kind full trains the whole model",
    ),
    "everything": (
        None,
        ["tune.rows=streamed", "tune.loss_on=everything"],
        "counts the shared beginning of a stream once per target",
    ),
    "model": (None, ["tune.model=nothing"], "language model 'nothing' is not on this machine"),
}

if importlib.util.find_spec("trackio") is None:
    BEFORE["tracker"] = (None, ["tune.tracker=trackio"], "the package trackio is not installed")


@pytest.mark.parametrize("case", BEFORE)
def test_what_is_refused_before_anything_is_written(
    tastemaker: Call, folder: Path, case: str
) -> None:
    prepare, overrides, message = BEFORE[case]
    if prepare is not None:
        prepare(folder)
    sets = [part for text in overrides for part in ("--set", text)]
    found = tastemaker("tune", "world.yaml", *sets, cwd=folder)
    assert found.returncode == 2, found.stderr
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert not (folder / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine may be able to")
def test_qlora_needs_a_gpu(tastemaker: Call, folder: Path) -> None:
    found = tastemaker("tune", "world.yaml", "--set", "tune.kind=qlora", cwd=folder)
    assert found.returncode == 2
    assert "keeps the base model in 4 bits, which needs a CUDA device" in found.stderr
    assert not (folder / "runs").exists()


LATER: dict[str, tuple[Callable[[Path], Any] | None, list[str], str]] = {
    "another base": (
        strangers_adapter,
        ["tune.adapter=strange"],
        "was trained on other weights than those of tiny",
    ),
    "too long": (None, ["tune.max_length=20"], "more than tune.max_length = 20"),
    "no validation": (
        None,
        ["data.requests.min_history=100"],
        "no row of the valid part has 100 earlier events",
    ),
}


@pytest.mark.parametrize("case", LATER)
def test_what_is_refused_while_tuning(tastemaker: Call, folder: Path, case: str) -> None:
    prepare, overrides, message = LATER[case]
    if prepare is not None:
        prepare(folder)
    sets = [part for text in overrides for part in ("--set", text)]
    found = tastemaker("tune", "world.yaml", *sets, cwd=folder)
    assert found.returncode == 2, found.stderr
    assert message in found.stderr
    assert not (folder / "runs" / "world" / "tune").exists()


# Several processes, and processes that are killed


def start(folder: Path, out: str, *, count: int = 1) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m"]
    if count > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    return subprocess.Popen(
        [*launcher, "tastemaker", "tune", "world.yaml", "--out", out],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, out: str, *, count: int = 1) -> Run:
    process = start(folder, out, count=count)
    printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, printed + errors
    return Run(folder / out)


def curve(run: Run, key: str) -> list[float]:
    manifest = run.manifest("tune")
    assert manifest is not None
    return [one[key] for one in manifest.summary["curve"] if key in one]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rows", ["single", "packed"])
def test_two_processes_train_as_one(folder: Path, rows: str) -> None:
    changes = {"lora": {"dropout": 0.0}, "epochs": 3, "row_tokens": 1}
    write(folder, tune={**changes, "rows": rows})  # packed rows of one: batches of the same size
    one, two = (finish(folder, f"run{count}", count=count) for count in (1, 2))
    for key in ("loss", "valid_loss", "valid_auc"):
        assert curve(two, key) == pytest.approx(curve(one, key), rel=1e-4)
    assert_same(adapter(one), adapter(two), atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [1, 2])
def test_killed_while_tuning_and_started_again(folder: Path, count: int) -> None:
    write(folder, tune={"epochs": 20})
    whole = finish(folder, "whole", count=count)
    process = start(folder, "killed", count=count)
    scratch = folder / "killed" / ".scratch"
    ending = time.monotonic() + 120
    while not [*scratch.glob("tune-*/tune/checkpoint-*/complete")]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ending
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "killed" / "tune").exists()
    killed = finish(folder, "killed", count=count)
    assert_same(adapter(whole), adapter(killed))
    assert curve(killed, "loss") == pytest.approx(curve(whole, "loss"), rel=1e-5)
