"""Items ranked by the categories of what was liked before."""

import numpy as np
import pytest

from tastemaker.errors import UserError
from tastemaker.eval.ranking import full_ranking, hit_rate, ranked_rows
from tastemaker.models.category_baseline import FavouriteCategories
from tastemaker.testing.world import checkerboard_split


def parity(n_items: int) -> FavouriteCategories:
    """Even items are of category 0, odd ones of category 1."""
    return FavouriteCategories(np.arange(n_items + 1), np.arange(n_items) % 2)


def test_it_finds_what_is_like_the_likes_of_the_history() -> None:
    split = checkerboard_split()
    n_items = split.tables.n_items
    rule = parity(n_items).fit(split)
    rows = ranked_rows(split, "test")
    rows = rows[split.histories.counts(rows) > 3]
    items = split.tables.interactions["item"].to_numpy()[rows]
    scores = rule.catalogue_scores(rows)
    assert scores.shape == (len(rows), n_items)
    assert 0 <= scores.min() <= scores.max() <= 1 + 1e-6
    own = scores[np.arange(len(rows)), items]
    other = scores[np.arange(len(rows)), (items + 1) % n_items]
    assert (own > other).mean() > 0.9


def test_some_rows_of_a_part_rank_as_they_do_among_all() -> None:
    split = checkerboard_split()
    rule = parity(split.tables.n_items).fit(split)
    rows = ranked_rows(split, "test")
    whole = full_ranking(rule.catalogue_scores, split, part="test")
    some = full_ranking(rule.catalogue_scores, split, part="test", rows=rows[3:9])
    np.testing.assert_array_equal(some, whole[3:9])
    assert hit_rate(whole, split.tables.n_items) == 1.0


def test_a_history_without_likes_ties_everything() -> None:
    split = checkerboard_split()
    rule = parity(split.tables.n_items).fit(split)
    first = np.flatnonzero(split.histories.counts(np.arange(50)) == 0)[:1]
    assert np.ptp(rule.catalogue_scores(first)) == 0
    with pytest.raises(UserError, match="has not been fitted"):
        parity(4).catalogue_scores(first)
