import json

import polars as pl
import pytest

from tastemaker.data.describe import describe
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import global_time
from tastemaker.data.tables import build_tables

SCHEMA = Schema("u", "i", "t", "r", LabelRule("r", ">", 3.0), "title")


def test_numbers_checked_by_eye():
    frame = pl.DataFrame(
        {
            "u": ["a", "a", "a", "b", "a", "b"],
            "i": ["x", "y", "y", "x", "x", "z"],
            "t": [0, 1, 1, 2, 3, 4],
            "r": [5, 1, 5, 1, 5, 1],
        }
    )
    items = pl.DataFrame({"i": ["w", "x", "y", "z"], "title": ["W", "X", "Y", "Z"]})
    tables = build_tables(frame, items=items, schema=SCHEMA)
    split = global_time(tables, valid_from=0.5, test_from=0.7)
    assert describe(tables, split) == {
        "users": 2,
        "items": 4,
        "events": 6,
        "active_users": 2,
        "active_items": 3,
        "first": "1970-01-01T00:00:00+00:00",
        "last": "1970-01-01T00:00:04+00:00",
        "density": 0.5,
        "liked_share": 0.5,
        "history_p10": 0.0,
        "history_p50": 1.0,
        "history_p90": 2.0,
        "history_max": 3,
        "train_rows": 3,
        "valid_rows": 1,
        "test_rows": 2,
        "valid_from": "1970-01-01T00:00:02+00:00",
        "test_from": "1970-01-01T00:00:03+00:00",
        "test_user_unseen_share": 0.5,
        "test_item_unseen_share": 0.5,
    }


def test_a_split_is_not_needed_and_json_takes_it():
    tables = build_tables(pl.DataFrame({"u": [1], "i": [2], "t": [3], "r": [4]}), schema=SCHEMA)
    facts = describe(tables)
    assert "train_rows" not in facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["density"] == pytest.approx(1.0)
