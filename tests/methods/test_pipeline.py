from dataclasses import replace

import pytest

from tastemaker import registry
from tastemaker.errors import RecipeError, UnknownNameError, UserError
from tastemaker.methods.pipeline import ORDER, check, stages
from tastemaker.recipe import Recipe


def recipe(**sections: object) -> Recipe:
    values = {"name": "r", "data": {"source": "movielens-small"}, **sections}
    return Recipe.model_validate(values)


def names(found: Recipe, until: str | None = None) -> list[str]:
    return [stage.name for stage in stages(found, until=until)]


def test_stages_come_in_order() -> None:
    assert names(recipe(methods=["kar", "p5"], teach={})) == list(ORDER)
    assert names(recipe(methods=["tallrec"])) == ["data", "build", "tune", "evaluate", "report"]
    assert names(recipe()) == ["data", "evaluate", "report"]


def test_until_keeps_only_what_is_needed() -> None:
    both = recipe(methods=["tallrec", "kar"])
    assert names(both, "tune") == ["data", "build", "tune"]
    assert names(both, "encode") == ["data", "reason", "encode"]
    with pytest.raises(UserError, match="no stage 'deploy'"):
        names(both, "deploy")


def test_the_data_set_needs_the_teacher_where_the_recipe_has_one() -> None:
    assert names(recipe(teach={}), "build") == ["data", "teach", "build"]
    assert names(recipe(build={}), "build") == ["data", "build"]
    assert names(recipe(), "teach") == ["data", "teach"]


def test_every_stage_only_needs_earlier_ones() -> None:
    seen: set[str] = set()
    for stage in stages(recipe(methods=["tallrec", "kar"])):
        assert set(stage.needs) <= seen
        seen.add(stage.name)


def test_two_methods_with_the_same_stage() -> None:
    tallrec = registry.load("method", "tallrec")
    twice = recipe(methods=["tallrec", "kar"])
    with pytest.raises(RecipeError, match="both bring a 'tune' stage"):
        check(twice, [tallrec, replace(tallrec, idea="another")])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"methods": ["tallrek"]}, "did you mean 'tallrec'"),
        ({"data": {"source": "movielens"}}, "did you mean 'movielens-small'"),
        ({"data": {}}, "give either source"),
        ({"methods": ["kar"], "evaluate": {"against": "DIM"}}, "did you mean 'DIN'"),
        ({"data": {"source": "movielens-small", "columns": {"user": "u"}}}, "its own columns"),
    ],
)
def test_wrong_names_are_found_before_anything_runs(
    sections: dict[str, object], message: str
) -> None:
    with pytest.raises((RecipeError, UnknownNameError), match=message):
        stages(recipe(**sections))


def test_a_batch_size_does_not_make_knowledge_out_of_date() -> None:
    def config(size: int) -> object:
        found = recipe(methods=["kar"], reason={"batch_size": size})
        return {stage.name: stage.config for stage in stages(found, until="reason")}

    assert config(8) == config(64)
