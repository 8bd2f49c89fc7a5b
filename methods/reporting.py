"""The report stage: one self-contained HTML page, and the same table for the terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tastemaker.eval.answers import Result
from tastemaker.eval.answers_table import answers_table
from tastemaker.eval.report import ReportData, render_report
from tastemaker.eval.text_table import render_markdown, render_table, wrapped
from tastemaker.eval.wording import summary
from tastemaker.methods.base import Exhibits, Method
from tastemaker.methods.comparison import SLICES, load_comparison
from tastemaker.recipe import Recipe
from tastemaker.stage import Manifest, Run, Stage, Workspace, atomic_file

__all__ = ["PAGE", "markdown_summary", "report_stage", "summary_values", "terminal_summary"]

PAGE = "index.html"
_RESULTS = "results.json"
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
    """Comparison and generated answers as text, in plain words, and where the page is."""
    comparison, results = load_comparison(run), _load_results(run)
    if isinstance(comparison, str):
        parts = [wrapped(comparison)]
    else:
        parts = [render_table(comparison), textwrap.fill(summary(comparison), width=80)]
    if results:
        parts.append(answers_table(results))
    return "\n\n".join([*parts, f"report: {run.folder / 'report' / PAGE}"])


def markdown_summary(run: Run) -> str:
    """The comparison as a Markdown table, or one sentence on why there is none."""
    comparison = load_comparison(run)
    return comparison if isinstance(comparison, str) else render_markdown(comparison)


def summary_values(run: Run) -> dict[str, Any]:
    """The comparison and, as `results`, the generated answers, in plain values for JSON.

    Without a comparison, `uncompared` tells why.
    """
    comparison = load_comparison(run)
    shown = {"uncompared": comparison} if isinstance(comparison, str) else comparison.to_dict()
    return shown | {"results": [one.to_dict() for one in _load_results(run)]}


def _load_results(run: Run) -> list[Result]:
    """The generated answers that the page shows; none in reports made before they were kept."""
    path = run.artefact("report") / _RESULTS
    return [Result.from_dict(one) for one in _json(path)] if path.is_file() else []


def _report(
    recipe: Recipe, methods: Sequence[Method], needs: Sequence[str], space: Workspace
) -> Mapping[str, Any]:
    run = space.run
    manifests = [found for name in needs if (found := run.manifest(name)) is not None]
    shown = [method.exhibits(run) for method in methods]
    results = [result for part in shown for result in part.results]
    evaluated = run.artefact("evaluate")
    page = render_report(
        ReportData(
            title=f"tastemaker: {recipe.name}",
            comparison=load_comparison(run),
            subtitle="; ".join(f"{method.title} ({method.venue})" for method in methods),
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            models=_json(evaluated / "models.json"),
            results=results,
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
    with atomic_file(space.out / _RESULTS) as handle:
        handle.write(json.dumps([one.to_dict() for one in results], indent=1).encode())
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
