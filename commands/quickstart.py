"""`tastemaker quickstart`: `run` on the packaged quickstart recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tastemaker.commands._recipe import execute, recipe_options


@click.command("quickstart")
@recipe_options
def command(overrides: Sequence[str], out: Path | None, forced: Sequence[str]) -> None:
    """Run the packaged recipe: MovieLens, SmolLM2 and MiniLM, all from the package index.

    A second run finishes in seconds; a killed run continues where it stopped.
    """
    from tastemaker.registry import package_root

    recipe = package_root() / "examples" / "quickstart.yaml"
    execute(recipe, overrides=overrides, out=out, forced=forced)
