"""`tastemaker init DIR`."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(path_type=Path)


@click.command("init")
@click.argument("folder", metavar="DIR", type=_FILE)
@click.option("--interactions", required=True, type=_FILE, help="Table with one row per event.")
@click.option("--items", type=_FILE, help="Table with one row per item.")
@click.option("--users", type=_FILE, help="Table with one row per user.")
@click.option("--user", metavar="COLUMN", help="Who, where the guess is wrong.")
@click.option("--item", metavar="COLUMN", help="What.")
@click.option("--time", metavar="COLUMN", help="When.")
@click.option("--rating", metavar="COLUMN", help="How much it was liked.")
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
def command(
    folder: Path,
    interactions: Path,
    items: Path | None,
    users: Path | None,
    user: str | None,
    item: str | None,
    time: str | None,
    rating: str | None,
    force: bool,
) -> None:
    """Look at your tables and write DIR/recipe.yaml, with comments and what was unsure.

    Paths may be globs of shards in quotes.
    """
    from tastemaker.methods.starting import found_lines, next_lines, start

    recipe, found = start(
        folder,
        interactions=interactions,
        items=items,
        users=users,
        user=user,
        item=item,
        time=time,
        rating=rating,
        force=force,
    )
    for line in (*found_lines(found), *next_lines(recipe)):
        click.echo(line)
