"""The stage `reason` with every chain, on the checkerboard world with scripted chat models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.agents.knowledge import Knowledge, KnowledgeStore
from tastemaker.data.findings import Finding
from tastemaker.errors import RecipeError, StageError, UserError
from tastemaker.methods.base import load_split
from tastemaker.methods.estimating import estimate
from tastemaker.methods.knowledge import STORE, audit_reason, knowledge_of
from tastemaker.methods.pipeline import stages
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Silent
from tastemaker.testing.world import checkerboard

USERS, ITEMS = 30, 24


def write_tables(folder: Path, *, renamed: int | None = None) -> None:
    tables = checkerboard(n_users=USERS, n_items=ITEMS, events=16, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(folder / "r.csv")
    titles = tables.items.select("item_id", "title", "genres").with_row_index()
    if renamed is not None:
        other = pl.when(pl.col("index") == renamed).then(pl.lit("Another film"))
        titles = titles.with_columns(title=other.otherwise("title"))
    titles.drop("index").write_csv(folder / "i.csv")


def recipe(folder: Path, **reason: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "world",
            "methods": ["kar"],
            "data": {
                "interactions": str(folder / "r.csv"),
                "items": str(folder / "i.csv"),
                "columns": {"user": "user_id", "item": "item_id", "rating": "rating"},
                "requests": {"min_history": 1},
            },
            "reason": {
                "model": "scripted:brief",
                "history_cap": 4,
                "max_tokens": 900,
                "user_template": "kar/user_items",
                "item_template": "kar/item_items",
                **reason,
            },
        }
    )


def reasoned(folder: Path, **reason: Any) -> tuple[Run, pl.DataFrame, dict[str, Any]]:
    write_tables(folder)
    return again(folder, **reason)


def again(folder: Path, **reason: Any) -> tuple[Run, pl.DataFrame, dict[str, Any]]:
    found = recipe(folder, **reason)
    run = Run(folder / "run", seed=found.seed)
    for stage in stages(found, until="reason"):
        run.execute(stage)
    manifest = run.manifest("reason")
    assert manifest is not None
    return run, knowledge_of(run), dict(manifest.summary)


def verdicts(run: Run) -> list[Finding]:
    return list(audit_reason(run, load_split(run)))


@pytest.mark.parametrize(
    ("chain", "more", "requests"),
    [
        ("single", {}, 1),
        ("single", {"cut": "train", "verify": "drop"}, 1),
        ("stepwise", {"user_template": None, "item_template": None}, 10),
        (
            "profile",
            {"user_template": None, "item_template": None, "model": "scripted:json"},
            1,
        ),
    ],
)
def test_each_chain_tells_about_everyone_and_nothing_from_after_its_cut(
    tmp_path: Path, chain: str, more: dict[str, Any], requests: int
) -> None:
    run, frame, summary = reasoned(tmp_path, chain=chain, **more)
    split = load_split(run)
    assert frame["kind"].value_counts().sort("kind").rows() == [("item", ITEMS), ("user", USERS)]
    assert (frame["requests"] == requests).all()
    assert frame["text"].str.len_chars().min() > 0  # type: ignore[operator]
    assert summary["unanswered"] == 0
    times = split.tables.interactions["time"]
    for row in frame.filter(pl.col("kind") == "user").iter_rows(named=True):
        assert 0 < len(row["events"]) <= 4
        assert times.gather(row["events"]).max() == row["cut_time"]
        if more.get("cut") == "train":
            assert np.isin(row["events"], split.train_events).all()
    found = verdicts(run)
    assert [one.check for one in found] == ["knowledge: events", "knowledge: user texts"]
    assert [one.severity for one in found] == ["pass", "pass"]


def test_summaries_are_about_items_only(tmp_path: Path) -> None:
    more = {"user_template": None, "item_template": None, "model": "scripted:json"}
    run, frame, _ = reasoned(tmp_path, chain="summary", **more)
    assert frame["kind"].unique().to_list() == ["item"]
    assert [one.severity for one in verdicts(run)] == ["pass"]


def test_groups_hand_their_text_to_all_members(tmp_path: Path) -> None:
    groups = {"user_groups": 2, "item_groups": 3, "encoder": "hashing:64"}
    run, frame, _ = reasoned(tmp_path, chain="collective", cut="train", collective=groups)
    split = load_split(run)
    kinds = frame.group_by("kind").agg(pl.len(), texts=pl.col("text").n_unique())
    found = {kind: (count, texts) for kind, count, texts in kinds.iter_rows()}
    assert found["item"] == (ITEMS, 3)
    assert found["item_group"] == (3, 3)
    assert found["user_group"] == (4, 4)
    assert found["user"][0] == USERS
    assert 2 <= found["user"][1] <= 4
    last = int(split.tables.interactions["time"].gather(split.train_events).max())  # type: ignore[arg-type]
    assert frame.filter(pl.col("kind") == "user")["cut_time"].max() == last
    assert [one.severity for one in verdicts(run)] == ["pass"]


def test_groups_refuse_a_cut_that_differs_from_user_to_user(tmp_path: Path) -> None:
    write_tables(tmp_path)
    with pytest.raises(RecipeError, match=r"reason\.cut = oldest_half") as caught:
        stages(recipe(tmp_path, chain="collective"), until="reason")
    assert "train" in str(caught.value)


def test_a_later_or_foreign_event_is_found(tmp_path: Path) -> None:
    run, frame, _ = reasoned(tmp_path)
    users = frame.filter(pl.col("kind") == "user")
    first, second = users["events"][0], users["events"][1]
    path = run.artefact("reason") / "knowledge.parquet"
    for wrong, message in (
        (second, "was shown for user"),
        (pl.Series([*first, load_split(run).tables.interactions.height - 1]), "later than"),
    ):
        swapped = pl.Series([wrong, *users["events"][1:]])
        users.with_columns(events=swapped).write_parquet(path)
        (events, _) = verdicts(run)
        assert events.severity == "fail"
        assert message in json.dumps(events.details)


def test_one_changed_item_is_one_more_request(tmp_path: Path) -> None:
    _, _, summary = reasoned(tmp_path, cut="train")
    assert summary["generated_now"] == USERS + ITEMS
    write_tables(tmp_path, renamed=3)
    _, frame, summary = again(tmp_path, cut="train")
    shown = frame.filter(pl.col("prompt").str.contains('"Another film"', literal=True)).height
    assert 1 <= shown < ITEMS
    assert summary["generated_now"] == shown


def test_a_budget_ends_the_job_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="max_requests of 16 is reached") as caught:
        reasoned(tmp_path, max_requests=16, batch_size=8)
    assert "16 answers of this run are kept" in str(caught.value)
    assert not (tmp_path / "run" / "reason").exists()
    _, frame, summary = again(tmp_path)
    assert summary["generated_now"] == USERS + ITEMS - 16
    assert frame.height == USERS + ITEMS


def test_an_estimate_counts_exactly_and_keeps_what_it_asked(tmp_path: Path) -> None:
    write_tables(tmp_path)
    price = {"prompt": 1.0, "completion": 2.0}
    found = recipe(tmp_path, price=price, chain="stepwise", user_template=None, item_template=None)
    run = Run(tmp_path / "run", seed=found.seed)
    for stage in stages(found, until="data"):
        run.execute(stage)
    none = estimate(found.reason, run, probe=0, report=Silent())
    assert (none.users, none.items) == (USERS, ITEMS)
    assert (none.requests, none.answered, none.probed) == ((USERS + ITEMS) * 10, 0, 0)
    assert none.seconds is None
    assert none.completion_tokens == none.requests * 900
    some = estimate(found.reason, run, probe=2, report=Silent())
    assert some.probed == 40
    assert (some.requests, some.answered) == (none.requests - 40, 40)
    assert some.seconds is not None
    assert some.cost == pytest.approx((some.prompt_tokens + 2 * some.completion_tokens) / 1e6)
    with KnowledgeStore(run.folder / STORE) as store:
        assert len(list(store.each(Knowledge))) == 40
    assert any("40 requests asked" in line for line in some.lines())
    assert max(map(len, some.lines())) <= 80


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ({"factors": []}, "an empty list"),
        ({"max_cost": 1.0}, "max_cost needs a price too"),
        ({"cut": "yesterday"}, "reason.cut"),
        ({"chain": "singel"}, "reason.chain"),
        ({"language": "english"}, "reason.language"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, reason: dict[str, Any], message: str) -> None:
    from tastemaker.recipe import load_recipe

    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({"name": "x", "reason": reason}))
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert message in str(caught.value)


def test_batches_need_a_service_that_has_them(tmp_path: Path) -> None:
    write_tables(tmp_path)
    with pytest.raises(RecipeError, match="has no Batch API"):
        stages(recipe(tmp_path, batch_api=True), until="reason")
