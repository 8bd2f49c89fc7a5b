"""`tastemaker doctor`."""

from __future__ import annotations

import click


@click.command("doctor")
def command() -> None:
    """Show versions, device, default models and data, free disk, and what to run if one is missing.

    Exits with 1 when a default model or data set is missing.
    """
    from tastemaker.methods.doctor import examine

    found = examine()
    for finding in found:
        mark = "ok     " if finding.healthy else "MISSING"
        click.echo(f"{mark} {finding.subject:<22} {finding.detail}")
    if not all(finding.healthy for finding in found):
        raise SystemExit(1)
