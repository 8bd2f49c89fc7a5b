"""`tastemaker templates list | show`."""

from __future__ import annotations

import click


@click.group("templates")
def command() -> None:
    """List and show prompt templates."""


@command.command("list")
def list_templates() -> None:
    """List every template with its task."""
    from tastemaker.prompts.template import find_template, template_names

    for name in template_names():
        click.echo(f"{name:<20} {find_template(name).task}")


@command.command("show")
@click.argument("name")
def show_template(name: str) -> None:
    """Show the source, fields and reference of template NAME."""
    from tastemaker.prompts.template import find_template

    click.echo(find_template(name).source)
