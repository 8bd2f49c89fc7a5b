"""Uni-CTR in whole runs: a world of five domains, a small encoder, every stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.methods import domain_tuning
from tastemaker.methods.auditing import audit
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.building import arranged
from tastemaker.methods.cataloguing import needs_of
from tastemaker.methods.domain_prompts import prompts_of
from tastemaker.methods.domain_training import Baseline, load_baseline
from tastemaker.methods.domain_tuning import MODEL, load_prompt_ctr
from tastemaker.methods.pipeline import stages
from tastemaker.methods.recommending import live_recommender
from tastemaker.models.baselines import ItemMean
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.domain_networks import GENERAL
from tastemaker.models.live import PopularItems
from tastemaker.models.multi_domain.recommender import MultiDomainRecommender
from tastemaker.models.prompt_ctr import PromptCtr
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Stage

UNSEEN, ADDED = "Music", "Toys"
KNOWN = ("Books", "Games", "Tools")
OURS = ("Uni-CTR", "Uni-CTR, general network", "Uni-CTR without ladders")
THEIRS = ("SharedBottom", "DeepFM per domain")
PRODUCING = ("data", "build", "tune", "train")
COUNTS = ("Item mean (same rows)", "Liked share + item mean (same rows)")


@pytest.fixture(scope="module", autouse=True)
def _quick(one_thread: None) -> None:
    """All tests of this file."""


class Killed(BaseException):
    pass


@dataclass
class Watched:
    """What was trained, in order."""

    prompts: list[list[Any]] = field(default_factory=list)
    checked: list[list[Any]] = field(default_factory=list)
    rows: dict[str, list[tuple[list[int], list[int]]]] = field(default_factory=dict)

    def watch(self, patch: pytest.MonkeyPatch, *, kill: int | None = None) -> None:
        """Note what trainings are given; the training of that number dies in its last step."""
        train_networks = domain_tuning.train_networks

        def tuned(model: Any, train: Any, *, valid: Any, **options: Any) -> Any:
            self.prompts.append(list(train.sequences))
            self.checked.append(list(valid.sequences))
            if len(self.prompts) - 1 == kill:
                options["on_step"] = dying
            return train_networks(model, train, valid=valid, **options)

        def dying(done: int, note: str = "") -> None:
            steps.append(done)
            if len(steps) == 3:
                raise Killed

        steps: list[int] = []
        patch.setattr(domain_tuning, "train_networks", tuned)
        for kind in (MultiDomainRecommender, CtrRecommender, ItemMean):
            patch.setattr(kind, "fit", self._noted(kind.__name__, kind.fit))

    def _noted(self, name: str, fit: Callable[..., Any]) -> Callable[..., Any]:
        def noted(model: Any, split: Any) -> Any:
            self.rows.setdefault(name, []).append((split.train.tolist(), split.valid.tolist()))
            return fit(model, split)

        return noted


@dataclass(frozen=True)
class Finished:
    recipe: Recipe
    run: Run
    killed: Watched
    resumed: Watched

    def scores(self) -> pl.DataFrame:
        """Scores of every model, with the domain of each row."""
        frame = pl.read_parquet(self.run.artefact("evaluate") / "scores.parquet")
        domains = load_split(self.run).tables.interactions["domain"].cast(pl.String)
        return frame.with_columns(domain=domains.gather(frame["row"]))

    def stage(self, name: str, recipe: Recipe | None = None) -> Stage:
        return next(one for one in stages(recipe or self.recipe) if one.name == name)

    def built(self, part: str, names: tuple[str, ...]) -> pl.DataFrame:
        frame = arranged(self.run.artefact("build"), part)
        return frame.filter(pl.col("domain").is_in(names)).sort("row")


def execute(recipe: Recipe, run: Run) -> None:
    for stage in stages(recipe):
        run.execute(stage)


@pytest.fixture(scope="module")
def finished(
    domain_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """A run whose tuning was killed in the last step of a second variant, and went on."""
    found = domain_recipe()
    run = Run(tmp_path_factory.mktemp("whole"), seed=found.seed)
    killed, resumed = Watched(), Watched()
    with pytest.MonkeyPatch.context() as patch:
        killed.watch(patch, kill=2)
        with pytest.raises(Killed):
            execute(found, run)
    assert run.manifest("build") is not None
    assert not (run.folder / "tune").exists()
    with pytest.MonkeyPatch.context() as patch:
        resumed.watch(patch)
        execute(found, run)
    return Finished(found, run, killed, resumed)


def test_what_was_finished_before_the_kill_is_not_trained_again(finished: Finished) -> None:
    killed, resumed = finished.killed.prompts, finished.resumed.prompts
    assert len(killed) == 3  # known domains, the added one, known ones without ladders
    assert len(resumed) == 2
    assert resumed[0] == killed[2] == killed[0]
    assert resumed[1] == killed[1]
    told = finished.run.manifest("tune")
    assert told is not None
    assert [*told.summary["variants"]] == [MODEL, "no_ladders"]
    for one in told.summary["variants"].values():
        assert one["steps"] == 2 * -(-len(killed[0]) // 64)
        assert [*one["added"]] == [ADDED]


def test_all_models_learn_from_the_same_rows_and_none_of_an_unseen_domain(
    finished: Finished,
) -> None:
    backbone = load_prompt_ctr(
        finished.recipe, finished.run.artefact("tune") / MODEL, variant=MODEL
    ).backbone
    for part, name, seen in (
        (0, "train", finished.killed.prompts),
        (1, "validation", finished.killed.checked),
    ):
        for names, sequences in ((KNOWN, seen[0]), ((ADDED,), seen[1])):
            texts = [turns[0]["content"] for turns in finished.built(name, names)["prompt"]]
            assert sorted(sequences) == sorted(backbone.encode(texts))
        rows = {one: finished.built(name, (one,))["row"].to_list() for one in (*KNOWN, ADDED)}
        known = sorted(row for one in KNOWN for row in rows[one])
        noted = finished.resumed.rows
        assert [given[part] for given in noted["MultiDomainRecommender"]] == [known]
        assert [given[part] for given in noted["CtrRecommender"]] == [*rows.values()]
        split = load_split(finished.run)
        assert [given[part] for given in noted["ItemMean"][-1:]] == [known]
        assert len(split.part(("train", "valid")[part])) > len(known) + len(rows[ADDED])
    assert finished.built("train", (UNSEEN,)).height > 20  # there were some to be left out


def test_each_domain_is_scored_by_its_own_network_an_unseen_one_by_the_general(
    finished: Finished,
) -> None:
    frame = finished.scores()
    assert {*OURS, *THEIRS, *COUNTS} <= set(frame.columns)
    split, requests = load_split(finished.run), load_requests(finished.run, "test")
    asked = prompts_of(finished.run.artefact("build"), requests, split)
    model = load_prompt_ctr(finished.recipe, finished.run.artefact("tune") / MODEL, variant=MODEL)
    assert model.networks.domains == [*KNOWN, ADDED]
    sequences = model.backbone.encode(asked.texts)
    general = model.score(sequences, asked.domains, network=GENERAL)
    np.testing.assert_allclose(frame[OURS[1]], general, rtol=1e-4, atol=1e-5)
    for name in (*KNOWN, ADDED, UNSEEN):
        rows = (frame["domain"] == name).to_numpy()
        assert rows.sum() >= 5
        network = GENERAL if name == UNSEEN else name
        expected = model.score(sequences, asked.domains, network=network)
        np.testing.assert_allclose(
            frame[OURS[0]].filter(rows), expected[rows], rtol=1e-4, atol=1e-5
        )
        apart = np.abs(expected - general)[rows].max()
        assert (apart > 0.01) == (name != UNSEEN)


def test_an_unseen_domain_has_no_head_in_any_baseline(finished: Finished) -> None:
    split, requests = load_split(finished.run), load_requests(finished.run, "test")
    frame = finished.scores()
    rows = (frame["domain"] == UNSEEN).to_numpy()
    for shown, backbone in zip(THEIRS, ("shared_bottom", "deepfm"), strict=True):
        model = load_baseline(finished.run, split, Baseline(backbone), config=finished.recipe.train)
        assert model.name == shown
        assert model.domains == (*KNOWN, ADDED)
        mean = model.head_scores(requests.select(rows)).mean(axis=1)
        np.testing.assert_allclose(frame[shown].filter(rows), mean, rtol=1e-4, atol=1e-6)


def test_the_page_shows_every_model_on_every_domain(finished: Finished) -> None:
    page = (finished.run.artefact("report") / "index.html").read_text()
    slices = json.loads((finished.run.artefact("evaluate") / "slices.json").read_text())
    by_name = {one["name"]: one for one in slices}
    for domain in (*KNOWN, ADDED, UNSEEN):
        assert f"domain: {domain}" in page
    for model in (*OURS, *THEIRS, *COUNTS):
        assert model in page
        for domain in (*KNOWN, ADDED, UNSEEN):
            assert np.isfinite(by_name[f"domain: {domain}"]["values"][model]["auc"])
    for text in (
        "Domains trained together: Books, Games, Tools.",
        "Domains added with everything else frozen: Toys.",
        "Domains never trained on: Music.",
        "Validation AUC while training, all known domains",
        ": The user is called user_",
    ):
        assert text in page
    frame = finished.scores()
    assert np.isfinite(frame.select(*OURS, *THEIRS, *COUNTS).to_numpy()).all()


def test_the_audit_finds_nothing(finished: Finished) -> None:
    report = audit(finished.recipe, finished.run)
    assert not report.failed, "\n".join(report.lines())
    checks = {finding.check for finding in report.findings}
    assert {"ids: item numbers in prompts", "prompts: provenance"} <= checks


def test_a_second_run_has_nothing_to_do(finished: Finished) -> None:
    for stage in stages(finished.recipe):
        assert finished.run.is_current(stage), stage.name


@pytest.mark.parametrize(
    ("changes", "current"),
    [
        ({"multi_domain": {"added": ["Toys", "Tools"]}}, "data build"),
        ({"multi_domain": {"unseen": []}}, "data build"),
        ({"multi_domain": {"tower": [4]}}, "data build train"),
        ({"multi_domain": {"states_gb": 3.0, "keep_states": False}}, "data build tune train"),
        ({"tune": {"shots": 60}}, "data build"),
        ({"tune": {"epochs": 3}}, "data build train"),
        ({"train": {"epochs": 2}}, "data build tune"),
    ],
)
def test_what_a_change_makes_out_of_date(
    finished: Finished,
    domain_recipe: Callable[..., Recipe],
    changes: dict[str, Any],
    current: str,
) -> None:
    wanted = [one for one in stages(domain_recipe(**changes)) if one.name in PRODUCING]
    found = [stage.name for stage in wanted if finished.run.is_current(stage)]
    assert found == current.split()


# Going on from a finished model


def continued(finished: Finished, folder: Path, recipe: Recipe) -> tuple[Run, Watched]:
    """A run of its own up to `tune`, on the data and prompts of the finished one."""
    run, watched = Run(folder / "run", seed=recipe.seed), Watched()
    for name in ("data", "build"):
        shutil.copytree(finished.run.folder / name, run.folder / name)
    with pytest.MonkeyPatch.context() as patch:
        watched.watch(patch)
        for stage in stages(recipe, until="tune"):
            run.execute(stage)
    return run, watched


def files_of(run: Run) -> dict[str, bytes]:
    folder = run.artefact("tune") / MODEL
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*.*")}


def model_of(run: Run, recipe: Recipe) -> PromptCtr:
    return load_prompt_ctr(recipe, run.artefact("tune") / MODEL, variant=MODEL)


def asked_of(finished: Finished) -> tuple[list[list[int]], list[str]]:
    """Test prompts as token ids, and their domains."""
    split, requests = load_split(finished.run), load_requests(finished.run, "test")
    asked = prompts_of(finished.run.artefact("build"), requests, split)
    return model_of(finished.run, finished.recipe).backbone.encode(asked.texts), [*asked.domains]


@pytest.mark.slow
def test_a_kill_changes_no_weight(
    finished: Finished, domain_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, watched = continued(finished, tmp_path, domain_recipe())
    assert len(watched.prompts) == 4
    for variant in (MODEL, "no_ladders"):
        folders = [one.artefact("tune") / variant / "networks" for one in (run, finished.run)]
        one, other = (
            {path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders
        )
        assert one == other
        assert len(one) == 2 + len(KNOWN) + 1


def test_a_domain_added_to_a_finished_model_changes_no_bit_of_the_others(
    finished: Finished, domain_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    start = str(finished.run.artefact("tune") / MODEL)
    several = {"start": start, "added": UNSEEN, "unseen": [], "ablations": []}
    recipe = domain_recipe(multi_domain=several)
    run, watched = continued(finished, tmp_path, recipe)
    assert len(watched.prompts) == 1
    assert len(watched.prompts[0]) == finished.built("train", (UNSEEN,)).height
    before, after = files_of(finished.run), files_of(run)
    for name in ("networks/networks.json", "uni_ctr.json"):
        assert before.pop(name) != after.pop(name)
    assert len(after) == len(before) + 1
    assert {name: after[name] for name in before} == before
    sequences, domains = asked_of(finished)
    old, new = model_of(finished.run, finished.recipe), model_of(run, recipe)
    assert new.networks.domains == [*KNOWN, ADDED, UNSEEN]
    scores, changed = (one.score(sequences, domains) for one in (old, new))
    rows = np.array(domains) == UNSEEN
    assert np.array_equal(changed[~rows], scores[~rows])
    assert (changed[rows] != scores[rows]).all()
    general = [one.score(sequences, domains, network=GENERAL) for one in (old, new)]
    assert np.array_equal(*general)


def test_a_domain_removed_from_a_finished_model_leaves_the_rest(
    finished: Finished, domain_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    start = str(finished.run.artefact("tune") / MODEL)
    several = {"start": start, "removed": "Games", "added": [], "ablations": []}
    recipe = domain_recipe(multi_domain=several)
    run, watched = continued(finished, tmp_path, recipe)
    assert not watched.prompts
    before, after = files_of(finished.run), files_of(run)
    assert set(after) < set(before)
    assert len(before) == len(after) + 1
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"networks/networks.json", "uni_ctr.json"}
    sequences, domains = asked_of(finished)
    old, new = model_of(finished.run, finished.recipe), model_of(run, recipe)
    scores, kept = (one.score(sequences, domains) for one in (old, new))
    for name in (*KNOWN, ADDED):
        rows = np.array(domains) == name
        assert np.array_equal(kept[rows], scores[rows]) == (name != "Games")
    rows = np.array(domains) == "Games"
    general = old.score(sequences, domains, network=GENERAL)
    np.testing.assert_allclose(kept[rows], general[rows], rtol=1e-4, atol=1e-5)


def test_its_models_serve_nobody(finished: Finished, tastemaker: Callable[..., Any]) -> None:
    folder = finished.run.folder
    found = tastemaker("recommend", "--run", str(folder), "--user", "3", cwd=folder)
    assert found.returncode == 2
    assert "compared only, and serve nobody" in found.stderr
    live = live_recommender(finished.run, load_split(finished.run))
    assert isinstance(live, PopularItems)
    assert needs_of(finished.recipe, PRODUCING) == ("data",)
