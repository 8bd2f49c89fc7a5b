import numpy as np
import polars as pl

from tastemaker.testing.world import checkerboard, checkerboard_split


def test_likes_follow_parity_and_texts_say_so():
    tables = checkerboard(12, 10, events=6)
    events = tables.interactions
    agree = (events["user"] % 2) == (events["item"] % 2)
    assert (events["label"] == agree.cast(pl.Int8)).all()
    assert set(events["rating"]) == {1.0, 5.0}
    assert tables.titles[:2] == ["Even film 0", "Odd film 1"]
    assert tables.items["genres"].to_list() == ["Even", "Odd"] * 5
    assert tables.users["user_id"].to_list() == list(range(12))
    assert events.group_by("user").len()["len"].to_list() == [6] * 12
    assert events.select("user", "item").is_duplicated().sum() == 0


def test_users_have_ties_and_an_earlier_life_before_the_test_part():
    split = checkerboard_split()
    events = split.tables.interactions
    assert events.select("user", "time").is_duplicated().any()
    assert split.histories.counts(split.test).min() > 3
    for part in ("train", "valid", "test"):
        likes = events["label"].gather(split.part(part)).to_numpy()
        assert 0.35 < likes.mean() < 0.65
        assert set(events["user"].gather(split.part(part)) % 2) == {0, 1}


def test_the_seed_decides():
    first, again, other = checkerboard(seed=3), checkerboard(seed=3), checkerboard(seed=4)
    assert first.interactions.equals(again.interactions)
    assert not first.interactions.equals(other.interactions)


def test_item_and_user_means_tell_nothing():
    frame = checkerboard(80, 80, events=40).interactions
    means = frame.group_by("item").agg(pl.col("label").mean())["label"].to_numpy()
    assert np.abs(means - 0.5).max() < 0.3
