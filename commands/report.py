"""`tastemaker report RUN`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON.")
@click.option("--markdown", is_flag=True, help="The comparison as a Markdown table.")
def command(run_folder: Path, as_json: bool, markdown: bool) -> None:
    """Show the comparison of a finished run, and where its HTML report is."""
    import json

    from tastemaker.methods.reporting import markdown_summary, summary_values, terminal_summary
    from tastemaker.stage import Run

    run = Run(run_folder)
    if as_json:
        click.echo(json.dumps(summary_values(run), indent=1))
    elif markdown:
        click.echo(markdown_summary(run))
    else:
        click.echo(terminal_summary(run))
