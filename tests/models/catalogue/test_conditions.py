from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tastemaker.errors import UserError
from tastemaker.models.catalogue.conditions import Condition, holds, to_sql

SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "many": pa.list_(pa.string()),
        "one": pa.string(),
        "number": pa.float64(),
    }
)
HOSTILE = ("it's", "a\\", "'; DROP", "` OR 1=1 --", "\x00", "{{ x }}", "<|im_end|>", "é", "e\u0301")
TEXTS = st.sampled_from(HOSTILE) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "many": st.none() | st.lists(TEXTS, max_size=3),
            "one": st.none() | TEXTS,
            "number": st.none() | NUMBERS,
        }
    ),
    min_size=1,
    max_size=6,
)


@st.composite
def questions(draw: Any) -> tuple[list[dict[str, Any]], list[Condition]]:
    """Rows, and conditions some of whose values stand in them."""
    rows = draw(ROWS)
    said = [text for row in rows for text in (*(row["many"] or ()), row["one"]) if text]
    known = [row["number"] for row in rows if row["number"] is not None]
    texts = TEXTS | st.sampled_from(said) if said else TEXTS
    numbers = NUMBERS | st.sampled_from(known) if known else NUMBERS
    named = st.builds(
        lambda column, operator, values: Condition(column, operator, tuple(values)),
        st.sampled_from(["many", "one"]),
        st.sampled_from(["any_of", "none_of"]),
        st.lists(texts, min_size=1, max_size=3),
    )
    bounds = st.builds(
        lambda operator, value: Condition("number", operator, (value,)),
        st.sampled_from(["at_least", "at_most"]),
        numbers,
    )
    return rows, draw(st.lists(named | bounds, min_size=1, max_size=3))


@pytest.fixture
def database(tmp_path: Path) -> Any:
    return lancedb.connect(str(tmp_path))


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(questions())
def test_the_store_and_the_check_agree(
    database: Any, asked: tuple[list[dict[str, Any]], list[Condition]]
) -> None:
    rows, conditions = asked
    numbered = [{**row, "row": place} for place, row in enumerate(rows)]
    if "rows" in database.list_tables().tables:
        database.drop_table("rows")
    table = database.create_table("rows", pa.Table.from_pylist(numbered, schema=SCHEMA))
    where = to_sql(conditions, lists=["many"])
    found = table.search(None).where(where).select(["row"]).to_arrow()["row"].to_pylist()
    assert set(found) == {row["row"] for row in numbered if holds(conditions, row)}


@pytest.mark.parametrize(
    ("operator", "values"),
    [
        ("any_of", ()),
        ("any_of", (1.0,)),
        ("at_least", ("1990",)),
        ("at_least", (1.0, 2.0)),
        ("at_most", (float("nan"),)),
        ("at_most", (True,)),
        ("equals", ("x",)),
    ],
)
def test_values_that_do_not_fit_the_operator_are_refused(operator: Any, values: Any) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        Condition("column", operator, values)


def test_conditions_are_told_in_words() -> None:
    assert str(Condition("genres", "any_of", ("Comedy", "Drama"))) == "genres: Comedy or Drama"
    assert str(Condition("genres", "none_of", ("War",))) == "genres: not War"
    assert str(Condition("year", "at_most", (1994,))) == "year: at most 1994"


def test_nothing_demanded_is_no_filter() -> None:
    assert to_sql([], lists=[]) == ""
    assert holds([], {})
