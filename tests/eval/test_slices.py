from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import candidates, requests
from tastemaker.eval.slices import judge_slices, slice_masks
from tastemaker.testing.world import checkerboard_split, shop_split


def test_slices_follow_the_training_events() -> None:
    split = checkerboard_split()
    events = split.tables.interactions
    users, items = (events[name].to_numpy() for name in ("user", "item"))
    kept = (users[split.train] > 9) & (items[split.train] > 4)
    cold = replace(split, train=split.train[kept])
    asked = requests(cold, "test")
    masks = slice_masks(cold, asked)
    np.testing.assert_array_equal(masks["cold users"], asked.users <= 9)
    np.testing.assert_array_equal(masks["cold items"], asked.items <= 4)
    counts = np.bincount(items[cold.train], minlength=40)
    tail = np.unique(asked.items[masks["long tail"]])
    popular = np.unique(asked.items[masks["popular items"]])
    assert counts[tail].max() <= counts[popular].min()
    assert counts[tail].sum() <= 0.2 * counts.sum()
    parts = [masks[name].astype(int) for name in ("cold items", "long tail", "popular items")]
    assert (sum(parts) == 1).all()


def test_every_model_is_judged_on_rows_that_all_scored() -> None:
    split = checkerboard_split()
    asked = requests(split, "test")
    right = np.where(asked.users % 2 == asked.items % 2, 1.0, -1.0)
    gaps = np.where(np.arange(len(asked)) % 5 == 0, np.nan, -right)
    slices = {one.name: one for one in judge_slices({"a": right, "b": gaps}, asked, split)}
    popular = slices["popular items"]
    scored = np.isfinite(gaps)
    mask = slice_masks(split, asked)["popular items"] & scored
    assert popular.rows == mask.sum()
    assert popular.positive_rate == pytest.approx(asked.labels[mask].mean())
    assert popular.values["a"]["auc"] == auc(right[mask], asked.labels[mask]) == 1
    assert popular.values["b"]["auc"] == 0
    assert slices["cold users"].rows == 0
    assert np.isnan(slices["cold users"].values["a"]["auc"])


def test_each_domain_is_a_slice() -> None:
    """Rows that are no event have the domain of their item."""
    split = shop_split()
    events = split.tables.interactions
    asked = requests(split, "test")
    masks = slice_masks(split, asked)
    assert list(masks)[4:] == ["domain: Books", "domain: Games"]
    names = events["domain"].cast(str).gather(asked.rows).to_numpy()
    np.testing.assert_array_equal(masks["domain: Books"], names == "Books")
    np.testing.assert_array_equal(masks["domain: Games"], names == "Games")
    assert masks["domain: Books"].any()
    scores = np.where(masks["domain: Games"], 1.0, -1.0) * (2.0 * asked.labels - 1)
    slices = {one.name: one for one in judge_slices({"a": scores}, asked, split)}
    assert slices["domain: Games"].rows == masks["domain: Games"].sum()
    assert slices["domain: Games"].values["a"]["auc"] == 1
    assert slices["domain: Books"].values["a"]["auc"] == 0
    owner = dict(events.select("item", "domain").cast({"domain": str}).unique().rows())
    ranked = candidates(split, 0, items=list(owner), time=int(events["time"].max()) + 1)
    masks = slice_masks(split, ranked)
    for name in ("Books", "Games"):
        expected = np.array([owner[item] == name for item in ranked.items.tolist()])
        np.testing.assert_array_equal(masks[f"domain: {name}"], expected)


def test_data_without_domains_has_the_four_slices() -> None:
    split = checkerboard_split()
    names = ["cold users", "cold items", "long tail", "popular items"]
    assert list(slice_masks(split, requests(split, "test"))) == names
