"""`tastemaker merge RUN`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("merge")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write [default: RUN/merged]."
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the stored weights.",
)
def command(run_folder: Path, out: Path | None, precision: str) -> None:
    """Write the tuned model of a run as one plain folder that any server loads."""
    from tastemaker.stage import Run

    run = Run(run_folder)
    found = run.artefact("tune")
    manifest = run.manifest("tune")
    assert manifest is not None

    from tastemaker.models.language import best_dtype
    from tastemaker.tuning.merging import merge

    with run.lock():
        done = merge(
            str(manifest.config["model"]),
            found / ("model" if manifest.config.get("kind") == "full" else "adapter"),
            out or run_folder / "merged",
            dtype=best_dtype("cpu", precision),
            wrapper=manifest.config.get("wrapper", "chat"),
        )
    click.echo(f"{done.folder}  {done.bytes / 1e6:,.0f} MB, {done.precision}")
    click.echo(
        f"logits differ by at most {done.adapter_difference:.2g} from base + adapter in float32, "
        f"by {done.reload_difference:.2g} after loading the folder back"
    )
    click.echo(
        f"use it: tune.model={done.folder} in a recipe, or: transformers serve {done.folder}"
    )
