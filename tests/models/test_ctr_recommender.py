from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tastemaker.data.splits import Split
from tastemaker.errors import DataError, SaveCheckError, UnknownNameError, UserError
from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import candidates, requests
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.testing.recommender import RecommenderContract
from tastemaker.testing.world import checkerboard_split


def din(**changes: Any) -> CtrRecommender:
    settings: dict[str, Any] = {
        "dim": 16,
        "history": 10,
        "min_count": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "batch_size": 64,
        "epochs": 8,
        "patience": 3,
        "seed": 0,
    }
    return CtrRecommender("DIN", **{**settings, **changes})


class Answer:
    """Extra features that give the answer away to rows of users below a limit."""

    dim = 1

    class Module(nn.Module):
        def forward(self, answer: Tensor) -> Tensor:
            return answer[:, None]

    def module(self) -> nn.Module:
        return self.Module()

    def columns(
        self, users: NDArray[np.int64], items: NDArray[np.int64], times: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        return {"answer": np.where(users % 2 == items % 2, 1, -1).astype(np.float32)}


class TestDin(RecommenderContract):
    least_auc = 0.95

    def make(self) -> CtrRecommender:
        return din()


class TestDinWithExtraFeatures(RecommenderContract):
    least_auc = 0.999

    def make(self) -> CtrRecommender:
        return din(epochs=3, extra=Answer())

    def load(self, folder: Path, split: Split) -> CtrRecommender:
        return CtrRecommender.load(folder, split=split, extra=Answer())


@pytest.fixture(scope="module")
def split() -> Split:
    return checkerboard_split()


@pytest.fixture(scope="module")
def fitted(split: Split) -> CtrRecommender:
    return din(epochs=2).fit(split)


def test_progress_is_told_after_every_epoch_and_the_curve_kept(split: Split) -> None:
    told: list[int] = []
    model = din(epochs=3, patience=3, on_progress=told.append).fit(split)
    assert told == [1, 1, 1]
    assert [entry["epoch"] for entry in model.curve] == [1, 2, 3]
    assert model.curve[-1]["loss"] < model.curve[0]["loss"]


def test_keeps_the_epoch_with_the_best_validation_auc(split: Split) -> None:
    model = din(epochs=6, patience=2).fit(split)
    valid = requests(split, "valid", seed=0)
    best = max(entry["valid_auc"] for entry in model.curve)
    assert auc(model.score(valid), valid.labels) == pytest.approx(best)


def test_a_score_follows_the_history_at_its_own_moment(
    fitted: CtrRecommender, split: Split
) -> None:
    first = int(split.tables.interactions["time"][0])
    early = fitted.score(candidates(split, 3, items=[1, 2], time=first))
    late = fitted.score(candidates(split, 3, items=[1, 2], time=split.boundaries["test"]))
    assert not np.allclose(early, late)


def test_training_leaves_the_random_state_of_the_process_alone(split: Split) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    din(epochs=1).fit(split)
    assert (torch.rand(1).item(), np.random.rand()) == expected


def test_prints_nothing_and_leaves_nothing_behind(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    din(epochs=1).fit(split)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_rare_and_unseen_items_share_an_embedding(split: Split) -> None:
    common = din(min_count=10_000, epochs=1).fit(split)
    moment = split.boundaries["test"]
    scores = common.score(candidates(split, 0, items=range(40), time=moment))
    assert np.ptp(scores) == 0


def test_loading_refuses_another_catalogue(fitted: CtrRecommender, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    with pytest.raises(DataError, match="another catalogue"):
        CtrRecommender.load(tmp_path, split=checkerboard_split(40, 41))


def test_loading_needs_the_extra_features_of_training(split: Split, tmp_path: Path) -> None:
    din(epochs=1, extra=Answer()).fit(split).save(tmp_path)
    with pytest.raises(UserError, match="trained with 1 extra features, 0 were given"):
        CtrRecommender.load(tmp_path, split=split)


def test_a_save_that_reads_back_differently_fails(
    fitted: CtrRecommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tastemaker.models.ctr import recommender

    def damaged(weights: dict[str, Tensor], path: Path) -> None:
        weights["backbone.head.layers.4.bias"] = weights["backbone.head.layers.4.bias"] + 1
        save(weights, path)

    save = recommender.save_file
    monkeypatch.setattr(recommender, "save_file", damaged)
    with pytest.raises(SaveCheckError, match="scores differently"):
        fitted.save(tmp_path)


def test_the_saved_folder_holds_safetensors_and_json_only(
    fitted: CtrRecommender, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["name"] == "DIN"


def test_scoring_before_fitting_says_what_to_do(split: Split) -> None:
    with pytest.raises(UserError, match="has not been fitted"):
        din().score(candidates(split, 0, items=[1], time=0))


def test_unknown_backbone_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'din'"):
        din(backbone="dien")


def test_validation_rows_of_one_label_are_refused(split: Split) -> None:
    labels = split.tables.interactions["label"].to_numpy()
    likes = replace(split, valid=split.valid[labels[split.valid] == 1])
    with pytest.raises(DataError, match="of one label only"):
        din().fit(likes)
