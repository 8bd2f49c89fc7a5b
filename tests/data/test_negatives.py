from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.domains import item_domains
from tastemaker.data.history import Histories
from tastemaker.data.negatives import draw_negatives, with_negatives
from tastemaker.data.schema import LabelRule, Policies, Schema
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import DataError

SCHEMA = Schema("u", "i", "t", "r", LabelRule("r", ">", 3.0), None)
N_ITEMS = 12
EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=30,
)
STRATEGIES = st.sampled_from(["uniform", "popularity"])


def tables_of(events, n_items=N_ITEMS):
    columns = {"user": pl.Int32, "item": pl.Int32, "time": pl.Int64, "label": pl.Int8}
    told = [(user, item, time, int(liked)) for user, item, time, liked in events]
    rows = pl.DataFrame(told, schema=columns, orient="row").sort("time", "user", "item", "label")
    rating = pl.when(pl.col("label") == 1).then(4).otherwise(1).cast(pl.Float32)
    people = pl.DataFrame({"user": np.arange(rows["user"].max() + 1, dtype=np.int32)})
    things = pl.DataFrame({"item": np.arange(n_items, dtype=np.int32)})
    return Tables(
        people.with_columns(user_id=pl.format("u{}", "user")),
        things.with_columns(item_id="item", title=pl.lit("film")),
        rows.select("user", "item", "time", rating.alias("rating"), "label"),
        schema=SCHEMA,
        source="test",
    )


def met(tables, user, time):
    frame = tables.interactions
    frame = frame.filter(~pl.col("sampled")) if "sampled" in frame.columns else frame
    return set(frame.filter((pl.col("user") == user) & (pl.col("time") <= time))["item"])


@settings(max_examples=50)
@given(events=EVENTS, per_row=st.integers(1, 4), strategy=STRATEGIES, seed=st.integers(0, 3))
def test_drawn_items_are_new_to_the_user_and_distinct(events, per_row, strategy, seed):
    tables = tables_of(events)
    rows = np.arange(len(events))
    counted = set(tables.interactions["item"]) if strategy == "popularity" else set(range(N_ITEMS))
    free = [
        counted - met(tables, user, time)
        for user, time in tables.interactions.select("user", "time").rows()
    ]
    options = {"per_row": per_row, "strategy": strategy, "seed": seed, "counts_from": rows}
    if min(map(len, free)) < per_row:
        with pytest.raises(DataError, match=f"had met all but .*; {per_row} are needed"):
            draw_negatives(tables, rows, **options)
        return
    drawn = draw_negatives(tables, rows, **options)
    assert drawn.shape == (len(events), per_row)
    assert drawn.dtype == np.int32
    for row, items in enumerate(drawn.tolist()):
        assert len(set(items)) == per_row
        assert set(items) <= free[row]
    some = rows[::-2]
    assert np.array_equal(draw_negatives(tables, some, **options), drawn[some])


def test_what_is_met_later_may_be_drawn():
    events = [(0, item, item, True) for item in range(N_ITEMS)]
    tables = tables_of(events)
    last = draw_negatives(tables, [N_ITEMS - 2], per_row=1, seed=0)
    assert last.tolist() == [[N_ITEMS - 1]]
    first = draw_negatives(tables, [0], per_row=N_ITEMS - 1, seed=0)
    assert sorted(first[0].tolist()) == list(range(1, N_ITEMS))
    with pytest.raises(DataError, match="user 'u0' had met all but 0 of the items") as raised:
        draw_negatives(tables, [N_ITEMS - 1], per_row=1, seed=0)
    assert "at 1970-01-01 00:00:11; 1 are needed" in str(raised.value)


@pytest.mark.parametrize("per_row", [1, 3])
def test_draws_have_the_shares_they_should(per_row):
    # User 0 asks; the others make item i popular i times over.
    events = [(0, 0, 0, True)] * 4000
    events += [(1, item, 9, True) for item in range(1, 6) for _ in range(item)]
    tables = tables_of(events, n_items=7)
    rows = np.arange(4000)
    uniform = draw_negatives(tables, rows, per_row=per_row, seed=1)
    shares = np.bincount(uniform.ravel(), minlength=7) / len(rows)
    assert shares[0] == 0
    assert abs(shares[1:] - per_row / 6).max() < 0.04
    by_count = draw_negatives(
        tables, rows, per_row=per_row, strategy="popularity", seed=1, counts_from=np.arange(4015)
    )
    shares = np.bincount(by_count[:, 0], minlength=7) / len(rows)
    assert abs(shares - np.array([0, 1, 2, 3, 4, 5, 0]) / 15).max() < 0.04
    other = draw_negatives(tables, rows, per_row=per_row, seed=2)
    assert not np.array_equal(uniform, other)


def test_lists_have_the_same_shares_as_draws(monkeypatch):
    events = [(0, 0, 0, True)] * 4000
    events += [(1, item, 9, True) for item in range(1, 6) for _ in range(item)]
    tables = tables_of(events, n_items=7)
    monkeypatch.setattr("tastemaker.data.negatives._ATTEMPTS", 0)
    options = {"strategy": "popularity", "seed": 1, "counts_from": np.arange(4015)}
    drawn = draw_negatives(tables, np.arange(4000), per_row=2, **options)
    shares = np.bincount(drawn[:, 0], minlength=7) / 4000
    assert abs(shares - np.array([0, 1, 2, 3, 4, 5, 0]) / 15).max() < 0.04


@settings(max_examples=50)
@given(events=EVENTS, per_positive=st.integers(1, 3), strategy=STRATEGIES, seed=st.integers(0, 2))
def test_every_like_gets_events_that_never_happened(events, per_positive, strategy, seed):
    tables = tables_of(events)
    drawn = with_negatives(tables, per_positive=per_positive, strategy=strategy, seed=seed)
    frame = drawn.interactions
    assert frame.columns == ["user", "item", "time", "rating", "label", "sampled"]
    assert frame.filter(~pl.col("sampled")).drop("sampled").equals(tables.interactions)
    order = ["time", "user", "item", "rating", "label"]
    assert frame.select(order).equals(frame.select(order).sort(order))
    likes = tables.interactions.filter(pl.col("label") == 1)
    added = frame.filter("sampled")
    pairs = [pair for pair in likes.select("user", "time").rows() for _ in range(per_positive)]
    assert sorted(added.select("user", "time").rows()) == sorted(pairs)
    assert set(added["label"]) | set(added["rating"]) <= {0}
    for user, time, item in added.select("user", "time", "item").rows():
        assert item not in met(tables, user, time)
    past = Histories.from_interactions(frame).before(np.arange(frame.height))
    assert not frame["sampled"].to_numpy()[past.events].any()


def test_popularity_counts_strictly_earlier_events_only():
    events = [(1, 1, 5, True), (1, 2, 6, True), (0, 0, 6, True), (2, 3, 7, True)]
    for seed in range(20):
        drawn = with_negatives(tables_of(events), per_positive=1, strategy="popularity", seed=seed)
        added = drawn.interactions.filter(pl.col("sampled") & (pl.col("user") == 0))
        assert added["item"].to_list() == [1]
        wide = with_negatives(tables_of(events), per_positive=3, strategy="popularity", seed=seed)
        added = wide.interactions.filter(pl.col("sampled") & (pl.col("user") == 0))
        assert {1} < set(added["item"])


def test_features_stay_empty_and_domains_are_copied():
    schema = replace(SCHEMA, domain="shop", numeric=("price",))
    frame = pl.DataFrame({"u": [1, 2, 2, 1], "i": [1, 2, 3, 4], "t": [5, 6, 7, 8]})
    frame = frame.with_columns(r=pl.lit(5.0), price=pl.lit(1.5), shop=pl.Series([*"xyxy"]))
    tables = build_tables(frame, schema=schema)
    drawn = with_negatives(tables, per_positive=1, seed=7)
    columns = ["user", "item", "time", "rating", "label", "domain", "sampled", "price"]
    assert drawn.interactions.columns == columns
    assert drawn.interactions.select("user", "item", "domain", "price").rows() == [
        (0, 0, "x", 1.5),
        (0, 2, "x", None),
        (1, 1, "y", 1.5),
        (1, 3, "y", None),
        (1, 0, "x", None),
        (1, 2, "x", 1.5),
        (0, 1, "y", None),
        (0, 3, "y", 1.5),
    ]
    assert drawn.interactions.schema["domain"] == tables.interactions.schema["domain"]
    assert drawn.notes[-1] == (
        "4 events that never happened were drawn (uniform, 1 for each like, of its domain, seed 7)."
    )
    with pytest.raises(ValueError, match="sampled events already"):
        with_negatives(drawn, per_positive=1, seed=7)


KINDS = pl.Enum(["b", "a", "c"])


def in_domains(tables, codes):
    """The same events, each in one of three domains."""
    names = KINDS.categories.gather(codes).cast(KINDS).alias("domain")
    return replace(
        tables,
        interactions=tables.interactions.with_columns(names),
        schema=replace(SCHEMA, domain="shop"),
    )


@settings(max_examples=60)
@given(
    events=EVENTS,
    codes=st.lists(st.integers(0, 2), min_size=30, max_size=30),
    strategy=STRATEGIES,
    seed=st.integers(0, 2),
)
def test_negatives_are_of_the_domain_of_their_like(events, codes, strategy, seed):
    """Events of a domain may be about items that are mainly of another."""
    tables = in_domains(tables_of(events), codes[: len(events)])
    owners = item_domains(tables).to_list()
    likes = tables.interactions.filter(pl.col("label") == 1)
    free = [
        {item for item, owner in enumerate(owners) if owner == domain} - met(tables, user, time)
        for user, time, domain in likes.select("user", "time", "domain").rows()
    ]
    options = {"per_positive": 1, "strategy": strategy, "seed": seed}
    if min(map(len, free), default=1) < 1:
        with pytest.raises(DataError, match=r"had met all but|has no item of its own"):
            with_negatives(tables, **options)
        return
    frame = with_negatives(tables, **options).interactions
    added = frame.filter("sampled")
    keys = ["user", "time", "domain"]
    assert sorted(added.select(keys).rows()) == sorted(likes.select(keys).rows())
    for user, time, domain, item in added.select(*keys, "item").rows():
        assert owners[item] == domain
        assert item not in met(tables, user, time)
    assert frame.equals(with_negatives(tables, **options).interactions)


@pytest.mark.parametrize("attempts", [40, 0])
def test_shares_within_a_domain(attempts, monkeypatch):
    """Drawn and listed alike: popularity counts what is strictly earlier, and no other domain."""
    monkeypatch.setattr("tastemaker.data.negatives._ATTEMPTS", attempts)
    popular = [(1, item, 1, False) for item in range(1, 6) for _ in range(item)]
    later = [(2, item, 9, False) for item in (1, 7) for _ in range(50)]
    events = sorted(popular + [(0, 0, 5, True)] * 1500 + later, key=lambda one: (one[2], one[0]))
    whole = tables_of(events, n_items=8)
    items = whole.interactions["item"].to_numpy()
    tables = in_domains(whole, np.where(items == 7, 2, items % 2))
    rows = np.flatnonzero(tables.interactions["label"].to_numpy() == 1)
    earlier = np.flatnonzero(tables.interactions["time"].to_numpy() < 5)
    for strategy, expected in (
        ("uniform", [0, 0, 1 / 2, 0, 1 / 2, 0, 0, 0]),
        ("popularity", [0, 0, 2 / 6, 0, 4 / 6, 0, 0, 0]),
    ):
        options = {"strategy": strategy, "seed": 3}
        frame = with_negatives(tables, per_positive=1, **options).interactions
        added = frame.filter("sampled")["item"].to_numpy()
        options |= {"within_domain": True, "counts_from": earlier}
        drawn = draw_negatives(tables, rows, per_row=1, **options).ravel()
        for found in (added, drawn):
            shares = np.bincount(found, minlength=8) / len(rows)
            assert abs(shares - np.array(expected)).max() < 0.05


def test_domains_that_hold_too_little():
    events = [(0, 0, 1, True), (0, 1, 2, True), (1, 1, 3, True), (1, 1, 4, True)]
    tables = in_domains(tables_of(events, n_items=9), [0, 2, 1, 1])
    with pytest.raises(DataError, match="domain 'c' has no item of its own") as raised:
        with_negatives(tables, per_positive=1, seed=0)
    assert "most of its events" in str(raised.value)
    tables = in_domains(tables_of(events, n_items=9), [0, 1, 1, 1])
    with pytest.raises(DataError, match="had met all but 0 of the items") as raised:
        with_negatives(tables, per_positive=1, seed=0)
    assert "domain 'b' has 1 items." in str(raised.value)
    options = {"per_row": 1, "seed": 0, "within_domain": True}
    with pytest.raises(DataError, match="domain 'a' has no event to count"):
        draw_negatives(tables, [1], strategy="popularity", counts_from=[0], **options)
    with pytest.raises(DataError, match="the interactions have none"):
        draw_negatives(tables_of(events), [1], **options)
    assert draw_negatives(tables, [1], per_row=7, seed=0).shape == (1, 7)  # whatever the domain


def test_draws_without_domains_stay_what_they_were():
    """Numbers of an earlier release: the same recipe gives the same data."""
    events = [
        (user, (user * 7 + step * step) % 12, step // 2, step % 3 != 0)
        for user in range(4)
        for step in range(6)
    ]
    tables = tables_of(events, n_items=20)
    for strategy, added, drawn in (
        ("uniform", [3, 14, 5, 14, 5, 8, 4, 16, 8, 14], [18, 11, 13, 3, 14, 9, 19, 13, 11]),
        ("popularity", [3, 14, 5, 14, 5, 8, 4, 16, 3, 8], [11, 7, 9, 2, 9, 4, 11, 9, 1]),
    ):
        whole = with_negatives(tables, per_positive=2, strategy=strategy, seed=5)
        assert whole.interactions.filter("sampled")["item"].to_list()[:10] == added
        options = {"per_row": 3, "strategy": strategy, "seed": 5, "counts_from": np.arange(12)}
        assert draw_negatives(tables, np.arange(3), **options).ravel().tolist() == drawn


@settings(max_examples=15)
@given(events=EVENTS, data=st.data())
def test_the_order_of_the_input_changes_nothing(events, data):
    frames = []
    for rows in (events, data.draw(st.permutations(events))):
        users, items, times, liked = zip(*rows, strict=True)
        frame = pl.DataFrame({"u": users, "i": items, "t": times})
        frame = frame.with_columns(r=pl.Series(liked).cast(pl.Float64) * 3 + 1)
        catalogue = pl.DataFrame({"i": range(N_ITEMS)})
        policies = Policies(duplicates="keep")
        tables = build_tables(frame, items=catalogue, schema=SCHEMA, policies=policies)
        frames.append(with_negatives(tables, per_positive=2, seed=3).interactions)
    assert frames[0].equals(frames[1])


def test_popularity_needs_rows_to_count():
    tables = tables_of([(0, 0, 1, True)])
    with pytest.raises(ValueError, match="counts_from"):
        draw_negatives(tables, [0], per_row=1, strategy="popularity", seed=0)
    with pytest.raises(DataError, match="no event to count"):
        draw_negatives(tables, [0], per_row=1, strategy="popularity", seed=0, counts_from=[])
