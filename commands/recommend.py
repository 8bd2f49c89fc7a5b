"""`tastemaker recommend --user U`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("recommend")
@click.option("--user", required=True, help="User id as in the tables.")
@click.option("-k", "count", default=10, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--run",
    "run_folder",
    default="runs/quickstart",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of a finished run.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(user: str, count: int, run_folder: Path, as_json: bool) -> None:
    """Recommend K items to a user with the trained recommender; never one already rated."""
    import json

    from tastemaker.methods.recommending import recommend
    from tastemaker.stage import Run

    found = recommend(Run(run_folder), user, count=count)
    if as_json:
        click.echo(json.dumps([entry.as_dict() for entry in found], indent=1, ensure_ascii=False))
        return
    for rank, entry in enumerate(found, start=1):
        click.echo(f"{rank:>3}  {entry.probability:.3f}  {entry.title}")
