from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tastemaker import registry
from tastemaker.data.splits import Split
from tastemaker.errors import DataError, SaveCheckError, UnknownNameError, UserError
from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import candidates, requests
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.features import Feature, default_features
from tastemaker.models.text_use import text_use
from tastemaker.models.text_vectors import FUSIONS, Fusion, TextVectors
from tastemaker.models.training import TrainingPlan
from tastemaker.testing.recommender import RecommenderContract
from tastemaker.testing.world import checkerboard_split


def din(**changes: Any) -> CtrRecommender:
    settings: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 64, "epochs": 8}
    planned = {f.name for f in fields(TrainingPlan)}
    settings |= {name: value for name, value in changes.items() if name in planned}
    rest = {name: value for name, value in changes.items() if name not in planned}
    return CtrRecommender("DIN", **{"dim": 16, "plan": TrainingPlan(**settings), **rest})


def parities(split: Split, *, fusion: Fusion = "adaptor") -> list[TextVectors]:
    """Vectors that tell whether a user, or an item, is even: together the answer."""
    counts: list[tuple[Literal["user", "item"], int]]
    counts = [("user", split.tables.n_users), ("item", split.tables.n_items)]
    return [
        TextVectors(
            f"{of}_text",
            of,
            np.eye(2, 6, dtype=np.float32),
            np.arange(count) % 2,
            fusion=fusion,
        )
        for of, count in counts
    ]


class TestDin(RecommenderContract):
    least_auc = 0.95

    def make(self) -> CtrRecommender:
        return din()


class TestDinWithTexts(RecommenderContract):
    """Nothing but texts tells anything: ids are too rare, and no step carries a rating."""

    least_auc = 0.999

    def make(self) -> CtrRecommender:
        plain = [Feature("item", "categorical")]
        texts = parities(self.world())
        return din(epochs=6, features=plain, min_count=10_000, texts=texts)

    def load(self, folder: Path, split: Split) -> CtrRecommender:
        return CtrRecommender.load(folder, split=split, texts=parities(split))


class TestServing(TestDinWithTexts):
    """The same, read from the fused texts that were written once."""

    def load(self, folder: Path, split: Split) -> CtrRecommender:
        return CtrRecommender.load(folder, split=split, texts=parities(split), prestored=True)

    def test_saved_and_loaded_scores_alike(
        self, fitted: Any, split: Split, test_rows: Any, tmp_path: Path
    ) -> None:
        fitted.save(tmp_path)
        scores = self.load(tmp_path, split).score(test_rows)
        np.testing.assert_allclose(scores, fitted.score(test_rows), atol=1e-4)


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


def test_items_that_came_after_training_are_unseen(
    fitted: CtrRecommender, split: Split, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    wider = checkerboard_split(40, 41)
    again = CtrRecommender.load(tmp_path, split=wider)
    scores = again.score(candidates(wider, 0, items=[3, 40], time=0))
    assert np.isfinite(scores).all()
    assert set(again.space.own_items) == set(fitted.space.own_items)


def test_loading_needs_the_texts_of_training(split: Split, tmp_path: Path) -> None:
    din(epochs=1, texts=parities(split)).fit(split).save(tmp_path)
    with pytest.raises(
        UserError, match=r"trained with the text vectors user_text \(adaptor, 6\).*none"
    ):
        CtrRecommender.load(tmp_path, split=split)


def test_a_model_for_serving_has_no_adaptor_to_save(split: Split, tmp_path: Path) -> None:
    texts = parities(split)
    din(epochs=1, texts=texts).fit(split).save(tmp_path / "whole")
    served = CtrRecommender.load(tmp_path / "whole", split=split, texts=texts, prestored=True)
    assert not [name for name, _ in served.network.named_parameters() if "adaptor" in name]
    with pytest.raises(UserError, match="without its adaptor"):
        served.save(tmp_path / "again")


def test_a_save_that_reads_back_differently_fails(
    fitted: CtrRecommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tastemaker.models import feature_recommender as recommender

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


def test_unknown_backbone_and_option_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'din'"):
        din(backbone="dinn")
    with pytest.raises(UnknownNameError, match="did you mean 'hidden'"):
        din(options={"hiden": [8]})


def test_validation_rows_of_one_label_are_refused(split: Split) -> None:
    labels = split.tables.interactions["label"].to_numpy()
    likes = replace(split, valid=split.valid[labels[split.valid] == 1])
    with pytest.raises(DataError, match="of one label only"):
        din().fit(likes)


def test_weighing_likes_raises_every_score(split: Split) -> None:
    asked = requests(split, "test")
    plain = din(epochs=2).fit(split).score(asked)
    assert din(epochs=2, class_weight=4.0).fit(split).score(asked).mean() > plain.mean() + 0.3


def test_balanced_weights_do_nothing_to_balanced_labels(split: Split) -> None:
    labels = split.tables.interactions["label"].to_numpy()
    likes, rest = (split.train[labels[split.train] == label] for label in (1, 0))
    count = min(len(likes), len(rest))
    even = replace(split, train=np.sort(np.concatenate([likes[:count], rest[:count]])))
    asked = requests(split, "test")
    scores = [din(epochs=1, class_weight=w).fit(even).score(asked) for w in (None, "balanced")]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("backbone", registry.names("backbone"))
def test_every_backbone_reads_texts_and_survives_a_save(
    backbone: str, split: Split, tmp_path: Path
) -> None:
    model = din(backbone=backbone, texts=parities(split), epochs=4).fit(split)
    asked = requests(split, "test")
    scores = model.score(asked)
    assert auc(scores, asked.labels) > 0.9
    for use in text_use(model, split.train):
        assert use.rows == len(split.train)
        assert use.used
        assert use.loss < use.loss_shuffled
    model.save(tmp_path)  # reads back and compares, with and without the adaptor
    alone = model.score(asked.select(np.arange(len(asked)) == 3))
    np.testing.assert_allclose(alone, scores[3:4], atol=1e-5)
    unseen = candidates(split, 0, items=[0, 1], time=0)
    assert np.isfinite(model.score(unseen)).all()


@pytest.mark.parametrize("backbone", registry.names("backbone"))
def test_every_backbone_learns_the_checkerboard_from_ids_alone(backbone: str) -> None:
    split = checkerboard_split(60, 30, events=25)
    # Averaged histories do not tell which of their items were liked: the user's id does.
    features = default_features(split.tables.schema, split.tables, user_id=True)
    model = din(backbone=backbone, features=features, epochs=12, patience=12).fit(split)
    asked = requests(split, "test")
    assert auc(model.score(asked), asked.labels) > 0.8


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_brings_the_texts_in(fusion: Fusion, split: Split) -> None:
    model = din(backbone="deepfm", texts=parities(split, fusion=fusion), epochs=1).fit(split)
    assert all(use.used for use in text_use(model, split.train))


def test_texts_that_no_layer_reads_are_found(split: Split) -> None:
    model = din(texts=parities(split), epochs=1).fit(split)
    head = model.network.backbone.head.layers[0]
    with torch.no_grad():
        head.weight[:, -2 * 16 :] = 0  # the two text fields come last
    assert not any(use.used for use in text_use(model, split.train))
