from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tastemaker.data.splits import Split
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import Requests, candidates, requests
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.features import Feature
from tastemaker.models.multi_domain.separate import SeparateDomains
from tastemaker.models.training import TrainingPlan
from tastemaker.testing.multi_domain import domain_split

SETTINGS: dict[str, Any] = {
    "backbone": "deepfm",
    "features": [Feature(name, "categorical") for name in ("item", "genres", "user")],
    "dim": 8,
    "plan": TrainingPlan(learning_rate=3e-2, batch_size=32, epochs=4),
    "options": {"hidden": (16,)},
}


def new(**changes: Any) -> SeparateDomains:
    return SeparateDomains("Apart", **{"domains": ["Books", "Games"], **SETTINGS, **changes})


@functools.cache
def world() -> Split:
    return domain_split(30, 30, events=24, turned=["Music"])


@functools.cache
def judged() -> Requests:
    return requests(world(), "test")


def heads() -> np.ndarray:
    """0: Books, 1: Games, 2: Music."""
    return judged().items % 3


@functools.cache
def fitted() -> SeparateDomains:
    return new().fit(world())


def test_each_domain_is_learnt_from_its_own_rows_alone() -> None:
    split, scores = world(), fitted().score(judged())
    assert scores.dtype == np.float32
    for head in (0, 1):
        assert auc(scores[heads() == head], judged().labels[heads() == head]) > 0.85
    names = split.tables.interactions["domain"].cast(str).to_numpy()
    train, valid = (rows[names[rows] == "Games"] for rows in (split.train, split.valid))
    alone = CtrRecommender("Alone", **SETTINGS).fit(replace(split, train=train, valid=valid))
    assert set(alone.space.own_items % 3) == {1}
    games = heads() == 1
    assert np.array_equal(scores[games], alone.score(judged().select(games)))
    assert fitted().curves["Games"] == alone.curve


def test_an_unknown_domain_gets_the_mean_of_all_models() -> None:
    scores, told = fitted().score(judged()), fitted().head_scores(judged())
    assert told.shape == (len(judged()), 2)
    assert told.dtype == np.float32
    unknown = heads() == 2
    np.testing.assert_allclose(scores[unknown], told[unknown].mean(axis=1), atol=1e-5)
    assert auc(scores[unknown], judged().labels[unknown]) < 0.3


def test_a_score_does_not_depend_on_the_other_requests() -> None:
    scores = fitted().score(judged())
    backwards = fitted().score(Requests(judged().frame.reverse()))[::-1]
    np.testing.assert_allclose(backwards, scores, atol=1e-5)
    none = judged().select(np.zeros(len(judged()), dtype=bool))
    assert fitted().score(none).shape == (0,)
    assert fitted().head_scores(none).shape == (0, 2)


def test_an_added_domain_is_saved_with_the_others(tmp_path: Path) -> None:
    split, before = world(), fitted().score(judged())
    fitted().save(tmp_path / "two")
    model = SeparateDomains.load(tmp_path / "two", split=split)
    assert np.array_equal(model.score(judged()), before)
    model.add_domain(split, "Music")
    assert model.domains == ("Books", "Games", "Music")
    after = model.score(judged())
    assert np.array_equal(after[heads() < 2], before[heads() < 2])
    assert auc(after[heads() == 2], judged().labels[heads() == 2]) > 0.85
    model.save(tmp_path / "three")
    again = SeparateDomains.load(tmp_path / "three", split=split)
    assert (again.domains, again.curves) == (model.domains, model.curves)
    assert np.array_equal(again.score(judged()), after)
    asked = candidates(split, 0, items=[0, 1, 2], time=split.boundaries["test"])
    told = again.head_scores(asked)
    np.testing.assert_allclose(again.score(asked), told.diagonal(), atol=1e-5)
    with pytest.raises(UserError, match="'Music' is one of the model's domains already"):
        again.add_domain(split, "Music")


def test_a_domain_whose_valid_rows_have_one_label_is_named() -> None:
    split, events = world(), world().tables.interactions
    liked = events["label"].to_numpy()[split.valid] == 1
    games = (events["domain"] == "Games").to_numpy()[split.valid]
    only = replace(split, valid=split.valid[liked | ~games])
    with pytest.raises(DataError, match=r"domain 'Games' has \d+ row\(s\) of one label only"):
        new().fit(only)


def test_wrong_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'deepfm'"):
        new(backbone="deepfn")
    with pytest.raises(UnknownNameError, match="did you mean 'hidden'"):
        new(options={"hiden": [8]})
    with pytest.raises(UnknownNameError, match="domain 'Bookz'; did you mean 'Books'"):
        new(domains=["Bookz"]).fit(world())
    with pytest.raises(UserError, match="has not been fitted"):
        new().score(judged())
