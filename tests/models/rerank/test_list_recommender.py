from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.data.splits import Split
from tastemaker.errors import DataError, SaveCheckError, UnknownNameError, UserError
from tastemaker.eval.lists import map_at
from tastemaker.eval.metrics import auc
from tastemaker.models import feature_recommender as module
from tastemaker.models.feature_embedding import FeatureEmbedding
from tastemaker.models.features import Feature
from tastemaker.models.rerank import recommender as scoring
from tastemaker.models.rerank.lists import RankingLists, ranking_lists
from tastemaker.models.rerank.recommender import ListRecommender, reranker_options
from tastemaker.models.text_vectors import TextFusion, TextVectors
from tastemaker.models.training import AUC, TrainingPlan
from tastemaker.testing.world import checkerboard_split

USERS, ITEMS, DIM = 40, 60, 8
PLAN = TrainingPlan(learning_rate=3e-3, batch_size=8, epochs=2)
ONCE = replace(PLAN, epochs=1, batch_size=128)
ITEM, USER = Feature("item", "categorical"), Feature("user", "categorical")
GENRES = Feature("genres", "categorical")
RERANKERS = ["dlcm", "mir", "prm", "setrank"]


def past(*steps: str, name: str = "history", length: int = 10) -> Feature:
    return Feature(name, "sequence", steps=steps, length=length)


def parity(of: Any, **changes: Any) -> TextVectors:
    """Texts that say whether a user, or an item, is even."""
    count = USERS if of == "user" else ITEMS
    text = TextVectors(f"{of}_text", of, np.eye(2, dtype=np.float32), np.arange(count) % 2)
    return replace(text, **changes)


@pytest.fixture(scope="module")
def split() -> Split:
    return checkerboard_split(USERS, ITEMS, events=30)


@pytest.fixture(scope="module")
def lists(split: Split) -> dict[str, RankingLists]:
    parts = ("train", "valid", "test")
    return {part: ranking_lists(split, part, seed=0, real=3, drawn=3) for part in parts}


def fitted(
    split: Split, lists: dict[str, RankingLists], reranker: str = "prm", **settings: Any
) -> ListRecommender:
    settings = {"dim": DIM, "plan": PLAN, **settings}
    return ListRecommender(reranker.upper(), reranker, **settings).fit(
        split, lists["train"], lists["valid"]
    )


NOTHING: dict[str, Any] = {"features": (ITEM, past("item")), "min_count": 10_000}
"""Every item is unseen to such a model."""

RICH: dict[str, Any] = {
    "features": (
        ITEM,
        GENRES,
        USER,
        Feature("item_mean", "statistic"),
        Feature("user_count", "statistic"),
        past("item", "rating"),
        past("genres", name="short", length=4),
    ),
    "texts": (
        parity("user", name="adapted", after=np.where(np.arange(USERS) % 3, 0, 2**60)),
        parity("item"),
        parity("item", name="plain", fusion="project"),
        parity("user", name="raw", fusion="concat"),
    ),
    "plan": ONCE,
}


@pytest.fixture(scope="module")
def rich(split: Split, lists: dict[str, RankingLists]) -> dict[str, ListRecommender]:
    return {name: fitted(split, lists, name, **RICH) for name in ("prm", "mir")}


def mean_map(scores: NDArray[Any], lists: RankingLists) -> float:
    return float(np.nanmean(map_at(scores, lists.labels, k=5)))


def share_of_the_way(model: ListRecommender, lists: RankingLists) -> float:
    """0 at chance, 1 for a model that knows all parities; nothing tells real items from drawn."""
    chance = mean_map(np.zeros(lists.items.shape), lists)
    best = mean_map((lists.items + lists.user[:, None] + 1) % 2, lists)
    return (mean_map(model.score(lists), lists) - chance) / (best - chance)


def test_learns_the_checkerboard(split: Split, lists: dict[str, RankingLists]) -> None:
    model = fitted(split, lists, features=(GENRES, USER))
    assert share_of_the_way(model, lists["test"]) > 0.6


def test_mir_learns_it_from_the_history_alone(split: Split, lists: dict[str, RankingLists]) -> None:
    features = (GENRES, past("genres", "rating"))
    model = fitted(split, lists, "mir", features=features)
    assert share_of_the_way(model, lists["test"]) > 0.8


@pytest.mark.parametrize("reranker", RERANKERS)
def test_texts_lift_a_model_that_knows_no_ids(
    split: Split, lists: dict[str, RankingLists], reranker: str
) -> None:
    without = fitted(split, lists, reranker, **NOTHING, plan=ONCE)
    assert share_of_the_way(without, lists["train"]) < 0.2
    texts = parity("user", fusion="concat"), parity("item", fusion="concat")
    model = fitted(split, lists, reranker, **NOTHING, texts=texts)
    assert share_of_the_way(model, lists["test"]) > 0.8
    swapped = replace(texts[0], rows=1 - texts[0].rows)
    wrong = reread(model, split, (swapped, texts[1]))
    assert share_of_the_way(wrong, lists["test"]) < -0.3


@pytest.mark.parametrize("reranker", ["prm", "mir"])
def test_every_way_of_fusing_texts_learns(
    rich: dict[str, ListRecommender], lists: dict[str, RankingLists], reranker: str
) -> None:
    network = rich[reranker].network
    network.zero_grad()
    columns = rich[reranker].list_columns(lists["train"])
    network(**{name: torch.from_numpy(column) for name, column in columns.items()})[
        "loss"
    ].backward()
    fusion = network.features.texts
    assert isinstance(fusion, TextFusion)
    assert fusion.adaptor is not None
    for part in (fusion.adaptor.gates, fusion.projections):
        assert all(weight.grad.abs().sum() > 0 for weight in part.parameters())
    assert fusion.missing["adapted"].grad.abs().sum() > 0
    raw = slice(-fusion.wide, None)
    assert fusion.wide == 2
    weights = network.reranker.project.weight.grad
    assert (weights[:, raw].abs().sum(dim=0) > 0).all()
    network.zero_grad()


def reread(model: ListRecommender, split: Split, texts: tuple[TextVectors, ...]) -> ListRecommender:
    """The same weights with other texts."""
    twin = ListRecommender("twin", model._settings.reranker, dim=DIM, texts=texts)
    twin._split, twin._space, twin._length = split, model.space, 6
    twin._network = twin._new_network()
    twin._network.load_state_dict(model.network.state_dict())
    twin._network.eval()
    return twin


def test_columns_are_those_of_single_rows(
    rich: dict[str, ListRecommender], lists: dict[str, RankingLists]
) -> None:
    model, some = rich["prm"], lists["test"]
    n, k = some.items.shape
    users, times = np.repeat(some.user, k).astype(np.int64), np.repeat(some.moment, k)
    items = some.items.ravel().astype(np.int64)
    expected = model.space.columns(users, items, times)
    found = model.list_columns(some)
    for name, column in expected.items():
        by_item = column.reshape(n, k, *column.shape[1:])
        if name in ("item", "numbers"):
            assert np.array_equal(found[name], by_item)
        else:
            assert found[name].shape == (n, *column.shape[1:])
            assert (found[name][:, None] == by_item).all()
    assert found["labels"].dtype == np.float32
    assert np.array_equal(found["item_text"], some.items % 2)
    assert np.array_equal(found["raw"], some.user % 2)
    assert np.array_equal(found["adapted"], np.where(some.user % 3, some.user % 2, -1))
    assert found["item"].dtype == found["plain"].dtype == found["adapted"].dtype == np.int32


def naive(model: ListRecommender, lists: RankingLists, *, reads_steps: bool) -> Any:
    """Inputs of every item by itself, all columns repeated for it."""
    k = lists.items.shape[1]
    texts = TextFusion(model.texts, dim=DIM, sizes=model._settings.adaptor)
    features = FeatureEmbedding(
        model.space,
        dim=DIM,
        texts=texts,
        vectors=texts.vectors,
        wide=texts.wide,
        reads_steps=reads_steps,
    )
    features.load_state_dict(model.network.features.state_dict())
    rows = {}
    for name, column in tensors(model, lists).items():
        every = name in ("item", "numbers", "item_text", "plain")
        rows[name] = column.flatten(0, 1) if every else column.repeat_interleave(k, dim=0)
    return features(**rows)


def tensors(model: ListRecommender, lists: RankingLists) -> dict[str, Tensor]:
    columns = model.columns(lists.user, lists.items, lists.moment)
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def test_an_item_is_all_of_its_parts_side_by_side(
    rich: dict[str, ListRecommender], lists: dict[str, RankingLists]
) -> None:
    model, some = rich["prm"], lists["train"].select(np.arange(len(lists["train"])) < 30)
    items, history, mask = model.network.inputs(**tensors(model, some))
    assert history.shape == (30, 0, 0)
    assert mask.shape == (30, 0)
    every = naive(model, some, reads_steps=False)
    torch.testing.assert_close(items.flatten(0, 1), every.flat)
    assert items.shape[2] == model.network.features.shape.flat
    assert (model.columns(some.user, some.items, some.moment)["history"] == 0).all(axis=1).any()


def test_steps_are_padded_once_per_list(
    rich: dict[str, ListRecommender], lists: dict[str, RankingLists]
) -> None:
    model, some = rich["mir"], lists["train"].select(np.arange(len(lists["train"])) < 30)
    items, history, mask = model.network.inputs(**tensors(model, some))
    every = naive(model, some, reads_steps=True)
    torch.testing.assert_close(items.flatten(0, 1), every.flat)
    assert history.shape == (30, 10, 3 * DIM)
    assert (history[~mask] == 0).all()
    long, short = every.steps
    for row in range(30):
        own = [steps.mask.sum(dim=1).cumsum(0).roll(1) for steps in every.steps]
        starts = [0 if not row else int(bounds[row * 6]) for bounds in own]
        count = int(mask[row].sum())
        torch.testing.assert_close(
            history[row, 10 - count :, : 2 * DIM], long.values[starts[0] : starts[0] + count]
        )
        shown = min(count, 4)
        torch.testing.assert_close(
            history[row, 10 - shown :, 2 * DIM :], short.values[starts[1] : starts[1] + shown]
        )
        assert (history[row, : 10 - shown, 2 * DIM :] == 0).all()


def test_fields_of_mir_are_those_of_the_features(
    rich: dict[str, ListRecommender], split: Split, lists: dict[str, RankingLists]
) -> None:
    assert rich["mir"].network.reranker.interaction.field == DIM
    other = fitted(split, lists, "mir", **{**RICH, "options": {"field": 4, "scorer": [20]}})
    assert other.network.reranker.interaction.field == 4


def test_scores_do_not_depend_on_what_else_is_asked(
    rich: dict[str, ListRecommender],
    lists: dict[str, RankingLists],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = lists["test"]
    for model in rich.values():
        whole = model.score(some)
        assert whole.shape == some.items.shape
        assert whole.dtype == np.float32
        monkeypatch.setattr(scoring, "_SCORED_ROWS", 20)
        np.testing.assert_allclose(model.score(some), whole, atol=1e-5)
        assert model.score(some.select(np.zeros(len(some), bool))).shape == (0, 6)


def test_only_what_lies_before_a_list_is_seen(
    rich: dict[str, ListRecommender], split: Split, lists: dict[str, RankingLists]
) -> None:
    some, times = lists["test"], split.tables.interactions["time"].to_numpy()
    shown = rich["mir"].evidence(some.user.astype(np.int64), some.moment)
    assert (shown >= 0).any()
    assert (times[shown] < some.moment[:, None])[shown >= 0].all()
    early = replace(some, moment=np.full_like(some.moment, times.min()))
    assert not np.allclose(rich["mir"].score(early), rich["mir"].score(some))


def test_keeps_the_epoch_with_the_best_map(split: Split, lists: dict[str, RankingLists]) -> None:
    told: list[int] = []
    plan = replace(PLAN, epochs=3, batch_size=64)
    model = fitted(split, lists, "dlcm", plan=plan, on_progress=told.append)
    assert told == [1, 1, 1]
    assert set(model.curve[0]) == {"epoch", "loss", "valid_loss", "valid_map"}
    best = max(entry["valid_map"] for entry in model.curve)
    assert mean_map(model.score(lists["valid"]), lists["valid"]) == pytest.approx(best)


def test_auc_is_over_all_items_of_all_lists() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(5, 4)), random.integers(0, 2, (5, 4))
    assert AUC.of(scores, labels) == auc(scores.ravel(), labels.ravel())


@pytest.mark.parametrize("reranker", ["prm", "mir"])
def test_what_is_saved_comes_back(
    rich: dict[str, ListRecommender],
    split: Split,
    lists: dict[str, RankingLists],
    tmp_path: Path,
    reranker: str,
) -> None:
    model = rich[reranker]
    model.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["settings"]["reranker"] == reranker
    again = ListRecommender.load(tmp_path, split=split, texts=RICH["texts"])
    expected = model.score(lists["test"])
    assert np.array_equal(again.score(lists["test"]), expected)
    assert again.curve == model.curve
    assert again.name == model.name
    served = ListRecommender.load(tmp_path, split=split, texts=RICH["texts"], prestored=True)
    np.testing.assert_allclose(served.score(lists["test"]), expected, atol=1e-4)
    with pytest.raises(UserError, match="loaded for serving"):
        served.save(tmp_path)
    with pytest.raises(UserError, match=r"adapted \(adaptor, 2\).*given: none"):
        ListRecommender.load(tmp_path, split=split)
    again.save(tmp_path / "twice")


def test_a_save_that_reads_back_differently_fails(
    rich: dict[str, ListRecommender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(weights: dict[str, Tensor], path: Path) -> None:
        save({name: weight + 0.5 for name, weight in weights.items()}, path)

    save = module.save_file
    monkeypatch.setattr(module, "save_file", damaged)
    with pytest.raises(SaveCheckError, match="scores differently"):
        rich["prm"].save(tmp_path)


def test_equal_seeds_give_equal_models(
    rich: dict[str, ListRecommender], split: Split, lists: dict[str, RankingLists]
) -> None:
    again = fitted(split, lists, "prm", **RICH)
    assert np.array_equal(again.score(lists["test"]), rich["prm"].score(lists["test"]))


def test_columns_that_tell_drawn_items_are_refused(
    split: Split, lists: dict[str, RankingLists]
) -> None:
    events = split.tables.interactions.with_columns(device=pl.lit("phone"))
    told = replace(split, tables=replace(split.tables, interactions=events))
    with pytest.raises(UserError, match="tell them from real ones"):
        fitted(told, lists, features=(ITEM, Feature("device", "categorical")))
    fitted(told, lists, features=(ITEM, past("item", "device")), plan=ONCE)


def test_wrong_questions_are_refused(split: Split, lists: dict[str, RankingLists]) -> None:
    with pytest.raises(UserError, match="has not been fitted"):
        ListRecommender("x").score(lists["test"])
    with pytest.raises(UserError, match="mir reads a history"):
        fitted(split, lists, "mir", features=(ITEM,))
    with pytest.raises(UnknownNameError, match="did you mean 'mir'"):
        ListRecommender("x", "mirr")
    for name in ("hiden", "length"):
        with pytest.raises(UnknownNameError, match=f"option of prm '{name}'"):
            ListRecommender("x", "prm", options={name: 3})
    assert "step" not in reranker_options("mir")
    assert reranker_options("mir")["heads"] == 2
    none = lists["valid"].select(np.zeros(len(lists["valid"]), bool))
    with pytest.raises(DataError, match="and 0 to choose the epoch"):
        fitted(split, {**lists, "valid": none})
    dull = lists["valid"].select(~lists["valid"].liked)
    with pytest.raises(DataError, match="of one label only"):
        fitted(split, {**lists, "valid": dull})
