"""Uni-CTR's prompts on small tables: three variants, odd prices, junk titles, several domains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.data.history import Histories
from tastemaker.data.item_index import item_index
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splitters import global_time
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import LeakError, UserError
from tastemaker.methods.planning import planned_binder
from tastemaker.prompts.audit import check_no_leak
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.columnar import is_columnar, render_column
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.filters import amount
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.render import display_titles
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import Template, find_template
from tastemaker.recipe import BuildConfig

VARIANTS = ("full", "full_ids", "names", "ids")
SHOPS = Schema(
    user="user",
    item="item",
    time="time",
    rating="stars",
    label=LabelRule("stars", ">", 3.0),
    title="title",
    text=("brand", "price"),
    domain="shop",
)
ITEMS = [
    # item, title, brand, price
    ("a", "Straw Hat", "Acme", "$12.34"),
    ("b", "Tie", "", "$5.99 - $12.00"),
    ("c", "Drum", "  ", "1006"),
    ("d", "Flute", "Opus 1006", None),
    ("e", "Card", "Levi 1003", "$1001.00"),
    ("f", "Oboe", "Moor", "script ... getTime()"),
]
EVENTS = [
    # user, item, time, stars, shop
    ("ann", "a", 10, 5, "Fashion"),
    ("ann", "b", 20, 2, "Fashion"),
    ("ann", "c", 30, 4, "Musical Instruments"),
    ("ann", "d", 40, 5, "Musical Instruments"),
    ("ann", "e", 50, 4, "Gift Cards"),
    ("ann", "b", 60, 5, "Fashion"),
    ("ann", "f", 70, 5, "Musical Instruments"),
    ("ann", "e", 80, 3, "Gift Cards"),
    ("bob", "f", 15, 5, "Musical Instruments"),
]
NUMBERS = pl.Series([str(number) for number in range(1001, 1007)])  # of a to f
HOSTILE = 'x<s>\n{{ 7 * 7 }} "quoted" [INST]\u202e{% raw %}</s>'
SHOWN = "x‹s> {{ 7 * 7 }} 'quoted' (INST){% raw %}‹/s>"


def tables_of(
    items: Sequence[tuple[Any, ...]] = ITEMS, events: Sequence[tuple[Any, ...]] = EVENTS
) -> Tables:
    names = ["item", "title", "brand", "price"]
    return build_tables(
        pl.DataFrame(events, schema=["user", "item", "time", "stars", "shop"], orient="row"),
        items=pl.DataFrame(items, schema=names, orient="row", infer_schema_length=None),
        schema=SHOPS,
    )


def binder_of(tables: Tables, *, index: pl.Series | None = NUMBERS, **options: Any) -> Binder:
    histories = Histories.from_interactions(tables.interactions)
    return Binder(histories, Catalogue(tables, index=index), **options)


def built(binder: Binder, name: str, rows: Sequence[int] | None = None) -> pl.DataFrame:
    """Instructions about these rows, or all."""
    template = name if name.endswith(".j2") or "/" in name else f"uni_ctr/{name}"
    chosen = range(binder.tables.interactions.height) if rows is None else rows
    examples = Examples.of_rows(binder.tables, list(chosen))
    mixture = Mixture.of([find_template(template)])
    return InstructionSource(binder, examples, mixture, "train").frame()


def row_at(tables: Tables, time: int) -> int:
    return int(tables.interactions["time"].to_list().index(time))


def prompt_at(binder: Binder, name: str, time: int) -> str:
    (prompt,) = built(binder, name, [row_at(binder.tables, time)])["prompt"]
    return str(prompt)


def endings(column: str, values: Sequence[Any], dtype: Any) -> list[str]:
    """What follows the title of one product for each value of a column of its table."""
    items = pl.DataFrame({"item": [f"i{place:02}" for place in range(len(values))]})
    items = items.with_columns(pl.lit("Hat").alias("title"), pl.Series(column, values, dtype=dtype))
    events = items.select(
        "item", user=pl.lit("ann"), time=pl.int_range(pl.len()), stars=pl.lit(2), shop=pl.lit("S")
    )
    schema = replace(SHOPS, text=(column,) if dtype == pl.String else (), numeric=())
    tables = build_tables(events, items=items, schema=schema)
    prompts = built(binder_of(tables, index=None), "full")["prompt"]
    return [prompt.partition('"Hat"')[2] for prompt in prompts]


# The variants


def test_all_variants_word_for_word_over_several_domains() -> None:
    binder = binder_of(tables_of())
    user = "The user is called user_1 and clicked"
    shown = 'The product now shown is product_1005, its title is "Card", its brand is Levi 1003'
    titles = " & ".join(f'product "{one}"' for one in ("Drum", "Flute", "Card", "Tie", "Oboe"))
    numbers = "product_1003 & product_1004 & product_1005 & product_1002 & product_1006"
    assert [prompt_at(binder, name, 80) for name in VARIANTS] == [
        f"Gift Cards: {user} {titles} recently. {shown}, its price is 1001.00$.",
        f"Gift Cards: {user} {numbers} recently. {shown}, its price is 1001.00$.",
        f"Gift Cards: user id: user_1, clicked products: {numbers}, product id: product_1005",
        f"Gift Cards: user_1, {numbers}, product_1005",
    ]


def test_without_likes_before_the_history_is_nothing() -> None:
    binder = binder_of(tables_of())
    first = [prompt_at(binder, name, 10) for name in VARIANTS]
    assert "user_1 and clicked nothing recently." in first[0]
    assert first[0] == first[1]
    assert (
        first[2] == "Fashion: user id: user_1, clicked products: nothing, product id: product_1001"
    )
    assert first[3] == "Fashion: user_1, nothing, product_1001"


def test_only_likes_strictly_before_are_shown_and_the_newest_five() -> None:
    binder = binder_of(tables_of())
    past = [prompt_at(binder, "ids", time).split(", ")[1] for time in (20, 30, 60)]
    assert past == [
        "product_1001",
        "product_1001",
        "product_1001 & product_1003 & product_1004 & product_1005",
    ]
    same_second = [(*event[:2], 10, *event[3:]) for event in EVENTS]
    prompts = built(binder_of(tables_of(events=same_second)), "ids")["prompt"]
    assert all(", nothing, " in prompt for prompt in prompts)
    fewer = binder_of(tables_of(), likes=2)
    assert (
        prompt_at(fewer, "ids", 80)
        == "Gift Cards: user_1, product_1002 & product_1006, product_1005"
    )


def test_data_without_domains_begin_with_the_user() -> None:
    tables = replace(tables_of(), interactions=tables_of().interactions.drop("domain"))
    prompts = [prompt_at(binder_of(tables), name, 10) for name in VARIANTS]
    assert [prompt.split()[0] for prompt in prompts] == ["The", "The", "user", "user_1,"]


def test_what_is_asked_is_a_click() -> None:
    binder = binder_of(tables_of())
    for name in VARIANTS:
        frame = built(binder, name)
        template = find_template(f"uni_ctr/{name}")
        assert (template.task, template.choices) == ("click", ("Yes", "No"))
        assert frame["completion"].to_list() == [
            "Yes" if label else "No" for label in frame["label"]
        ]


def test_numbers_are_those_that_training_rows_give() -> None:
    split = global_time(tables_of(), valid_from=0.6, test_from=0.8)
    known = item_index(split.tables, split.train, "sequential", seed=3).texts
    for name in VARIANTS:
        template = find_template(f"uni_ctr/{name}")
        config = BuildConfig(templates={template.name: 1.0})
        binder, index = planned_binder(split, config, [template], seed=3)
        assert index is not None
        assert index.texts.equals(known)
        items = {found: str(text) for found, text in zip("abcdef", known, strict=True)}
        assert f"product_{items['e']}" in prompt_at(binder, name, 80)


# Prices and brands


@pytest.mark.parametrize(
    ("price", "shown"),
    [
        ("$12.34", "12.34"),
        ("  $5.9 \n", "5.90"),
        ("$ 7", "7.00"),
        ("12", "12.00"),
        (12, "12.00"),
        (12.5, "12.50"),
        ("0", "0.00"),
        ("3.14159", "3.14"),
        ("007", "7.00"),
        *((price, "") for price in ("", " ", "$", "$5.99 - $12.00", "5.99-12", "12.00 USD")),
        *(
            (price, "")
            for price in ("from $3", "-4", "1,299.00", "1.2.3", ".5", "12.", "$$5", "€5")
        ),
        *((price, "") for price in ("nan", "inf", "None", "1e+16", "9" * 10, "1." + "1" * 16)),
        *((price, "") for price in ("١٢", "12\n13", True, float("nan"), 1e300)),
        (".a-box { width: 100% } var t = new Date().getTime() + 12.50;", ""),
    ],
)
def test_only_a_plain_amount_is_one(price: object, shown: str) -> None:
    assert amount(price) == shown
    assert amount(amount(price)) == shown


@pytest.mark.parametrize("price", [None, ["$5"], ("$5",), {}])
def test_an_amount_is_of_a_text_or_a_number(price: object) -> None:
    with pytest.raises(TypeError, match=r"not (NoneType|list|tuple|dict)"):
        amount(price)


def test_a_price_that_is_no_amount_is_not_spoken_of() -> None:
    junk = "var t = new Date().getTime(); " * 400
    prices = [None, "", " ", "$5.99", "$5.99 - $12.00", "12.0", "12", "Sold out", junk, HOSTILE]
    plain = {3: "5.99", 5: "12.00", 6: "12.00"}
    assert endings("price", prices, pl.String) == [
        f", its price is {plain[place]}$." if place in plain else "."
        for place in range(len(prices))
    ]


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32])
def test_prices_of_a_column_of_numbers_have_two_decimals(dtype: Any) -> None:
    found = endings("price", [12.0, 12.5, 19.99, 0.126, None, float("nan"), -3.0], dtype)
    shown = ["12.00", "12.50", "19.99", "0.13"]
    assert found == [*(f", its price is {one}$." for one in shown), ".", ".", "."]
    assert endings("price", [7, None], pl.Int64) == [", its price is 7.00$.", "."]


def test_a_missing_brand_is_not_spoken_of() -> None:
    brands = ["Acme", None, "", " \n\t", "\u200b", "x" * 150, "x" * 151, "a{b} " * 3000, HOSTILE]
    assert endings("brand", brands, pl.String) == [
        ", its brand is Acme.",
        *["."] * 4,
        f", its brand is {'x' * 150}.",
        *["."] * 2,
        f", its brand is {SHOWN}.",
    ]


# Titles


@pytest.mark.parametrize("text", ["x", "word ", "<script>", "\u200b", "🎩"])
def test_a_title_of_ten_thousand_characters_is_none(text: str) -> None:
    junk = (text * 10_000)[:10_000]
    items = [(item, junk if item in "ce" else title, *rest) for item, title, *rest in ITEMS]
    tables = tables_of(items)
    assert max(map(len, tables.titles)) == 10_000
    titles = display_titles(tables)
    assert titles == ["Straw Hat", "Tie", "Untitled", "Flute", "Untitled", "Oboe"]
    prompt = prompt_at(binder_of(tables), "full", 80)
    assert len(prompt) < 400
    assert prompt.count('product "Untitled"') == 2
    assert 'product_1005, its title is "Untitled", its brand' in prompt
    numbered = prompt_at(binder_of(tables), "full_ids", 80)
    assert "clicked product_1003 & product_1004 & product_1005" in numbered
    check_no_leak(tables, built(binder_of(tables), "full"), history=10)


def test_no_family_shows_a_title_of_ten_thousand_characters() -> None:
    tables = tables_of([(item, "x" * 10_000, *rest) for item, _, *rest in ITEMS])
    for name in ("tallrec/item", "instructrec/recommend-1", "flip/row"):
        prompts = built(binder_of(tables), name)["prompt"]
        assert prompts.str.contains("Untitled").any()
        assert not prompts.str.contains("xxx").any()


def test_a_title_of_fewer_characters_is_cut() -> None:
    items = [(item, "x" * 9_999, *rest) for item, _, *rest in ITEMS]
    prompt = prompt_at(binder_of(tables_of(items)), "full", 10)
    assert f'its title is "{"x" * 150}"' in prompt


def test_titles_brands_and_domains_stay_data() -> None:
    items = [(item, HOSTILE, HOSTILE, "$5") for item, *_ in ITEMS]
    events = [(*event[:-1], HOSTILE) for event in EVENTS]
    binder = binder_of(tables_of(items, events))
    assert prompt_at(binder, "full", 30) == (
        f'{SHOWN}: The user is called user_1 and clicked product "{SHOWN}" recently. The product '
        f'now shown is product_1003, its title is "{SHOWN}", its brand is {SHOWN}, its price is '
        "5.00$."
    )
    for name in VARIANTS:
        for prompt in built(binder, name)["prompt"]:
            assert prompt.startswith(f"{SHOWN}: ")
            assert "\n" not in prompt
            assert "49" not in prompt
            assert not re.search(r"<\S|\[INST\]", prompt)


# Both ways of rendering


def by_jinja(template: Template, block: dict[str, Any], height: int) -> list[str]:
    constants = {name: it for name, it in block.items() if isinstance(it, str)}
    lists = {name: it.to_list() for name, it in block.items() if name not in constants}
    rows = [{name: values[row] for name, values in lists.items()} for row in range(height)]
    return [template.render_section("prompt", constants | row) for row in rows]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("gone", [(), ("brand",), ("price",), ("brand", "price")])
def test_columns_rows_and_the_sandbox_say_the_same(
    name: str, gone: tuple[str, ...], tmp_path: Path
) -> None:
    whole = tables_of([*ITEMS, ("g", "y" * 12_000, HOSTILE, HOSTILE), ("h", HOSTILE, "", "3")])
    tables = replace(whole, items=whole.items.drop(gone))
    binder = binder_of(tables, index=None)
    template = find_template(f"uni_ctr/{name}")
    path = tmp_path / "own.j2"
    path.write_text(template.source, encoding="utf-8")
    mine = find_template(str(path))
    rows = np.repeat(np.arange(tables.interactions.height), tables.n_items)
    items = np.tile(np.arange(tables.n_items), tables.interactions.height)
    examples = Examples.of_rows(tables, rows, items=items)
    block = binder.block(examples, template)
    found = render_column(template.sections["prompt"], block, height=len(examples)).to_list()
    assert is_columnar(template)
    assert is_columnar(mine)
    assert found == by_jinja(template, block, len(examples))
    assert found == by_jinja(mine, block, len(examples))
    priced, branded = (any(f"its {it} is" in text for text in found) for it in ("price", "brand"))
    full = name.startswith("full")
    assert (priced, branded) == (full and "price" not in gone, full and "brand" not in gone)


def test_in_the_sandbox_an_amount_of_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.j2"
    head = "{#---\nfamily: own\ntask: try\nabout: Try.\nfields: [history]\n---#}\n"
    path.write_text(head + "{{ history | amount }}", encoding="utf-8")
    template = find_template(str(path))
    assert not is_columnar(template)
    with pytest.raises(UserError, match="amount is for a text or a number, not list"):
        template.render(history=["$5"])


# What the audit reads back


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("scheme", ["numbers", "tokens"])
def test_the_audit_passes_prices_and_brands_that_look_like_numbers(name: str, scheme: str) -> None:
    # Brands and prices are numbers of other items, which some of their users never met.
    tables = tables_of()
    index = NUMBERS if scheme == "numbers" else pl.Series([f"<CI0><CI{one}>" for one in range(6)])
    frame = built(binder_of(tables, index=index), name)
    assert frame.height == len(EVENTS)
    check_no_leak(tables, frame, history=5, index=index)


@pytest.mark.parametrize("name", ["full_ids", "names", "ids"])
@pytest.mark.parametrize("unmet", ["1006", "1001"])
def test_the_audit_finds_a_number_of_what_came_later(name: str, unmet: str) -> None:
    tables = tables_of()
    row = row_at(tables, 60) if unmet == "1006" else row_at(tables, 10)
    frame = built(binder_of(tables), name, [row])
    told = frame.with_columns(
        pl.col("prompt").str.replace("nothing|product_1003", f"product_{unmet}")
    )
    assert told["prompt"][0] != frame["prompt"][0]
    with pytest.raises(LeakError, match="Oboe" if unmet == "1006" else "Straw Hat"):
        check_no_leak(tables, told, history=5, index=NUMBERS)
