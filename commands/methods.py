"""`tastemaker methods`."""

from __future__ import annotations

import click


@click.command("methods")
def command() -> None:
    """List the published methods that a recipe can name."""
    from tastemaker.registry import summaries

    for name, summary in summaries("method").items():
        click.echo(f"{name:<12} {summary}")
