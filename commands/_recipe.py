"""What every command that takes a recipe shares: its options, and running it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tastemaker.recipe import Recipe
    from tastemaker.stage import Run, Stage

__all__ = ["command_until", "execute", "recipe_options"]

Decorated = Callable[..., Any]
_INSTALL = 'pip install "tastemaker[serve]"'


def recipe_options(function: Decorated) -> Decorated:
    """Add --set, --out and --force."""
    for option in (
        click.option(
            "--force", "forced", metavar="STAGE", multiple=True, help="Run STAGE even if current."
        ),
        click.option(
            "--out", type=click.Path(path_type=Path), help="Run folder [default: runs/NAME]."
        ),
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            help="Override a recipe value, such as tune.shots=16; repeatable.",
        ),
    ):
        function = option(function)
    return function


def command_until(
    stage: str,
    summary: str,
    *,
    catalogue: bool = False,
    shown: Callable[[Run], str] | None = None,
) -> click.Command:
    """A command that runs a recipe up to one stage, and then builds the catalogue if asked to.

    Where `shown` is given, what it makes of the run is printed at the end.
    """

    @click.command(stage, help=summary)
    @click.argument("recipe", type=click.Path(path_type=Path))
    @recipe_options
    def command(
        recipe: Path, overrides: Sequence[str], out: Path | None, forced: Sequence[str]
    ) -> None:
        run = execute(
            recipe, overrides=overrides, out=out, forced=forced, until=stage, catalogue=catalogue
        )
        if shown is not None:
            run.report.line("\n" + shown(run))

    return command


def execute(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    forced: Sequence[str] = (),
    until: str | None = None,
    quiet: bool = False,
    catalogue: bool = False,
) -> Run:
    """Run every stage of a recipe that is not current, telling the time of each unless `quiet`.

    With `catalogue` that stage comes last, built of what the run holds then, or a line says why it
    does not. Of several processes launched together the main one comes back from here.
    """
    from tastemaker import processes

    with processes.launched():
        from tastemaker.recipe import load_recipe

        recipe = load_recipe(path, overrides=overrides)

        from tastemaker.methods.pipeline import stages
        from tastemaker.stage import Run

        wanted = stages(recipe, until=until)
        run = Run(out or Path("runs") / recipe.name, seed=recipe.seed)
        last = _catalogue(recipe, run) if catalogue else None
        if processes.is_main():
            _lead(run, wanted, recipe=recipe, forced=forced, quiet=quiet, last=last)
        else:
            run.assist(wanted)
    if until is None:
        from tastemaker.methods.reporting import terminal_summary

        run.report.line("\n" + terminal_summary(run))
    return run


def _catalogue(recipe: Recipe, run: Run) -> Callable[[], Stage | str]:
    """What gives the stage `catalogue` once the others are done, or a line on why it does not."""
    from tastemaker.methods import cataloguing
    from tastemaker.methods.pipeline import catalogue_of

    if not cataloguing.is_possible():
        return lambda: f"catalogue left out; for it: {_INSTALL}"
    if cataloguing.is_paid(recipe) and "catalogue" not in recipe.model_fields_set:
        return lambda: "catalogue left out, since its vectors cost; for it: --set catalogue={}"
    cataloguing.check(recipe)
    return lambda: catalogue_of(recipe, run)


def _lead(
    run: Run,
    wanted: Sequence[Stage],
    *,
    recipe: Recipe,
    forced: Sequence[str],
    quiet: bool,
    last: Callable[[], Stage | str] | None,
) -> None:
    from tastemaker import processes
    from tastemaker.commands._terminal import Terminal
    from tastemaker.methods.pipeline import save_recipe
    from tastemaker.stage import Silent

    run.report = Silent() if quiet else Terminal()
    run.report.line(f"{recipe.name} → {run.folder}")
    started = time.perf_counter()
    with run.lock():
        save_recipe(run, recipe)
        for place, stage in enumerate(wanted):
            if not any(later.distributed for later in wanted[place:]):
                processes.release()
            _step(run, stage, forced=forced)
        if last is not None:
            found = last()
            if isinstance(found, str):
                run.report.line(found)
            else:
                _step(run, found, forced=forced)
    run.report.line(f"finished in {time.perf_counter() - started:.1f} s")


def _step(run: Run, stage: Stage, *, forced: Sequence[str]) -> None:
    """Run one stage unless it is current, telling about it."""
    if stage.name not in forced and run.is_current(stage):
        run.report.line(f"{stage.name:<9} up to date")
        return
    run.report.line(f"{stage.name:<9} …")
    manifest = run.execute(stage, force=stage.name in forced)
    line = manifest.summary.get("line", "done")
    run.report.line(f"{stage.name:<9} {line}  [{manifest.seconds:.1f} s]")
