"""`tastemaker knowledge list | show | export | import | prune`."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

_KINDS = click.Choice(["user", "item", "user_group", "item_group", "scenario"])
_FILE = click.Path(path_type=Path, dir_okay=False)
_run = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
_file = click.argument("file", metavar="FILE", type=_FILE)
_kind = click.option("--kind", type=_KINDS, help="Of texts about these only.")
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group("knowledge")
def command() -> None:
    """List, show, move and prune generated knowledge.

    RUN is a run folder, or a file such as knowledge.sqlite.
    """


@command.command("list")
@_run
@_json
def list_(run: Path, as_json: bool) -> None:
    """List what RUN knows: how many texts of which model and chain, and what they cost."""
    from tastemaker.methods.keeping import list_lines, opened, told

    with opened(run) as store:
        click.echo(
            json.dumps(told(store.path), indent=1) if as_json else "\n".join(list_lines(store.path))
        )


@command.command("show")
@_run
@click.argument("entity", metavar="ID")
@_kind
@click.option("-n", "count", default=3, show_default=True, type=click.IntRange(min=1))
@_json
def show(run: Path, entity: str, kind: str | None, count: int, as_json: bool) -> None:
    """Show prompts and answers about the user, item or group ID, failures too."""
    from dataclasses import asdict

    from tastemaker.methods.keeping import found, opened, show_lines

    with opened(run) as store:
        texts = found(store, entity, kind=kind, most=count)
    rows = [asdict(one) for one in texts] if as_json else []
    click.echo(json.dumps(rows, indent=1) if as_json else "\n".join(show_lines(texts)))


@command.command("export")
@_run
@_file
@_kind
@click.option("--chain", metavar="NAME", help="Of this chain only.")
@click.option("--model", metavar="MODEL", help="Of this model only.")
def export(run: Path, file: Path, **columns: str | None) -> None:
    """Write what RUN knows to FILE: .jsonl, .jsonl.gz or .parquet."""
    from tastemaker.agents.exchange import export_knowledge
    from tastemaker.methods.keeping import opened, where

    with opened(run) as store:
        done = export_knowledge(store, file, where=where(**columns))
    click.echo(f"{file}: {done.answers:,} answers, {done.failures:,} failures")


@command.command("import")
@_run
@_file
@click.option("--kind", type=_KINDS, help="What a .klg or .json file is about.")
@click.option("--model", metavar="MODEL", help="Which model wrote a .klg or .json file.")
@click.option("--params", metavar="JSON", help="Its parameters, such as '{\"max_tokens\": 64}'.")
@click.option("--recipe", metavar="RECIPE", type=_FILE, help="Take model and parameters from it.")
@click.option("--chain", metavar="NAME", default="", help="Name to list its texts under.")
@click.option("--cut-times", metavar="FILE", type=_FILE, help="User, Unix second: JSON or CSV.")
@click.option("--cut-unknown", is_flag=True, help="Let texts about users serve no target.")
def import_(run: Path, file: Path, **options: Any) -> None:
    """Add FILE to RUN, all of it or nothing: an export, KAR's .klg, REKI's knowledge.json."""
    from tastemaker.agents.exchange import import_knowledge
    from tastemaker.methods.keeping import import_options, opened

    given = import_options(**options)
    with opened(run, changing=True, new=True) as store:
        done = import_knowledge(store, file, **given)
    click.echo(
        f"{done.answers:,} answers and {done.failures:,} failures are new; "
        f"{done.known:,} were known and stay as they are"
    )


@command.command("prune")
@_run
@click.option("--failed", is_flag=True, help="Failures, so that they are asked again.")
@click.option("--chain", metavar="NAME", help="Texts of this chain.")
@click.option("--before", metavar="DATE", type=click.DateTime(), help="Texts older than this, UTC.")
@click.option("--batches", is_flag=True, help="Batches that are not collected yet.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(run: Path, before: datetime | None, yes: bool, **chosen: Any) -> None:
    """Forget what all the given options mean together, and make the file smaller."""
    from tastemaker.errors import UserError
    from tastemaker.methods.keeping import Selection, prune_lines, pruning
    from tastemaker.methods.keeping import prune as forget

    moment = f"{before.isoformat(timespec='seconds')}+00:00" if before else None
    plan = pruning(run, Selection(before=moment, **chosen))
    click.echo("\n".join(prune_lines(plan)))
    if plan.nothing:
        return
    if not yes and not sys.stdin.isatty():
        raise UserError("nothing was pruned.", remedy="Add --yes to prune what is listed.")
    if yes or click.confirm("Forget all this?"):
        freed = forget(run, plan)
        texts = f"{len(plan.keys):,} texts, {len(plan.batches):,} batches"
        click.echo(f"forgot {texts}; the file is {freed:,} bytes smaller")
