"""`tastemaker data validate | describe | split | audit | fetch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

Decorated = Callable[..., Any]


@click.group("data")
def command() -> None:
    """Validate, describe, split, audit and fetch data."""


def _of_recipe(function: Decorated) -> Decorated:
    """Add RECIPE, --set and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="As JSON."),
        click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True),
        click.argument("recipe", type=click.Path(path_type=Path)),
    ):
        function = option(function)
    return function


@command.command("validate")
@_of_recipe
def validate(recipe: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Read and check the tables of RECIPE; every problem is named, nothing is written."""
    import json

    from tastemaker.methods.inspecting import load, validated
    from tastemaker.methods.prepare import read

    loaded = load(recipe, overrides)
    if as_json:
        found = validated(loaded)
        click.echo(json.dumps(found, indent=1))
        raise SystemExit(0 if found["ok"] else 2)
    tables = read(loaded.data)
    for note in tables.notes:
        click.echo(f"note: {note}")
    click.echo(
        f"{tables.source}: {tables.interactions.height:,} events, {tables.n_users:,} users, "
        f"{tables.n_items:,} items, no problem found"
    )


@command.command("describe")
@_of_recipe
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with plots there.")
def describe(recipe: Path, overrides: Sequence[str], as_json: bool, html: Path | None) -> None:
    """Sizes, time span, density, label balance and cold shares of RECIPE's tables."""
    import json

    from tastemaker.data.describe_text import describe_lines
    from tastemaker.methods.inspecting import load
    from tastemaker.methods.prepare import facts

    loaded = load(recipe, overrides)
    found = facts(loaded.data, seed=loaded.seed)
    if html is not None:
        from tastemaker.eval.data_page import write_data_page

        write_data_page(found, html, title=loaded.name)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(describe_lines(found)))
    if html is not None and not as_json:
        click.echo(f"\npage: {html}")


@command.command("split")
@_of_recipe
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the parts as Parquet.")
def split(recipe: Path, overrides: Sequence[str], as_json: bool, out: Path | None) -> None:
    """Filter and split RECIPE's tables: sizes, cold shares, warnings; optionally as files."""
    import json

    from tastemaker.methods.inspecting import (
        check_free,
        load,
        split_facts,
        split_lines,
        write_parts,
    )

    check_free(out)
    facts, found = split_facts(load(recipe, overrides))
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(split_lines(facts)))
    if out is not None:
        write_parts(found, out)
        click.echo(f"parts: {out}/train.parquet, valid.parquet, test.parquet", err=as_json)


@command.command("audit")
@_of_recipe
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/NAME].")
def audit(recipe: Path, overrides: Sequence[str], as_json: bool, out: Path | None) -> None:
    """Prove that nothing in the run of RECIPE comes from the future; exit code 1 when it does."""
    import json

    from tastemaker.methods.auditing import audit as audit_run
    from tastemaker.methods.inspecting import load
    from tastemaker.stage import Run

    loaded = load(recipe, overrides)
    run = Run(out or Path("runs") / loaded.name, seed=loaded.seed)
    report = audit_run(loaded, run)
    click.echo(json.dumps(report.to_dict(), indent=1) if as_json else "\n".join(report.lines()))
    raise SystemExit(1 if report.failed else 0)


@command.command("fetch")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to put the files.")
def fetch(name: str, folder: Path | None) -> None:
    """Download the built-in data set NAME; goes on where it stopped, and checks what came."""
    from tastemaker.commands._terminal import Terminal
    from tastemaker.data.fetch import fetch as fetch_files

    fetch_files(name, folder=folder, report=Terminal())
