"""`tastemaker run RECIPE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tastemaker.commands._recipe import execute, recipe_options


@click.command("run")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--until", metavar="STAGE", help="Stop after STAGE.")
@recipe_options
def command(
    recipe: Path,
    until: str | None,
    overrides: Sequence[str],
    out: Path | None,
    forced: Sequence[str],
) -> None:
    """Run a recipe: every stage that is not up to date, in order."""
    execute(recipe, overrides=overrides, out=out, forced=forced, until=until)
