"""Contract tests for recommenders: subclass, give `make`, and get them all.

```python
class TestMine(RecommenderContract):
    def make(self) -> Mine:
        return Mine(seed=0)
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tastemaker.data.splits import Split
from tastemaker.eval.metrics import auc
from tastemaker.eval.protocol import Requests, candidates, requests
from tastemaker.models.base import Recommender
from tastemaker.testing.world import checkerboard_split

__all__ = ["RecommenderContract", "ScoringContract"]

_UNSEEN = 0  # this item has no event in the train part


class ScoringContract(ABC):
    """What every recommender keeps to, whatever it learns."""

    tolerance = 1e-5
    """Largest difference between scores of one request in two batches, in log-odds."""

    @abstractmethod
    def make(self) -> Recommender:
        """A new recommender that has not been fitted; equal ones at every call."""

    def load(self, folder: Path, split: Split) -> Recommender:
        """Read a saved recommender; to be overridden where `load` takes more than this."""
        return type(self.make()).load(folder, split=split)

    def world(self) -> Split:
        """The split to learn; to be overridden where less is enough or more is needed."""
        return checkerboard_split(60, 30, events=25)

    @pytest.fixture(scope="class")
    @classmethod
    def split(cls) -> Split:
        """The world, with an item that the train part does not hold."""
        whole = cls().world()
        items = whole.tables.interactions["item"].to_numpy()
        return replace(whole, train=whole.train[items[whole.train] != _UNSEEN])

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, split: Split) -> Recommender:
        """A fitted recommender, shared by the tests of the class."""
        return cls().make().fit(split)

    @pytest.fixture
    def test_rows(self, split: Split) -> Requests:
        """What is scored."""
        return requests(split, "test", seed=0)

    def test_has_a_name(self) -> None:
        """People see it in tables."""
        assert self.make().name.strip()

    def test_scores_are_finite_float32_in_request_order(
        self, fitted: Recommender, test_rows: Requests
    ) -> None:
        """One score per request; none for none."""
        scores = fitted.score(test_rows)
        assert scores.dtype == np.float32
        assert scores.shape == (len(test_rows),)
        assert np.isfinite(scores).all()
        assert fitted.score(test_rows.select(np.zeros(len(test_rows), dtype=bool))).shape == (0,)

    def test_same_seed_same_scores(
        self, fitted: Recommender, split: Split, test_rows: Requests
    ) -> None:
        """Training again gives exactly the same model."""
        again = self.make().fit(split)
        np.testing.assert_array_equal(again.score(test_rows), fitted.score(test_rows))

    def test_saved_and_loaded_scores_alike(
        self, fitted: Recommender, split: Split, test_rows: Requests, tmp_path: Path
    ) -> None:
        """Nothing is lost on the way through a folder."""
        fitted.save(tmp_path / "saved")
        loaded = self.load(tmp_path / "saved", split)
        np.testing.assert_array_equal(loaded.score(test_rows), fitted.score(test_rows))

    def test_a_score_does_not_depend_on_the_other_requests(
        self, fitted: Recommender, test_rows: Requests
    ) -> None:
        """Reversed order and one request at a time give the same scores."""
        scores = fitted.score(test_rows)
        backwards = fitted.score(Requests(test_rows.frame.reverse()))[::-1]
        np.testing.assert_allclose(backwards, scores, rtol=1e-6, atol=self.tolerance)
        alone = [fitted.score(Requests(test_rows.frame[row : row + 1]))[0] for row in range(5)]
        np.testing.assert_allclose(alone, scores[:5], rtol=1e-6, atol=self.tolerance)

    def test_scores_a_user_without_history(self, fitted: Recommender, split: Split) -> None:
        """Before a user's first event there is nothing to go by, and still a finite score."""
        first = int(split.tables.interactions["time"][0])
        asked = candidates(split, 0, items=[1, 2, 3], time=first - 1)
        assert (asked.cuts == 0).all()
        assert np.isfinite(fitted.score(asked)).all()

    def test_scores_an_item_without_training_events(
        self, fitted: Recommender, split: Split
    ) -> None:
        """An item nobody had met gets a finite score."""
        asked = candidates(split, 0, items=[_UNSEEN], time=split.boundaries["test"])
        assert np.isfinite(fitted.score(asked)).all()

    def test_knows_nothing_of_the_future(self, fitted: Recommender, split: Split) -> None:
        """Turning every rating of the test part around changes no score asked for before it."""
        moment = split.boundaries["test"]
        asked = candidates(split, 0, items=range(10), time=moment)
        events = split.tables.interactions.with_columns(
            rating=pl.when(pl.col("time") >= moment).then(6 - pl.col("rating")).otherwise("rating"),
            label=pl.when(pl.col("time") >= moment).then(1 - pl.col("label")).otherwise("label"),
        ).cast(split.tables.interactions.schema)
        turned = replace(split, tables=replace(split.tables, interactions=events))
        np.testing.assert_array_equal(self.make().fit(turned).score(asked), fitted.score(asked))


class RecommenderContract(ScoringContract):
    """The same, and it finds out who likes what in the checkerboard world."""

    least_auc = 0.9
    """Test AUC to reach; chance is .5, and item and user means get no further."""

    def test_learns_the_checkerboard(self, fitted: Recommender, test_rows: Requests) -> None:
        """Even users like even items, odd users odd ones."""
        assert auc(fitted.score(test_rows), test_rows.labels) >= self.least_auc
