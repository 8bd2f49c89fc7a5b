"""InstructRec: recommendation as instruction following.

Zhang et al., 2023, arXiv 2305.07001; no code was published.

Idea: what a user needs is an instruction made of a *preference* (none P0, the history P1, a
sentence about the taste P2), an *intention* (none I0, vague I1, specific I2) and a *task form*
(pointwise T0, matching T2, re-ranking T3). A teacher writes tastes and wishes in natural language;
one model is tuned on all of it and ranks items by the likelihood of their titles.

    history ──teacher──► taste ┐
    target's review ─► wish    ├─ 39 templates ─► instruction ─► LM ─► likelihood of each title
    categories ─► query        ┘

Recommendation is ⟨P1/P2, I0, ·⟩. Intentions are made from the target's own review or categories:
such prompts are an oracle's, as the paper's jump from .69 to .93 in HR@1 shows. They may train the
model; their results are marked and never stand beside recommendation.

Deviations from the paper: where no teacher is asked (`teach.model: template`) or one fails, tastes
and wishes are phrases from categories, and are labelled so. The sentence about a taste is written
from likes before the target only. Any causal or encoder-decoder model can be tuned (the paper:
Flan-T5-XL). Likelihoods are sums, or means with `generate.length_normalised`; the paper does not
say which. Hard candidates come from neighbours of the history's items; the paper trains two towers.
A fixed template is reported beside the best on validation, which alone the paper reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tastemaker.data.splits import Split
from tastemaker.methods.base import Contender, Exhibits, Method
from tastemaker.methods.building import check_provenance
from tastemaker.methods.generating import check_generate, generate_stage
from tastemaker.methods.likelihood import likelihood_contenders, scoring_template
from tastemaker.methods.showing import shown_prompts, shown_results, tuning_curves
from tastemaker.methods.teaching import audit_teach, teach_stage, teaching_note
from tastemaker.methods.tuning import check_tune, tune_stage
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Stage

__all__ = ["METHOD"]

_NAME = "InstructRec"


def _tune_stage(recipe: Recipe) -> Stage:
    """Stage `tune`: one model for all instructions."""
    return tune_stage(recipe, choices=lambda: None)


def models(recipe: Recipe) -> tuple[str, ...]:
    """Name of the model in the comparison, where its templates can score single items."""
    return (_NAME,) if scoring_template(recipe) else ()


def contenders(recipe: Recipe, run: Run, split: Split) -> Sequence[Contender]:
    """How likely the model finds an item's title as the answer to a matching template."""
    del split
    return likelihood_contenders(_NAME, recipe, run, needs=("teach", "build", "tune"))


def check(recipe: Recipe) -> None:
    """Find what cannot be tuned or asked before anything is written.

    Raises:
        UserError: an unfit template, an unknown model, or answers that nothing compares.
    """
    check_provenance(recipe, "instructrec")
    check_tune(recipe)
    check_generate(recipe)


def exhibits(run: Run) -> Exhibits:
    """Test prompts, the loss of tuning, all results, and who wrote tastes and wishes."""
    note = teaching_note(run)
    return Exhibits(
        prompts=shown_prompts(run),
        curves=tuning_curves(run),
        results=shown_results(run),
        notes=(note,) if note else (),
    )


METHOD = Method(
    title="Recommendation as Instruction Following: A Large Language Model Empowered "
    "Recommendation Approach",
    venue="arXiv 2305.07001",
    idea="Tune a language model on instructions made of preference, intention and task form; rank "
    "items by the likelihood of their titles.",
    stages={
        "teach": teach_stage,
        "tune": _tune_stage,
        "generate": partial(generate_stage, taught=True),
    },
    models=models,
    contenders=contenders,
    check=check,
    exhibits=exhibits,
    audits={"teach": audit_teach},
)
