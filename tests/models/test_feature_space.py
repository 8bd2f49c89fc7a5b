from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data.splits import Split
from tastemaker.data.splitters import global_time
from tastemaker.data.tables import build_tables
from tastemaker.errors import DataError, UnknownNameError, UserError
from tastemaker.models.feature_embedding import FeatureEmbedding
from tastemaker.models.feature_space import FeatureSpace
from tastemaker.models.features import Feature, default_features
from tastemaker.models.statistics import Statistics
from tastemaker.models.vocabulary import MISSING, UNSEEN, Levels, Scale, Vocabulary
from tastemaker.testing.world import SCHEMA, checkerboard_split, shop_split

PAST = Feature("history", "sequence", steps=("item", "genre", "price", "rating"), length=3)
FEATURES = [
    Feature("item", "categorical"),
    Feature("genre", "list"),
    Feature("price", "numeric"),
    Feature("city", "categorical"),
    Feature("age", "numeric"),
    Feature("device", "categorical"),
    Feature("item_mean", "statistic"),
    PAST,
]


@pytest.fixture(scope="module")
def split() -> Split:
    """Nine events; item 3 and the city of user 2 occur in the test part only."""
    events = pl.DataFrame(
        {
            "user_id": [0, 1, 0, 1, 0, 1, 0, 1, 2],
            "item_id": [0, 0, 1, 1, 2, 2, 0, 1, 3],
            "timestamp": [10, 20, 30, 40, 50, 60, 70, 80, 90],
            "rating": [5.0, 1.0, 4.0, 4.0, 2.0, 5.0, 5.0, 1.0, 4.0],
            "device": ["tv", "tv", "phone", None, "tv", "tv", "tv", "web", "web"],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [0, 1, 2, 3],
            "title": ["a", "b", "c", "d"],
            "genre": ["x|y", "y", None, "z"],
            "price": [1.0, 3.0, None, 99.0],
        }
    )
    users = pl.DataFrame({"user_id": [0, 1, 2], "city": ["Rome", None, "Oslo"], "age": [20, 40, 9]})
    schema = replace(
        SCHEMA,
        text=(),
        lists={"genre": "|"},
        categorical=("city", "device"),
        numeric=("price", "age"),
    )
    tables = build_tables(events, items=items, users=users, schema=schema)
    return global_time(tables, valid_from=0.7, test_from=0.85)


@pytest.fixture(scope="module")
def space(split: Split) -> FeatureSpace:
    return FeatureSpace.fit(split, FEATURES, min_count=1)


def asked(space: FeatureSpace, split: Split, rows: list[int], **changes: Any) -> Any:
    events = split.tables.interactions[rows]
    given = {n: events[n].to_numpy().astype(np.int64) for n in ("user", "item", "time")} | changes
    return space.columns(given["user"], given["item"], given["time"], rows=np.array(rows))


def test_unseen_and_missing_values_have_codes_of_their_own(
    space: FeatureSpace, split: Split
) -> None:
    items, users = space.item_table(), space.user_table()
    assert items.codes["item"][4, 0] == UNSEEN  # item 3
    assert items.codes["genre"][3].tolist() == [MISSING, 0]
    assert items.codes["genre"][4].tolist() == [UNSEEN, 0]
    assert sorted(items.codes["genre"][1]) == sorted({*items.codes["genre"][2]} - {0} | {3, 4})[-2:]
    assert users.codes["city"][2, 0] == MISSING
    assert users.codes["city"][3, 0] == UNSEEN
    assert np.isnan(items.numbers[3, 0])
    assert not items.codes["item"][0].any()  # padding
    assert asked(space, split, [3, 8])["device"].ravel().tolist() == [MISSING, UNSEEN]


def test_numbers_are_standardised_by_training_events_and_clamped(space: FeatureSpace) -> None:
    prices = np.array([1, 1, 3, 3])  # of the training events; item 2 has none
    column = space.item_table().numbers[1:, 0]
    np.testing.assert_allclose(column[0], (1 - prices.mean()) / prices.std(), rtol=1e-6)
    np.testing.assert_allclose(column[3], (3 - prices.mean()) / prices.std(), rtol=1e-6)


def test_a_sequence_shows_strictly_earlier_events_newest_at_the_right(
    space: FeatureSpace, split: Split
) -> None:
    columns = asked(space, split, [0, 4, 6])
    assert columns["history"].tolist() == [[0, 0, 0], [0, 1, 2], [1, 2, 3]]
    levels = space.own_ratings.tolist()
    codes = [[0, 0, 0], [0, 5.0, 4.0], [5.0, 4.0, 2.0]]
    expected = [[levels.index(r) + 3 if r else 0 for r in row] for row in codes]
    assert columns["history.rating"].tolist() == expected


def test_statistics_count_training_events_before_the_row_only(split: Split) -> None:
    statistics = Statistics(split, share=0.5, item_strength=0.0)
    events = split.tables.interactions
    users, items, times = (
        events[name].to_numpy().astype(np.int64) for name in ("user", "item", "time")
    )
    given = {"users": users, "items": items, "times": times}
    mean = statistics.column("item_mean", **given)
    assert mean[0] == 0  # nothing before: the share, .5
    assert mean[1] > 5  # one like before
    assert mean[6] == 0  # a like and a dislike
    counts = np.expm1(statistics.column("item_count", **given))
    np.testing.assert_allclose(counts, [0, 1, 0, 1, 0, 1, 2, 2, 0], atol=1e-9)
    np.testing.assert_allclose(
        np.expm1(statistics.column("user_count", **given)), [0, 0, 1, 1, 2, 2, 3, 3, 0], atol=1e-9
    )
    with pytest.raises(KeyError):
        statistics.column("mean", **given)


def test_requests_that_are_no_events_have_no_event_features(
    space: FeatureSpace, split: Split
) -> None:
    one = np.array([0])
    columns = space.columns(one, one, one)
    assert columns["device"].tolist() == [[MISSING]]


def test_a_space_survives_json(space: FeatureSpace, split: Split) -> None:
    import json

    again = FeatureSpace.from_dict(json.loads(json.dumps(space.to_dict())), split)
    first, second = asked(space, split, [3, 8]), asked(again, split, [3, 8])
    assert first.keys() == second.keys()
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name])
    assert again.sizes() == space.sizes()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("copies", [1, 40])
def test_embedded_rows_are_what_plain_lookups_give(
    space: FeatureSpace, split: Split, copies: int, first_order: bool
) -> None:
    """One row takes the way of distinct items, many rows that of the whole catalogue."""
    torch.manual_seed(0)
    network = FeatureEmbedding(space, dim=4, first_order=first_order)
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    rows = [6] * copies
    columns = {n: torch.from_numpy(c) for n, c in asked(space, split, rows).items()}
    found = network(**columns)
    items, tables = space.item_table(), network.tables

    def field(name: str, item: int) -> torch.Tensor:
        if name == "price":
            value = items.numbers[item, 0]
            numbers = network.items.numbers
            known = value * numbers.scale[0] + numbers.shift[0]
            return numbers.missing[0] if np.isnan(value) else known
        codes = [int(code) for code in items.codes[name][item] if code]
        return torch.stack([tables[name].weight[code] for code in codes]).mean(0)

    names = ("item", "genre", "price")
    candidate = torch.stack([field(name, 1) for name in names])
    steps = [[field(name, item) for name in names] for item in (1, 2, 3)]
    ratings = [tables["rating"].weight[code] for code in columns["history.rating"][0]]
    history = torch.stack(
        [torch.stack([*step, rating]) for step, rating in zip(steps, ratings, strict=True)]
    ).mean(0)
    torch.testing.assert_close(found.candidate[0], candidate[:, :4])
    torch.testing.assert_close(found.history[0], history[:, :4])
    assert found.context.shape == (copies, 4, 4)
    if first_order:
        device = tables["device"].weight[int(columns["device"][0, 0]), 4]
        city = tables["city"].weight[int(space.user_table().codes["city"][1, 0]), 4]
        numbers = network.numbers(columns["numbers"])[0, :, 4].sum()
        age = network.users.numbers(network.users.values[1:2])[0, 0, 4]
        weights = candidate[:, 4].sum() + history[:, 4].sum() + device + city + numbers + age
        torch.testing.assert_close(found.linear[0], weights)


def test_step_by_step_and_averaged_histories_agree(space: FeatureSpace, split: Split) -> None:
    torch.manual_seed(0)
    averaged = FeatureEmbedding(space, dim=4)
    stepwise = FeatureEmbedding(space, dim=4, reads_steps=True)
    stepwise.load_state_dict(averaged.state_dict())
    columns = {n: torch.from_numpy(c) for n, c in asked(space, split, [0, 4, 6]).items()}
    (steps,) = stepwise(**columns).steps
    assert steps.mask.tolist() == [[False] * 3, [False, True, True], [True] * 3]
    history = averaged(**columns).history
    order = torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(steps.values[:2].mean(0).view(4, 4)[order], history[1])
    torch.testing.assert_close(steps.values[2:].mean(0).view(4, 4)[order], history[2])
    assert not history[0].any()
    layer = torch.nn.Linear(16, 5)
    (fresh,) = stepwise(**columns).steps
    torch.testing.assert_close(fresh.projected(layer), layer(steps.values))
    many = {name: column.repeat_interleave(20, 0) for name, column in columns.items()}
    (fresh,), (whole,) = stepwise(**many).steps, stepwise(**many).steps
    torch.testing.assert_close(fresh.projected(layer), layer(whole.values))


def test_default_features_are_the_declared_columns_and_the_past(split: Split) -> None:
    found = default_features(split.tables.schema, split.tables)
    assert [feature.name for feature in found] == [
        "item",
        "genre",
        "price",
        "city",
        "age",
        "history",
    ]
    assert found[-1].steps == ("item", "genre", "price", "rating")
    with_id = default_features(split.tables.schema, split.tables, user_id=True)
    assert "user" in [feature.name for feature in with_id]
    assert default_features(shop_split().tables.schema, shop_split().tables)


@pytest.mark.parametrize(
    ("features", "problem", "error"),
    [
        ([Feature("gendre", "categorical")], "did you mean 'genre'", UnknownNameError),
        ([Feature("item_maen", "statistic")], "did you mean 'item_mean'", UnknownNameError),
        ([Feature("rating", "numeric")], "part of the answer", UserError),
        ([Feature("label", "categorical")], "part of the answer", UserError),
        ([Feature("city", "categorical")], "nothing tells items apart", UserError),
        ([Feature("item", "numeric")], "an id is categorical", UserError),
        ([Feature("item", "categorical")] * 2, "declared twice", UserError),
        ([Feature("item", "categorical"), replace(PAST, steps=())], "carry nothing", UserError),
        (
            [Feature("item", "categorical"), replace(PAST, steps=("age",))],
            "cannot carry",
            UserError,
        ),
        ([Feature("title", "numeric")], "not numbers", DataError),
        ([Feature("title", "list")], "not lists", DataError),
    ],
)
def test_wrong_features_get_one_clear_message(
    split: Split, features: list[Feature], problem: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=problem):
        FeatureSpace.fit(split, features, min_count=1).item_table()


def test_vocabularies_count_training_events() -> None:
    values = pl.Series([["a", "b"], ["b"], None, ["c"]])
    vocabulary = Vocabulary.of(values, [1, 2, 9, 1], min_count=2)
    assert vocabulary.values == ("b",)
    assert vocabulary.list_codes(pl.Series([["c", "b", "b"], [], None])).tolist() == [
        [UNSEEN, 3],
        [MISSING, 0],
        [MISSING, 0],
    ]


def test_a_rating_takes_the_nearest_level() -> None:
    levels = Levels((1.0, 2.0, 5.0))
    assert levels.codes(np.array([0.5, 1.4, 3.6, 9.0])).tolist() == [3, 3, 5, 5]


def test_a_scale_of_nothing_or_of_equal_numbers_stays_finite() -> None:
    assert Scale.of(np.array([np.nan])).apply(np.array([7.0])).tolist() == [0.0]
    assert Scale.of(np.array([3.0, 3.0])).apply(np.array([3.0, 9.0])).tolist() == [0.0, 0.0]


def test_nothing_of_the_future_reaches_a_column() -> None:
    """Other ratings and items from the valid part on change no column of an earlier row."""
    split = checkerboard_split()
    features = [
        *default_features(split.tables.schema, split.tables),
        Feature("item_mean", "statistic"),
        Feature("liked_share", "statistic"),
    ]
    moment = split.boundaries["valid"]
    events = split.tables.interactions
    later = pl.col("time") >= moment
    changed = events.with_columns(
        rating=pl.when(later).then(6 - pl.col("rating")).otherwise("rating"),
        label=pl.when(later).then(1 - pl.col("label")).otherwise("label"),
        item=pl.when(later).then(39 - pl.col("item")).otherwise("item"),
    ).cast(events.schema)
    other = replace(split, tables=replace(split.tables, interactions=changed))
    rows = np.concatenate([split.train, split.valid[:1]])
    found = [
        FeatureSpace.fit(one, features, min_count=2).columns(
            *(events[name].to_numpy()[rows].astype(np.int64) for name in ("user", "item", "time"))
        )
        for one in (split, other)
    ]
    for name, column in found[0].items():
        np.testing.assert_array_equal(column, found[1][name])
