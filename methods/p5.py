"""P5 and OpenP5: recommendation as text-to-text generation by one model.

P5: Geng et al., "Recommendation as Language Processing", RecSys 2022, arXiv 2203.13366.
OpenP5: Xu, Hua and Zhang, arXiv 2306.11134.

Idea: five families of tasks (rating, sequential, explanation, review, direct) become pairs of
source and target text, and one encoder-decoder model learns them all. Items are named by numbers
or by tokens of communities (`build.indexing`); the last prompt of a family is kept for testing.

    rows → templates of a task (`build.repeats`) → source ──T5──► target: number, item, yes, words
                                   names of all items → trie of tokens → beams ──┘

Deviations from the papers: items are numbered from training events only, since P5's own numbering
gives the next item away (`data.id_probe`). A history is the newest `build.history` events strictly
before the target; P5 draws where it begins. Rating, review and explanation tasks are trained on
rows of the training part only, so the pair that a sequential question asks about is in no text.
Whole-word embeddings are there in training, validation and generation alike; P5 passes them in
training. Every checkpoint is judged on validation. Beams stay inside the catalogue and leave out
what the user had met; P5 skips what is no number. Items are asked for where the test event is a
like (`data.columns.label`); P5 counts every event of these tasks as one. A predicted "5.0" counts.
One model answers all families; P5's rows for prompts 5-1 to 5-4 come from a model of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from tastemaker.data.splits import Split
from tastemaker.methods.base import Contender, Exhibits, Method
from tastemaker.methods.building import check_provenance
from tastemaker.methods.generating import check_generate, generate_stage
from tastemaker.methods.likelihood import likelihood_contenders, scoring_template
from tastemaker.methods.showing import shown_prompts, shown_results, tuning_curves
from tastemaker.methods.tuning import check_tune, tune_stage
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Stage

__all__ = ["METHOD"]


def _tune_stage(recipe: Recipe) -> Stage:
    """Stage `tune`: one model for all families."""
    return tune_stage(recipe, choices=lambda: None)


def models(recipe: Recipe) -> tuple[str, ...]:
    """Name of the model in the comparison, where its templates can score single items."""
    return ("P5",) if scoring_template(recipe) else ()


def contenders(recipe: Recipe, run: Run, split: Split) -> Sequence[Contender]:
    """How likely the model finds the item as the answer to a sequential or direct prompt."""
    del split
    return likelihood_contenders("P5", recipe, run, needs=("build", "tune"))


def check(recipe: Recipe) -> None:
    """Find what cannot be tuned or asked before anything is written.

    Raises:
        UserError: an unfit template, an unknown model, or answers that nothing compares.
    """
    check_provenance(recipe, "p5")
    check_tune(recipe)
    check_generate(recipe)


def exhibits(run: Run) -> Exhibits:
    """Test prompts of each task, the loss of tuning, and the results of all tasks."""
    return Exhibits(
        prompts=shown_prompts(run), curves=tuning_curves(run), results=shown_results(run)
    )


METHOD = Method(
    title="Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & "
    "Predict Paradigm (P5)",
    venue="RecSys 2022, arXiv 2203.13366; OpenP5, arXiv 2306.11134",
    idea="Train one text-to-text model on five families of recommendation tasks; answers stay "
    "inside the catalogue.",
    stages={"tune": _tune_stage, "generate": generate_stage},
    models=models,
    contenders=contenders,
    check=check,
    exhibits=exhibits,
)
