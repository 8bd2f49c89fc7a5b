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

import numpy as np
import polars as pl
from datasets import Dataset
from numpy.typing import NDArray

from tastemaker.data.findings import Finding
from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import Curve, PromptSample
from tastemaker.methods.base import Contender, Exhibits, Method, Scores, load_requests, load_split
from tastemaker.models.language import (
    LanguageModel,
    best_dtype,
    default_device,
    language_model_source,
    load_language_model,
    with_adapter,
)
from tastemaker.models.scoring import score_yes_no
from tastemaker.prompts.audit import audit_prompts, check_no_leak
from tastemaker.prompts.build import instructions, read_dataset, write_dataset
from tastemaker.prompts.card import dataset_card
from tastemaker.prompts.template import find_template
from tastemaker.recipe import BuildConfig, Recipe, TuneConfig
from tastemaker.stage import Reporter, Run, Stage, Workspace
from tastemaker.tuning.lora import AdapterSettings, tune_adapter

__all__ = ["METHOD"]

PARTS = {"train": "train", "valid": "validation", "test": "test"}


def build_stage(recipe: Recipe) -> Stage:
    """Stage `build`: instructions of all parts as a Hugging Face data set with a card."""
    return Stage(
        name="build",
        needs=("data",),
        run=lambda space: _build(recipe.build, space),
        config=recipe.build.model_dump(mode="json"),
    )


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
    positive, negative = find_template(recipe.build.template).choices

    def scorer(adapter: Path | None) -> Any:
        def score(requests: Requests, report: Reporter) -> Scores:
            return _score(
                requests,
                prompts=_prompts(built, requests),
                model=_load_model(recipe.tune, adapter),
                choices=(positive, negative),
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
    """Find an unknown template or a missing base model before anything is written."""
    find_template(recipe.build.template)
    language_model_source(recipe.tune.model)


def exhibits(run: Run) -> Exhibits:
    """Three test instructions and the loss of tuning."""
    frame = read_dataset(run.artefact("build"), "test", limit=3)
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


def audit_build(run: Run, split: Split) -> Sequence[Finding]:
    """Verdicts on the built instructions of all parts."""
    manifest = run.manifest("build")
    frames = [read_dataset(run.artefact("build"), part) for part in PARTS.values()]
    return audit_prompts(
        split.tables,
        pl.concat(frames),
        history=manifest.config["history"] if manifest else BuildConfig().history,
        parts={PARTS[part]: split.part(part) for part in PARTS},
    )


METHOD = Method(
    title="TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model "
    "with Recommendation",
    venue="RecSys 2023, arXiv 2305.00447",
    idea="LoRA-tune a language model on a few Yes/No recommendation instructions.",
    stages={"build": build_stage, "tune": tune_stage},
    models=models,
    contenders=contenders,
    check=check,
    exhibits=exhibits,
    audits={"build": audit_build},
)


def _build(config: BuildConfig, space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    template = find_template(config.template)
    rows = {
        "train": _sample_rows(split, config, seed=space.seed),
        "valid": load_requests(space.run, "valid").rows,
        "test": load_requests(space.run, "test").rows,
    }
    if config.valid_examples is not None:
        rows["valid"] = _sample(rows["valid"], config.valid_examples, seed=space.seed)
    parts = {}
    for part, chosen in rows.items():
        frame = instructions(
            split.tables,
            split.histories,
            chosen,
            template=template,
            history=config.history,
            split=PARTS[part],
        )
        check_no_leak(split.tables, frame, history=config.history)
        parts[PARTS[part]] = frame
    card = dataset_card(
        parts, tables=split.tables, template=template, command="tastemaker build RECIPE"
    )
    write_dataset(space.out, parts, card=card)
    counts = {part: frame.height for part, frame in parts.items()}
    line = ", ".join(f"{count:,} {part}" for part, count in counts.items()) + " instructions"
    return {**counts, "template": template.name, "line": line}


def _sample_rows(split: Split, config: BuildConfig, *, seed: int) -> NDArray[np.int64]:
    """Training rows with a full history, as TALLRec's sliding window demands."""
    rows = split.train[split.histories.counts(split.train) >= config.history]
    if config.train_examples is None:
        return rows
    return _sample(rows, config.train_examples, seed=seed)


def _sample(rows: NDArray[np.int64], size: int, *, seed: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(rows, size=min(size, len(rows)), replace=False))


def _tune(config: TuneConfig, space: Workspace) -> Mapping[str, Any]:
    folder = space.run.artefact("build")
    train, valid = (
        Dataset.from_polars(read_dataset(folder, PARTS[part])) for part in ("train", "valid")
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
    frame = read_dataset(built, part)
    wanted = pl.DataFrame({"row": requests.rows})
    return wanted.join(frame, on="row", how="left", maintain_order="left")["prompt"].to_list()
