"""`tastemaker build RECIPE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tastemaker.commands._recipe import execute, recipe_options


@click.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@recipe_options
@click.option("--push-to-hub", "repository", metavar="REPO", help="Upload the data set there.")
@click.option("--public", is_flag=True, help="Make a new repository public; private otherwise.")
def command(
    recipe: Path,
    overrides: Sequence[str],
    out: Path | None,
    forced: Sequence[str],
    repository: str | None,
    public: bool,
) -> None:
    """Run a recipe up to its instructions: a data set with a card.

    An interrupted build goes on at the first file that is missing. Nothing is uploaded unless
    --push-to-hub says so.
    """
    if repository is not None:
        from tastemaker.methods.publishing import check_login

        check_login()
    run = execute(recipe, overrides=overrides, out=out, forced=forced, until="build")
    folder = run.artefact("build")
    click.echo(f'load it with: datasets.load_dataset("{folder}")')
    if repository is not None:
        from tastemaker.methods.publishing import push_to_hub

        click.echo(f"uploaded: {push_to_hub(run, repository, private=not public)}")
