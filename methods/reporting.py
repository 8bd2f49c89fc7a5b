"""The report stage: one self-contained HTML page, and the same table for the terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tastemaker.eval.report import ReportData, render_report
from tastemaker.eval.text_table import render_table
from tastemaker.eval.wording import summary
from tastemaker.methods.base import Exhibits, Method
from tastemaker.methods.comparison import SLICES, load_comparison
from tastemaker.recipe import Recipe
from tastemaker.stage import Manifest, Run, Stage, Workspace, atomic_file

__all__ = ["PAGE", "report_stage", "terminal_summary"]

PAGE = "index.html"
_UNREPORTED = {"catalogue", "chat"}  # nothing in the report depends on how items are talked about


def report_stage(recipe: Recipe, methods: Sequence[Method], *, needs: Sequence[str]) -> Stage:
    """Stage `report`: `index.html`."""
    return Stage(
        name="report",
        needs=tuple(needs),
        run=lambda space: _report(recipe, methods, needs, space),
        config=recipe.model_dump(mode="json", exclude=_UNREPORTED),
    )


def terminal_summary(run: Run) -> str:
    """The comparison as text, what it shows in plain words, and where the page is."""
    comparison = load_comparison(run)
    page = run.folder / "report" / PAGE
    verdict = textwrap.fill(summary(comparison), width=80)
    return "\n\n".join([render_table(comparison), verdict, f"report: {page}"])


def _report(
    recipe: Recipe, methods: Sequence[Method], needs: Sequence[str], space: Workspace
) -> Mapping[str, Any]:
    run = space.run
    manifests = [found for name in needs if (found := run.manifest(name)) is not None]
    shown = [method.exhibits(run) for method in methods]
    evaluated = run.artefact("evaluate")
    page = render_report(
        ReportData(
            title=f"tastemaker: {recipe.name}",
            comparison=load_comparison(run),
            subtitle="; ".join(f"{method.title} ({method.venue})" for method in methods),
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            models=_json(evaluated / "models.json"),
            slices=_json(evaluated / SLICES),
            facts=_facts(_json(run.artefact("data") / "facts.json")),
            timings={manifest.stage: manifest.seconds for manifest in manifests},
            recipe=yaml.safe_dump(
                recipe.model_dump(mode="json", exclude=_UNREPORTED),
                sort_keys=False,
                allow_unicode=True,
            ),
            versions=_versions(manifests),
            **_joined(shown),
        )
    )
    with atomic_file(space.out / PAGE) as handle:
        handle.write(page.encode())
    return {"line": str(run.folder / "report" / PAGE)}


def _joined(shown: Sequence[Exhibits]) -> dict[str, Any]:
    return {
        "prompts": [sample for part in shown for sample in part.prompts],
        "knowledge": [sample for part in shown for sample in part.knowledge],
        "curves": [curve for part in shown for curve in part.curves],
        "coverage": {name: share for part in shown for name, share in part.coverage.items()},
        "notes": [note for part in shown for note in part.notes],
    }


def _facts(facts: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Single numbers and names; lists and tables are for `data describe`."""
    return {
        name.replace("_", " "): value
        for name, value in facts.items()
        if isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and name not in ("licence", "timeline_bin")
    }


def _versions(manifests: Sequence[Manifest]) -> dict[str, str]:
    return {name: version for found in manifests for name, version in found.versions.items()}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
