"""`tastemaker templates list | show | render | lint`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

_DATA: Any = {"metavar": "RECIPE", "type": Path, "help": "Recipe whose training rows are used."}
_SET: Any = {"metavar": "KEY=VALUE", "multiple": True, "help": "Override a recipe value."}
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_model = click.option("--model", metavar="MODEL", help="Apply its chat template, count its tokens.")
_set = click.option("--set", "overrides", **_SET)


@click.group("templates")
def command() -> None:
    """List, show, render and lint prompt templates."""


def _tell(found: Any) -> None:
    """Print lines of text as they are, and anything else as JSON."""
    click.echo("\n".join(found) if isinstance(found, Iterator) else json.dumps(found, indent=1))


@command.command("list")
@click.argument("patterns", metavar="[NAME|PATTERN|FILE]...", nargs=-1)
@click.option("--family", metavar="FAMILY", help="Only this one, such as p5.")
@click.option("--task", metavar="TASK", help="Only this one, such as sequential.")
@_json
def list_(patterns: Sequence[str], family: str | None, task: str | None, as_json: bool) -> None:
    """List what templates ask, all or those named; a pattern such as 'p5/2-*' needs quotes."""
    from tastemaker.prompts.listing import chosen, list_lines, summary

    found = chosen(patterns, family=family, task=task)
    _tell([*map(summary, found)] if as_json else list_lines(found))


@command.command("show")
@click.argument("name")
@_json
def show(name: str, as_json: bool) -> None:
    """Show what template NAME asks, its fields and its source."""
    from tastemaker.prompts.listing import facts, show_lines
    from tastemaker.prompts.template import find_template

    found = find_template(name)
    _tell(facts(found) if as_json else show_lines(found))


@command.command("render")
@click.argument("name")
@click.option("--data", "recipe", required=True, **_DATA)
@click.option("-n", "count", default=3, show_default=True, type=click.IntRange(min=1))
@_model
@_set
@_json
def render(
    name: str, recipe: Path, count: int, model: str, overrides: Sequence[str], as_json: bool
) -> None:
    """Show prompts that template NAME makes of training rows of RECIPE."""
    from tastemaker.methods.inspecting import load
    from tastemaker.methods.templating import render_lines, rendered

    found = rendered(name, load(recipe, overrides), count=count, model=model)
    _tell(found if as_json else render_lines(found))


@command.command("lint")
@click.argument("names", metavar="[FOLDER|FILE|NAME|PATTERN]...", nargs=-1)
@click.option("--data", "recipe", **_DATA)
@_model
@_set
@_json
def lint(
    names: Sequence[str], recipe: Path | None, model: str, overrides: Sequence[str], as_json: bool
) -> None:
    """Check templates, with --data on real rows; exit code 2 when one has an error."""
    from tastemaker.methods.inspecting import load
    from tastemaker.methods.templating import linted

    report = linted(names, recipe=load(recipe, overrides) if recipe else None, model=model)
    _tell(report.to_dict() if as_json else report.lines())
    raise SystemExit(2 if report.failed else 0)
