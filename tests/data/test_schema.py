import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.schema import LabelRule, Schema
from tastemaker.errors import UserError
from tastemaker.recipe_data import ColumnsConfig


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("rating > 3", [0, 0, 1]),
        ("rating>=3", [0, 1, 1]),
        (" rating < 3 ", [1, 0, 0]),
        ("rating <= 3.0", [1, 1, 0]),
        ("rating == 3", [0, 1, 0]),
    ],
)
def test_rules(text, labels):
    frame = pl.DataFrame({"rating": [2.5, 3.0, 3.5]})
    found = LabelRule.parse(text).apply(frame)
    assert found.to_list() == labels
    assert found.dtype == pl.Int8
    assert found.name == "label"


@pytest.mark.parametrize("text", ["rating", "rating > high", "> 3", "rating > nan", "rating => 3"])
def test_a_rule_that_cannot_be_read_says_how_to_write_one(text):
    with pytest.raises(UserError, match="cannot be read") as raised:
        LabelRule.parse(text)
    assert text in str(raised.value)
    assert 'Write it like "rating > 3".' in str(raised.value)


@settings(deadline=None)
@given(
    st.builds(
        LabelRule,
        st.sampled_from(["rating", "stars given", "x-1"]),
        st.sampled_from([">", ">=", "<", "<=", "=="]),
        st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_text_of_a_rule_reads_back(rule):
    assert LabelRule.parse(str(rule)) == rule


def test_rule_is_shown_as_it_is_written():
    assert str(LabelRule.parse("rating>3")) == "rating > 3"
    assert str(LabelRule.parse("rating >= 3.5")) == "rating >= 3.5"


def test_schema_survives_json_and_comes_from_a_recipe():
    columns = ColumnsConfig(user="who", label="stars >= 4", text=("genres", "year"))
    schema = Schema.from_dict(columns.model_dump())
    assert schema.user == "who"
    assert schema.label == LabelRule("stars", ">=", 4.0)
    assert schema.text == ("genres", "year")
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
