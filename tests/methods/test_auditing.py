"""The audit of whole runs on the checkerboard world, clean ones and ones with planted leaks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.data import splits
from tastemaker.data.findings import AuditReport, Finding
from tastemaker.data.history import Histories, Past
from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.eval.protocol import Requests, requests
from tastemaker.methods import kar
from tastemaker.methods.auditing import (
    audit,
    audit_baselines,
    audit_knowledge_use,
    audit_recommender,
)
from tastemaker.methods.base import load_split
from tastemaker.methods.building import build_stage
from tastemaker.methods.encoding import knowledge_texts
from tastemaker.models.base import Recommender
from tastemaker.models.baselines import ItemMean, LikedShare, LikedShareAndItemMean
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.training import TrainingPlan
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Stage, Workspace
from tastemaker.testing.world import checkerboard_split

RECIPE = Recipe.model_validate(
    {
        "name": "world",
        "methods": ["tallrec", "kar"],
        "data": {"source": "movielens-small", "split": {"valid_from": 0.7, "test_from": 0.85}},
        "build": {"history": 4},
        "reason": {"model": "scripted:echo", "history_cap": 4, "max_tokens": 500},
        "encode": {"encoder": "hashing:32"},
        "train": {"epochs": 1, "batch_size": 64, "embedding_dim": 4, "history": 5},
    }
)


def data_stage(split: Split) -> Stage:
    """The artefact of a data stage, of a split at hand."""

    def write(space: Workspace) -> Mapping[str, Any]:
        split.tables.save(space.out / "tables")
        split.save(space.out / "split")
        for part in ("valid", "test"):
            chosen = requests(split, part, min_history=1)
            chosen.save(space.out / f"requests-{part}.parquet")
        return {}

    return Stage("data", (), write, {"split": {"name": "global_time"}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A clean run of everything that needs no language model."""
    run = Run(tmp_path_factory.mktemp("run"), seed=RECIPE.seed)
    made = (kar.reason_stage, kar.encode_stage, kar.train_stage, build_stage)
    for stage in (
        data_stage(checkerboard_split(30, 24, events=16)),
        *(one(RECIPE) for one in made),
    ):
        run.execute(stage)
    return run


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """The run, to be tampered with."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Run(tmp_path / "copy", seed=RECIPE.seed)


def failed(report: AuditReport) -> dict[str, Finding]:
    return {one.check: one for one in report.findings if one.severity == "fail"}


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    frame = pl.read_parquet(path)
    change(frame).write_parquet(path)
    return frame


def test_a_clean_run_passes(finished: Run) -> None:
    report = audit(RECIPE, finished)
    assert not report.failed, "\n".join(report.lines())
    assert report.count("warn") == 0
    assert report.skipped == []
    assert max(map(len, report.lines())) <= 80
    assert [finding.check for finding in report.findings] == [
        "split: parts",
        "split: order",
        "requests-test: provenance",
        "requests-test: history cuts",
        "requests-valid: provenance",
        "requests-valid: history cuts",
        "ids: dense item numbers",
        "ids: external item numbers",
        "Item mean: training only",
        "Liked share: training only",
        "Liked share + item mean: training only",
        "prompts: parts",
        "prompts: provenance",
        "prompts: candidates",
        "prompts: loose targets",
        "prompts: titles",
        "prompts: lengths",
        "knowledge: events",
        "knowledge: user texts",
        "DIN: histories",
        "DIN: vocabulary",
        "DIN + KAR: histories",
        "DIN + KAR: vocabulary",
        "knowledge: use",
    ]
    used = report.findings[-1].details
    assert used["user_texts_served"] > 100
    assert used["item_texts_served"] > 100


def test_stages_that_have_not_run_are_told(copy: Run) -> None:
    shutil.rmtree(copy.folder / "train")
    shutil.rmtree(copy.folder / "build")
    report = audit(RECIPE, copy)
    assert list(report.skipped) == ["build: has not been run", "train: has not been run"]
    assert not report.failed
    with pytest.raises(UserError, match="no finished 'data' stage"):
        audit(RECIPE, Run(copy.folder / "nowhere"))


def test_artefacts_of_other_data_are_not_judged(copy: Run) -> None:
    copy.execute(data_stage(checkerboard_split(30, 24, events=16, seed=5)), force=True)
    report = audit(RECIPE, copy)
    assert len(report.skipped) == 3
    assert report.skipped[0].startswith("build: was made from an earlier 'data' stage")


@pytest.mark.parametrize("leak", ["the target's own", "a later"])
def test_a_tampered_prompt_is_found(copy: Run, leak: str) -> None:
    split = load_split(copy)
    events = split.tables.interactions
    path = copy.folder / "build" / "data" / "test-00000-of-00001.parquet"
    frame = pl.read_parquet(path)
    row = int(frame["row"][7])
    target = events.row(row, named=True)
    later = events.filter((pl.col("user") == target["user"]) & (pl.col("time") >= target["time"]))
    met = events.filter((pl.col("user") == target["user"]) & (pl.col("time") < target["time"]))
    unmet = [item for item in later["item"] if item not in set(met["item"])]
    item = target["item"] if leak.startswith("the") else unmet[-1]
    title = split.tables.titles[item]

    def planted(frame: pl.DataFrame) -> pl.DataFrame:
        prompts = frame["prompt"].to_list()
        content = prompts[7][0]["content"]
        prompts[7][0]["content"] = content.replace("Preference:", f'Preference: "{title}",', 1)
        return frame.with_columns(prompt=pl.Series(prompts, dtype=frame.schema["prompt"]))

    rewrite(path, planted)
    found = failed(audit(RECIPE, copy))
    assert found["prompts: titles"].rows == [row]
    (example,) = found["prompts: titles"].details["examples"]
    assert title in example["problem"]
    assert str(example["user_id"]) == str(split.tables.users["user_id"][target["user"]])


def test_tampered_requests_are_found(copy: Run) -> None:
    path = copy.folder / "data" / "requests-test.parquet"
    second = (pl.int_range(pl.len()) == 2).cast(pl.Int64)
    frame = rewrite(path, lambda frame: frame.with_columns(pl.col("cut") + second))
    found = failed(audit(RECIPE, copy))
    assert {check: one.rows for check, one in found.items()} == {
        "requests-test: history cuts": [frame["row"][2]]
    }


def test_a_late_request_sees_its_own_target_and_is_found(copy: Run) -> None:
    path = copy.folder / "data" / "requests-test.parquet"
    rewrite(path, lambda frame: frame.with_columns(pl.col("time") + 10**6))
    found = failed(audit(RECIPE, copy))
    assert "requests-test: provenance" in found


def test_a_split_whose_parts_overlap_ends_the_audit(copy: Run) -> None:
    path = copy.folder / "data" / "split" / "split.parquet"
    rewrite(
        path,
        lambda frame: pl.concat([frame, frame.tail(1).with_columns(row=pl.lit(999_999, pl.Int64))]),
    )
    report = audit(RECIPE, copy)
    assert failed(report)["split: parts"].rows == [999_999]
    assert len(report.findings) == 1
    assert report.skipped


def test_knowledge_from_later_events_is_found(copy: Run) -> None:
    path = copy.folder / "reason" / "knowledge.parquet"
    rewrite(path, lambda frame: frame.with_columns(pl.col("cut_time") - 3600 * 24 * 365))
    found = failed(audit(RECIPE, copy))
    assert list(found) == ["knowledge: events", "knowledge: user texts"]
    assert found["knowledge: user texts"].details["problems"] > 20


def test_texts_of_another_user_are_found(copy: Run) -> None:
    (path,) = (copy.folder / "encode" / "user").glob("ids-*.parquet")
    rewrite(path, lambda frame: frame.reverse())
    found = failed(audit(RECIPE, copy))
    assert list(found) == ["knowledge: use"]
    assert "text of another user" in found["knowledge: use"].details["examples"][0]["problem"]


def test_a_text_that_serves_too_early_is_found(finished: Run) -> None:
    split = load_split(finished)
    texts = pl.read_parquet(finished.folder / "reason" / "knowledge.parquet")

    # The mistake: the cut is not looked at.
    eager = [replace(text, after=None) for text in knowledge_texts(finished, split)]
    (found,) = audit_knowledge_use(split, eager, [], texts=texts)
    cuts = dict(texts.filter(pl.col("kind") == "user").select("entity", "cut_time").iter_rows())
    events = split.tables.interactions
    early = [
        row
        for row in [*split.train, *split.valid]
        if events["time"][int(row)] <= cuts.get(events["user"][int(row)], -1)
    ]
    assert early
    assert (found.severity, found.rows) == ("fail", early[:10])
    assert found.details["problems"] == len(early)


class WithTies(Histories):
    """The mistake that the audit is for: events of the target's own second count as past."""

    def at(self, users: Any, times: Any, **options: Any) -> Past:
        return super().at(users, np.asarray(times) + 1, **options)


def test_a_broken_index_of_histories_is_found(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "Histories", WithTies)
    found = failed(audit(RECIPE, finished))
    assert {"DIN: histories", "DIN + KAR: histories"} <= set(found)
    split = load_split(finished)
    rows = found["DIN: histories"].rows
    assert len(rows) == 10
    assert set(rows) <= set(split.train.tolist())
    assert "is shown row" in found["DIN: histories"].details["examples"][0]["problem"]


class EveryLabel(ItemMean):
    """The leak: the mean of an item counts the answers of the test part, too."""

    name = "Every label"

    def fit(self, split: Split) -> EveryLabel:
        everything = np.arange(split.tables.interactions.height)
        super().fit(replace(split, train=everything))
        return self


class Hidden(EveryLabel):
    """The same, and it saves nothing of it."""

    name = "Hidden"

    def save(self, folder: Path) -> None:
        (folder / "nothing").touch()


class Unused(EveryLabel):
    """The leak is in what it learns, not yet in any score."""

    name = "Unused"

    def score(self, requests: Requests) -> Any:
        return np.zeros(len(requests), np.float32)


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        (ItemMean, "pass"),
        (LikedShare, "pass"),
        (LikedShareAndItemMean, "pass"),
        (EveryLabel, "fail"),
        (Hidden, "fail"),
        (Unused, "fail"),
    ],
)
def test_answers_of_the_test_part_in_item_statistics_are_found(
    model: Callable[[], Recommender], verdict: str
) -> None:
    split = checkerboard_split()
    (found,) = audit_baselines(split, [model])
    assert found.severity == verdict
    assert found.details["answers_changed"] == len(split.valid) + len(split.test)
    assert (len(found.rows) > 0) == (model in {EveryLabel, Hidden})
    assert found.details["fit_changed"] == (model in {EveryLabel, Unused})


def test_a_vocabulary_of_more_than_training_is_found() -> None:
    split = checkerboard_split(30, 24, events=16)
    settings: dict[str, Any] = {"dim": 4, "plan": TrainingPlan(batch_size=64, epochs=1)}
    everything = np.arange(split.tables.interactions.height)
    asked = [requests(split, "test")]
    for count in (2, 12):
        model = CtrRecommender("DIN", min_count=count, **settings).fit(split)
        _, clean = audit_recommender(split, model, asked)
        assert clean.severity == "pass"
    wide = CtrRecommender("DIN", min_count=12, **settings).fit(replace(split, train=everything))
    _, found = audit_recommender(split, wide, asked)
    assert found.severity == "fail"
    assert "though too rare" in found.details["examples"][0]["problem"]


def test_item_numbers_as_text_fail_where_they_reveal_the_target(copy: Run) -> None:
    split = load_split(copy)
    # Users take items in the order of their numbers, and titles are numbers.
    ordered = split.tables.interactions.with_columns(
        item=pl.int_range(pl.len()).over("user").cast(pl.Int32)
    )
    items = split.tables.items.with_columns(title=pl.col("item_id").cast(pl.String))
    many = pl.DataFrame({"item": range(24, 300), "item_id": range(24, 300)}).with_columns(
        title=pl.col("item_id").cast(pl.String), genres=pl.lit("x")
    )
    items = pl.concat([items, many.cast(dict(items.schema))])
    tables = replace(split.tables, interactions=ordered, items=items)
    copy.execute(data_stage(replace(split, tables=tables)), force=True)
    report = audit(RECIPE, copy)
    found = failed(report)
    assert {"ids: dense item numbers", "ids: external item numbers"} <= set(found)
    assert "items are called by their id" in found["ids: dense item numbers"].summary
