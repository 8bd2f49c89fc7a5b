"""TALLRec: an effective and efficient tuning framework to align LLMs with recommendation.

Bao et al., RecSys 2023, arXiv 2305.00447.

Idea: turn "will this user like this item?" into an instruction answered "Yes." or "No.", tune a
low-rank adapter on K such examples, and rank by the model's preference for "Yes".

    history, target → template → instruction → LoRA on K examples → log-odds of Yes against No

Deviations from the paper: the loss covers the completion only (its formula; the released code
trains on the prompt too); scores are the difference of the two answer logits (the code applies a
second softmax to the two probabilities, which changes the order when both are small); the chat
template of the base model stands in for the Alpaca wrapper; there is no Alpaca stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset

from tastemaker.data.splits import Split
from tastemaker.errors import RecipeError, StageError
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import Curve, PromptSample
from tastemaker.methods.base import Contender, Exhibits, Method, Scores
from tastemaker.methods.building import arranged
from tastemaker.methods.planning import PARTS, weighted_templates
from tastemaker.models.language import (
    LanguageModel,
    best_dtype,
    default_device,
    language_model_source,
    load_language_model,
    with_adapter,
)
from tastemaker.models.scoring import score_yes_no
from tastemaker.prompts.formats import find_format
from tastemaker.recipe import Recipe, TuneConfig
from tastemaker.stage import Reporter, Run, Stage, Workspace
from tastemaker.tuning.lora import AdapterSettings, tune_adapter

__all__ = ["METHOD"]


def tune_stage(recipe: Recipe) -> Stage:
    """Stage `tune`: a low-rank adapter trained on K instructions."""
    return Stage(
        name="tune",
        needs=("build",),
        run=lambda space: _tune(recipe.tune, space),
        config=recipe.tune.model_dump(mode="json"),
    )


def models(recipe: Recipe) -> tuple[str, str]:
    """Names of the language model without and with the adapter."""
    name = recipe.tune.model
    shown = "SmolLM2" if name == "smollm2" else Path(name).name
    return f"{shown} zero-shot", f"{shown} + LoRA"


def contenders(recipe: Recipe, run: Run, split: Split) -> Sequence[Contender]:
    """The language model as it comes, and with the adapter."""
    del split
    built = run.artefact("build")
    model = recipe.tune.model
    precision = recipe.tune.precision
    settings = {"model": model, "build": run.digest_of("build"), "precision": precision}
    batch = recipe.evaluate.batch_size
    choices = _choices(recipe)

    def scorer(adapter: Path | None) -> Any:
        def score(requests: Requests, report: Reporter) -> Scores:
            return _score(
                requests,
                prompts=_prompts(built, requests),
                model=_load_model(recipe.tune, adapter),
                choices=choices,
                batch_size=batch,
                report=report,
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
            scorer(run.artefact("tune") / "adapter"),
            slow=True,
        ),
    )


def check(recipe: Recipe) -> None:
    """Find an unfit template or a missing base model before anything is written.

    Raises:
        UserError: a template that is not answered by one of two choices, or unknown names.
    """
    _choices(recipe)
    if not find_format(recipe.build.format).provenance:
        raise RecipeError(
            f"methods: tallrec needs to know which row a prompt is of; {recipe.build.format} files "
            "do not tell.",
            remedy="Choose another build.format, or leave tallrec out.",
        )
    language_model_source(recipe.tune.model)


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
    manifest = run.manifest("tune")
    log = manifest.summary["curve"] if manifest else []
    curves = [
        Curve(
            panel="Loss per completion token while tuning",
            name=name,
            x=[entry["step"] for entry in log if key in entry],
            y=[entry[key] for entry in log if key in entry],
            x_label="step",
        )
        for name, key in (("training", "loss"), ("validation", "valid_loss"))
    ]
    return Exhibits(prompts=prompts, curves=curves)


METHOD = Method(
    title="TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model "
    "with Recommendation",
    venue="RecSys 2023, arXiv 2305.00447",
    idea="LoRA-tune a language model on a few Yes/No recommendation instructions.",
    stages={"tune": tune_stage},
    models=models,
    contenders=contenders,
    check=check,
    exhibits=exhibits,
)


def _tune(config: TuneConfig, space: Workspace) -> Mapping[str, Any]:
    folder = space.run.artefact("build")
    train, valid = (
        Dataset.from_polars(arranged(folder, PARTS[part])) for part in ("train", "valid")
    )
    if config.shots is not None:
        train = train.shuffle(seed=space.seed).select(range(min(config.shots, len(train))))
    if config.valid_shots is not None:
        valid = valid.shuffle(seed=space.seed).select(range(min(config.valid_shots, len(valid))))
    steps = int(-(-len(train) // config.batch_size) * config.epochs)
    with space.report.track("tuning, steps", steps) as advance:
        result = tune_adapter(
            _load_model(config, None),
            train,
            valid=valid,
            settings=AdapterSettings(
                **config.lora.model_dump(),
                learning_rate=config.learning_rate,
                epochs=config.epochs,
                batch_size=config.batch_size,
                max_length=config.max_length,
            ),
            out=space.out / "adapter",
            scratch=space.scratch,
            seed=space.seed,
            on_step=advance,
        )
    return {
        "examples": len(train),
        "steps": result.steps,
        "trained_parameters": result.trained_parameters,
        "best_valid_loss": result.best_valid_loss,
        "reload_logit_difference": result.logit_difference,
        "curve": result.curve,
        "line": f"{len(train)} examples, {result.steps} steps, "
        f"validation loss {result.best_valid_loss:.3f}, reload checked",
    }


def _load_model(config: TuneConfig, adapter: Path | None) -> LanguageModel:
    device = default_device()
    dtype = best_dtype(device, config.precision)
    model = load_language_model(config.model, dtype=dtype, device=device)
    return model if adapter is None else with_adapter(model, adapter)


def _score(
    requests: Requests,
    *,
    prompts: Sequence[Any],
    model: LanguageModel,
    choices: tuple[str, str],
    batch_size: int,
    report: Reporter,
) -> Scores:
    with report.track("scoring, prompts", len(requests)) as advance:
        return score_yes_no(
            model, prompts, choices=choices, batch_size=batch_size, on_progress=advance
        )


def _prompts(built: Path, requests: Requests) -> list[Any]:
    """The built test prompts in the order of the requests."""
    part = PARTS[str(requests.frame["split"][0])]
    frame = arranged(built, part).unique("row", keep="first", maintain_order=True)
    wanted = pl.DataFrame({"row": requests.rows})
    prompts = wanted.join(frame, on="row", how="left", maintain_order="left")["prompt"]
    if prompts.null_count():
        raise StageError(
            f"{prompts.null_count()} of {len(requests)} requests have no prompt in {part}; "
            "build.max_length leaves no room for their question."
        )
    return prompts.to_list()
