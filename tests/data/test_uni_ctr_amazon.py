"""The five Amazon categories of Uni-CTR, from files as they are published to its prompts."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.tables import Tables
from tastemaker.methods.building import arranged
from tastemaker.methods.pipeline import stages
from tastemaker.recipe import Recipe
from tastemaker.stage import Run

FILES = {
    "fashion": ("AMAZON_FASHION", "Amazon Fashion"),
    "musical-instruments": ("Musical_Instruments", "Musical Instruments"),
    "gift-cards": ("Gift_Cards", "Gift Cards"),
    "all-beauty": ("All_Beauty", "All Beauty"),
    "digital-music": ("Digital_Music", "Digital Music"),
}
SOURCE = f"amazon-2018:{'+'.join(FILES)}"
DAY, FIRST = 86_400, 1_416_182_400
PAGE = (
    'var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();<span class="a-size">'
)
STYLE = ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{background-color:#fffbf3}"
# What the files say of the title, brand and price of the first items of each category.
ITEMS: list[dict[str, Any]] = [
    {"title": "Canvas Shoe", "brand": "Moor", "price": "$12.34"},
    {"title": "Silver Ring", "brand": "", "price": "$5.99 - $12.00"},
    {"title": PAGE, "price": STYLE},
    {"title": "x" * 10_000, "brand": "Oak & Sons", "price": "$1,234.00"},
    {"title": "Tin Whistle", "brand": "Oak & Sons", "price": "$7"},
    {"brand": "y" * 200, "price": ""},
]
TITLES = ["Canvas Shoe", "Silver Ring", "", "", "Tin Whistle", ""]
ENDINGS = [
    'its title is "Canvas Shoe", its brand is Moor, its price is 12.34$.',
    'its title is "Silver Ring".',
    'its title is "{asin}".',
    'its title is "{asin}", its brand is Oak & Sons.',
    'its title is "Tin Whistle", its brand is Oak & Sons, its price is 7.00$.',
    'its title is "{asin}".',
]
USERS, ROUNDS = 4, 6


def asin(category: int, item: int) -> str:
    return f"B0{category}{item}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On each day every user reviews the item of that number in each category."""
    place = tmp_path_factory.mktemp("amazon")
    for category, (stem, _) in enumerate(FILES.values()):
        reviews = []
        for day in range(ROUNDS):
            for user in range(USERS):
                stars = float(1 + (user + day + category) % 5)
                review: dict[str, Any] = {
                    "overall": stars,
                    "verified": True,
                    "reviewTime": "11 17, 2014",
                    "reviewerID": f"A{user}",
                    "asin": asin(category, day),
                    "reviewerName": "Ann",
                    "summary": "Five Stars",
                    "unixReviewTime": FIRST + DAY * day,
                }
                if user:
                    review |= {"style": {"Size:": " 5"}, "vote": "3", "reviewText": 'So "good"'}
                reviews.append(review)
        told = [
            {**item, "asin": asin(category, number), "category": [stem], "rank": "1 in A ("}
            for number, item in enumerate(ITEMS)
        ]
        told[0]["rank"], told[0]["description"] = ["1 in A", "2 in B"], ["A shoe.", ""]
        for name, rows in ((stem, [*reviews, reviews[0]]), (f"meta_{stem}", told)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (place / f"{name}.json.gz").write_bytes(gzip.compress(text.encode()))
    return place


@pytest.fixture(scope="module")
def tables(folder: Path) -> Tables:
    return load_builtin(SOURCE, folder)


def test_five_categories_are_one_table_with_domains(tables: Tables) -> None:
    events = tables.interactions
    counts = events["domain"].cast(pl.String).value_counts().sort("domain").rows()
    assert counts == sorted((name, USERS * ROUNDS) for _, name in FILES.values())
    assert (tables.n_users, tables.n_items) == (USERS, 5 * len(ITEMS))
    by_item = events.join(tables.items, on="item").select("item_id", "domain").unique()
    assert by_item.height == tables.n_items
    for item, domain in by_item.cast({"domain": pl.String}).iter_rows():
        assert domain == [*FILES.values()][int(item[2])][1]
    assert sum("5 repeated interactions are dropped" in note for note in tables.notes) == 1


def test_more_than_three_stars_is_a_like(tables: Tables) -> None:
    events = tables.interactions
    assert set(events["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert (events["label"] == (events["rating"] > 3)).all()
    assert events["label"].mean() == pytest.approx(2 / 5, abs=0.05)


def test_a_price_is_a_plain_amount_and_a_title_no_script(tables: Tables) -> None:
    rows = tables.items.sort("item_id").select("item_id", "title", "brand", "price").rows()
    for number, (item, title, brand, price) in enumerate(rows):
        told = ITEMS[number % len(ITEMS)]
        is_junk = number % len(ITEMS) in (2, 3, 5)
        assert title == (item if is_junk else told["title"])
        assert (brand or "") == told.get("brand", "")
        assert price == [12.34, None, None, None, 7.0, None][number % len(ITEMS)]


@pytest.mark.parametrize("name", ["full", "full_ids", "names", "ids"])
def test_prompts_of_all_categories(folder: Path, tmp_path: Path, name: str) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "amazon",
            "methods": ["uni_ctr"],
            "data": {
                "source": SOURCE,
                "folder": str(folder),
                "split": {"name": "global_time", "valid_from": 0.6, "test_from": 0.8},
                "requests": {"min_history": 0},
            },
            "build": {"templates": f"uni_ctr/{name}", "likes": 5, "min_history": 0},
            "tune": {"model": str(small_model(tmp_path))},
        }
    )
    run = Run(tmp_path / "run", seed=recipe.seed)
    for stage in stages(recipe, until="build"):
        run.execute(stage)
    parts = [arranged(run.artefact("build"), one) for one in ("train", "validation", "test")]
    frame = pl.concat(parts)
    assert frame.height == 5 * USERS * ROUNDS
    for row in frame.iter_rows(named=True):
        prompt = row["prompt"][0]["content"]
        assert prompt.startswith(f"{row['domain']}: ")
        assert len(prompt) < 900
        assert not re.search(r"xxx|yyy|aPageStart|alohaBuyBox|Untitled|5\.99", prompt)
        if row["timestamp"] == FIRST:
            assert re.search(r"(clicked|products:|user_\d+,) nothing", prompt)
        if name.startswith("full"):
            number = int(row["item_id"][3])
            ending = ENDINGS[number].format(asin=row["item_id"])
            assert re.search(rf"is product_\d+, {re.escape(ending)}$", prompt), prompt
        shown = re.findall(r'product "([^"]*)"', prompt)
        likes = likes_before(frame, row)
        if name == "full":
            assert shown == [TITLES[int(item[3])] or item for item in likes]
        else:
            assert len(re.findall(r"product_\d+", prompt)) == len(likes) + 1


def likes_before(frame: pl.DataFrame, row: dict[str, Any]) -> list[str]:
    """The user's last five likes of earlier days, whatever the category; oldest first."""
    own = frame.filter(user_id=row["user_id"], label=1)
    earlier = own.filter(pl.col("timestamp") < row["timestamp"])
    return earlier.sort("row")["item_id"].tail(5).to_list()


def small_model(folder: Path) -> Path:
    """A folder that looks like a model: no prompt is read by one here."""
    place = folder / "model"
    place.mkdir()
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2}
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").touch()
    return place
