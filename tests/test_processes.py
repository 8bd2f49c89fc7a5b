"""Several processes that run one command: first their talk, then real launches."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

from tastemaker import processes
from tastemaker.errors import StageError, UserError
from tastemaker.methods import pipeline
from tastemaker.processes import _Group, _Stopped
from tastemaker.recipe import load_recipe
from tastemaker.stage import Run, Stage, Workspace

RECIPE = "name: mine\nmethods: [tallrec]\ndata: {interactions: ratings.csv}\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_GRACE", 0.3), ("_LINGER", 0.0), ("_PAUSE", 0.005)):
        monkeypatch.setattr(processes, name, seconds)


def launch(monkeypatch: pytest.MonkeyPatch, *, rank: int, size: int = 2) -> HashStore:
    """Make this process believe that it is one of several; the others are the test's threads."""
    store = HashStore()
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(processes, "_join", lambda: _Group(store, rank=rank, size=size))
    return store


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, (0, 1)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (0, 1)),
        ({"WORLD_SIZE": "1"}, (0, 1)),
        ({"WORLD_SIZE": ""}, (0, 1)),
        ({"RANK": "3"}, (0, 1)),
        ({"WORLD_SIZE": "4", "RANK": "3"}, (3, 4)),
        ({"WORLD_SIZE": "2"}, None),
        ({"WORLD_SIZE": "2", "RANK": "2"}, None),
        ({"WORLD_SIZE": "2", "RANK": "first"}, None),
        ({"WORLD_SIZE": "two", "RANK": "0"}, None),
        ({"WORLD_SIZE": "0", "RANK": "0"}, None),
    ],
)
def test_rank_and_size_come_from_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    place: tuple[int, int] | None,
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if place is None:
        with pytest.raises(UserError, match="torchrun"):
            processes.rank()
    else:
        assert (processes.rank(), processes.world_size()) == place
        assert processes.is_main() == (place[0] == 0)


def test_one_process_needs_no_torch() -> None:
    script = (
        "import sys; from pathlib import Path; from tastemaker import processes\n"
        "from tastemaker.stage import Run, Stage\n"
        "with processes.launched(), processes.alone(), processes.together({}):\n"
        "    processes.barrier(); assert processes.broadcast(3) == 3; processes.release()\n"
        "assert list(processes.orders()) == []\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_alone_hides_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, rank=0)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    before = dict(os.environ)
    with processes.alone():
        assert processes.world_size() == 1
        assert not {"RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys()
        assert os.environ["ACCELERATE_USE_CPU"] == "true"
    assert dict(os.environ) == before


def test_all_get_the_main_processs_value_and_wait_for_each_other() -> None:
    store = HashStore()
    arrived: list[int] = []

    def work(rank: int) -> Any:
        group = _Group(store, rank=rank, size=3)
        first = group.broadcast({"stage": "tune"} if rank == 0 else None)
        time.sleep(0.05 * rank)
        arrived.append(rank)
        group.barrier()
        return first, len(arrived), group.broadcast([1.5, None] if rank == 0 else "ignored")

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, range(3)))
    assert found == [({"stage": "tune"}, 3, [1.5, None])] * 3


def test_a_failure_ends_the_waiting_of_the_others() -> None:
    store = HashStore()
    main, helper, other = (_Group(store, rank=rank, size=3) for rank in range(3))
    assert helper.fail("out of memory") is None
    with pytest.raises(StageError, match="process 1 of 3 failed: out of memory"):
        main.barrier()
    main.stop(2)
    with pytest.raises(_Stopped) as stop:
        other.broadcast(None)
    assert stop.value.code == 2
    assert helper.fail("closed connection") == 2
    assert not _Group(HashStore(), rank=0, size=2).barrier(limit=0.02)


def test_who_never_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"process 0 of 2 cannot reach the others.*MASTER_ADDR"):
        processes.launched().__enter__()


def test_the_main_process_gives_orders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = launch(monkeypatch, rank=0)
    helper = _Group(store, rank=1, size=2)
    seen: list[Any] = []

    def help_out() -> None:
        while (order := helper.broadcast(None)) is not None:
            seen.append((order["stage"], (tmp_path / ".scratch" / order["scratch"]).is_dir()))
            time.sleep(0.05)
            helper.barrier()
        helper.barrier()

    def work(space: Workspace) -> Mapping[str, Any]:
        (space.out / "size").write_text(str(processes.world_size()))
        return {}

    thread = threading.Thread(target=help_out)
    thread.start()
    run = Run(tmp_path)
    with processes.launched():
        run.execute(Stage("data", (), work, {}))
        run.execute(Stage("tune", (), work, {}, distributed=True))
        run.execute(Stage("tune", (), work, {}, distributed=True))  # current: nobody is asked
        processes.release()
        run.execute(Stage("train", (), work, {}))
    thread.join(5)
    assert seen == [("tune", True)]
    sizes = {name: (tmp_path / name / "size").read_text() for name in ("data", "tune", "train")}
    assert sizes == {"data": "1", "tune": "2", "train": "1"}


def test_outside_of_a_launch_block_every_process_is_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    launch(monkeypatch, rank=1)
    sizes: list[int] = []
    stage = Stage("tune", (), lambda _: {"n": sizes.append(processes.world_size())}, {})
    Run(tmp_path).execute(stage)
    assert sizes == [1]


def helped(
    monkeypatch: pytest.MonkeyPatch, folder: Path, work: Any, *, config: Any = None
) -> tuple[HashStore, threading.Thread]:
    """Prepare this process as helper of a thread that plays the main process."""
    (folder / "mine.yaml").write_text(RECIPE)
    stage = Stage("tune", (), work, {"rate": 1}, distributed=True)
    monkeypatch.setattr(pipeline, "stages", lambda recipe, until=None: [stage])
    store = launch(monkeypatch, rank=1)
    main = _Group(store, rank=0, size=2)
    run = Run(folder / "runs" / "mine", seed=load_recipe(folder / "mine.yaml").seed)
    same = run._same(Stage("tune", (), work, config or stage.config))

    def lead() -> None:
        try:
            main.broadcast({"stage": "tune", "same": same, "scratch": "tune-1"})
            main.barrier()
            main.broadcast(None)
            main.barrier()
        except StageError:
            main.stop(1)

    thread = threading.Thread(target=lead)
    thread.start()
    return store, thread


def test_a_helper_is_silent_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tastemaker: Callable[..., Any]
) -> None:
    spaces: list[Workspace] = []

    def work(space: Workspace) -> Mapping[str, Any]:
        assert not any(space.out.iterdir())
        (space.out / "adapter").write_text("1")
        print("training")  # noqa: T201
        print("warning", file=sys.stderr)  # noqa: T201
        space.report.line("training")
        spaces.append(space)
        return {}

    _, thread = helped(monkeypatch, tmp_path, work)
    found = tastemaker("tune", "mine.yaml", cwd=tmp_path)
    thread.join(5)
    assert found == (0, "", "")
    (space,) = spaces
    assert space.scratch == Path("runs/mine/.scratch/tune-1")
    assert space.cache == Path("runs/mine/.cache/tune")
    assert not space.out.exists()
    assert not (tmp_path / "runs").exists()


def test_a_helpers_failure_is_told_by_the_main_process_or_else_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tastemaker: Callable[..., Any]
) -> None:
    def work(space: Workspace) -> Mapping[str, Any]:
        raise StageError("the loss became nan")

    store, thread = helped(monkeypatch, tmp_path, work)
    assert tastemaker("tune", "mine.yaml", cwd=tmp_path) == (1, "", "")
    thread.join(5)
    assert store.get("failed") == b"process 1 of 2 failed: the loss became nan"

    store, thread = helped(monkeypatch, tmp_path, work)
    monkeypatch.setattr(_Group, "fail", lambda *_: None)  # a main process that hears nothing
    found = tastemaker("tune", "mine.yaml", cwd=tmp_path)
    assert found == (1, "", "error: process 1 of 2 failed: the loss became nan\n")
    store.set("failed", "over")
    thread.join(5)


def test_a_recipe_edited_between_two_starts_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tastemaker: Callable[..., Any]
) -> None:
    store, thread = helped(monkeypatch, tmp_path, lambda _: {}, config={"rate": 2})
    assert tastemaker("tune", "mine.yaml", cwd=tmp_path) == (1, "", "")
    thread.join(5)
    assert b"recipe of stage 'tune' differs" in store.get("failed")


def test_a_half_set_environment_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tastemaker: Callable[..., Any]
) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = tastemaker("tune", "mine.yaml", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.startswith("error: the environment has WORLD_SIZE '2' and no RANK.\n")
    assert not (tmp_path / "runs").exists()


def test_python_dash_m(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tastemaker", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert found.stdout.startswith("tastemaker 0")


# The real command line in real processes; only its stages are these.
DRIVER = """
import os, sys, time, types
from pathlib import Path
import torch
from tastemaker import processes
from tastemaker.errors import StageError, UserError
from tastemaker.stage import Stage

FAIL = os.environ.get("FAIL", "")
processes._GRACE = 2

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(3, 1)
    def forward(self, x, labels=None):
        found = self.layer(x).squeeze(-1)
        return {"loss": ((found - labels) ** 2).mean(), "logits": found}

def rows():
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(3))
    return x, x.sum(1)

def by_hand(space):  # torch alone, whole batches
    rank, size = processes.rank(), processes.world_size()
    model = Line()
    if size > 1:
        torch.distributed.init_process_group("gloo")
        model = torch.nn.parallel.DistributedDataParallel(model)
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        x, y = (part[rank::size] for part in rows())
        steps.zero_grad()
        model(x, labels=y)["loss"].backward()
        steps.step()
    return model

def with_trainer(space):
    from transformers import Trainer, TrainingArguments
    arguments = TrainingArguments(
        output_dir=str(space.scratch), per_device_train_batch_size=8 // processes.world_size(),
        num_train_epochs=3, learning_rate=0.1, use_cpu=True, report_to="none", disable_tqdm=True,
        save_strategy="epoch", ddp_find_unused_parameters=False, seed=5,
    )
    data = [{"x": x, "labels": y} for x, y in zip(*rows())]
    trainer = Trainer(model=Line(), args=arguments, train_dataset=data)
    trainer.train()
    assert arguments.world_size == processes.world_size()
    return trainer.model

def stage(train):
    def run(space):
        if FAIL == f"early {processes.rank()}":
            raise StageError("broken early")
        model = train(space)
        print("from", processes.rank(), file=sys.stderr)
        if FAIL == f"late {processes.rank()}":
            raise StageError("broken late")
        if processes.is_main():
            numbers = [x.item() for p in model.parameters() for x in p.detach().flatten()]
            (space.out / "weights").write_text(" ".join(f"{x:.5f}" for x in numbers))
        return {"line": f"by {processes.world_size()}"}
    return run

def data(space):
    assert not torch.distributed.is_initialized()
    assert processes.world_size() == 1
    (space.out / "data").write_text("1")
    if FAIL == "input":
        raise UserError("wrong input")
    if FAIL == "wait":
        time.sleep(60)
    return {}

kind = by_hand if os.environ.get("QUICK") else with_trainer
stages = [
    Stage("data", (), data, {}),
    Stage("tune", ("data",), stage(kind), {}, distributed=True),
    Stage("train", (), stage(kind), {}),
]
if kind is with_trainer:
    stages += [Stage("encode", (), stage(kind), {}, distributed=True)]
    stages += [Stage("evaluate", (), stage(kind), {})]
pipeline = types.ModuleType("tastemaker.methods.pipeline")  # spares seconds of imports
pipeline.stages = lambda recipe, until=None: stages
pipeline.save_recipe = lambda run, recipe: None
sys.modules[pipeline.__name__] = pipeline
from tastemaker.cli import main
main()
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path


def start(driver: Path, *, count: int, **variables: str) -> subprocess.Popen[str]:
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.Popen(
        [*launcher, "driver.py", "tune", "mine.yaml", "--out", f"run{count}"],
        cwd=driver,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def weights(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("*/weights")}


def test_two_processes_train_as_one(driver: Path) -> None:
    process = start(driver, count=2, QUICK="1")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    for line in ("tune      by 2", "train     by 1", "finished in"):
        assert out.count(line) == 1, out
    assert err.count("from 0") == 2
    assert "from 1" not in err
    found = weights(driver / "run2")
    assert found["tune"] == found["train"]


@pytest.mark.slow
def test_trainers_take_turns_with_ordinary_stages(driver: Path) -> None:
    for count in (1, 2):
        process = start(driver, count=count)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert "from 1" not in err
    assert [line.split()[2] for line in out.splitlines() if "by" in line] == ["2", "1", "2", "1"]
    (one,), (two,) = (set(weights(driver / f"run{count}").values()) for count in (1, 2))
    assert one == two
    again = start(driver, count=2)
    assert again.communicate(timeout=100)[0].count("up to date") == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fail", "message", "code"),
    [
        ("input", "error: wrong input", 2),
        ("early 0", "error: broken early", 1),
        ("early 1", "error: process 1 of 2 failed: broken early", 1),
        ("late 0", "error: broken late", 1),
        ("late 1", "error: process 1 of 2 failed: broken late", 1),
    ],
)
def test_one_failure_ends_all_and_is_told_once(
    driver: Path, fail: str, message: str, code: int
) -> None:
    process = start(driver, count=2, QUICK="1", FAIL=fail)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1  # the launcher's own
    assert err.count(message) == err.count("error: ") == 1, err
    assert f"exitcode  : {code} " in err
    assert not (driver / "run2" / "tune").exists()
    assert "finished" not in out


@pytest.mark.slow
def test_interrupt_and_busy(driver: Path) -> None:
    process = start(driver, count=2, QUICK="1", FAIL="wait")
    running = driver / "run2" / ".new" / "data" / "data"
    while not running.exists():
        time.sleep(0.1)
    other = start(driver, count=2, QUICK="1", FAIL="wait")
    assert other.communicate(timeout=60)[1].count("is in use by another tastemaker process") == 1
    by_hand = subprocess.run(
        [sys.executable, "-m", "tastemaker", "tune", "mine.yaml", "--out", "run2"],
        cwd=driver,
        capture_output=True,
        text=True,
        check=False,
    )
    assert by_hand.returncode == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.count("interrupted; the same command continues") == 1
    manifest = start(driver, count=2, QUICK="1").communicate(timeout=60)
    assert "finished" in manifest[0]
    assert json.loads((driver / "run2" / "tune" / "manifest.json").read_text())["stage"] == "tune"
