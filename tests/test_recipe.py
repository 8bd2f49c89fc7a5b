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
    assert loaded.data.interactions.path == str(recipe.parent / "ratings.csv")


def test_a_table_may_be_a_path_a_list_of_paths_or_a_mapping(recipe: Path) -> None:
    here = recipe.parent
    recipe.write_text(
        "name: r\ndata:\n  interactions: {database: shop.db, query: SELECT 1}\n"
        "  items: [a.jsonl, /b.jsonl]\n  users: {path: ~/u.txt, separator: '::', header: [id]}\n"
    )
    data = load_recipe(recipe).data
    assert (data.interactions.database, data.interactions.path) == (str(here / "shop.db"), None)
    assert data.items.path == (str(here / "a.jsonl"), "/b.jsonl")
    assert data.users.path == str(Path.home() / "u.txt")
    assert data.users.header == ("id",)


def test_each_splitter_has_its_own_options(recipe: Path) -> None:
    loaded = load_recipe(recipe, overrides=["data.split.name=leave_one_out"])
    assert loaded.data.split.model_dump() == {"name": "leave_one_out", "min_events": 3}
    for override, message in {
        "data.split.name=leave_one": "data.split.name: unknown splitter 'leave_one'; did you mean "
        "'leave_one_out'? available: given, global_time,",
        "data.split.valid_form=0.5": "data.split.valid_form: unknown key; did you mean "
        "'valid_from'? allowed: name, valid_from, test_from",
        "data.split={name: rolling, folds: 0}": "data.split.folds = 0: Input should be greater",
        "data.split=3": "data.split",
    }.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe, overrides=[override])
        assert message in str(caught.value), override


def test_unquoted_dates(recipe: Path) -> None:
    loaded = load_recipe(recipe, overrides=["data.split.test_from=2015-01-01"])
    assert loaded.data.split.test_from == "2015-01-01"


def test_packaged_recipes_load() -> None:
    found = {path.stem: load_recipe(path) for path in (package_root() / "examples").glob("*.yaml")}
    assert {"instructions", "own_tables", "quickstart", "streaming", "tallrec"} <= found.keys()
    assert all(recipe.name == name for name, recipe in found.items())
    stream = found["streaming"]
    assert (stream.tune.rows, stream.tune.shots, stream.build.anchor) == ("streamed", None, 20)
    assert found["tallrec"].tune.instruction_tuning is None


def test_what_the_tallrec_recipe_offers_in_comments_is_allowed(tmp_path: Path) -> None:
    text = (package_root() / "examples" / "tallrec.yaml").read_text()
    begin = text.index("  # instruction_tuning:")
    offered, rest = text[begin:].split("\n\n", 1)
    bare = "\n".join(line.replace("  # ", "  ", 1) for line in offered.split("\n"))
    (tmp_path / "tallrec.yaml").write_text(f"{text[:begin]}{bare}\n\n{rest}")
    first = load_recipe(tmp_path / "tallrec.yaml").tune.instruction_tuning
    assert first is not None
    assert first.data == str(tmp_path / "alpaca_data.json")


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
