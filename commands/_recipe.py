"""What every command that takes a recipe shares: its options, and running it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tastemaker.stage import Run, Stage

__all__ = ["command_until", "execute", "recipe_options"]

Decorated = Callable[..., Any]


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


def command_until(stage: str, summary: str) -> click.Command:
    """A command that runs a recipe up to one stage."""

    @click.command(stage, help=summary)
    @click.argument("recipe", type=click.Path(path_type=Path))
    @recipe_options
    def command(
        recipe: Path, overrides: Sequence[str], out: Path | None, forced: Sequence[str]
    ) -> None:
        execute(recipe, overrides=overrides, out=out, forced=forced, until=stage)

    return command


def execute(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    forced: Sequence[str] = (),
    until: str | None = None,
    quiet: bool = False,
) -> Run:
    """Run every stage of a recipe that is not current, telling the time of each unless `quiet`.

    Of several processes launched together the main one comes back from here.
    """
    from tastemaker import processes

    with processes.launched():
        from tastemaker.recipe import load_recipe

        recipe = load_recipe(path, overrides=overrides)

        from tastemaker.methods.pipeline import stages
        from tastemaker.stage import Run

        wanted = stages(recipe, until=until)
        run = Run(out or Path("runs") / recipe.name, seed=recipe.seed)
        if processes.is_main():
            _lead(run, wanted, name=recipe.name, forced=forced, quiet=quiet)
        else:
            run.assist(wanted)
    if until is None:
        from tastemaker.methods.reporting import terminal_summary

        run.report.line("\n" + terminal_summary(run))
    return run


def _lead(
    run: Run, wanted: Sequence[Stage], *, name: str, forced: Sequence[str], quiet: bool
) -> None:
    from tastemaker import processes
    from tastemaker.commands._terminal import Terminal
    from tastemaker.stage import Silent

    terminal = run.report = Silent() if quiet else Terminal()
    terminal.line(f"{name} → {run.folder}")
    started = time.perf_counter()
    with run.lock():
        for place, stage in enumerate(wanted):
            if not any(later.distributed for later in wanted[place:]):
                processes.release()
            if stage.name not in forced and run.is_current(stage):
                terminal.line(f"{stage.name:<9} up to date")
                continue
            terminal.line(f"{stage.name:<9} …")
            manifest = run.execute(stage, force=stage.name in forced)
            line = manifest.summary.get("line", "done")
            terminal.line(f"{stage.name:<9} {line}  [{manifest.seconds:.1f} s]")
    terminal.line(f"finished in {time.perf_counter() - started:.1f} s")
