"""P5's mixture as a built data set: repeats of each task, and ratings with one decimal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from tastemaker.data.hashing import fractions, hashed
from tastemaker.data.rating_bands import RatingBands
from tastemaker.errors import DataError, RecipeError
from tastemaker.methods.base import load_split
from tastemaker.methods.building import audit_build, check
from tastemaker.methods.pipeline import stages
from tastemaker.methods.planning import P5_REPEATS, plan
from tastemaker.prompts.formats import read_shards
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.recipe_build import BuildConfig
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

BUILD: dict[str, Any] = {
    "templates": ["p5/1-*", "p5/2-*", "p5/5-*"],
    "history": 5,
    "min_history": 1,
    "candidates": 3,
    "negatives": 1,
}
REPEATS = {name: P5_REPEATS[name] for name in ("rating", "sequential", "direct")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data stage is finished: 24 users, 30 items, stars from 1 to 5."""
    folder = tmp_path_factory.mktemp("p5")
    tables = checkerboard(24, 30, events=16, seed=1)
    number, user = pl.col("item"), pl.col("user")
    stars = fractions(hashed(np.arange(tables.interactions.height), seed=0)) * 2.5
    events = tables.interactions.with_columns(number=pl.Series(stars).floor())
    events.select(
        user_id=pl.format("u{}", "user"),
        item_id="item",
        timestamp="time",
        rating=pl.when(number % 2 == user % 2)
        .then(5 - pl.col("number"))
        .otherwise(1 + pl.col("number")),
    ).write_parquet(folder / "ratings.parquet")
    tables.items.select("item_id", "title").write_parquet(folder / "films.parquet")
    found = recipe(folder)
    (data, _) = stages(found, until="build")
    Run(folder / "run", seed=found.seed).execute(data)
    return folder


def recipe(folder: Path, **build: Any) -> Recipe:
    data = {
        "interactions": str(folder / "ratings.parquet"),
        "items": str(folder / "films.parquet"),
        "split": {"valid_from": 0.7, "test_from": 0.85},
        "requests": {"min_history": 1},
    }
    return Recipe.model_validate({"name": "p5", "data": data, "build": {**BUILD, **build}})


def frames(world: Path, **settings: Any) -> dict[str, pl.DataFrame]:
    """The instructions of each part, nothing written."""
    config = BuildConfig.model_validate({**BUILD, **settings})
    sources = plan(world / "run", config, seed=0).sources
    return {part: source.frame() for part, source in sources.items()}


def counts_of(frame: pl.DataFrame) -> dict[str, int]:
    """Instructions of each family."""
    families = frame["template"].str.extract(r"p5/(\d)")
    return {
        str(name): int(count) for name, count in families.value_counts().sort("template").rows()
    }


def test_tasks_are_repeated_in_the_training_part_only(world: Path) -> None:
    parts = frames(world, repeats={"sequential": {"per_user": 20}, "direct": {"per_user": 15}})
    plain = frames(world)
    split = load_split(Run(world / "run", seed=0))
    events = split.tables.interactions
    with_past = split.train[split.histories.counts(split.train) >= 1]
    likes = with_past[events["label"].to_numpy()[with_past] == 1]
    asked = events["user"][likes].n_unique()
    found = counts_of(parts["train"])
    assert found["1"] == len(with_past)  # one rating question about each rating
    assert found["2"] == pytest.approx(20 * asked, rel=0.1)
    assert found["5"] == pytest.approx(15 * asked, rel=0.1)
    for part in ("validation", "test"):
        assert parts[part].equals(plain[part])


def test_a_built_mixture_passes_the_audit(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "run")
    found = recipe(world, rating_noise=True, repeats={"sequential": 2, "direct": 2})
    run = Run(tmp_path / "run", seed=found.seed)
    for stage in stages(found, until="build"):
        run.execute(stage)
    prompts = [one for one in audit_build(run, load_split(run)) if one.check.startswith("prompts")]
    assert len(prompts) > 3
    assert not [one for one in prompts if one.severity == "fail"]
    train = read_shards(run.artefact("build"), "train")
    assert train["completion"].str.contains(r"^[1-5]\.\d$").sum() > 50


def test_yes_and_no_are_asked_alike_often(world: Path) -> None:
    parts = frames(world, templates=["p5/5-*"], repeats={"direct": 4})
    train = parts["train"]
    likes = train.filter(pl.col("label") == 1)["row"].unique()
    asked = train.filter(pl.col("completion").is_in(["yes", "no"]) & pl.col("row").is_in(likes))
    answers = dict(asked["completion"].value_counts().rows())
    assert answers["no"] == pytest.approx(answers["yes"], rel=0.15)
    # By weight, four yes/no templates of 1/2 beside three of 1: for four draws 1.6 negatives.
    assert likes.len() * 4 * 1.2 < train.filter(pl.col("row").is_in(likes)).height


def test_noisy_ratings_train_and_whole_ones_test(world: Path) -> None:
    settings = {"templates": ["p5/1-*"], "negatives": 0}
    parts, plain = frames(world, **settings, rating_noise=True), frames(world, **settings)
    tables = load_split(Run(world / "run", seed=0)).tables
    numbers = [f"p5/1-{n}" for n in (1, 2, 5, 6, 7)]
    train, whole = (one["train"].with_row_index("place") for one in (parts, plain))
    assert train.select("prompt", "template").equals(whole.select("prompt", "template"))
    both = pl.DataFrame(
        {
            "template": train["template"],
            "row": train["row"],
            "noisy": train["completion"],
            "whole": whole["completion"],
        }
    )
    others = both.filter(~pl.col("template").is_in(numbers))
    assert others["noisy"].equals(others["whole"])
    rated = both.filter(pl.col("template").is_in(numbers))
    assert rated.height > 50
    assert rated["noisy"].str.contains(r"^[1-5]\.\d$").all()
    assert rated["whole"].cast(pl.Int64).to_list() == [
        tables.interactions["rating"][row] for row in rated["row"].to_list()
    ]
    away = rated["noisy"].cast(pl.Float64) - rated["whole"].cast(pl.Float64)
    assert 0.1 < away.abs().mean() < 0.4
    assert away.abs().max() < 1.3
    for part in ("validation", "test", "test_unseen"):
        assert parts[part].equals(plain[part])


def test_another_epoch_draws_other_numbers(world: Path) -> None:
    config = BuildConfig.model_validate({**BUILD, "rating_noise": True, "repeats": REPEATS})
    source = plan(world / "run", config, seed=0).sources["train"]
    first, second = (source.in_epoch(epoch).frame() for epoch in (0, 1))
    assert first.equals(source.in_epoch(0).frame())
    assert not first["completion"].equals(second["completion"])


def test_repeats_and_noise_that_no_template_knows_are_refused(world: Path) -> None:
    with pytest.raises(RecipeError, match="task 'sequental'; did you mean 'sequential'"):
        check(recipe(world, repeats={"sequental": 2}))
    with pytest.raises(RecipeError, match="asks for a rating as a number"):
        check(recipe(world, templates=["p5/2-*"], rating_noise=True))
    with pytest.raises(RecipeError, match="nothing is per_user"):
        check(recipe(world, templates=["kar/item_movies"], repeats=of_items()))


def of_items() -> dict[str, Any]:
    from tastemaker.prompts.template import find_template

    return {find_template("kar/item_movies").task: {"per_user": 2}}


@pytest.mark.parametrize(
    "wrong", [0, True, 1.5, "many", {"per_user": 0}, {"per_user": "20"}, {"per_usr": 20}]
)
def test_repeats_are_a_number_or_per_user(tmp_path: Path, wrong: Any) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"name": "p5", "build": {"repeats": {"rating": wrong}}}))
    with pytest.raises(RecipeError, match=r"build\.repeats\.rating.*allowed: above 0") as caught:
        load_recipe(file)
    assert "1 problem" in str(caught.value)


def test_bands_are_p5s() -> None:
    bands = RatingBands.of([1, 2, 3, 4, 5, 5])
    low, high = bands.bands([1, 2, 3, 4, 5])
    assert low.tolist() == [1.0, 1.5, 2.5, 3.5, 4.5]
    assert high.tolist() == [1.4, 2.4, 3.4, 4.4, 5.0]
    assert len(bands.texts()) == 41
    assert (bands.texts()[0], bands.texts()[-1]) == ("1.0", "5.0")


def test_numbers_are_normal_around_the_middle_of_the_band() -> None:
    bands, chances = RatingBands.of([1, 2, 3, 4, 5]), (np.arange(20_000) + 0.5) / 20_000
    for star, middle, width in ((1, 1.2, 0.4), (2, 1.95, 0.9), (4, 3.95, 0.9), (5, 4.75, 0.5)):
        found = bands.draw(np.full(20_000, star), chances) / 10
        assert found.mean() == pytest.approx(middle, abs=0.01)
        # Rounding to tenths adds a twelfth of their square.
        assert found.var() == pytest.approx((width / 4) ** 2 + 0.01 / 12, rel=0.05)
        assert (found >= 1).all()
        assert (found <= 5).all()
    ends = bands.draw([1, 5], [0.0, 1.0 - 2.0**-53])
    assert ends.tolist() == [10, 50]


def test_other_scales_have_bands_or_a_message() -> None:
    halves = RatingBands.of(np.arange(1, 11) / 2)
    low, high = halves.bands([0.5, 3.0, 3.5, 5.0])
    assert low.tolist() == [0.5, 2.8, 3.3, 4.8]
    assert high.tolist() == [0.7, 3.2, 3.7, 5.0]
    seen = RatingBands.of([2, 3, 4], scale=(1, 5))
    assert len(seen.texts()) == 41
    assert len(RatingBands.of(np.arange(1, 11)).texts()) == 91
    for ratings in ([1.0], [], [1, 2, 3.33], [1, 2, 4, 4.5, 5.3]):
        with pytest.raises(DataError, match="have no bands"):
            RatingBands.of(ratings)
