import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tastemaker.errors import BusyError, StageError, UserError
from tastemaker.stage import Run, Stage, Workspace, atomic_file, digest


def writer(text: str, calls: list[str]) -> Any:
    def run(space: Workspace) -> Mapping[str, Any]:
        calls.append(text)
        (space.out / "sub").mkdir()
        (space.out / "sub" / "text.txt").write_text(text)
        return {"length": len(text)}

    return run


def make(name: str, text: str, calls: list[str], *, needs: tuple[str, ...] = ()) -> Stage:
    return Stage(name, needs, writer(text, calls), {"text": text})


def test_a_current_stage_is_skipped(tmp_path: Path) -> None:
    calls: list[str] = []
    run = Run(tmp_path / "run", seed=1)
    first = run.execute(make("data", "a", calls))
    assert run.execute(make("data", "a", calls)) == first
    assert calls == ["a"]
    assert (run.artefact("data") / "sub" / "text.txt").read_text() == "a"
    assert first.summary == {"length": 1}
    assert set(first.versions) >= {"python", "torch", "tastemaker"}


def test_config_seed_inputs_and_damage_make_it_out_of_date(tmp_path: Path) -> None:
    calls: list[str] = []
    run = Run(tmp_path / "run", seed=1)
    run.execute(make("data", "a", calls))
    run.execute(make("tune", "t", calls, needs=("data",)))
    assert not run.is_current(make("data", "b", calls))
    assert not Run(tmp_path / "run", seed=2).is_current(make("data", "a", calls))
    run.execute(make("data", "b", calls))
    assert not run.is_current(make("tune", "t", calls, needs=("data",)))
    run.execute(make("tune", "t", calls, needs=("data",)))
    (run.artefact("tune") / "sub" / "text.txt").write_text("cut short")
    assert not run.is_current(make("tune", "t", calls, needs=("data",)))


def test_equal_output_of_an_input_keeps_later_stages_current(tmp_path: Path) -> None:
    calls: list[str] = []
    run = Run(tmp_path / "run")
    run.execute(Stage("data", (), writer("same", calls), {"version": 1}))
    run.execute(make("tune", "t", calls, needs=("data",)))
    run.execute(Stage("data", (), writer("same", calls), {"version": 2}))
    assert calls == ["same", "t", "same"]
    assert run.is_current(make("tune", "t", calls, needs=("data",)))


def test_changed_source_file(tmp_path: Path) -> None:
    source = tmp_path / "ratings.csv"
    source.write_text("1")
    run = Run(tmp_path / "run")
    stage = Stage("data", (), writer("a", []), {}, sources=(source,))
    run.execute(stage)
    assert run.is_current(stage)
    source.write_text("2")
    assert not run.is_current(stage)


def test_failure_leaves_the_old_artefact(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.execute(make("data", "a", []))

    def fail(space: Workspace) -> Mapping[str, Any]:
        (space.out / "half.txt").write_text("half")
        raise StageError("no")

    with pytest.raises(StageError):
        run.execute(Stage("data", (), fail, {"text": "b"}))
    assert (run.artefact("data") / "sub" / "text.txt").read_text() == "a"
    assert not (run.artefact("data") / "half.txt").exists()


def test_scratch_outlives_a_failure_and_goes_after_success(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    seen: list[bool] = []

    def work(space: Workspace) -> Mapping[str, Any]:
        checkpoint = space.scratch / "checkpoint"
        seen.append(checkpoint.exists())
        checkpoint.write_text("1")
        if len(seen) == 1:
            raise StageError("killed")
        (space.out / "done").write_text("1")
        return {}

    stage = Stage("tune", (), work, {})
    with pytest.raises(StageError):
        run.execute(stage)
    run.execute(stage)
    assert seen == [False, True]
    assert not list((tmp_path / "run" / ".scratch").iterdir())


def test_a_kill_between_write_and_rename_is_finished_later(tmp_path: Path) -> None:
    calls: list[str] = []
    run = Run(tmp_path / "run")
    stage = make("data", "a", calls)
    run.execute(stage)
    waiting = run.folder / ".new" / "data"
    waiting.parent.mkdir(exist_ok=True)
    (run.folder / "data").rename(waiting)
    assert run.is_current(stage)
    assert calls == ["a"]
    assert run.artefact("data").is_dir()


def test_missing_artefact_says_what_to_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match="tastemaker run RECIPE --until train"):
        run.artefact("train")
    with pytest.raises(StageError, match="needs 'data'"):
        run.execute(make("tune", "t", [], needs=("data",)))


def test_only_one_process_works_in_a_run(tmp_path: Path) -> None:
    with (
        Run(tmp_path / "run").lock(),
        pytest.raises(BusyError, match="--out"),
        Run(tmp_path / "run").lock(),
    ):
        pass


def test_atomic_file_keeps_the_old_content_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as handle:
            handle.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_digest_depends_on_values_not_on_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


KILLED = """
import sys, time
from pathlib import Path
from tastemaker.stage import Run, Stage

def work(space):
    for index in range(200):
        (space.out / f"{index}.txt").write_text("x" * 1000)
        time.sleep(0.002)
    return {}

run = Run(Path(sys.argv[1]))
print("started", flush=True)
for version in range(1000):
    run.execute(Stage("data", (), work, {"version": version}))
"""


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.7])
def test_kill_9_never_leaves_a_half_written_artefact(tmp_path: Path, delay: float) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
    manifest = Run(folder).manifest("data")
    if manifest is not None:
        files = {path.name for path in (folder / "data").iterdir()} - {"manifest.json"}
        assert len(files) == 200
        assert json.loads((folder / "data" / "manifest.json").read_text())["files"].keys() == files
