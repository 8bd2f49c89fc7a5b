from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import Requests, candidates, requests
from tastemaker.models.features import Feature
from tastemaker.models.multi_domain.recommender import MultiDomainRecommender
from tastemaker.models.text_vectors import TextVectors
from tastemaker.models.training import TrainingPlan
from tastemaker.testing.multi_domain import domain_split
from tastemaker.testing.recommender import RecommenderContract
from tastemaker.testing.world import checkerboard_split

OPTIONS: dict[str, dict[str, Any]] = {
    "shared_bottom": {"bottom": (16,), "tower": (8,)},
    "mmoe": {"experts": 2, "expert": (16,), "tower": (8,)},
    "ple": {"expert": (16,), "tower": (8,), "levels": 1},
    "star": {"hidden": (16, 8), "auxiliary": (8,)},
}
PLAN = TrainingPlan(learning_rate=2e-2, batch_size=64, epochs=3)
ADDED = replace(PLAN, learning_rate=5e-2, batch_size=16, epochs=4)
# Items that training did not know are told by their genre.
FEATURES = (Feature("genres", "categorical"), Feature("user", "categorical"))
COUNTED = (*FEATURES, Feature("item_mean", "statistic"))
KNOWN = ("Books", "Games")
BACKBONES = registry.names("multi-domain backbone")


def new(backbone: str = "shared_bottom", **changes: Any) -> MultiDomainRecommender:
    given = {"domains": KNOWN, "features": FEATURES, "dim": 8, "plan": PLAN}
    given |= {"options": OPTIONS.get(backbone, {})}
    return MultiDomainRecommender(backbone.upper(), backbone, **{**given, **changes})


class TestSharedBottom(RecommenderContract):
    def make(self) -> MultiDomainRecommender:
        return new("shared_bottom", domains=("Music", "Books", "Games"))

    def world(self) -> Split:
        return domain_split(30, 30, events=24)


@functools.cache
def world() -> Split:
    """Whoever likes even books and games likes odd music: no known head fits it."""
    return domain_split(30, 30, events=24, turned=["Music"])


@functools.cache
def judged() -> Requests:
    return requests(world(), "test")


def among(split: Split, rows: NDArray[np.int64], *domains: str) -> NDArray[np.bool_]:
    return split.tables.interactions["domain"][rows].is_in(list(domains)).to_numpy()


def where(*domains: str) -> NDArray[np.bool_]:
    return among(world(), judged().rows, *domains)


def auc_in(scores: NDArray[np.float32], domain: str) -> float:
    return auc(scores[where(domain)], judged().labels[where(domain)])


@dataclass
class Trained:
    before: NDArray[np.float32]
    heads_before: NDArray[np.float32]
    model: MultiDomainRecommender


@functools.cache
def trained(backbone: str) -> Trained:
    """Fitted to two domains, scored, and the third one added."""
    model = new(backbone).fit(world())
    before, heads = model.score(judged()), model.head_scores(judged())
    return Trained(before, heads, model.add_domain(world(), "Music", plan=ADDED))


@dataclass
class Counted:
    folder: Path
    model: MultiDomainRecommender
    before: NDArray[np.float32]
    after: NDArray[np.float32]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """The same in a hurry, with a statistic: as saved after `fit`, and with the third domain."""
    folder = tmp_path_factory.mktemp("counted")
    model = new(features=COUNTED, plan=replace(PLAN, epochs=1)).fit(world())
    model.save(folder)
    before = model.score(judged())
    model.add_domain(world(), "Music", plan=replace(PLAN, epochs=2))
    return Counted(folder, model, before, model.score(judged()))


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_world_has_both_parities_in_every_domain() -> None:
    events = world().tables.interactions
    for domain in ("Books", "Games", "Music"):
        own = events.filter(domain=domain)
        agree = (own["user"] % 2 == own["item"] % 2).to_numpy()
        assert (own["label"].to_numpy() == (agree ^ (domain == "Music"))).all()
        assert 0.4 < own["label"].mean() < 0.6


def test_learns_every_domain_that_it_is_given(backbone: str) -> None:
    scores = trained(backbone).before
    assert auc_in(scores, "Books") > 0.9
    assert auc_in(scores, "Games") > 0.9
    assert auc_in(scores, "Music") < 0.2  # what it knows is wrong there


def test_an_unknown_domain_gets_the_mean_of_all_heads(backbone: str) -> None:
    done = trained(backbone)
    unknown = where("Music")
    assert done.heads_before.shape == (len(judged()), 2)
    assert done.heads_before.dtype == np.float32
    mean = done.heads_before[unknown].mean(axis=1)
    np.testing.assert_allclose(done.before[unknown], mean, atol=1e-5)
    own = done.heads_before[np.arange(len(unknown)), np.where(where("Games"), 1, 0)]
    np.testing.assert_allclose(done.before[~unknown], own[~unknown], atol=1e-5)
    assert np.abs(done.before - done.heads_before.mean(axis=1))[~unknown].max() > 0.01


def test_an_added_domain_is_learnt_and_changes_no_bit_of_the_others(backbone: str) -> None:
    done = trained(backbone)
    assert done.model.domains == ("Books", "Games", "Music")
    after, known = done.model.score(judged()), where(*KNOWN)
    assert np.array_equal(after[known], done.before[known])
    assert auc_in(after, "Music") > 0.8
    heads = done.model.head_scores(judged())
    assert np.array_equal(heads[:, :2], done.heads_before)
    np.testing.assert_allclose(after[~known], heads[~known, 2], atol=1e-5)
    assert done.model.added_curves["Music"][-1]["valid_auc"] > 0.8


def test_saved_and_loaded_with_the_added_domain(backbone: str, tmp_path: Path) -> None:
    model = trained(backbone).model
    model.save(tmp_path)  # reads back and compares
    again = MultiDomainRecommender.load(tmp_path, split=world())
    assert again.domains == model.domains
    assert (again.curve, again.added_curves) == (model.curve, model.added_curves)
    assert np.array_equal(again.score(judged()), model.score(judged()))
    with pytest.raises(UserError, match="'Music' is one of the model's domains"):
        again.add_domain(world(), "Music")


def test_nothing_is_taken_from_rows_of_other_domains(counted: Counted) -> None:
    split = world()
    train, valid = (rows[among(split, rows, *KNOWN)] for rows in (split.train, split.valid))
    model = new(features=COUNTED, plan=replace(PLAN, epochs=1))
    scores = model.fit(replace(split, train=train, valid=valid)).score(judged())
    assert np.array_equal(scores, counted.before)


def test_statistics_of_an_added_domain_count_its_own_events(
    counted: Counted, tmp_path: Path
) -> None:
    known, split = where(*KNOWN), world()
    assert np.array_equal(counted.after[known], counted.before[known])
    counted.model.save(tmp_path)  # reads back and compares
    fewer = replace(split, train=split.train[among(split, split.train, *KNOWN)])
    scores = MultiDomainRecommender.load(tmp_path, split=fewer).score(judged())
    assert np.array_equal(scores[known], counted.after[known])
    assert not np.array_equal(scores[~known], counted.after[~known])


def test_candidates_that_are_no_events_are_told_by_their_item() -> None:
    model, split = trained("mmoe").model, world()
    asked = candidates(split, 0, items=[0, 1, 2, 3], time=split.boundaries["test"])
    assert (asked.rows == -1).all()
    heads = model.head_scores(asked)
    np.testing.assert_allclose(model.score(asked), heads[range(4), [0, 1, 2, 0]], atol=1e-5)


def test_requests_without_a_domain_get_the_mean_of_all_heads(tmp_path: Path) -> None:
    model, tables = trained("ple").model, world().tables
    model.save(tmp_path)
    hidden = tables.interactions.with_columns(domain=pl.when(pl.col("item") > 0).then("domain"))
    split = replace(world(), tables=replace(tables, interactions=hidden))
    again = MultiDomainRecommender.load(tmp_path, split=split)
    asked = candidates(split, 0, items=[0, 3], time=split.boundaries["test"])
    heads = again.head_scores(asked)
    np.testing.assert_allclose(again.score(asked), [heads[0].mean(), heads[1, 0]], atol=1e-5)


def test_a_killed_addition_leaves_the_model_and_goes_on(counted: Counted, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(_: int) -> None:
        raise Killed

    plan = replace(PLAN, epochs=2)
    model = MultiDomainRecommender.load(counted.folder, split=world())
    model._scratch, model._on_progress = tmp_path, die
    with pytest.raises(Killed):
        model.add_domain(world(), "Music", plan=plan)
    assert model.domains == KNOWN
    assert np.array_equal(model.score(judged()), counted.before)
    assert list(tmp_path.rglob("checkpoint-*"))
    told: list[int] = []
    model._on_progress = told.append
    torch.manual_seed(99)  # another process has another random state
    model.add_domain(world(), "Music", plan=plan)
    assert told == [1, 1]
    assert len(list(tmp_path.iterdir())) == 1  # it is the same training that went on
    assert np.array_equal(model.score(judged()), counted.after)


def test_texts_are_read_by_every_head_and_saved(tmp_path: Path) -> None:
    split = world()
    parity = np.arange(split.tables.n_users) % 2
    texts = [TextVectors("user_text", "user", np.eye(2, 6, dtype=np.float32), parity)]
    model = new(texts=texts, features=FEATURES[:1], plan=replace(PLAN, epochs=1)).fit(split)
    model.save(tmp_path)  # reads back and compares, with and without the adaptor
    asked = [candidates(split, user, items=[0, 1], time=0) for user in (0, 1, 2)]
    even, odd, other = (model.head_scores(one) for one in asked)
    assert (even != odd).all()
    np.testing.assert_allclose(even, other, atol=1e-6)  # nothing but the text tells users apart
    with pytest.raises(UserError, match=r"trained with the text vectors user_text"):
        MultiDomainRecommender.load(tmp_path, split=split)


def test_wrong_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="backbone 'mmo'; did you mean 'mmoe'"):
        new("mmo")
    with pytest.raises(UnknownNameError, match="did you mean 'tower'"):
        new(options={"towers": (8,)})
    with pytest.raises(UnknownNameError, match="domain 'Bookz'; did you mean 'Books'"):
        new(domains=["Bookz"]).fit(world())
    with pytest.raises(UserError, match="'Books' stands there twice"):
        new(domains=["Books", "Games", "Books"])
    with pytest.raises(UserError, match="none is named"):
        new(domains=[])


def test_domains_that_cannot_be_trained_are_named() -> None:
    split = world()
    labels = split.tables.interactions["label"].to_numpy()
    away = replace(split, train=split.train[~among(split, split.train, "Games")])
    with pytest.raises(DataError, match="'Games' has no row in the train part"):
        new().fit(away)
    likes = replace(split, valid=split.valid[labels[split.valid] == 1])
    with pytest.raises(DataError, match=r"domains Books, Games has \d+ row\(s\) of one label"):
        new().fit(likes)
    with pytest.raises(DataError, match=r"domain 'Games' has \d+ row\(s\) of one label"):
        new(domains=["Games"]).fit(likes)
    with pytest.raises(DataError, match=r"data\.domains"):
        new().fit(checkerboard_split())


def test_what_cannot_be_added_is_refused() -> None:
    model = trained("mmoe").model
    with pytest.raises(UserError, match="has not been fitted"):
        new().add_domain(world(), "Music")
    with pytest.raises(UserError, match="'Games' is one of the model's domains already"):
        model.add_domain(world(), "Games")
    other = domain_split(30, 30, events=24)
    with pytest.raises(UserError, match="other tables"):
        model.add_domain(other, "Music")
    with pytest.raises(UnknownNameError, match="did you mean 'Music'"):
        model.add_domain(world(), "Musik")
