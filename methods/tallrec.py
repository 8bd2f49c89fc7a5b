"""TALLRec: an effective and efficient tuning framework to align LLMs with recommendation.

Bao et al., RecSys 2023, arXiv 2305.00447.

Idea: turn "will this user like this item?" into an instruction answered "Yes." or "No.", tune a
low-rank adapter on K such examples, and rank by the model's preference for "Yes". The same adapter
may first learn to follow instructions at all, from general ones (`tune.instruction_tuning`).

    general instructions → LoRA ─┐ (first stage, optional)
    history, target → template → instruction → the same LoRA on K examples → Yes against No

Deviations from the paper: the loss covers the answer only (its formula; the released code trains on
the prompt too: `tune.loss_on: everything`). The score is the difference of the two answers' logits;
the code takes the softmax over the vocabulary and then another softmax over the two probabilities,
so it ranks by p(Yes) - p(No), which hardly tells prompts apart where both are small
(`evaluate.answer_score: double_softmax`). The chat template of the base model stands around the
prompt; `tune.wrapper: alpaca` is the paper's. The tokens of the two answers are looked up in the
tokenizer, and the validation AUC reads the answer's own position instead of counting tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tastemaker.data.splits import Split
from tastemaker.errors import RecipeError
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import PromptSample
from tastemaker.methods.base import Contender, Exhibits, Method, Scores
from tastemaker.methods.base_models import load_model
from tastemaker.methods.building import arranged, built_for, check_provenance
from tastemaker.methods.planning import weighted_templates
from tastemaker.methods.showing import tuning_curves
from tastemaker.methods.tuning import check_tune, tune_stage, tuned_folder
from tastemaker.models.scoring import score_yes_no
from tastemaker.recipe import Recipe
from tastemaker.stage import Reporter, Run, Stage

__all__ = ["METHOD"]


def _tune_stage(recipe: Recipe) -> Stage:
    """Stage `tune`: a low-rank adapter trained on K instructions."""
    return tune_stage(recipe, choices=lambda: _choices(recipe))


def models(recipe: Recipe) -> tuple[str, str]:
    """Names of the language model without and with what was tuned."""
    name = recipe.tune.model
    shown = "SmolLM2" if name == "smollm2" else Path(name).name
    kinds = {"lora": "LoRA", "qlora": "QLoRA", "full": "tuning"}
    return f"{shown} zero-shot", f"{shown} + {kinds[recipe.tune.kind]}"


def contenders(recipe: Recipe, run: Run, split: Split) -> Sequence[Contender]:
    """The language model as it comes, and with the adapter."""
    del split
    built = run.artefact("build")
    settings = {
        "build": run.digest_of("build"),
        **{name: getattr(recipe.tune, name) for name in ("model", "kind", "wrapper", "precision")},
        "answer_score": recipe.evaluate.answer_score,
    }
    choices = _choices(recipe)

    def scorer(folder: Path | None) -> Any:
        def score(requests: Requests, report: Reporter) -> Scores:
            model = load_model(recipe.tune, folder)
            with report.track("scoring, prompts", len(requests)) as advance:
                return score_yes_no(
                    model,
                    built_for(built, requests)["prompt"].to_list(),
                    choices=choices,
                    measure=recipe.evaluate.answer_score,
                    batch_tokens=recipe.evaluate.batch_tokens,
                    on_progress=advance,
                )

        return score

    plain, adapted = models(recipe)
    tuned = {**settings, "tune": run.digest_of("tune")}
    return (
        Contender(
            plain,
            "The language model as it comes, asked Yes or No.",
            settings,
            scorer(None),
            slow=True,
        ),
        Contender(
            adapted,
            f"The same after {recipe.tune.shots or 'all'} training instructions (TALLRec).",
            tuned,
            scorer(tuned_folder(run.artefact("tune"))),
            slow=True,
        ),
    )


def check(recipe: Recipe) -> None:
    """Find an unfit template or a missing base model before anything is written.

    Raises:
        UserError: a template that is not answered by one of two choices, or what cannot be tuned.
    """
    _choices(recipe)
    check_provenance(recipe, "tallrec")
    check_tune(recipe)


def _choices(recipe: Recipe) -> tuple[str, str]:
    """The two answers that all templates share, the positive one first."""
    templates, _ = weighted_templates(recipe.build)
    found = {
        template.choices if template.answers_by_label else (): template.name
        for template in templates
    }
    if len(found) > 1 or () in found:
        named = "; ".join(
            f"'{name}' has {' or '.join(choices) or 'free text'}" for choices, name in found.items()
        )
        raise RecipeError(
            f"methods: tallrec scores two answers that all of build.templates share; {named}.",
            allowed="templates whose answer is one of two choices by the label, such as "
            "tallrec/movie",
            remedy="Choose others, or leave tallrec out and build alone: tastemaker build RECIPE",
        )
    positive, negative = next(iter(found))
    return positive, negative


def exhibits(run: Run) -> Exhibits:
    """Three test instructions and the loss of tuning."""
    frame = arranged(run.artefact("build"), "test", limit=3)
    prompts = [
        PromptSample(
            title=f"{row['template']}, user {row['user_id']}, item {row['item_id']}",
            messages=[(m["role"], m["content"]) for m in [*row["prompt"], *row["completion"]]],
        )
        for row in frame.iter_rows(named=True)
    ]
    return Exhibits(prompts=prompts, curves=tuning_curves(run))


METHOD = Method(
    title="TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model "
    "with Recommendation",
    venue="RecSys 2023, arXiv 2305.00447",
    idea="LoRA-tune a language model on a few Yes/No recommendation instructions.",
    stages={"tune": _tune_stage},
    models=models,
    contenders=contenders,
    check=check,
    exhibits=exhibits,
)
