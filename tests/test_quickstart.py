"""The packaged recipe end to end, made small: real data, real models, every stage."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

Call = Callable[..., Any]
SMALL = [
    "data.requests.min_history=300",
    "data.requests.per_user=2",
    "build.train_examples=64",
    "build.valid_examples=16",
    "tune.shots=8",
    "tune.valid_shots=4",
    "tune.epochs=1",
    "reason.max_users=20",
    "reason.max_items=12",
    "reason.max_tokens=4",
    "reason.history_cap=5",
    "reason.truncated=keep",
    "train.epochs=1",
    "evaluate.bootstrap=100",
    "catalogue.encoder=none",
]
STAGES = ("data", "build", "tune", "reason", "encode", "train", "evaluate", "report", "catalogue")
MODELS = ("SmolLM2 zero-shot", "SmolLM2 + LoRA", "DIN", "DIN + KAR")


def in_a_shell(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tastemaker.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )


def small(*extra: str) -> list[str]:
    return ["quickstart", *(part for value in (*SMALL, *extra) for part in ("--set", value))]


def ran(found: Any) -> list[str]:
    """Names of the stages that did work."""
    assert found.returncode == 0, found.stdout + found.stderr
    return re.findall(r"^(\w+) +…$", found.stdout, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the small quickstart has run, and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    found = in_a_shell(*small(), cwd=folder)
    assert tuple(ran(found)) == STAGES
    return folder, found.stdout


def test_everything_is_there_and_timed(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    run = folder / "runs" / "quickstart"
    for stage in STAGES:
        manifest = json.loads((run / stage / "manifest.json").read_text())
        assert manifest["seconds"] > 0
        assert re.search(rf"^{stage} .*\[\d+\.\d s\]$", printed, flags=re.MULTILINE)
    assert all(model in printed for model in MODELS)
    assert max(map(len, printed.splitlines())) <= 120


def test_all_models_answered_the_same_rows(finished: tuple[Path, str]) -> None:
    run = finished[0] / "runs" / "quickstart"
    scores = pl.read_parquet(run / "evaluate" / "scores.parquet")
    requests = pl.read_parquet(run / "data" / "requests-test.parquet")
    assert scores.select(requests.columns).equals(requests)
    columns = [name for name in scores.columns if name not in requests.columns]
    assert set(MODELS) < set(columns)
    assert len(columns) == 7
    matrix = scores.select(columns).to_numpy()
    assert np.isfinite(matrix).all()
    assert all(len(np.unique(matrix[:, place])) > 10 for place in range(7))
    # The adapter changes the language model, the knowledge changes the recommender.
    assert (scores["SmolLM2 + LoRA"] != scores["SmolLM2 zero-shot"]).mean() > 0.9
    assert (scores["DIN + KAR"] != scores["DIN"]).mean() > 0.9


def test_instructions_are_a_trl_data_set_without_future(finished: tuple[Path, str]) -> None:
    from datasets import load_dataset

    run = finished[0] / "runs" / "quickstart"
    cache = str(finished[0] / "cache")
    loaded = load_dataset(str(run / "build"), cache_dir=cache)
    assert set(loaded) == {"train", "validation", "test"}
    assert loaded["train"][0]["completion"][0]["content"] in {"Yes.", "No."}
    assert max(loaded["train"]["timestamp"]) < min(loaded["validation"]["timestamp"])
    assert (run / "build" / "README.md").read_text().startswith("---\n")


def test_adapter_is_safe_and_checked(finished: tuple[Path, str]) -> None:
    run = finished[0] / "runs" / "quickstart"
    names = {path.name for path in (run / "tune" / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tuning.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert json.loads((run / "tune" / "adapter" / "tuning.json").read_text())["steps"] == 2


def test_knowledge_is_stored_with_its_provenance_and_covered(finished: tuple[Path, str]) -> None:
    run = finished[0] / "runs" / "quickstart"
    frame = pl.read_parquet(run / "reason" / "knowledge.parquet")
    assert frame.filter(pl.col("kind") == "item").height == 12
    # Users whose oldest events all fall into one second have nothing to show.
    assert 15 <= frame.filter(pl.col("kind") == "user").height <= 20
    with sqlite3.connect(run / "knowledge.sqlite") as store:
        assert store.execute("pragma journal_mode").fetchone() == ("wal",)
    coverage = json.loads((run / "encode" / "coverage.json").read_text())
    assert 0 < coverage["train_item_coverage"] < 1
    assert coverage["test_user_coverage"] == 1
    users = frame.filter(pl.col("kind") == "user")
    interactions = pl.read_parquet(run / "data" / "tables" / "interactions.parquet")
    first = interactions.group_by("user").agg(pl.col("time").min())
    joined = users.join(first, left_on="entity", right_on=pl.col("user").cast(pl.Int64))
    assert (joined["cut_time"] >= joined["time"]).all()


def test_the_page_stands_alone(finished: tuple[Path, str]) -> None:
    page = (finished[0] / "runs" / "quickstart" / "report" / "index.html").read_text()
    assert all(model in page for model in MODELS)
    assert "learning_rate" in page
    assert page.count("<svg") >= 3
    assert not re.search(r'(src|href)="(https?:)?//', page)


def test_a_second_run_does_nothing(finished: tuple[Path, str]) -> None:
    started = time.perf_counter()
    again = in_a_shell(*small(), cwd=finished[0])
    assert ran(again) == []
    assert again.stdout.count("up to date") == len(STAGES)
    assert time.perf_counter() - started < 30


@pytest.mark.slow
def test_another_learning_rate_runs_tune_evaluate_report(
    tastemaker: Call, finished: tuple[Path, str]
) -> None:
    changed = tastemaker(*small("tune.learning_rate=0.0002"), cwd=finished[0])
    assert ran(changed) == ["tune", "evaluate", "report"]


def test_recommend_offers_titles_never_rated(tastemaker: Call, finished: tuple[Path, str]) -> None:
    folder = finished[0]
    found = tastemaker("recommend", "--user", "15", "-k", "10", "--json", cwd=folder)
    assert found.returncode == 0, found.stderr
    offered = json.loads(found.stdout)
    assert len({entry["item_id"] for entry in offered}) == 10
    probabilities = [entry["probability"] for entry in offered]
    assert probabilities == sorted(probabilities, reverse=True)
    tables = folder / "runs" / "quickstart" / "data" / "tables"
    users = pl.read_parquet(tables / "users.parquet").filter(pl.col("user_id") == 15)
    items = pl.read_parquet(tables / "items.parquet")
    rated = (
        pl.read_parquet(tables / "interactions.parquet")
        .join(users.select("user"), on="user")
        .join(items.select("item", "item_id"), on="item")
    )
    assert rated.height > 1000
    assert not {entry["item_id"] for entry in offered} & set(rated["item_id"])
    text = tastemaker("recommend", "--user", "15", "-k", "3", cwd=folder).stdout
    assert [line.split("  ")[-1] for line in text.splitlines()] == [
        entry["title"] for entry in offered[:3]
    ]
    unknown = tastemaker("recommend", "--user", "nobody", cwd=folder)
    assert unknown.returncode == 2
    assert "nobody" in unknown.stderr


def test_the_run_can_talk(tastemaker: Call, finished: tuple[Path, str]) -> None:
    folder = finished[0]
    asked = ("chat", "--user", "15", "--once", "three comedies from before 1960", "--json")
    found = tastemaker(*asked, cwd=folder)
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert len(answer["items"]) == 3
    for item in answer["items"]:
        assert "Comedy" in item["values"]["genres"]
        assert item["values"]["year"] < 1960
        assert f"**{item['title']}**" in answer["text"]
    again = ("chat", "--conversation", answer["conversation"], "--once", "why the second?")
    assert answer["items"][1]["title"] in tastemaker(*again, cwd=folder).stdout
    assert tastemaker("chat", "--json", cwd=folder).returncode == 2


def test_report_command(tastemaker: Call, finished: tuple[Path, str]) -> None:
    folder = finished[0]
    shown = tastemaker("report", "runs/quickstart", cwd=folder)
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    values = json.loads(tastemaker("report", "runs/quickstart", "--json", cwd=folder).stdout)
    assert values["against"] == "DIN"
    assert "| DIN |" in tastemaker("report", "runs/quickstart", "--markdown", cwd=folder).stdout


@pytest.mark.slow
def test_kill_9_while_reasoning_generates_only_what_is_missing(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nmethods: [kar]\ndata: {source: movielens-small}\n"
        "reason: {max_users: 4, max_items: 28, max_tokens: 6, history_cap: 2, batch_size: 2,\n"
        "  truncated: keep}\n"
    )
    store = tmp_path / "runs" / "r" / "knowledge.sqlite"
    command = [sys.executable, "-m", "tastemaker.cli", "reason", str(recipe)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while stored(store) < 6:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    kept = stored(store)
    assert 6 <= kept < 28
    assert not (tmp_path / "runs" / "r" / "reason").exists()
    found = in_a_shell("reason", str(recipe), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    whole = stored(store)
    assert whole > kept
    assert f"{whole - kept} answers now" in found.stdout
    assert pl.read_parquet(tmp_path / "runs" / "r" / "reason" / "knowledge.parquet").height == whole


def stored(path: Path) -> int:
    """Texts committed to a store that another process may be writing."""
    if not path.is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as store:
            return int(store.execute("select count(*) from knowledge").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_at_any_moment_changes_no_result(finished: tuple[Path, str], tmp_path: Path) -> None:
    generator = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    command = [sys.executable, "-m", "tastemaker.cli", *small()]
    for delay in generator.uniform(6, 40, size=6):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(timeout=delay)
            except subprocess.TimeoutExpired:
                process.kill()
    last = in_a_shell(*small(), cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    whole, resumed = (
        pl.read_parquet(folder / "runs" / "quickstart" / "evaluate" / "scores.parquet")
        for folder in (finished[0], tmp_path)
    )
    for model in ("Item mean", "DIN", "SmolLM2 zero-shot", "SmolLM2 + LoRA"):
        np.testing.assert_allclose(resumed[model], whole[model], atol=1e-3, err_msg=model)
    folder = tmp_path / "runs" / "quickstart"
    assert not list((folder / ".scratch").iterdir())
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        *STAGES,
        ".cache",
        ".new",
        ".scratch",
    }
