"""`tastemaker data validate | describe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


@click.group("data")
def command() -> None:
    """Validate and describe the tables of a recipe."""


_RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
_SET = click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True)


@command.command("validate")
@_RECIPE
@_SET
def validate(recipe: Path, overrides: Sequence[str]) -> None:
    """Read and check the tables of RECIPE; every problem is named, nothing is written."""
    from tastemaker.methods.prepare import check, read
    from tastemaker.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=overrides)
    check(loaded)
    tables = read(loaded.data)
    click.echo(
        f"{tables.source}: {tables.interactions.height:,} events, {tables.n_users:,} users, "
        f"{tables.n_items:,} items, no problem found"
    )


@command.command("describe")
@_RECIPE
@_SET
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def describe(recipe: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Sizes, time span, density, label balance and cold shares of RECIPE's tables."""
    import json

    from tastemaker.methods.prepare import check, facts
    from tastemaker.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=overrides)
    check(loaded)
    found = facts(loaded.data)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        click.echo(f"{name.replace('_', ' '):<34} {value}")
