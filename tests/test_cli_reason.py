"""`tastemaker reason` as a user meets it, against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tastemaker.testing.fault_proxy import FaultProxy
from tastemaker.testing.world import checkerboard

Call = Callable[..., Any]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tables = checkerboard(n_users=12, n_items=10, events=8, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(tmp_path / "r.csv")
    tables.items.select("item_id", "title", "genres").write_csv(tmp_path / "i.csv")
    values = {
        "name": "r",
        "methods": ["kar"],
        "data": {
            "interactions": "r.csv",
            "items": "i.csv",
            "columns": {"user": "user_id", "item": "item_id", "rating": "rating"},
            "requests": {"min_history": 1},
        },
        "reason": {"model": "scripted:brief", "max_tokens": 200, "history_cap": 4},
    }
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def service() -> Iterator[FaultProxy]:
    faults = {"rate_limit": 0.2, "server_error": 0.1, "truncated_json": 0.1}
    with FaultProxy(seed=4, faults=faults, key_required="sk-right", models=("small",)) as proxy:
        yield proxy


def remote(service: FaultProxy, *more: str) -> list[str]:
    wanted = ("model=openai:small", f"base_url={service.url}", *more)
    return [part for one in wanted for part in ("--set", f"reason.{one}")]


def test_an_estimate_and_then_the_job(tastemaker: Call, recipe: Path) -> None:
    estimated = tastemaker("reason", "r.yaml", "--estimate", "--probe", "1", cwd=recipe.parent)
    assert estimated.returncode == 0, estimated.stderr
    assert "requests   20 to send, 2 in the store" in estimated.stdout
    assert "cost       unknown: set reason.price" in estimated.stdout
    assert max(map(len, estimated.stdout.splitlines())) <= 80
    told = tastemaker("reason", "r.yaml", "--estimate", "--probe", "0", "--json", cwd=recipe.parent)
    assert json.loads(told.stdout)["requests"] == 20
    done = tastemaker("reason", "r.yaml", cwd=recipe.parent)
    assert "12 users, 10 items; 20 answers now" in done.stdout
    again = tastemaker("reason", "r.yaml", cwd=recipe.parent)
    assert "reason    up to date" in again.stdout


def test_a_server_with_faults_and_a_key_from_a_file(
    tastemaker: Call, recipe: Path, service: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")  # set, so that what the file brings is taken back
    monkeypatch.delenv("OPENAI_API_KEY")
    (recipe.parent / ".env").write_text("OPENAI_API_KEY=sk-right\n")
    done = tastemaker("reason", "r.yaml", *remote(service), cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert "12 users, 10 items; 22 answers now" in done.stdout
    assert service.faults_injected
    kept = [path for path in recipe.parent.rglob("*") if path.is_file() and path.name != ".env"]
    assert not any(b"sk-right" in path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    ("key", "more", "message", "remedy"),
    [
        ("", ["base_url=null"], "found no key", "export OPENAI_API_KEY="),
        ("sk-wrong", [], "refuses the key", "OPENAI_API_KEY"),
        ("sk-right", ["model=openai:smal"], "did you mean 'small'?", "available: small"),
        ("sk-right", ["base_url=http://127.0.0.1:9/v1"], "nobody answers at", "reason.base_url"),
        ("sk-right", ["factors=[]"], "an empty list", "leave factors out"),
        ("sk-right", ["context=300"], "do not fit into", "reason.context"),
        ("sk-right", ["user_template=kar/user_x"], "unknown template", "did you mean"),
    ],
)
def test_mistakes_are_found_before_the_first_paid_request(
    tastemaker: Call,
    recipe: Path,
    service: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    more: list[str],
    message: str,
    remedy: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    if not key:
        monkeypatch.delenv("OPENAI_API_KEY")
    found = tastemaker("reason", "r.yaml", *remote(service, *more), cwd=recipe.parent)
    assert found.returncode == 2, found.stdout
    assert message in found.stderr
    assert remedy in found.stderr
    assert "Traceback" not in found.stderr
    assert not [record for record in service.records if record.fault == "passed"]
    assert not (recipe.parent / "runs" / "r" / "reason").exists()


def test_the_model_names_factors(
    tastemaker: Call, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tastemaker.agents.chat_models import SCRIPTS

    asked: list[str] = []

    def script(conversation: Any) -> str:
        asked.append(conversation[-1].text)
        return "1. Genre\n2. Mood or tone\n3. Soundtrack"

    monkeypatch.setitem(SCRIPTS, "brief", script)
    found = tastemaker("reason", "r.yaml", "--factors", "items", cwd=recipe.parent)
    assert "  factors: [genre, mood or tone, soundtrack]" in found.stdout.splitlines()
    again = tastemaker("reason", "r.yaml", "--factors", "items", cwd=recipe.parent)
    assert again.stdout.splitlines()[-1] == found.stdout.splitlines()[-1]
    assert len(asked) == 1
