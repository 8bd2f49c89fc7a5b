"""`tastemaker knowledge` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tastemaker.agents.batch_ledger import BatchLedger, Line
from tastemaker.agents.knowledge import Failure, Knowledge, KnowledgeStore, request_key
from tastemaker.stage import Run

Call = Callable[..., Any]
MODEL, PARAMS = "openai:gpt-4o-mini", {"max_tokens": 20}


def shared(kind: str, entity: str, chain: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"About {kind} {entity}:\n\x1b[31mred"}]
    return {
        "key": request_key(MODEL, None, PARAMS, messages),
        "kind": kind,
        "entity": entity,
        "model": MODEL,
        "params": PARAMS,
        "messages": messages,
        "chain": chain,
        "prompt_tokens": 1000,
        "completion_tokens": 234,
        "cost": 0.5,
        "created": "2026-11-01T12:00:00+00:00",
        **more,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    with KnowledgeStore(folder / "knowledge.sqlite") as store:
        store.put_many(
            [
                Knowledge(**shared("item", "7", "kar/item_movies"), text="It won."),
                Knowledge(
                    **shared("item", "8", "kar/item_movies", created="2026-11-20T12:00:00+00:00"),
                    text="It lost.",
                ),
                Knowledge(
                    **shared("user", "7", "kar/user_movies", cut_time=1_000_000_000),
                    text="Likes films.",
                ),
                Failure(**shared("user", "9", "kar/user_movies"), reason="refusal", detail="Sorry"),
            ]
        )
    return folder


def refused(found: Any, *parts: str) -> None:
    assert found.returncode == 2, found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    for part in parts:
        assert part in found.stderr


def number(run: Path) -> int:
    with KnowledgeStore(run / "knowledge.sqlite") as store:
        return len([*store.each(Knowledge), *store.each(Failure)])


def test_list(tastemaker: Call, run: Path, tmp_path: Path) -> None:
    with BatchLedger(run / "knowledge.sqlite") as ledger:
        ledger.plan("scope", [Line("k", 0, "{}", {})], model=MODEL, now=0)
    found = tastemaker("knowledge", "list", "run", cwd=tmp_path)
    assert found.returncode == 0
    assert max(map(len, found.stdout.splitlines())) <= 80
    lines = found.stdout.splitlines()
    assert lines[0] == "openai:gpt-4o-mini · kar/item_movies"
    assert lines[2].split() == [
        "item",
        "answered",
        "2",
        "2,468",
        "1.0000",
        "2026-11-01",
        "2026-11-20",
    ]
    assert ["user", "refusal", "1"] in [line.split()[:3] for line in lines]
    assert lines[-1] == "Not collected yet: 1 requests to openai:gpt-4o-mini, planned."
    found = tastemaker("knowledge", "list", str(run / "knowledge.sqlite"), "--json", cwd=tmp_path)
    told = json.loads(found.stdout)
    assert sum(group["count"] for group in told["groups"]) == 4
    assert told["batches"][0]["lines"] == 1


def test_show(tastemaker: Call, run: Path, tmp_path: Path) -> None:
    found = tastemaker("knowledge", "show", "run", "7", cwd=tmp_path)
    assert "It won." in found.stdout
    assert "Likes films." in found.stdout
    assert "2001-09-09" in found.stdout
    assert "\x1b" not in found.stdout
    found = tastemaker("knowledge", "show", "run", "7", "--kind", "user", cwd=tmp_path)
    assert "It won." not in found.stdout
    found = tastemaker("knowledge", "show", "run", "7", "-n", "1", "--json", cwd=tmp_path)
    assert len(json.loads(found.stdout)) == 1
    found = tastemaker("knowledge", "show", "run", "9", cwd=tmp_path)
    assert "refusal" in found.stdout
    assert "Sorry" in found.stdout
    refused(tastemaker("knowledge", "show", "run", "10", cwd=tmp_path), "knows nothing of '10'")


def test_export_and_import(tastemaker: Call, run: Path, tmp_path: Path) -> None:
    found = tastemaker("knowledge", "export", "run", "all.jsonl", cwd=tmp_path)
    assert "3 answers, 1 failures" in found.stdout
    found = tastemaker("knowledge", "import", "new.sqlite", "all.jsonl", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "3 answers and 1 failures are new" in found.stdout
    found = tastemaker("knowledge", "import", "run", "all.jsonl", cwd=tmp_path)
    assert "3 were known" in found.stdout
    found = tastemaker("knowledge", "export", "run", "u.parquet", "--kind", "user", cwd=tmp_path)
    assert "1 answers, 1 failures" in found.stdout
    refused(tastemaker("knowledge", "export", "run", "all.csv", cwd=tmp_path), ".parquet")
    refused(tastemaker("knowledge", "import", "none", "all.jsonl", cwd=tmp_path), "none")
    with Run(run).lock():
        refused(tastemaker("knowledge", "import", "run", "all.jsonl", cwd=tmp_path), "in use")


def test_import_of_kar_files(tastemaker: Call, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    prompt = "A user saw “Up”, 5 stars; Analyse."
    (tmp_path / "user.klg").write_text(json.dumps({"3": {"prompt": prompt, "ans": "Likes Up."}}))
    (tmp_path / "cuts.csv").write_text("user_id,cut_time\n3,1000\n")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nmethods: [kar]\nseed: 5\ndata: {source: movielens-small}\n"
        "reason: {model: 'openai:gpt-4o-mini', max_tokens: 33}\n"
    )
    asked = ("knowledge", "import", "run", "user.klg", "--kind", "user")
    refused(tastemaker(*asked, cwd=tmp_path), "which model wrote it", "--model")
    refused(tastemaker(*asked, "--model", MODEL, cwd=tmp_path), "--cut-times FILE")
    refused(tastemaker(*asked, "--params", "[]", cwd=tmp_path), "no JSON object")
    both = ("--cut-times", "cuts.csv", "--cut-unknown")
    refused(tastemaker(*asked, *both, cwd=tmp_path), "exclude each other")
    wrong = ("--model", MODEL, "--recipe", "mine.yaml")
    refused(tastemaker(*asked, *wrong, cwd=tmp_path), "--recipe says model")
    wrong = ("--model", MODEL, "--cut-times", "user.klg")
    refused(tastemaker(*asked, *wrong, cwd=tmp_path), "cannot be read as cut times")
    good = ("--recipe", "mine.yaml", "--cut-times", "cuts.csv")
    found = tastemaker(*asked, *good, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    params = {"max_tokens": 33, "temperature": 0.0, "seed": 5}
    key = request_key(MODEL, None, params, [{"role": "user", "content": prompt}])
    with KnowledgeStore(tmp_path / "run" / "knowledge.sqlite") as store:
        assert store.get_many([key])[key].cut_time == 1000


def test_prune_failures(tastemaker: Call, run: Path, tmp_path: Path) -> None:
    found = tastemaker("knowledge", "prune", "run", "--failed", cwd=tmp_path)
    assert "refusal" in found.stdout
    assert "answered" not in found.stdout
    refused(found, "Add --yes")
    assert number(run) == 4
    found = tastemaker("knowledge", "prune", "run", "--failed", "--yes", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "forgot 1 texts" in found.stdout
    assert number(run) == 3
    found = tastemaker("knowledge", "prune", "run", "--failed", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "Nothing to prune.\n")
    refused(tastemaker("knowledge", "prune", "run", "--yes", cwd=tmp_path), "at least one of")


def test_prune_by_chain_and_date(tastemaker: Call, run: Path, tmp_path: Path) -> None:
    prune = ("knowledge", "prune", "run", "--yes")
    chosen = ("--chain", "kar/item_movies", "--before", "2026-11-10")
    assert tastemaker(*prune, *chosen, cwd=tmp_path).returncode == 0
    with KnowledgeStore(run / "knowledge.sqlite") as store:
        left = [(one.kind, one.entity) for one in [*store.each(Knowledge), *store.each(Failure)]]
    assert sorted(left) == [("item", "8"), ("user", "7"), ("user", "9")]
    refused(tastemaker(*prune, "--before", "someday", cwd=tmp_path), "someday")
    with Run(run).lock():
        refused(tastemaker(*prune, "--failed", cwd=tmp_path), "in use")


def test_prune_asks_on_a_terminal(
    tastemaker: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for said, left in ((False, 4), (True, 3)):
        monkeypatch.setattr(click, "confirm", lambda text, said=said: said)
        found = tastemaker("knowledge", "prune", "run", "--failed", cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        assert number(run) == left


def test_prune_gives_space_back_and_lets_go_of_batches(
    tastemaker: Call, run: Path, tmp_path: Path
) -> None:
    path = run / "knowledge.sqlite"
    with BatchLedger(path) as ledger:
        lines = [Line(f"k{place}", 0, "x" * 1000, {}) for place in range(900)]
        ledger.plan("scope", lines, model=MODEL, now=0)
    size = path.stat().st_size
    found = tastemaker("knowledge", "prune", "run", "--batches", cwd=tmp_path)
    assert "900 requests" in found.stdout
    tastemaker("knowledge", "prune", "run", "--batches", "--yes", cwd=tmp_path)
    assert path.stat().st_size < size / 5
    assert number(run) == 4
    with BatchLedger(path) as ledger:
        assert ledger.open_parts() == []


def test_what_is_no_store(tastemaker: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.sqlite").write_text("something else " * 100)
    refused(tastemaker("knowledge", "list", "empty", cwd=tmp_path), "holds no knowledge")
    refused(tastemaker("knowledge", "list", "none", cwd=tmp_path), "no such file")
    refused(tastemaker("knowledge", "list", "text.sqlite", cwd=tmp_path), "cannot be used")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text.sqlite"]
