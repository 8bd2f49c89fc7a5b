"""What methods with a tuned, answering model show in a report."""

from __future__ import annotations

from collections.abc import Sequence

from tastemaker.eval.answers import Result
from tastemaker.eval.report import Curve, PromptSample
from tastemaker.methods.building import arranged
from tastemaker.methods.generating import load_results
from tastemaker.stage import Run

__all__ = ["shown_prompts", "shown_results", "tuning_curves"]

_SAMPLE = 2000  # test prompts among which one of each template is looked for


def shown_prompts(run: Run, *, most: int = 6) -> list[PromptSample]:
    """A test prompt of each template, the first few."""
    frame = arranged(run.artefact("build"), "test", limit=_SAMPLE)
    first = frame.unique("template", keep="first", maintain_order=True).head(most)
    return [
        PromptSample(
            title=f"{row['template']}, user {row['user_id']}, item {row['item_id']}",
            messages=[(m["role"], m["content"]) for m in [*row["prompt"], *row["completion"]]],
        )
        for row in first.iter_rows(named=True)
    ]


def tuning_curves(run: Run) -> list[Curve]:
    """Losses and, where there is one, the validation AUC."""
    manifest = run.manifest("tune")
    log = manifest.summary["curve"] if manifest else []
    panels = {
        "loss": ("Loss per answer token while tuning", "training"),
        "valid_loss": ("Loss per answer token while tuning", "validation"),
        "valid_auc": ("Validation AUC while tuning", "validation"),
    }
    return [
        Curve(
            panel=panel,
            name=name,
            x=[entry["step"] for entry in log if key in entry],
            y=[entry[key] for entry in log if key in entry],
            x_label="step",
        )
        for key, (panel, name) in panels.items()
        if key != "valid_auc" or any(key in entry for entry in log)
    ]


def shown_results(run: Run) -> Sequence[Result]:
    """What the stage `generate` found; nothing before it has run."""
    return load_results(run) if run.manifest("generate") else ()
