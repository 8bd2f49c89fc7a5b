from pathlib import Path

import pytest
from pydantic import ValidationError

from tastemaker.errors import RecipeError
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.registry import package_root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ndata: {interactions: ratings.csv}\ntune: {shots: 16}\n")
    return path


def test_defaults_and_paths_beside_the_recipe(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert loaded.tune.shots == 16
    assert loaded.tune.lora.rank == 8
    assert loaded.data.interactions == recipe.parent / "ratings.csv"


def test_unquoted_dates(recipe: Path) -> None:
    loaded = load_recipe(recipe, overrides=["data.split.test_from=2015-01-01"])
    assert loaded.data.split.test_from == "2015-01-01"


def test_packaged_recipes_load() -> None:
    for path in (package_root() / "examples").glob("*.yaml"):
        assert load_recipe(path).name == path.stem


def test_set_overrides_and_keeps_the_rest(recipe: Path) -> None:
    changed = load_recipe(recipe, overrides=["tune.learning_rate=0.01", "tune.lora.rank=4"])
    assert (changed.tune.learning_rate, changed.tune.lora.rank, changed.tune.shots) == (0.01, 4, 16)


def test_misspelt_keys_are_all_named_with_the_nearest(recipe: Path) -> None:
    recipe.write_text("name: r\ntune: {lerning_rate: 1, lora: {rnk: 2}}\nbuid: {}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    text = str(caught.value)
    for wrong, right in {"lerning_rate": "learning_rate", "rnk": "rank", "buid": "build"}.items():
        assert wrong in text
        assert f"did you mean '{right}'" in text
    assert str(recipe) in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.shots=-1", "tune.shots = -1"),
        ("tune.shots=many", "tune.shots = 'many'"),
        ("tune.lora.dropout=2", "less than 1"),
        ("tune", "expected section.key=value"),
        ("seed.x=1", "'seed' is a value"),
        ("tune.shots=[", "not valid YAML"),
        ("name=../x", "name = '../x'"),
    ],
)
def test_bad_values(recipe: Path, override: str, message: str) -> None:
    recipe.write_text("name: r\nseed: 3\n")
    with pytest.raises(RecipeError, match=message.replace("[", r"\[").replace(".", r"\.")):
        load_recipe(recipe, overrides=[override])


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "a recipe is a mapping"), ("a: [", "not valid YAML"), ("", "a recipe is a mapping")],
)
def test_not_a_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe(name="r").tune.shots = 3  # type: ignore[misc]
