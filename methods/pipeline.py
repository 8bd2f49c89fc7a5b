"""From a recipe to its stages, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tastemaker import registry
from tastemaker.errors import RecipeError, UserError
from tastemaker.methods import building, cataloguing, comparison, prepare, reporting
from tastemaker.methods.base import Method
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Stage, atomic_file

__all__ = ["ORDER", "catalogue_of", "check", "save_recipe", "saved_recipe", "stages"]

_OF_NO_METHOD = ("data", "teach", "build")
_CATALOGUE = "catalogue"  # after all others: none of them reads it
_SAVED = "recipe.json"
ORDER = (
    "data",
    "teach",
    "build",
    "tune",
    "generate",
    "reason",
    "encode",
    "train",
    "evaluate",
    "report",
)


def stages(recipe: Recipe, *, until: str | None = None) -> list[Stage]:
    """Everything a recipe does, in order, names checked.

    Args:
        recipe: Its `methods` contribute the stages between `data` and `evaluate`.
        until: Leave out every stage that this one does not need.

    Raises:
        UserError: an unknown name, two methods with the same stage, or a stage no method has.
    """
    methods = [registry.load("method", name) for name in recipe.methods]
    if until in _OF_NO_METHOD or (until == _CATALOGUE and not methods):
        prepare.check(recipe)  # what methods ask of templates or models is no matter then
    else:
        check(recipe, methods)
    builders = {name: build for method in methods for name, build in method.stages.items()}
    if "teach" in builders or until == "teach" or "teach" in recipe.model_fields_set:
        builders["teach"] = _taught(recipe)
    if _builds(recipe, builders, until=until):
        building.check(recipe)
        builders["build"] = partial(building.build_stage, taught="teach" in builders)
    middle = [builders[name](recipe) for name in ORDER if name in builders]
    needed = ["data", *(stage.name for stage in middle)]
    found = [
        prepare.data_stage(recipe),
        *middle,
        comparison.evaluate_stage(recipe, methods, needs=needed),
        reporting.report_stage(recipe, methods, needs=[*needed, "evaluate"]),
    ]
    if until == _CATALOGUE or (until is None and _CATALOGUE in recipe.model_fields_set):
        cataloguing.check(recipe)
        found.append(cataloguing.catalogue_stage(recipe, cataloguing.needs_of(recipe, needed)))
    return found if until is None else _only_needed(found, until)


def _taught(recipe: Recipe) -> Callable[[Recipe], Stage]:
    """Builder of the stage `teach`, its sections checked."""
    # What asks chat models takes long to import, and most recipes ask none here.
    from tastemaker.methods import teaching

    building.check(recipe)
    teaching.check(recipe)
    return teaching.teach_stage


def catalogue_of(recipe: Recipe, run: Run) -> Stage:
    """Stage `catalogue` from what the run holds of this recipe now, nothing else being run.

    A finished `train` goes in while it is up to date, also after `encode` alone.
    """
    everything = stages(recipe)
    brought = {stage.name for stage in everything}
    available = ["data"]
    for name in ("reason", "train"):
        if name in brought and all(map(run.is_current, _only_needed(everything, name))):
            available.append(name)
    return cataloguing.catalogue_stage(recipe, cataloguing.needs_of(recipe, available))


def save_recipe(run: Run, recipe: Recipe) -> None:
    """Keep what a run was last made with, overrides included, beside its stages."""
    with atomic_file(run.folder / _SAVED) as handle:
        handle.write(recipe.model_dump_json(indent=1, exclude_unset=True).encode())


def saved_recipe(run: Run) -> Recipe:
    """The recipe that a run was last made with.

    Raises:
        UserError: the folder holds none, or one of another version of tastemaker.
    """
    path = run.folder / _SAVED
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: holds no recipe that can be read ({type(error).__name__}).",
            remedy="Run the recipe again: stages that are up to date take no time.",
        ) from None


def _builds(
    recipe: Recipe, builders: Mapping[str, Callable[[Recipe], Stage]], *, until: str | None
) -> bool:
    """Whether the recipe makes a data set: it says so, or one of its stages reads one."""
    wanted = until == "build" or "build" in recipe.model_fields_set
    return wanted or any("build" in make(recipe).needs for make in builders.values())


def check(recipe: Recipe, methods: Sequence[Method]) -> None:
    """Find wrong names before anything is written.

    Raises:
        UserError: the first section with a mistake.
    """
    prepare.check(recipe)
    owners: dict[str, str] = {}
    for name, method in zip(recipe.methods, methods, strict=True):
        for stage in method.stages:
            if stage in owners:
                raise RecipeError(
                    f"methods: {owners[stage]} and {name} both bring a '{stage}' stage.",
                    remedy="Name only one of them, or use two recipes.",
                )
            owners[stage] = name
        method.check(recipe)
    comparison.check(recipe, methods)


def _only_needed(found: Sequence[Stage], until: str) -> list[Stage]:
    known = {stage.name: stage for stage in found}
    if until not in known:
        raise UserError(
            f"this recipe has no stage '{until}'.",
            allowed=f"its stages: {', '.join(known)}",
            remedy="Name the method that brings it under methods:, or another stage.",
        )
    wanted = {until}
    for stage in reversed(found):
        if stage.name in wanted:
            wanted.update(stage.needs)
    return [stage for stage in found if stage.name in wanted]
