import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from tastemaker.data import item_index as room
from tastemaker.data.id_probe import id_probe
from tastemaker.data.item_index import ItemIndex, item_index
from tastemaker.data.negatives import with_negatives
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splitters import leave_one_out
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.testing.world import checkerboard, checkerboard_split

SCHEMA = Schema("u", "i", None, "r", LabelRule("r", ">", 3.0), None)
SCHEMES = ("random", "sequential", "collaborative")
N_ITEMS = 30
EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 24), st.integers(0, 9)), min_size=1, max_size=90
)


def tables_of(events, n_items=N_ITEMS):
    """Tables as `build_tables` makes them, of (user, item, time), in a hundredth of its time."""
    columns = {"user": pl.Int32, "item": pl.Int32, "time": pl.Int64}
    rows = pl.DataFrame(events, schema=columns, orient="row").sort("time", "user", "item")
    rows = rows.with_columns(rating=pl.lit(4.0, pl.Float32), label=pl.lit(1, pl.Int8))
    n_users = 1 + (rows["user"].max() or 0)
    people = pl.DataFrame({"user": np.arange(n_users, dtype=np.int32)})
    things = pl.DataFrame({"item": np.arange(n_items, dtype=np.int32)})
    people = people.with_columns(user_id="user")
    things = things.with_columns(item_id="item", title=pl.lit("film"))
    return Tables(people, things, rows, schema=SCHEMA, source="test")


def before(tables, time):
    return np.flatnonzero(tables.interactions["time"].to_numpy() < time)


def steps(text):
    return re.findall(r"<CI\d+>", text) or list(text)


def world_of(sets):
    """Every set of items is a user; all of it is training data, at one second."""
    events = [(user, item, 0) for user, items in enumerate(sets) for item in items]
    tables = tables_of(events, n_items=1 + max(item for _, item, _ in events))
    return tables, np.arange(len(events))


@settings(max_examples=25)
@given(
    events=EVENTS,
    cut=st.integers(0, 10),
    scheme=st.sampled_from(SCHEMES),
    clusters=st.integers(2, 7),
    tokens=st.integers(2, 7),
    first=st.sampled_from([1, 95, 1001]),
)
def test_no_text_begins_another(events, cut, scheme, clusters, tokens, first):
    tables = tables_of(events)
    train = before(tables, cut)
    options = {"seed": 3, "clusters": clusters, "tokens": tokens, "first": first}
    index = item_index(tables, train, scheme, **options)
    texts = index.texts.to_list()
    paths = [tuple(steps(text)) for text in texts]
    begun = {path[:length] for path in paths for length in range(len(path))}
    assert len(set(paths)) == N_ITEMS
    assert not begun & set(paths)
    if scheme != "collaborative":
        assert index.tokens == ()
        assert min(map(int, texts)) >= first
        assert max(map(int, texts)) - min(map(int, texts)) == N_ITEMS - 1
        return
    assert set(index.tokens) == {step for path in paths for step in path}
    assert len(index.tokens) <= max(tokens, clusters + 1)
    sizes = pl.Series([path[:-1] for path in paths]).value_counts()["count"]
    assert sizes.max() <= tokens
    taken = set(tables.interactions["item"].to_numpy()[train])
    warm = {path[0] for item, path in enumerate(paths) if item in taken}
    cold = {path[0] for item, path in enumerate(paths) if item not in taken}
    assert len(cold) == 1
    assert not warm & cold


@settings(max_examples=15)
@given(past=EVENTS, future=EVENTS, data=st.data(), scheme=st.sampled_from(SCHEMES))
def test_only_training_rows_count_and_their_order_does_not(past, future, data, scheme):
    later = [(user, item, time + 10) for user, item, time in future]
    tables, longer = tables_of(past), tables_of(data.draw(st.permutations([*past, *later])))
    rows = np.array(data.draw(st.permutations(range(len(past)))))
    options = {"seed": 1, "clusters": 3, "tokens": 4}
    index = item_index(tables, before(tables, 10), scheme, **options)
    assert item_index(longer, rows, scheme, **options).texts.equals(index.texts)


def test_sequential_numbers_follow_users_then_time():
    events = [(0, 5, 2), (0, 9, 1), (1, 9, 0), (1, 2, 1), (1, 0, 3), (0, 7, 4)]
    tables = tables_of(events, n_items=10)
    index = item_index(tables, before(tables, 3), "sequential", seed=0)
    assert [index.texts[item] for item in (9, 5, 2)] == ["1001", "1002", "1003"]
    drawn = with_negatives(tables, per_positive=2, seed=0)
    assert item_index(drawn, before(drawn, 3), "sequential", seed=0).texts.equals(index.texts)
    # 0 and 7 come later, like those that never come: by hash.
    orders = {
        tuple(item_index(tables, before(tables, 3), "sequential", seed=seed).texts.arg_sort())
        for seed in range(9)
    }
    assert len(orders) == 9
    assert len({order[3:].index(0) < order[3:].index(7) for order in orders}) == 2


def test_items_of_one_second_are_not_numbered_by_their_id():
    tables, train = world_of([range(400)])
    numbers = item_index(tables, train, "sequential", seed=0).texts.cast(pl.Int64).to_numpy()
    assert sorted(numbers) == list(range(1001, 1401))
    assert abs(np.corrcoef(numbers, np.arange(400))[0, 1]) < 0.15


def test_all_numbers_have_equally_many_digits():
    tables = tables_of([(0, 0, 0)], n_items=9001)
    for scheme in ("random", "sequential"):
        fitting = item_index(replace(tables, items=tables.items[:8999]), [0], scheme, seed=0)
        assert set(fitting.texts.cast(pl.Int64)) == set(range(1001, 10000))
        longer = item_index(tables, [0], scheme, seed=0)
        assert set(longer.texts.cast(pl.Int64)) == set(range(10001, 19002))


def renumbered(split, texts):
    items = split.tables.items.with_columns(item_id=texts.cast(pl.Int64))
    return id_probe(replace(split, tables=replace(split.tables, items=items)), numbers="external")


def test_sequential_numbers_do_not_give_targets_away():
    # Dense numbers are P5's: by first appearance, each user's own new items side by side.
    random = np.random.default_rng(0)
    events = []
    for user in range(500):
        known = random.choice(100, size=3, replace=False)
        fresh = np.arange(100 + 4 * user, 104 + 4 * user)
        events += [(user, int(item), time) for time, item in enumerate([*known, *fresh])]
    split = leave_one_out(tables_of(events, n_items=2100), min_events=3, seed=0)
    leaking = id_probe(split)
    assert leaking.reveals
    assert leaking.hr10 == 1
    for scheme in ("random", "sequential"):
        probe = renumbered(split, item_index(split.tables, split.train, scheme, seed=0).texts)
        assert not probe.reveals
        assert max(probe.hr10, probe.last_hr10) < 0.03


@pytest.mark.realdata
def test_sequential_numbers_on_published_sequences():
    folder = os.environ.get("TASTEMAKER_DATA")
    if not folder:
        pytest.skip("TASTEMAKER_DATA is not set")
    lines = (Path(folder) / "s3rec" / "Beauty.txt").read_text().splitlines()
    events = [
        (user, int(item) - 1, time)
        for user, line in enumerate(lines)
        for time, item in enumerate(line.split()[1:])
    ]
    tables = tables_of(events, n_items=1 + max(item for _, item, _ in events))
    split = leave_one_out(tables, min_events=3, seed=0)
    index = item_index(tables, split.train, "sequential", seed=0)
    probe = renumbered(split, index.texts)
    assert not probe.reveals
    # Published for numbers of the training part first: .0131 over other orders of the users.
    assert max(probe.hr10, probe.last_hr10) == pytest.approx(0.0131, abs=2e-3)


@pytest.mark.parametrize("dense", [0, 1000])
def test_two_communities_get_two_first_tokens(monkeypatch, dense):
    monkeypatch.setattr(room, "_DENSE", dense)
    split = checkerboard_split(60, 60, events=20)
    tables = split.tables
    liked = split.train[tables.interactions["label"].to_numpy()[split.train] == 1]
    index = item_index(tables, liked, "collaborative", seed=0, clusters=2, tokens=10)
    first = [steps(text)[0] for text in index.texts]
    assert {frozenset(first[0::2]), frozenset(first[1::2])} == {
        frozenset(["<CI0>"]),
        frozenset(["<CI1>"]),
    }


@pytest.mark.parametrize("dense", [0, 1000])
def test_communities_are_those_of_scikit_learn(monkeypatch, dense):
    monkeypatch.setattr(room, "_DENSE", dense)
    random = np.random.default_rng(5)
    groups, n_items = random.integers(6, size=200), 300
    chances = np.where(groups[:, None] == np.arange(n_items) % 6, 0.3, 0.03)
    met = (random.random(chances.shape) < chances).astype(np.float64)
    tables, train = world_of([np.flatnonzero(row) for row in met])
    index = item_index(tables, train, "collaborative", seed=0, clusters=6, tokens=n_items)
    theirs = SpectralClustering(
        6, affinity="precomputed", assign_labels="cluster_qr", random_state=0
    ).fit_predict(met.T @ met + 1 / n_items)
    ours = [steps(text)[0] for text in index.texts]
    assert len(index.texts) == n_items
    assert adjusted_rand_score(theirs, ours) == 1


WORLDS = {
    "one user": np.ones((1, 1500)),
    "users who all took the same": np.ones((30, 1500)),
    "thirty communities of one user": np.kron(np.eye(30), np.ones((1, 50))),
    "items that nobody took with another": np.eye(1500),
    "pairs": np.kron(np.eye(750), np.ones((1, 2))),
    "one item with each of the others": np.hstack([np.ones((1499, 1)), np.eye(1499)]),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("clusters", [2, 20])
def test_communities_that_tell_nothing_still_end(world, clusters):
    met = sparse.coo_array(WORLDS[world])
    columns = {"user": met.coords[0], "item": met.coords[1], "time": np.zeros(met.nnz, dtype=int)}
    tables = tables_of(pl.DataFrame(columns).rows(), n_items=1500)
    train = np.arange(met.nnz)
    options = {"seed": 0, "clusters": clusters, "tokens": 100}
    index = item_index(tables, train, "collaborative", **options)
    assert index.texts.n_unique() == 1500
    assert index.texts.str.count_matches("<").max() <= 24
    if clusters > 2:  # the others take seconds
        assert item_index(tables, train, "collaborative", **options).texts.equals(index.texts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_save_and_load(tmp_path, scheme):
    tables = checkerboard()
    train = np.arange(60)
    index = item_index(tables, train, scheme, seed=0, clusters=4, tokens=8)
    other = item_index(tables, train, scheme, seed=1, clusters=4, tokens=8)
    assert not index.texts.equals(other.texts)
    index.save(tmp_path)
    again = ItemIndex.load(tmp_path)
    assert again.texts.equals(index.texts)
    assert (again.tokens, again.scheme) == (index.tokens, scheme)
    assert len(list(tmp_path.iterdir())) == 2


def test_loading_what_is_no_index_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no readable item index"):
        ItemIndex.load(tmp_path)
    item_index(checkerboard(), [], "random", seed=0).save(tmp_path)
    item_index(checkerboard(10, 20), [], "random", seed=0).save(tmp_path / "other")
    (tmp_path / "other/item_index.json").replace(tmp_path / "item_index.json")
    with pytest.raises(DataError, match=r"tells of 20 items, item_index.parquet has 40"):
        ItemIndex.load(tmp_path)


def test_wrong_options_say_what_is_allowed():
    tables = checkerboard()
    for option, value in (("clusters", 1), ("tokens", 1), ("first", 0)):
        with pytest.raises(UserError, match=f"{option} = {value} is too small") as raised:
            item_index(tables, [], "collaborative", seed=0, **{option: value})
        assert raised.value.allowed == f"{value + 1} or more"
        assert "OpenP5" in raised.value.remedy
    with pytest.raises(UnknownNameError, match="did you mean 'collaborative'"):
        item_index(tables, [], "colaborative", seed=0)
