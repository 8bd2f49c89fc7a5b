"""`tastemaker reason RECIPE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from tastemaker.cli import COMMANDS
from tastemaker.commands._recipe import execute, recipe_options


@click.command("reason", help=COMMANDS["reason"])
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--estimate", is_flag=True, help="Tell requests, tokens, time and cost; ask a few.")
@click.option(
    "--probe",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Questions of each kind that --estimate asks; 0 asks none.",
)
@click.option(
    "--factors",
    type=click.Choice(["users", "items"]),
    help="Let the model name the factors that matter, as lines for the recipe.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@recipe_options
def command(
    recipe: Path,
    estimate: bool,
    probe: int,
    factors: str | None,
    as_json: bool,
    overrides: Sequence[str],
    out: Path | None,
    forced: Sequence[str],
) -> None:
    """Run a recipe up to its generated knowledge, or tell what that will take."""
    if not (estimate or factors):
        execute(recipe, overrides=overrides, out=out, forced=forced, until="reason")
        return
    from tastemaker.recipe import load_recipe

    config = load_recipe(recipe, overrides=overrides).reason

    from tastemaker.methods.asking import check_reason

    check_reason(config)
    run = execute(recipe, overrides=overrides, out=out, forced=forced, until="data", quiet=as_json)
    with run.lock():
        if factors:
            from tastemaker.methods.eliciting import elicited

            click.echo(elicited(config, run, about=factors))
            return
        from tastemaker.methods.estimating import estimate as estimated

        found = estimated(config, run, probe=probe, report=run.report)
    click.echo(json.dumps(found.as_json()) if as_json else "\n".join(found.lines()))
